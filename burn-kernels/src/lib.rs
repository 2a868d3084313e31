//! Convolution, batch norm, max pool and the update of SGD for training on a CPU, batch norm and SGD on a GPU: functions on
//! tensors, no modules.
//!
//! Burn's CPU backend computes a convolution's weight gradient as a convolution whose kernel is the whole gradient image,
//! lays images out anew around every convolution and runs batch norm on one thread. Here images lie with their channels
//! last, convolutions are sums that stay in registers, and batch norm is fused passes over memory, on every core, with
//! hand-written gradients. They enter Burn as a [backend extension](burn::backend::backend_extension).
//!
//! # Where it applies
//! To f32, f16 and bf16 tensors of the flex backend, under the feature `fast`, which is on by default; and on Burn's GPU
//! backends (`cuda`, `wgpu`, `vulkan`) to batch norm of such images with f32 parameters, and to SGD in f32. Everything else
//! gets Burn's own operations through the same functions, with the same gradients: a caller need not know. See [`Kernels`],
//! whose default methods are that rule.
//!
//! # On a GPU
//! A batch norm with its addition and ReLU is three launches forward and three back, which read images twice and write them
//! once each way. Burn's chain of operations is some twenty launches; `BURN_KERNELS_NORM=burn` in the environment brings it
//! back, to compare. Which is faster on a card nobody has measured yet.
//!
//! # Half precision
//! Sixteen bits are a way to store, not to compute: sums are f32, and a result is rounded once. Batch norm takes images
//! of one type and gains, offsets and statistics of another, wider one, so a network in mixed precision keeps its images
//! in 16 bits between layers, also those kept for the backward pass.
//!
//! # Same bits every time
//! Sums are taken in an order that depends on the shapes alone: the results on one machine are the same bits from run to
//! run and for any number of threads. Machines with other vectors or caches may round differently.
//!
//! # Cost
//! `cargo bench -p burn-kernels` compares each operation with Burn's own at the shapes of ResNets. Memory of
//! large results is kept for the next of their size, at most half as much again as was in use at once; `free_memory` lets
//! it go.

mod add;
mod backend;
mod conv;
#[cfg(feature = "fast")]
mod conv_cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cube")]
mod cube_tensor;
#[cfg(feature = "fast")]
mod flex;
#[cfg(feature = "fast")]
mod geometry;
#[cfg(any(test, feature = "cube"))]
mod grid;
#[cfg(feature = "fast")]
mod half;
pub mod kernel_cache;
mod max_pool;
#[cfg(feature = "fast")]
mod max_pool_cpu;
#[cfg(feature = "fast")]
mod memory;
mod norm;
#[cfg(feature = "fast")]
mod norm_cpu;
#[cfg(feature = "cube")]
mod norm_cube;
#[cfg(any(feature = "fast", feature = "cube"))]
mod number_types;
mod option_a;
#[cfg(feature = "fast")]
mod option_a_cpu;
mod plain;
#[cfg(feature = "fast")]
mod processor;
mod seed;
mod sgd;
#[cfg(feature = "fast")]
mod sgd_cpu;
#[cfg(feature = "cube")]
mod sgd_cube;

pub use add::add;
pub use backend::Kernels;
pub use conv::conv2d;
pub use max_pool::max_pool2d;
#[cfg(feature = "fast")]
pub use memory::free_memory;
pub use norm::{
    BURNS_NORM, BatchNormOutput, NORM_VARIABLE, batch_norm_train, conv2d_scale_shift, norm_is_burns,
    scale_shift,
};
pub use option_a::option_a;
pub use seed::seed_gradient;
pub use sgd::{SgdStep, sgd_step};
