//! Agreement with PyTorch: logits, gradients, running statistics and training curves of the fixtures.

#[path = "../common/mod.rs"]
mod common;

mod gradients;
mod logits;
mod running;
mod training;
