//! Which way operations go in a job, and whom a rank must be connected to for it. A function of who shares a machine.

use crate::{
    collective::{doubling, hierarchical::Levels, ring::Ring},
    config::{Agreed, Algorithm},
    rendezvous::{LinkId, Roster},
};

/// A job as one rank sees it.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    pub(crate) ring: Ring,
    pub(crate) levels: Levels,
    hosts: Vec<u64>,
}

impl Topology {
    pub(crate) fn new(rank: u32, roster: &Roster) -> Self {
        let hosts: Vec<u64> = roster.members.iter().map(|member| member.host_id).collect();
        let world_size = hosts.len() as u32;
        let (ring, levels) = (Ring::whole(rank, world_size), Levels::new(rank, &hosts));
        Self { rank, world_size, ring, levels, hosts }
    }

    /// How many lanes there are: several where bytes cross a network, one where they stay in memory.
    pub(crate) fn num_lanes(&self, agreed: &Agreed) -> usize {
        if self.levels.num_machines == 1 && agreed.shared_memory { 1 } else { agreed.streams }
    }

    /// Every connection that this rank needs, in order.
    pub(crate) fn links(&self, agreed: &Agreed) -> Vec<LinkId> {
        let rings = [Some(&self.ring), Some(&self.levels.local), self.levels.across.as_ref()];
        let neighbours: Vec<u32> =
            rings.into_iter().flatten().flat_map(|ring| [ring.previous(), ring.next()]).collect();
        let mut links = Vec::new();
        for stream in 0..self.num_lanes(agreed) as u16 {
            links.extend(neighbours.iter().map(|&peer| LinkId { peer, stream }));
        }
        let partners = doubling::partners(self.rank, self.world_size);
        let all = if agreed.full_mesh { 0..self.world_size } else { 0..0 };
        links.extend(partners.into_iter().chain(all).map(|peer| LinkId { peer, stream: 0 }));
        links.retain(|link| link.peer != self.rank);
        links.sort_unstable();
        links.dedup();
        links
    }

    /// Whether two ranks have a connection.
    pub(crate) fn are_linked(&self, a: u32, b: u32, agreed: &Agreed) -> bool {
        let of_a = Self {
            rank: a,
            ring: Ring::whole(a, self.world_size),
            levels: Levels::new(a, &self.hosts),
            ..self.clone()
        };
        of_a.links(agreed).iter().any(|link| link.peer == b)
    }

    /// Whether payloads to a peer go through shared memory.
    pub(crate) fn shares_memory_with(&self, peer: u32) -> bool {
        self.hosts[peer as usize] == self.hosts[self.rank as usize]
    }

    /// Which way an all-reduce of so many bytes goes.
    pub(crate) fn algorithm(&self, agreed: &Agreed, bytes: usize) -> Algorithm {
        match agreed.algorithm {
            Algorithm::Auto if bytes <= agreed.small_bytes => Algorithm::Doubling,
            // One machine, or one rank on some: one level.
            Algorithm::Auto if self.levels.num_machines == 1 || self.levels.num_shards == 1 => {
                Algorithm::Ring
            }
            Algorithm::Auto => Algorithm::Hierarchical,
            chosen => chosen,
        }
    }
}
