//! Whole jobs inside one thread: every rank's machine moves in an order that a seed decides, over simulated links.

use std::ops::Range;

use super::{
    chunk::chunk,
    doubling,
    hierarchical::{self, Levels},
    machine::{Machine, Status},
    ring::{self, Ring},
    schedule::Schedule,
    terms::Terms,
};
use crate::{
    config::Wire,
    transport::{
        link::{Link, Trouble},
        simulated::{Dice, Strike, pair},
    },
    wire::number::{Element, ReduceOp},
};

/// What a rank's schedule is, by rank and world size.
type Plan<'a> = &'a dyn Fn(&mut Schedule, u32, u32, Range<usize>);

/// A rank's buffer afterwards, and whether it heard of numbers that are not finite.
type Outcome<T> = (Vec<T>, bool);

struct Job {
    world_size: u32,
    segment: usize,
    terms: Terms,
    seed: u64,
    /// Which rank's connection to which is struck, when and how.
    strike: Option<(u32, u32, usize, Strike)>,
}

impl Job {
    fn new(world_size: u32, segment: usize, op: ReduceOp, seed: u64) -> Self {
        let terms = Terms {
            generation: 1,
            seq: 7,
            fingerprint: 42,
            op,
            wire: Wire::F32,
            world_size: world_size as usize,
            checksum: true,
        };
        Self { world_size, segment, terms, seed, strike: None }
    }

    /// Carries an operation out; every rank's buffer and whether it heard of numbers that are not finite, or the
    /// first trouble and who had it.
    fn run<T: Element>(
        &self,
        plan: Plan<'_>,
        mut buffers: Vec<Vec<T>>,
        not_finite: Option<u32>,
    ) -> Result<Vec<Outcome<T>>, (u32, Trouble)> {
        let n = self.world_size;
        let mut schedules: Vec<Schedule> = Vec::new();
        for rank in 0..n {
            let mut schedule = Schedule::new(self.segment);
            plan(&mut schedule, rank, n, 0..buffers[rank as usize].len());
            schedules.push(schedule);
        }
        let mut links: Vec<Vec<Link>> = (0..n).map(|_| Vec::new()).collect();
        let mut dice = Dice(self.seed);
        for low in 0..n {
            for high in low + 1..n {
                let used = |s: &Schedule, peer| {
                    s.sends.iter().any(|send| send.peer == peer)
                        || s.receives.iter().any(|come| come.peer == peer)
                };
                if !used(&schedules[low as usize], high) && !used(&schedules[high as usize], low) {
                    continue;
                }
                let seed = dice.below(usize::MAX) as u64;
                let room = 1 + dice.below(4096);
                let strike = |from, to| {
                    self.strike.filter(|s| (s.0, s.1) == (from, to)).map(|(.., at, strike)| (at, strike))
                };
                let (first, second) = match strike(high, low) {
                    Some(strike) => {
                        let (high, low) = pair(seed, room, Some(strike));
                        (low, high)
                    }
                    None => pair(seed, room, strike(low, high)),
                };
                links[low as usize].push(Link::new(high, Box::new(first), None, self.terms.generation));
                links[high as usize].push(Link::new(low, Box::new(second), None, self.terms.generation));
            }
        }
        let flagged = |rank| not_finite == Some(rank);
        let mut machines: Vec<Machine> = (0..n)
            .zip(schedules)
            .map(|(rank, schedule)| Machine::new(self.terms, schedule, &links[rank as usize], flagged(rank)))
            .collect();
        let mut going: Vec<usize> = (0..n as usize).collect();
        let mut idle = 0;
        while !going.is_empty() {
            let at = dice.below(going.len());
            let rank = going[at];
            match machines[rank].advance(&mut links[rank], &mut buffers[rank]) {
                Ok((_, Status::Done)) => {
                    going.swap_remove(at);
                    idle = 0;
                }
                Ok((_, Status::Blocked)) => {
                    idle += 1;
                    // Nobody moves any more: what a stalled link leads to, and nothing else may. The one furthest behind
                    // tells.
                    if idle > 100_000 {
                        let behind = |rank: &&usize| machines[**rank].num_received();
                        let rank = *going.iter().min_by_key(behind).unwrap();
                        let waiting = machines[rank].waiting_for(&links[rank]);
                        return Err((
                            rank as u32,
                            Trouble::Broke { peer: waiting[0], why: "stalled".into() },
                        ));
                    }
                }
                Err(trouble) => return Err((rank as u32, trouble)),
            }
        }
        buffers.iter_mut().for_each(|buffer| T::settle(buffer));
        let heard = machines.iter().map(|machine| machine.not_finite);
        Ok(buffers.into_iter().zip(heard).collect())
    }
}

