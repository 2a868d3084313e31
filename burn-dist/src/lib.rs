//! Gradients averaged over TCP: collectives between processes, with a promise for every way to fail.

#[cfg(target_endian = "big")]
compile_error!("burn-dist sends numbers as they lie in memory, in little-endian order");

pub mod agree;
mod assemble;
mod builder;
mod collective;
mod communicator;
pub mod config;
mod control;
#[cfg(feature = "burn")]
pub mod ddp;
mod engine;
pub mod env;
pub mod error;
pub mod flight;
mod interface;
pub mod limits;
pub mod rank;
mod rendezvous;
mod topology;
mod trace;
mod transport;
mod wire;

pub use builder::Builder;
pub use communicator::{Communicator, Note, Pending, Reduced, Vote};
pub use config::{Agreed, Algorithm, Config, Timeouts, TlsFiles, Trust, Wire};
#[cfg(feature = "burn")]
pub use ddp::{BucketConfig, DataParallel, DataParallelConfig, GradientSink, NonFinite, Synced};
pub use error::{DistError, Fault, FaultKind, Result};
pub use rank::{Rank, WorldSize};
pub use rendezvous::Member;
pub use wire::number::{Element, ReduceOp};
