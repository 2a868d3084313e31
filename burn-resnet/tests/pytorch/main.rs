//! Agreement with PyTorch: logits, gradients, running statistics and training curves of the fixtures.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod gradients;
mod logits;
mod running;
mod training;
