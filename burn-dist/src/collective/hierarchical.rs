//! Two levels: rings inside each machine, and between the machines one ring for each shard, all at once. What crosses
//! a machine's network is what one rank would send, shared out among its ranks.
//!
//! Jia et al. 2018 ([1807.11205](https://arxiv.org/abs/1807.11205), section 4.2) reduce to one rank a machine; here
//! every rank keeps a shard, so that a machine has as many connections to the next one as it has ranks.
//!
//! Machines may have different numbers of ranks: there are as many shards as the smallest has, and the ranks beyond
//! that take part inside their machine only.
//!
//! Cost, for h machines of m ranks: 2 (m - 1) local steps with 2 (m - 1) / m S bytes a rank, and 2 (h - 1) steps with
//! 2 (h - 1) / (h m) S bytes a rank between machines.

use std::ops::Range;

use super::{
    chunk::{chunk, segments},
    ring::{self, Ring},
    schedule::Schedule,
};

/// Which ranks share a machine, as one rank sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Levels {
    /// The ranks of this machine.
    pub(crate) local: Ring,
    /// The ranks that hold the same shard, one a machine; `None` if this rank holds none.
    pub(crate) across: Option<Ring>,
    /// How many shards there are.
    pub(crate) num_shards: usize,
    /// How many machines there are.
    pub(crate) num_machines: usize,
}

impl Levels {
    /// From the machine of every rank.
    pub(crate) fn new(rank: u32, hosts: &[u64]) -> Self {
        let mut machines: Vec<(u64, Vec<u32>)> = Vec::new();
        for (rank, host) in (0..).zip(hosts) {
            match machines.iter_mut().find(|(known, _)| known == host) {
                Some((_, members)) => members.push(rank),
                None => machines.push((*host, vec![rank])),
            }
        }
        let num_machines = machines.len();
        let num_shards = machines.iter().map(|(_, members)| members.len()).min().unwrap_or(1);
        let here = machines.iter().position(|(_, members)| members.contains(&rank)).unwrap_or(0);
        let me = machines[here].1.iter().position(|&member| member == rank).unwrap_or(0);
        let across = (me < num_shards)
            .then(|| Ring { members: machines.iter().map(|(_, members)| members[me]).collect(), me: here });
        Self { local: Ring { members: machines.swap_remove(here).1, me }, across, num_shards, num_machines }
    }
}

/// Leaves the sum of everything with everybody; in blocks, so that the levels work at the same time.
pub(crate) fn all_reduce(schedule: &mut Schedule, levels: &Levels, whole: Range<usize>) {
    let num_chunks = levels.num_shards * levels.num_machines;
    for block in segments(whole, ring::block_length(schedule, num_chunks)) {
        let shard = |index: usize| chunk(&block, levels.num_shards, index);
        // Final already if no other machine adds to it.
        ring::reduce_scatter(schedule, &levels.local, shard, levels.num_machines == 1);
        if let Some(across) = &levels.across {
            let mine = shard(levels.local.me);
            let part = |index: usize| chunk(&mine, across.len(), index);
            ring::reduce_scatter(schedule, across, part, true);
            ring::all_gather(schedule, across, part);
        }
        ring::all_gather(schedule, &levels.local, shard);
    }
}
