//! The control plane: heartbeats, stall reports, and one verdict for all when something breaks. A star: each rank has
//! one connection to rank 0, apart from the data, so that a full data connection never delays a heartbeat.

use std::{sync::Arc, time::Duration};

use crate::{
    config::Timeouts,
    error::Fault,
    flight::FlightRecorder,
    rank::Rank,
    rendezvous::{ControlLinks, Roster},
};

/// What a rank noticed on its data connections. Not yet a verdict: the first to notice is seldom the cause.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Suspicion {
    /// A data connection ended or broke.
    LinkBroke { peer: u32, seq: u64, why: String },
    /// A frame came that belongs to another operation. The peer's number and fingerprint, and ours.
    Mismatch { peer: u32, seq: u64, fingerprint: u64, peer_seq: u64, peer_fingerprint: u64 },
    /// A frame came damaged.
    Corrupt { peer: u32, seq: u64, why: String },
    /// The deadline of an operation is over; `waiting_for` are the peers whose data did not come.
    Deadline { seq: u64, waiting_for: Vec<u32> },
}

/// How a rank goes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Farewell {
    /// Its work is done.
    Done,
    /// It met an error of its own.
    Failed(String),
    /// It is panicking.
    Panicked(String),
}
