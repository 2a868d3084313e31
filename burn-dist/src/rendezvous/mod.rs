//! How processes become a job: they meet at rank 0, prove who they are, agree on the settings, learn each other's
//! addresses, and connect. Nothing of it runs while the job computes, but for turning strangers away.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{config::Config, env::Identity, error::Result, rank::Rank, transport::Pipe};

/// A process of the job, as all others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its rank.
    pub rank: u32,
    /// The name of its machine.
    pub host: String,
    /// Equal exactly for processes that can share memory: one kernel, one network namespace, one `/dev/shm`.
    pub host_id: u64,
    /// Its process number there.
    pub pid: u32,
    /// Where it takes data connections.
    pub data_addr: SocketAddr,
}

/// The job, as all ranks agreed on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Which start of the job this is: restarts count up, and processes of an earlier one are refused.
    pub generation: u32,
    /// Drawn by rank 0 for this job alone; part of every proof.
    pub session: [u8; 16],
    /// By rank, without gaps.
    pub members: Vec<Member>,
}

/// The control connections of this rank: one to rank 0, or rank 0's to all others.
pub(crate) enum ControlLinks {
    /// This is rank 0; one connection to each other rank, by rank.
    Hub(Vec<(u32, Box<dyn Pipe>)>),
    /// This is another rank.
    Spoke(Box<dyn Pipe>),
}

/// A data connection: to whom, and which of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId {
    /// The other rank.
    pub(crate) peer: u32,
    /// From 0.
    pub(crate) stream: u16,
}

/// What came of the rendezvous.
pub(crate) struct Meeting {
    pub(crate) rank: Rank,
    pub(crate) roster: Arc<Roster>,
    pub(crate) control: ControlLinks,
}
