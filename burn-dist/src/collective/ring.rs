//! The ring: every rank talks to two neighbours only, and no link carries more than it must.
//!
//! Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations". Of a buffer of S
//! bytes on n ranks, reduce-scatter and all-gather each take n - 1 steps and send (n - 1) / n S bytes a rank; an
//! all-reduce is one after the other.

use std::ops::Range;

use super::{
    chunk::{chunk, segments},
    schedule::{Action, Schedule},
};

/// Segments of a chunk in a block.
const BLOCK_SEGMENTS: usize = 2;

/// Some ranks in a circle, and which of them this one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ring {
    /// The ranks, in order.
    pub(crate) members: Vec<u32>,
    /// This rank's place among them.
    pub(crate) me: usize,
}

impl Ring {
    /// The ring of all ranks.
    pub(crate) fn whole(rank: u32, world_size: u32) -> Self {
        Self { members: (0..world_size).collect(), me: rank as usize }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn next(&self) -> u32 {
        self.members[(self.me + 1) % self.len()]
    }

    pub(crate) fn previous(&self) -> u32 {
        self.members[(self.me + self.len() - 1) % self.len()]
    }

    /// The place that is `back` before mine.
    fn behind(&self, back: usize) -> usize {
        (self.me + 2 * self.len() - back) % self.len()
    }
}

/// Leaves the sum of everything with every member. The buffer goes around in blocks, so that what was just received is
/// still in cache when it is sent on; a block has enough segments a chunk to keep the links busy.
///
/// Cost: 2 (n - 1) steps a block, 2 (n - 1) / n S bytes a rank.
pub(crate) fn all_reduce(schedule: &mut Schedule, ring: &Ring, whole: Range<usize>) {
    for block in segments(whole, block_length(schedule, ring.len())) {
        let part = |index| chunk(&block, ring.len(), index);
        reduce_scatter(schedule, ring, part, true);
        all_gather(schedule, ring, part);
    }
}

/// Elements of a block that `num_chunks` ranks share out.
pub(crate) fn block_length(schedule: &Schedule, num_chunks: usize) -> usize {
    num_chunks * BLOCK_SEGMENTS * schedule.segment()
}

/// Leaves the sum of chunk i with member i. `last`: that sum is final.
///
/// Cost: n - 1 steps, (n - 1) / n S bytes a rank.
pub(crate) fn reduce_scatter(
    schedule: &mut Schedule,
    ring: &Ring,
    chunk: impl Fn(usize) -> Range<usize>,
    last: bool,
) {
    let steps = ring.len() - 1;
    for step in 0..steps {
        // The terms of a chunk's sum are always added in the order of the ring.
        let action = if step + 1 < steps { Action::Relay } else { Action::Reduce { last } };
        exchange(schedule, ring, chunk(ring.behind(step + 1)), chunk(ring.behind(step + 2)), action);
    }
}

/// Gives every member the chunk i of member i.
///
/// Cost: n - 1 steps, (n - 1) / n S bytes a rank.
pub(crate) fn all_gather(schedule: &mut Schedule, ring: &Ring, chunk: impl Fn(usize) -> Range<usize>) {
    for step in 0..ring.len() - 1 {
        exchange(schedule, ring, chunk(ring.behind(step)), chunk(ring.behind(step + 1)), Action::Store);
    }
}

/// Sends one chunk on and receives another, a segment of each at a time.
fn exchange(
    schedule: &mut Schedule,
    ring: &Ring,
    outgoing: Range<usize>,
    incoming: Range<usize>,
    action: Action,
) {
    for range in segments(outgoing, schedule.segment()) {
        schedule.send(ring.next(), range, false);
    }
    for range in segments(incoming, schedule.segment()) {
        schedule.receive(ring.previous(), range, action);
    }
}

/// Gives every member what member `root` has: down the ring as a pipeline of segments.
///
/// Cost: S bytes a rank; the last member is done n - 2 segments after the second.
pub(crate) fn broadcast(schedule: &mut Schedule, ring: &Ring, whole: Range<usize>, root: usize) {
    let place = (ring.me + ring.len() - root) % ring.len();
    for range in segments(whole, schedule.segment()) {
        if place > 0 {
            schedule.receive(ring.previous(), range.clone(), Action::Store);
        }
        if place + 1 < ring.len() {
            schedule.send(ring.next(), range, false);
        }
    }
}

/// Sends what `from` has to `to` and back.
pub(crate) fn round_trip(schedule: &mut Schedule, rank: u32, from: u32, to: u32, whole: Range<usize>) {
    let pieces: Vec<_> = segments(whole, schedule.segment()).collect();
    let receive = |schedule: &mut Schedule, peer| {
        pieces.iter().for_each(|range| schedule.receive(peer, range.clone(), Action::Store));
    };
    let send = |schedule: &mut Schedule, peer| {
        pieces.iter().for_each(|range| schedule.send(peer, range.clone(), false));
    };
    if rank == from {
        send(schedule, to);
        receive(schedule, to);
    } else if rank == to {
        receive(schedule, from);
        send(schedule, from);
    }
}
