//! Ranks that are not where the others are: in another operation, on another length, late, out of data, of another start
//! of the job, there twice. Everybody is told what each was doing, and the one that is missing is blamed, not the one
//! that waits.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::thread;

use burn_dist::{
    Agreed, Communicator, Config,
    FaultKind::{Left, Mismatch, Stalled},
    Note, ReduceOp, WorldSize,
};
use common::{End, Launch, Process, rank};

#[test]
#[ignore = "a rank, started by the other tests"]
fn worker() {
    rank::run();
}

fn end_all(ranks: Vec<Process>) -> Vec<End> {
    ranks.into_iter().map(Process::end).collect()
}

/// Four ranks, of which one has another script.
fn run(memory: bool, most: &str, odd: u32, other: &str) -> Vec<End> {
    let launch = Launch::new(4).memory(memory);
    end_all(launch.start_all(|rank| if rank == odd { other.into() } else { most.into() }))
}

#[test]
fn what_each_rank_called_is_told_to_all() {
    let cases = [
        // Another length.
        ("reduce:1000", "reduce:1001", "all-reduce (sum) of 1000 f32", "all-reduce (sum) of 1001 f32"),
        ("reduce:3000000", "reduce:3000001", "of 3000000 f32", "of 3000001 f32"),
        // Another operation, also of as many bytes.
        (
            "reduce:30000",
            "broadcast:30000",
            "all-reduce (sum) of 30000 f32",
            "broadcast from rank 3 of 30000 f32",
        ),
        ("vote", "barrier", "vote (all)", "barrier"),
        // One barrier more.
        (
            "reduce:10 reduce:20 reduce:30",
            "reduce:10 barrier reduce:20",
            "all-reduce (sum) of 20 f32",
            "barrier",
        ),
        // One call less.
        ("reduce:10 reduce:20 reduce:30", "reduce:10 reduce:30", "of 20 f32", "of 30 f32"),
    ];
    for (turn, (most, other, theirs, its)) in cases.into_iter().enumerate() {
        let odd = turn as u32 % 4;
        let ends = run(turn % 2 == 0, most, odd, other);
        for end in &ends {
            let fault = end.assert_fault(Mismatch, &[odd]);
            assert!(fault.detail.contains(theirs) && fault.detail.contains(its), "{fault}");
            assert_eq!(fault, ends[0].fault());
        }
    }
}

/// Equal lengths, in another order: only their numbers tell them apart.
#[test]
fn buckets_in_another_order_are_not_mixed() {
    let ranks = Communicator::local_mesh(WorldSize::new(3).unwrap(), &Config::default()).unwrap();
    thread::scope(|scope| {
        for comm in ranks {
            scope.spawn(move || {
                let order = if comm.rank().index() == 1 { [2, 1] } else { [1, 2] };
                let pending = order.map(|bucket| {
                    let note = Note { bucket, not_finite: false };
                    comm.start_all_reduce(vec![bucket as f32; 100_000], ReduceOp::Sum, note)
                });
                for pending in pending {
                    let error = pending.wait().unwrap_err();
                    let fault = error.fault().unwrap();
                    assert_eq!((fault.kind, fault.culprits[0].rank), (Mismatch, 1), "{fault}");
                    assert!(
                        fault.detail.contains("bucket 1") && fault.detail.contains("bucket 2"),
                        "{fault}"
                    );
                }
            });
        }
    });
}

/// Another length on each of two ranks: there is no majority, so both are named.
#[test]
fn two_who_disagree_are_both_named() {
    let config = Config { agreed: Agreed { shared_memory: false, ..Agreed::default() }, ..Config::default() };
    let ranks = Communicator::local_mesh(WorldSize::new(2).unwrap(), &config).unwrap();
    thread::scope(|scope| {
        for comm in ranks {
            scope.spawn(move || {
                let mut data = vec![0f32; 5000 + comm.rank().index()];
                let error = comm.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
                let fault = error.fault().unwrap();
                let named: Vec<u32> = fault.culprits.iter().map(|who| who.rank).collect();
                assert_eq!((fault.kind, &*named), (Mismatch, &[0, 1][..]), "{fault}");
                assert!(
                    fault.detail.contains("of 5000 f32") && fault.detail.contains("of 5001 f32"),
                    "{fault}"
                );
            });
        }
    });
}

#[test]
fn one_that_runs_out_of_data_is_named_by_those_that_have_more() {
    for (turn, odd) in [0, 2].into_iter().enumerate() {
        let long = "reduce:100 reduce:100 reduce:100 reduce:100 reduce:100";
        for end in run(turn == 0, long, odd, "reduce:100 reduce:100 reduce:100") {
            if end.rank == odd {
                end.assert_done();
                continue;
            }
            let fault = end.assert_fault(Left, &[odd]);
            assert!(fault.detail.contains("after operation 3 while others are at operation 4"), "{fault}");
        }
    }
}

