//! Direct exchange: every rank hands each other rank its part, and nothing is passed on. The way inside a machine, where
//! all pairs are equally near: as many bytes as around a ring, but each is touched once by its sender and once by its
//! receiver, and nobody waits for a chain of neighbours.
//!
//! Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH", sections 4.3
//! ("pairwise exchange") and 4.1.

use std::ops::Range;

use super::{
    chunk::segments,
    ring::Ring,
    schedule::{Action, Schedule},
};

/// Leaves the sum of chunk i with member i. `last`: that sum is final.
///
/// Cost: (n - 1) / n S bytes a rank, all at once.
pub(crate) fn reduce_scatter(
    schedule: &mut Schedule,
    group: &Ring,
    chunk: impl Fn(usize) -> Range<usize>,
    last: bool,
) {
    let others = group.len() - 1;
    for step in 1..=others {
        // A different one for each member, so that nobody is everybody's first.
        let to = (group.me + step) % group.len();
        send(schedule, group.members[to], chunk(to));
    }
    for step in 1..=others {
        // The terms of a sum are always added in this order.
        let from = (group.me + group.len() - step) % group.len();
        let action = Action::Reduce { last: last && step == others };
        receive(schedule, group.members[from], chunk(group.me), action);
    }
}

/// Gives every member the chunk i of member i.
///
/// Cost: (n - 1) / n S bytes a rank, all at once.
pub(crate) fn all_gather(schedule: &mut Schedule, group: &Ring, chunk: impl Fn(usize) -> Range<usize>) {
    for step in 1..group.len() {
        let to = (group.me + step) % group.len();
        send(schedule, group.members[to], chunk(group.me));
    }
    for step in 1..group.len() {
        let from = (group.me + group.len() - step) % group.len();
        receive(schedule, group.members[from], chunk(from), Action::Store);
    }
}

fn send(schedule: &mut Schedule, peer: u32, range: Range<usize>) {
    for range in segments(range, schedule.segment()) {
        schedule.send(peer, range, false);
    }
}

fn receive(schedule: &mut Schedule, peer: u32, range: Range<usize>, action: Action) {
    for range in segments(range, schedule.segment()) {
        schedule.receive(peer, range, action);
    }
}