fn by_ring(schedule: &mut Schedule, rank: u32, n: u32, whole: Range<usize>) {
    ring::all_reduce(schedule, &Ring::whole(rank, n), whole);
}

fn by_doubling(schedule: &mut Schedule, rank: u32, n: u32, whole: Range<usize>) {
    doubling::all_reduce(schedule, rank, n, whole);
}

/// Machines of 2, 3 and 1 ranks, in an order that is not that of the ranks.
fn by_levels(schedule: &mut Schedule, rank: u32, n: u32, whole: Range<usize>) {
    let hosts: Vec<u64> = (0..n).map(|rank| [5, 9, 5, 9, 9, 1][rank as usize % 6]).collect();
    hierarchical::all_reduce(schedule, &Levels::new(rank, &hosts), whole);
}

/// Machines of two ranks each.
fn by_pairs(schedule: &mut Schedule, rank: u32, n: u32, whole: Range<usize>) {
    let hosts: Vec<u64> = (0..n).map(|rank| u64::from(rank / 2)).collect();
    hierarchical::all_reduce(schedule, &Levels::new(rank, &hosts), whole);
}

fn plans() -> [(&'static str, Plan<'static>); 4] {
    [("ring", &by_ring), ("doubling", &by_doubling), ("levels", &by_levels), ("pairs", &by_pairs)]
}

/// Numbers between -1 and 1, different for every rank.
fn numbers(rank: u32, count: usize) -> Vec<f32> {
    let mut dice = Dice(u64::from(rank) + 1000);
    (0..count).map(|_| dice.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0).collect()
}

/// `numbers` of all ranks, combined in 64 bits, and the sum of their magnitudes.
fn expected(n: u32, count: usize, op: ReduceOp) -> Vec<(f64, f64)> {
    let all: Vec<Vec<f32>> = (0..n).map(|rank| numbers(rank, count)).collect();
    (0..count)
        .map(|at| {
            let values = || all.iter().map(|of_rank| f64::from(of_rank[at]));
            let sum: f64 = values().sum();
            let magnitude = values().map(f64::abs).sum();
            let value = match op {
                ReduceOp::Sum => sum,
                ReduceOp::Mean => sum / f64::from(n),
                ReduceOp::Max => values().fold(f64::MIN, f64::max),
                ReduceOp::Min => values().fold(f64::MAX, f64::min),
            };
            (value, magnitude)
        })
        .collect()
}

fn is_same_everywhere(results: &[Outcome<f32>]) -> bool {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    results.iter().all(|(values, _)| bits(values) == bits(&results[0].0))
}

