//! The network by itself: names and counts, start, staged backward, number types.

#[path = "../common/mod.rs"]
mod common;

mod counts;
mod init;
mod precision;
mod staged;
