//! Gradients averaged over TCP: collectives between processes, with a promise for every way to fail.

#[cfg(target_endian = "big")]
compile_error!("burn-dist sends numbers as they lie in memory, in little-endian order");

pub mod config;
mod control;
pub mod env;
pub mod error;
pub mod flight;
pub mod limits;
pub mod rank;
mod rendezvous;
mod transport;
mod wire;

pub use config::{Agreed, Algorithm, Config, Timeouts, TlsFiles, Trust, Wire};
pub use error::{DistError, Fault, FaultKind, Result};
pub use rank::{Rank, WorldSize};