#[test]
fn all_reduce_is_right_for_every_world_count_and_way() {
    for n in [1, 2, 3, 4, 5, 6, 7, 8, 13, 16] {
        for count in [0, 1, n as usize - 1, n as usize, n as usize + 1, 1023] {
            for (name, plan) in plans() {
                for op in [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min] {
                    // Without a peer nothing is divided: the communicator answers a world of one itself.
                    if n == 1 && op == ReduceOp::Mean {
                        continue;
                    }
                    let job = Job::new(n, 100, op, u64::from(n) * 31 + count as u64);
                    let buffers = (0..n).map(|rank| numbers(rank, count)).collect();
                    let results = job.run(plan, buffers, None).unwrap();
                    assert!(is_same_everywhere(&results), "{name} {op:?} of {count} on {n}");
                    for (at, (value, magnitude)) in expected(n, count, op).into_iter().enumerate() {
                        let got = f64::from(results[0].0[at]);
                        // One rounding an addition.
                        let bound = f64::from(n) * f64::from(f32::EPSILON) * magnitude;
                        assert!(
                            (got - value).abs() <= bound,
                            "{name} {op:?} of {count} on {n}: {got}, not {value}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_who_is_fast() {
    for (name, plan) in plans() {
        let bits = |seed| {
            let job = Job::new(6, 16, ReduceOp::Sum, seed);
            let results = job.run(plan, (0..6).map(|rank| numbers(rank, 500)).collect(), None).unwrap();
            results[0].0.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        let first = bits(1);
        (2..20).for_each(|seed| assert_eq!(bits(seed), first, "{name} with seed {seed}"));
    }
}

#[test]
fn half_precision_is_the_same_on_all_ranks() {
    for wire in [Wire::F16, Wire::Bf16] {
        for (name, plan) in plans() {
            for n in [2, 3, 5, 6, 8] {
                let mut job = Job::new(n, 50, ReduceOp::Mean, 3);
                job.terms.wire = wire;
                let results = job.run(plan, (0..n).map(|rank| numbers(rank, 333)).collect(), None).unwrap();
                assert!(is_same_everywhere(&results), "{name} {wire:?} on {n}");
                // One rounding a hop, of partial sums that are no larger than the sum of magnitudes.
                let unit = if wire == Wire::F16 { 1.0 / 2048.0 } else { 1.0 / 256.0 };
                for (at, (value, magnitude)) in expected(n, 333, ReduceOp::Mean).into_iter().enumerate() {
                    let got = f64::from(results[0].0[at]);
                    assert!(
                        (got - value).abs() <= unit * magnitude,
                        "{name} {wire:?} on {n}: {got}, not {value}"
                    );
                }
            }
        }
    }
}

#[test]
fn one_rank_with_bad_numbers_is_heard_by_all() {
    for n in [2, 3, 6, 8] {
        for (name, plan) in plans() {
            for count in [1, 5, 700] {
                for bad in 0..n {
                    let buffers = || (0..n).map(|rank| numbers(rank, count)).collect();
                    let results = Job::new(n, 64, ReduceOp::Sum, 5).run(plan, buffers(), Some(bad)).unwrap();
                    assert!(results.iter().all(|(_, heard)| *heard), "{name} of {count} on {n}, rank {bad}");
                }
                let buffers = (0..n).map(|rank| numbers(rank, count)).collect();
                let results = Job::new(n, 64, ReduceOp::Sum, 5).run(plan, buffers, None).unwrap();
                assert!(results.iter().all(|(_, heard)| !heard), "{name} of {count} on {n}");
            }
        }
    }
}

#[test]
fn parts_move_as_they_should() {
    for n in [2, 3, 4, 7] {
        let count = 100;
        let part = |index: u32| chunk(&(0..count), n as usize, index as usize);
        let scatter: Plan<'_> = &|schedule, rank, n, whole| {
            let ring = Ring::whole(rank, n);
            ring::reduce_scatter(schedule, &ring, |index| chunk(&whole, n as usize, index), true);
        };
        let job = Job::new(n, 9, ReduceOp::Sum, 1);
        let results =
            job.run(scatter, (0..n).map(|rank| vec![rank as f32 + 1.0; count]).collect(), None).unwrap();
        let sum = (n * (n + 1) / 2) as f32;
        for rank in 0..n {
            assert!(results[rank as usize].0[part(rank)].iter().all(|&value| value == sum));
        }
        let gather: Plan<'_> = &|schedule, rank, n, whole| {
            let ring = Ring::whole(rank, n);
            ring::all_gather(schedule, &ring, |index| chunk(&whole, n as usize, index));
        };
        let results = job.run(gather, (0..n).map(|rank| vec![rank as f32; count]).collect(), None).unwrap();
        for (values, _) in results {
            (0..n).for_each(|rank| assert!(values[part(rank)].iter().all(|&value| value == rank as f32)));
        }
        for root in 0..n {
            let spread: Plan<'_> = &|schedule, rank, n, whole| {
                ring::broadcast(schedule, &Ring::whole(rank, n), whole, root as usize);
            };
            let results =
                job.run(spread, (0..n).map(|rank| vec![rank as f32; count]).collect(), None).unwrap();
            assert!(results.iter().all(|(values, _)| values.iter().all(|&value| value == root as f32)));
        }
    }
}

#[test]
fn damage_never_reaches_a_result() {
    // A byte that is flipped, doubled or lost anywhere in what rank 1 sends to rank 2.
    for (name, plan) in [("ring", plans()[0].1), ("doubling", plans()[1].1)] {
        let run = |strike| {
            let job = Job { strike, ..Job::new(4, 20, ReduceOp::Sum, 9) };
            job.run(plan, (0..4).map(|rank| numbers(rank, 120)).collect(), None)
        };
        let clean = run(None).unwrap();
        let (from, to) = if name == "ring" { (1, 2) } else { (1, 3) };
        for at in 0..600 {
            for strike in [Strike::Flip((at % 8) as u8), Strike::Duplicate, Strike::Lose] {
                match run(Some((from, to, at, strike))) {
                    // Past the last byte that was sent.
                    Ok(results) => assert_eq!(results, clean, "{name}: {strike:?} at byte {at}"),
                    Err((rank, Trouble::Corrupt { peer, .. })) => assert_eq!((rank, peer), (to, from)),
                    // A lost byte at the very end leaves the receiver waiting.
                    Err((_, Trouble::Broke { why, .. })) => {
                        assert!(
                            why == "stalled" && strike == Strike::Lose,
                            "{name}: {strike:?} at {at}: {why}"
                        );
                    }
                    Err((_, trouble)) => panic!("{name}: {strike:?} at byte {at}: {trouble:?}"),
                }
            }
        }
    }
}

#[test]
fn a_cut_is_told_by_its_neighbour() {
    for at in [0, 1, 63, 64, 100, 300] {
        let strike = Some((1, 2, at, Strike::Cut));
        let job = Job { strike, ..Job::new(4, 20, ReduceOp::Sum, 9) };
        let (rank, trouble) =
            job.run(&by_ring, (0..4).map(|rank| numbers(rank, 120)).collect(), None).unwrap_err();
        assert!(matches!(trouble, Trouble::Broke { peer: 1, .. }) && rank == 2, "{rank}: {trouble:?}");
    }
}

#[test]
fn a_stall_is_waited_for_where_it_is() {
    for (n, plan, from, to) in [(4, plans()[0].1, 1, 2), (7, plans()[0].1, 6, 0), (4, plans()[1].1, 1, 3)] {
        for at in (0..900).step_by(60) {
            for seed in 0..3 {
                let strike = Some((from, to, at, Strike::Stall));
                let job = Job { strike, ..Job::new(n, 20, ReduceOp::Sum, seed) };
                let (rank, trouble) =
                    job.run(plan, (0..n).map(|rank| numbers(rank, 120)).collect(), None).unwrap_err();
                let stalled = Trouble::Broke { peer: from, why: "stalled".into() };
                assert_eq!((rank, trouble), (to, stalled), "after {at} bytes from {from} of {n}");
            }
        }
    }
}

#[test]
fn two_operations_of_equal_size_are_not_mixed() {
    // Rank 1 is at another operation on as many bytes.
    let mut links: Vec<Link> = Vec::new();
    let (first, second) = pair(1, 1 << 16, None);
    links.push(Link::new(1, Box::new(first), None, 1));
    links.push(Link::new(0, Box::new(second), None, 1));
    let machine = |rank: u32, fingerprint, links: &[Link]| {
        let terms = Terms { fingerprint, ..Job::new(2, 10, ReduceOp::Sum, 1).terms };
        let mut schedule = Schedule::new(10);
        by_ring(&mut schedule, rank, 2, 0..10);
        Machine::new(terms, schedule, links, false)
    };
    let (zero, one) = links.split_at_mut(1);
    let mut machines = [machine(0, 5, zero), machine(1, 6, one)];
    let mut buffers = [[1f32; 10], [2f32; 10]];
    assert_eq!(machines[0].advance(zero, &mut buffers[0]), Ok((true, Status::Blocked)));
    let trouble = machines[1].advance(one, &mut buffers[1]).unwrap_err();
    assert_eq!(trouble, Trouble::Mismatch { peer: 0, peer_seq: 7, peer_fingerprint: 5 });
    assert_eq!(buffers[1], [2.0; 10], "nothing was added");
}

#[test]
fn a_thousand_ranks_agree_on_who_talks_to_whom() {
    for n in [1000u32, 1024] {
        let mut sent = std::collections::HashMap::new();
        for rank in 0..n {
            let mut schedule = Schedule::new(64);
            by_doubling(&mut schedule, rank, n, 0..64);
            let partners = doubling::partners(rank, n);
            for send in &schedule.sends {
                assert!(partners.contains(&send.peer));
                *sent.entry((rank, send.peer)).or_insert(0) += send.range.len() as i64;
            }
            for come in &schedule.receives {
                assert!(partners.contains(&come.peer));
                *sent.entry((come.peer, rank)).or_insert(0) -= come.range.len() as i64;
            }
        }
        assert!(sent.values().all(|&left| left == 0));
    }
}
