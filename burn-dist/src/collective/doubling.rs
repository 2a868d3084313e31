//! Recursive doubling: in step k everybody exchanges everything with the rank whose number differs in bit k. The way
//! for small messages, where steps cost and bytes do not.
//!
//! Thakur, Rabenseifner and Gropp 2005, "Optimization of collective communication operations in MPICH", section 4.5,
//! with its answer to world sizes that are no power of two: of each of the first pairs, one lends its numbers to the
//! other and gets the result.
//!
//! Cost: log2 n steps (two more if n is no power of two), S log2 n bytes a rank.

use std::ops::Range;

use super::{
    chunk::segments,
    schedule::{Action, Schedule},
};

/// What a rank does besides the exchanges of the ranks that are left, a power of two of them.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// It lends to the rank above and waits for the result.
    Lends,
    /// It takes part, with the number `index`; `borrows` from the rank below.
    TakesPart { index: u32, borrows: bool },
}

fn power_below(world_size: u32) -> u32 {
    1 << world_size.ilog2()
}

fn role(rank: u32, world_size: u32) -> Role {
    let extra = world_size - power_below(world_size);
    match rank {
        rank if rank >= 2 * extra => Role::TakesPart { index: rank - extra, borrows: false },
        rank if rank % 2 == 1 => Role::TakesPart { index: rank / 2, borrows: true },
        _ => Role::Lends,
    }
}

/// The rank with the number `index` among those that take part.
fn rank_of(index: u32, world_size: u32) -> u32 {
    let extra = world_size - power_below(world_size);
    if index < extra { 2 * index + 1 } else { index + extra }
}

/// Every rank that `rank` exchanges with.
pub(crate) fn partners(rank: u32, world_size: u32) -> Vec<u32> {
    match role(rank, world_size) {
        Role::Lends => vec![rank + 1],
        Role::TakesPart { index, borrows } => {
            let steps = 0..power_below(world_size).ilog2();
            let exchanges = steps.map(|bit| rank_of(index ^ (1 << bit), world_size));
            borrows.then(|| rank - 1).into_iter().chain(exchanges).collect()
        }
    }
}

/// Leaves the sum of everything with everybody.
pub(crate) fn all_reduce(schedule: &mut Schedule, rank: u32, world_size: u32, whole: Range<usize>) {
    let segment = schedule.segment();
    match role(rank, world_size) {
        Role::Lends => {
            for range in segments(whole.clone(), segment) {
                schedule.send(rank + 1, range, false);
            }
            for range in segments(whole, segment) {
                schedule.receive(rank + 1, range, Action::Store);
            }
        }
        Role::TakesPart { index, borrows } => {
            let steps = power_below(world_size).ilog2();
            if borrows {
                for range in segments(whole.clone(), segment) {
                    schedule.receive(rank - 1, range, Action::Reduce { last: false });
                }
            }
            for bit in 0..steps {
                let peer = rank_of(index ^ (1 << bit), world_size);
                let action = Action::Reduce { last: bit + 1 == steps };
                for range in segments(whole.clone(), segment) {
                    // Both add what the other received: the same two numbers.
                    schedule.send(peer, range.clone(), true);
                    schedule.receive(peer, range, action);
                }
            }
            if borrows {
                for range in segments(whole, segment) {
                    schedule.send(rank - 1, range, false);
                }
            }
        }
    }
}
