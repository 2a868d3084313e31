//! Numbers combined between processes over TCP: all-reduce and its relatives, made for gradients, for any world size from
//! 1 to 1,024, on one machine or many. Knows no tensor, unless the feature `burn` is on.
//!
//! ```
//! use burn_dist::{Communicator, ReduceOp};
//!
//! // Who this process is comes from its launcher's variables; without a launcher it is a job of one.
//! let comm = Communicator::builder().from_env()?.connect()?;
//! let mut gradients = vec![comm.rank().index() as f32; 1000];
//! comm.all_reduce(&mut gradients, ReduceOp::Mean)?;
//! # Ok::<(), burn_dist::DistError>(())
//! ```
//! Every result has the same bits on all ranks, and again in the next run of the same job; but for gradients that go by
//! NCCL ([`Agreed::nccl`]), which are the same on all ranks only.
//!
//! # What fails, and how
//!
//! Nothing waits for ever. Whatever ends a job, every rank's pending call returns the same [`Fault`]: what happened,
//! whose doing it was, at which operation. Rank 0 decides it for all, so it is the first cause, not its echo. The
//! job is then over: each later call returns the fault again, and no parameter has changed, because the optimizer has
//! not run.
//!
//! | a rank ... | all others get | within |
//! |---|---|---|
//! | is killed, crashes, exits without a word | [`FaultKind::Died`] | 2 s |
//! | is stopped (`SIGSTOP`), hangs with its machine, loses its network | [`FaultKind::Silent`] | 10 s: [`Timeouts::silence`] and a heartbeat |
//! | calls [`Communicator::fail`] | [`FaultKind::Failed`] with its line | 2 s |
//! | panics | [`FaultKind::Panicked`] | 2 s |
//! | ends its work while others still need it | [`FaultKind::Left`] | 2 s |
//! | lives but does not come | a line on standard error after [`Timeouts::stall_report`]; [`FaultKind::Stalled`], which names it and not who waits, after [`Timeouts::operation`] | 30 s; 300 s |
//! | calls another operation, or on another length or type | [`FaultKind::Mismatch`] with what each side called | 2 s if their frames meet, else two heartbeats |
//! | has a connection that changes bytes | [`FaultKind::Corrupt`] | at once: a checksum over every header, payload and control message |
//! | has lost a connection to another that lives | [`FaultKind::LinkLost`] | 2 s |
//! | is of an earlier start of the job, or there twice | it is refused; the job goes on | at once |
//!
//! What goes by NCCL (feature `nccl`) is watched likewise, and aborted by the verdict. An error that NCCL itself reports is taken
//! for this rank's own after 3 s without one.
//!
//! Rank 0 is not special but for one thing: when it dies, everybody sees that alone, and names it.
//!
//! Times are defaults, on a network that delivers. Numbers that are not finite are no fault of the communicator: a
//! [`Note`] travels with them, and all ranks hear of it.
//!
//! # Who is let in
//!
//! Each connection begins with a mutual proof by HMAC-SHA256 that both ends know the job's secret (`BURN_DIST_SECRET_FILE`
//! or `BURN_DIST_SECRET`). Without a secret a job stays on loopback, unless `BURN_DIST_INSECURE=1` says otherwise. The proof
//! protects the door, not the bytes: on a network that others can listen on, use the feature `tls`. NCCL's own connections
//! know neither: with TLS it is not used.
//!
//! # Platforms
//!
//! Unix, little-endian. Shared memory and the choice of a congestion algorithm are Linux'.

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
mod descriptors;
mod engine;
pub mod env;
pub mod error;
pub mod flight;
mod interface;
mod job;
pub mod limits;
pub mod measure;
#[cfg(any(feature = "burn", test))]
mod nccl;
#[cfg(any(feature = "nccl", test))]
mod outside;
mod pending;
pub mod rank;
mod rendezvous;
mod topology;
mod trace;
mod transport;
mod wire;

pub use builder::Builder;
pub use communicator::{Communicator, Vote};
pub use config::{Agreed, Algorithm, Config, Timeouts, TlsFiles, Trust, Wire};
#[cfg(feature = "burn")]
pub use ddp::{BucketConfig, DataParallel, DataParallelConfig, GradientSink, NonFinite, Packing, Synced};
pub use error::{DistError, Fault, FaultKind, Result};
pub use pending::{Note, Pending, Reduced};
pub use rank::{Rank, WorldSize};
pub use rendezvous::{Member, host_name};
pub use wire::number::{Element, ReduceOp};