#[test]
fn settings_that_differ_are_told_to_all_before_anything_is_sent() {
    let settings = [
        ("BURN_DIST_WIRE", "bf16", "wire is bf16 at rank 1 on"),
        ("BURN_DIST_STREAMS", "2", "streams is 2 at rank 1 on"),
        ("BURN_DIST_CHECKSUM", "0", "checksum is false at rank 1 on"),
        ("BURN_DIST_SHARED_MEMORY", "0", "shared_memory is false at rank 1 on"),
        ("BURN_DIST_WORLD_SIZE", "4", "world size is 4 at rank 1 on"),
    ];
    for (name, value, expected) in settings {
        let launch = Launch::new(3);
        let ranks = (0..3).map(|rank| {
            let launch = if rank == 1 { launch.clone().var(name, value) } else { launch.clone() };
            launch.start(rank, "barrier")
        });
        for end in end_all(ranks.collect()) {
            assert!(end.error().contains(expected), "{end:#?}");
        }
    }
}

/// One that is late is told of, where it stands and who waits; it is no fault while it may still come, also if that
/// takes longer than silence may.
#[test]
fn one_that_is_late_is_reported_and_not_blamed() {
    for late in [0, 2] {
        let launch = Launch::new(4).clocks(100, 2500).var(rank::STALL_MS, 500);
        let mut ranks = launch.start_all(|rank| {
            if rank == late { "reduce:10 ask reduce:20".into() } else { "reduce:10 reduce:20".into() }
        });
        for seconds in [1, 4] {
            ranks[0].await_line(&format!(
                "operation 2 (all-reduce (sum) of 20 f32) has waited {seconds} s for rank {late} on {}: rank {late} is \
                 in no operation, its last was 1",
                rustix::system::uname().nodename().to_string_lossy()
            ));
        }
        ranks[late as usize].go();
        end_all(ranks).iter().for_each(End::assert_done);
    }
}

/// Its neighbours wait for it, the others for them: the one that is missing is blamed.
#[test]
fn one_that_does_not_come_by_the_deadline_is_blamed_and_not_who_waits() {
    for (memory, late) in [(true, 0), (false, 3)] {
        let launch = Launch::new(4).memory(memory).clocks(100, 8000).var(rank::OPERATION_MS, 2000);
        let mut ranks = launch.start_all(|rank| {
            if rank == late { "reduce:10 ask reduce:20".into() } else { "reduce:10 reduce:20".into() }
        });
        let mut absent = ranks.remove(late as usize);
        for end in end_all(ranks) {
            let fault = end.assert_fault(Stalled, &[late]);
            assert!(
                fault.detail.contains(&format!("rank {late} is in no operation, its last was 1")),
                "{fault}"
            );
            assert_eq!(fault.op.unwrap().seq, 2);
        }
        absent.go();
        absent.end().assert_fault(Stalled, &[late]);
    }
}

/// While the job forms, and when it runs.
#[test]
fn processes_of_another_start_of_the_job_are_refused_and_the_job_goes_on() {
    let launch = Launch::new(3).var("BURN_DIST_GENERATION", 7).var("BURN_DIST_STARTUP_TIMEOUT_S", 30);
    let mut ranks: Vec<_> = (0..2).map(|rank| launch.start(rank, "say:in ask barrier")).collect();
    let ghost = |generation: u32, rank: u32| {
        let launch =
            launch.clone().var("BURN_DIST_GENERATION", generation).var("BURN_DIST_STARTUP_TIMEOUT_S", 5);
        launch.start(rank, "barrier").end()
    };
    let early = ghost(6, 2);
    assert!(early.error().contains("generation 6 is over, this job is generation 7"), "{early:#?}");
    ranks.push(launch.start(2, "say:in ask barrier"));
    for rank in &mut ranks {
        rank.await_line("@in");
    }
    let late = ghost(6, 2);
    assert!(late.error().contains("generation 6 is over, this job is generation 7"), "{late:#?}");
    // Of this start, but there already.
    let twice = ghost(7, 2);
    assert!(
        twice.error().contains("the job has formed already, without this process as rank 2"),
        "{twice:#?}"
    );
    // Of the next start, which waits for this one to end, and does not wait for ever.
    let next = ghost(8, 2);
    assert!(next.error().contains("did not meet rank 0"), "{next:#?}");
    ranks.iter_mut().for_each(Process::go);
    end_all(ranks).iter().for_each(End::assert_done);
}

#[test]
fn a_rank_that_is_there_twice_is_named() {
    let launch = Launch::new(3);
    let ranks = [0, 1, 1].map(|rank| launch.start(rank, "barrier"));
    for end in end_all(ranks.into()) {
        assert!(end.error().contains("rank 1 is there 2 times"), "{end:#?}");
    }
}
