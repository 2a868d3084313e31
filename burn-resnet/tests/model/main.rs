//! The network by itself: names and counts, start, staged backward, number types.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod counts;
mod init;
mod precision;
mod staged;
