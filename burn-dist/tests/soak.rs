//! Churn: jobs form, work, lose a rank at a moment that a seed decides, and form again at the same port, as the next
//! generation. Results are right until the end, the survivors name who is gone, and nothing piles up: no process, thread,
//! descriptor, memory or file. Half a minute, or as long as `TEST_SOAK_S` says; `TEST_SOAK_SEED` for another course.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use burn_dist::{
    Communicator, Config,
    FaultKind::{Died, Failed, Left, Panicked},
    ReduceOp, WorldSize,
};
use common::{End, Launch, Process, assert_no_files_left, assert_port_is_free, dice::Dice, shared_files};
use rustix::process::Signal;

#[test]
#[ignore = "a rank, started by the other tests"]
fn worker() {
    common::rank::run();
}

/// What this process holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
}

impl Holdings {
    fn now() -> Self {
        let count = |folder| fs::read_dir(folder).unwrap().count();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Operations of all kinds and sizes.
fn mixture(dice: &mut Dice, length: usize) -> Vec<String> {
    let kinds = ["reduce", "reduce", "broadcast", "gather", "scatter", "vote", "barrier"];
    let sizes = [1, 7, 1000, 16_385, 70_000, 700_000];
    (0..length)
        .map(|_| match (kinds[dice.below(kinds.len())], sizes[dice.below(sizes.len())]) {
            (kind @ ("vote" | "barrier"), _) => kind.to_owned(),
            (kind, size) => format!("{kind}:{size}"),
        })
        .collect()
}

/// One life of a job: everybody works, and one goes in some way, or none does.
fn live(launch: &Launch, dice: &mut Dice) {
    let world_size = launch.world_size;
    let mut words = mixture(dice, 12);
    let (all, victim) = (words.join(" "), dice.below(world_size as usize) as u32);
    let way = dice.below(6);
    words.truncate(dice.below(words.len()));
    let last = ["ask", "panic", "fail vote", "exit:3", "", "ask"][way];
    let short = format!("{} say:now {last}", words.join(" "));
    // Whoever lives on would wait for more.
    let mut ranks =
        launch.start_all(|rank| if rank == victim { short.clone() } else { format!("{all} reduces:100") });
    let mut gone = ranks.remove(victim as usize);
    gone.await_line("@now");
    if matches!(way, 0 | 5) {
        gone.signal(Signal::KILL);
    }
    let kind = [Died, Panicked, Failed, Died, Left, Died][way];
    for end in ranks.into_iter().map(Process::end) {
        end.assert_fault(kind, &[victim]);
    }
    drop(gone.end());
}

/// A job inside this process, whose descriptors and threads are counted; a rank of it fails.
fn live_here(victim: usize) {
    let ranks = Communicator::local_mesh(WorldSize::new(3).unwrap(), &Config::default()).unwrap();
    thread::scope(|scope| {
        for comm in ranks {
            scope.spawn(move || {
                let mut data = vec![1f32; 100_000];
                match comm.all_reduce(&mut data, ReduceOp::Sum) {
                    Ok(()) => assert!(data.iter().all(|&value| value == 3.0)),
                    // Others had all of it already, and one of them failed.
                    Err(error) => assert_eq!(error.fault().unwrap().kind, Failed),
                }
                if comm.rank().index() == victim {
                    comm.fail("it is his turn");
                }
                let error = comm.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
                assert_eq!(error.fault().unwrap().kind, Failed);
            });
        }
    });
}

#[test]
fn jobs_come_and_go_and_leave_nothing_behind() {
    let (seed, seconds) = (number("TEST_SOAK_SEED", 3), number("TEST_SOAK_S", 30));
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut dice = Dice(seed);
    let (files, mut launch) = (shared_files(), Launch::new(2));
    let mut early = None;
    let mut generation = 0;
    while Instant::now() < until || generation < 120 {
        launch.world_size = 2 + dice.below(4) as u32;
        let turn = launch
            .clone()
            .memory(dice.below(2) == 0)
            .var("BURN_DIST_GENERATION", generation)
            .var("BURN_DIST_STREAMS", 1 + dice.below(4))
            .var("BURN_DIST_STARTUP_TIMEOUT_S", 30);
        println!("seed {seed}, generation {generation}: {turn:?}");
        live_here(dice.below(3));
        if generation % 4 == 3 {
            // One that comes to its end.
            let script = mixture(&mut dice, 20).join(" ");
            let ranks = turn.start_all(|_| script.clone());
            ranks.into_iter().map(Process::end).for_each(|end: End| end.assert_done());
        } else {
            live(&turn, &mut dice);
        }
        generation += 1;
        // By then the allocator has what it is going to keep.
        if generation == 60 {
            early = Some(Holdings::now());
        }
    }
    let (early, late) = (early.unwrap(), Holdings::now());
    println!("after {generation} generations: {late:?}, after sixty: {early:?}");
    assert!(late.descriptors <= early.descriptors && late.threads <= early.threads, "{early:?}, {late:?}");
    // What the allocator keeps may vary; a leak of a generation's output would not stay below this for long.
    assert!(late.resident_kib <= early.resident_kib + 4096, "{early:?}, {late:?}");
    assert_no_files_left(&files);
    assert_port_is_free(launch.port);
}
