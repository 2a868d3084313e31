//! Data parallelism for [Burn](burn): every rank has the whole model and its own batches, and after the backward pass
//! all take the mean of their gradients, so that N ranks with batches of B train as one with N·B.
//!
//! A model of one's own, in a loop of one's own; what makes it data-parallel is `comm` and `ddp`:
//!
//! ```
//! use burn::module::Module;
//! use burn::optim::{GradientsParams, SgdConfig};
//! use burn::tensor::{Device, Tensor};
//! use burn_dist::{Communicator, DataParallel, DataParallelConfig};
//!
//! fn train<M: Module>(
//!     comm: Communicator,
//!     model: M,
//!     loss: impl Fn(&M, usize) -> Tensor<1>,
//!     num_batches: usize,
//! ) -> burn_dist::Result<M> {
//!     let rank = comm.rank();
//!     let (mut ddp, mut model) = DataParallel::new(comm, model, DataParallelConfig::default())?;
//!     let mut optimizer = SgdConfig::new().init();
//!     // Every rank takes each world-size-th batch.
//!     for batch in (rank.index()..num_batches).step_by(rank.world_size().count()) {
//!         let gradients = GradientsParams::from_grads(loss(&model, batch).backward(), &model);
//!         let gradients = ddp.average(gradients, &model)?;
//!         model = optimizer.step(0.1, model, gradients);
//!     }
//!     ddp.average_buffers(model)
//! }
//! ```
//!
//! Where ranks have different numbers of batches, see [`DataParallel::all_have_a_batch`] and
//! [`DataParallel::average_weighted`]. Where a backward pass gives gradients in parts, a [`GradientSink`] averages
//! those that are ready while the rest is computed.
//!
//! What holds: all ranks get the same bits, so parameters stay the same on all ranks without being compared (and
//! [`DataParallel::verify_same`] compares them). A gradient that is no number is found before it is sent, and all ranks
//! decide alike. After an error no parameter has changed.
//!
//! | file | job |
//! |---|---|
//! | `data_parallel` | what a user holds: start, averages, buffers, checks |
//! | `sink` | takes gradients as they become ready, gives their averages |
//! | `bucket` | which gradients travel together: a plan, pure |
//! | `pack` | a bucket put together on the device |
//! | `group`, `gpu` | whether buckets go from GPU to GPU by NCCL, and how (`no_gpu`: built without) |
//! | `buffer` | a bucket's values on the host |
//! | `flight` | a step's buckets on their way |
//! | `walk` | a module as a list of tensors |

mod bucket;
mod buffer;
mod data_parallel;
mod flight;
#[cfg_attr(not(feature = "nccl"), path = "no_gpu.rs")]
mod gpu;
mod group;
mod pack;
mod sink;
mod walk;

pub use bucket::BucketConfig;
pub use data_parallel::{DataParallel, DataParallelConfig, NonFinite};
pub use pack::Packing;
pub use sink::{GradientSink, Synced};
