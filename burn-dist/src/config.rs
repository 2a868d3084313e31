//! The settings of a communicator: parsed once, checked once, then shared. Those that all ranks must have alike are
//! compared at the rendezvous.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{DistError, Result},
    limits::{MAX_SEGMENT_BYTES, MAX_STREAMS},
};

/// How numbers of 32 bits travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// As they are.
    #[default]
    F32,
    /// In IEEE half precision; sums are kept in 32 bits.
    F16,
    /// In bfloat16; sums are kept in 32 bits.
    Bf16,
}

/// Which way an all-reduce goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// By size and by who shares a machine.
    #[default]
    Auto,
    /// Reduce-scatter and all-gather around one ring of all ranks.
    Ring,
    /// Recursive doubling: everything, in log2 steps.
    Doubling,
    /// Rings inside each machine, and rings of the same shard between machines.
    Hierarchical,
}

/// What every rank must have alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// TCP connections to a ring's neighbour on another machine.
    pub streams: usize,
    /// Bytes that are sent, checked and reduced at a time.
    pub segment_bytes: usize,
    /// Messages up to this size go by recursive doubling.
    pub small_bytes: usize,
    /// How numbers travel.
    pub wire: Wire,
    /// Whether every payload on a socket is protected by a CRC-32C. Headers always are.
    pub checksum: bool,
    /// Which way an all-reduce goes.
    pub algorithm: Algorithm,
    /// Whether ranks of one machine exchange payloads through shared memory.
    pub shared_memory: bool,
    /// Whether gradients go from GPU to GPU by NCCL, where the program was built with it and every rank can: in that case
    /// they are neither encrypted nor protected by our checksums.
    pub nccl: bool,
    /// Whether every two ranks are connected, not only those that collectives need: for checking a network.
    pub full_mesh: bool,
}

impl Default for Agreed {
    fn default() -> Self {
        Self {
            streams: 1,
            segment_bytes: 256 << 10,
            small_bytes: 64 << 10,
            wire: Wire::F32,
            checksum: true,
            algorithm: Algorithm::Auto,
            shared_memory: true,
            nccl: true,
            full_mesh: false,
        }
    }
}

impl Agreed {
    pub(crate) fn check(&self) -> Result<()> {
        let Self { streams, segment_bytes, .. } = *self;
        if !(1..=MAX_STREAMS).contains(&streams) {
            return Err(DistError::config(format!("{streams} streams: expected 1 to {MAX_STREAMS}")));
        }
        if !(64..=MAX_SEGMENT_BYTES).contains(&segment_bytes) || segment_bytes % 8 != 0 {
            return Err(DistError::config(format!(
                "segments of {segment_bytes} bytes: expected 64 to {MAX_SEGMENT_BYTES}, a multiple of 8"
            )));
        }
        Ok(())
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For all ranks to come together.
    pub startup: Duration,
    /// For an operation that somebody does not arrive at, before the missing rank is blamed.
    pub operation: Duration,
    /// After which a rank that waits for another says so.
    pub stall_report: Duration,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Without a heartbeat before a rank counts as dead.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            startup: Duration::from_secs(300),
            operation: Duration::from_secs(300),
            stall_report: Duration::from_secs(30),
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(8),
        }
    }
}

/// What proves that a process belongs to the job.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: allowed on loopback only.
    #[default]
    LoopbackOnly,
    /// Nothing, anywhere: the user said so in so many words.
    Insecure,
    /// A secret that all ranks have.
    Secret(Vec<u8>),
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret stays out of logs.
        f.write_str(match self {
            Self::LoopbackOnly => "LoopbackOnly",
            Self::Insecure => "Insecure",
            Self::Secret(_) => "Secret(..)",
        })
    }
}

/// Files of mutual TLS 1.3: PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that peers' ones must come from.
    pub ca: PathBuf,
    /// This process' certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Everything a communicator is told.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// What every rank must have alike.
    pub agreed: Agreed,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// What proves membership.
    pub trust: Trust,
    /// Encryption, if any.
    pub tls: Option<TlsFiles>,
    /// Which network interfaces may be used, in NCCL's syntax: `eth`, `=eth0`, `^docker,lo`.
    pub interface: Option<String>,
    /// Where flight records go when the job ends by a fault.
    pub flight_dir: Option<PathBuf>,
    /// Where a trace of all operations goes when the job ends: files for `chrome://tracing` and Perfetto.
    pub trace_dir: Option<PathBuf>,
}
