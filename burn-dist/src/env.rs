//! Who this process is, from the variables that launchers set.

use std::time::Duration;

use crate::rank::Rank;

/// Who a process is, where rank 0 is, and which start of the job this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its rank in the job.
    pub rank: Rank,
    /// Its rank among the processes of its machine, if the launcher said.
    pub local_rank: Option<u32>,
    /// Processes on its machine, if the launcher said.
    pub local_world_size: Option<u32>,
    /// Rank 0's name or address.
    pub master_addr: String,
    /// Rank 0's port.
    pub master_port: u16,
    /// Which start of the job this is, from 0.
    pub generation: u32,
    /// Where all this came from: `torchrun`, `Slurm`, ...
    pub source: &'static str,
}
