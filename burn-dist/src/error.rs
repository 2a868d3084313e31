//! What can go wrong between processes, by kind and by culprit. One line each; every rank of a job gets the same.

use std::{fmt, io, sync::Arc};

use serde::{Deserialize, Serialize};

/// The crate's result.
pub type Result<T, E = DistError> = std::result::Result<T, E>;

/// Why a communicator could not be made, or why it came to its end.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DistError {
    /// The settings of this process are wrong; nothing was started.
    #[error("{0}")]
    Config(String),
    /// The job did not come together: who is missing, who is there twice, who disagrees, who was not let in.
    #[error("{0}")]
    Rendezvous(String),
    /// A call that could not be meant: wrong lengths, a root outside the job. Nothing was sent.
    #[error("{0}")]
    Usage(String),
    /// Ranks that must be alike are not: which ranks, and where they differ. The same on every rank; the job can go on.
    #[error("{0}")]
    Disagreement(String),
    /// A gradient that is no number: which ranks, bucket and parameter. The same on every rank; the job can go on.
    #[error("{0}")]
    NonFinite(String),
    /// The job is over. The same on every rank; every later call returns it again.
    #[error(transparent)]
    Fault(Arc<Fault>),
}

impl DistError {
    /// Settings that cannot be followed.
    pub(crate) fn config(message: impl fmt::Display) -> Self {
        Self::Config(message.to_string())
    }

    /// A job that does not come together.
    pub(crate) fn rendezvous(message: impl fmt::Display) -> Self {
        Self::Rendezvous(message.to_string())
    }

    /// A call that cannot be meant.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// For `map_err` on what the system refused while the job was forming: `what` was tried.
    pub(crate) fn io(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |error| Self::Rendezvous(format!("cannot {what}: {error}"))
    }

    /// What ended the job, if that is what this is.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

impl From<Fault> for DistError {
    fn from(fault: Fault) -> Self {
        Self::Fault(Arc::new(fault))
    }
}

/// What ended a job: the first cause, as rank 0 decided it for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// Whose doing it was, by rank. Several for a disagreement without a majority.
    pub culprits: Vec<Who>,
    /// The operation that it broke, if one was under way.
    pub op: Option<OpName>,
    /// More of it, for a person: numbers, what was expected, what came.
    pub detail: String,
}

/// What happened to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// Its process ended without a word (killed, crashed, machine reset).
    Died,
    /// It sent no heartbeat (stopped, cut off, machine hung).
    Silent,
    /// It reported an error of its own.
    Failed,
    /// It panicked.
    Panicked,
    /// It ended its work while others still had some.
    Left,
    /// It lives but did not arrive at an operation before the deadline.
    Stalled,
    /// It called another operation than the others.
    Mismatch,
    /// Bytes that it sent did not arrive as it sent them.
    Corrupt,
    /// Its connection to another rank broke while both lived.
    LinkLost,
}

/// A process, as a person can find it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Who {
    /// Its rank.
    pub rank: u32,
    /// The name of its machine.
    pub host: String,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} on {}", self.rank, self.host)
    }
}

/// An operation, by its number in the job and in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpName {
    /// Its number: the same on all ranks, counted from 1, never used twice.
    pub seq: u64,
    /// What it is: `all-reduce (mean) of 6400000 f32, bucket 3`.
    pub what: String,
}

impl fmt::Display for OpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {} ({})", self.seq, self.what)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, who) in self.culprits.iter().enumerate() {
            write!(f, "{}{who}", if at == 0 { "" } else { ", " })?;
        }
        f.write_str(match self.kind {
            FaultKind::Died => " died",
            FaultKind::Silent => " fell silent",
            FaultKind::Failed => " failed",
            FaultKind::Panicked => " panicked",
            FaultKind::Left => " left early",
            FaultKind::Stalled => " did not arrive in time",
            FaultKind::Mismatch => " called another operation than the others",
            FaultKind::Corrupt => " sent bytes that arrived damaged",
            FaultKind::LinkLost => " lost a connection",
        })?;
        if let Some(op) = &self.op {
            write!(f, " at {op}")?;
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl std::error::Error for Fault {}
