//! NCCL as a second way for gradients, from GPU to GPU over one communicator of all ranks: whether all ranks can go it
//! (`vote`), its library (`ffi`, the one file with `unsafe`), and its operations among all others (`operation`). What a
//! tensor is, only `ddp` knows.
//!
//! What carries over: the order of operations, heartbeats, deadline and verdict are the job's, so a lost rank ends the
//! others' operations as it does over TCP. What does not:
//!
//! - All ranks get the same bits, as `nccl.h` says ("leaves identical copies of result on each recvbuff"). From run to run
//!   they are the same only if NCCL chooses the same algorithm and channels, which it does not promise.
//! - With 16 bits on the wire NCCL adds in 16 bits, not in 32.
//! - Its connections are not checked by a checksum of ours, do not ask for the job's secret, and are not encrypted.

#[cfg(feature = "nccl")]
pub(crate) mod ffi;
#[cfg(feature = "nccl")]
pub(crate) mod operation;
pub(crate) mod vote;
