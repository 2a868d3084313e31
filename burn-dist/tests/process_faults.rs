//! The failure contract with real processes: ranks that are killed, stopped, that exit, panic, fail and leave, at every
//! moment of a job, rank 0 included. On every survivor: the kind, the culprit, and that it came in time.
//!
//! The cases that a job must survive, where each is tested, and the guard that each test is for: without it, it fails.
//!
//! | | Case | Tests | Guard |
//! |---|---|---|---|
//! | 1 | A rank is killed, panics, exits | here: `one_that_is_killed_..`, `one_that_ends_in_any_other_way_..` | the end of a control connection is a death; rank 0 tells the verdict to all |
//! | 2 | A rank is stopped, a cable is cut | here: `one_that_is_stopped_..`; `namespaces`: `a_cut_cable_..` | silence is noticed by rank 0, and by all others of rank 0; a verdict wakes who waits for data |
//! | 3 | A rank is late, a link is slow | `desync`: `one_that_is_late_..`, `one_that_does_not_come_..`; `namespaces`: `a_slow_link_..` | stall reports; at the deadline those who did not call are blamed; a wait is no silence |
//! | 4 | Bytes are damaged, forged, out of order | `network_faults` | sums of payloads and headers; place and length of each frame |
//! | 5 | Strangers | `network_faults`: `strangers_..`; `rendezvous::tests::hostile` | proofs; data ports are closed once the job has formed |
//! | 6 | Ranks disagree, or one runs out of data | `desync`; `control::judge::tests` | fingerprints; settings compared; who left is missed; who has not called yet is waited for |
//! | 7 | Processes of another start of the job | `desync`: `processes_of_another_start_..`; `network_faults`: `frames_of_an_earlier_generation_..`; `soak` | generation compared at the door and in every frame |
//! | 8 | Bad numbers, useless addresses | `communicator`: `numbers_that_are_not_finite_..`; `namespaces`: `an_address_..` | the flag in the frame; no address of this machine only |

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use burn_dist::FaultKind::{self, Died, Failed, Left, Panicked, Silent};
use common::{
    End, Launch, Process, SLACK, assert_no_files_left, assert_port_is_free, dice::Dice, poll, shared_files,
};
use rustix::process::Signal;

#[test]
#[ignore = "a rank, started by the other tests"]
fn worker() {
    common::rank::run();
}

const WORLD_SIZE: u32 = 4;
/// Numbers of a bucket as training has them: 25 MB.
const BUCKET: u32 = 6_250_000;
/// What the contract says of everything that shows by itself.
const BOUND: Duration = Duration::from_secs(2);

/// What a rank does to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Killed,
    Terminated,
    Exits(i32),
    Panics,
    Fails,
    Leaves,
    Stopped,
}

/// When it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The others are in the job's first operation, it has called none.
    First,
    /// In the middle of a large all-reduce.
    Bucket,
    /// The others wait at a barrier.
    Barrier,
}

const MOMENTS: [Moment; 3] = [Moment::First, Moment::Bucket, Moment::Barrier];
/// Rank 0; its neighbour in the ring; the rank that is not.
const CULPRITS: [u32; 3] = [0, 1, 2];

#[derive(Debug, Clone, Copy)]
struct Case {
    act: Act,
    moment: Moment,
    culprit: u32,
    memory: bool,
}

impl Act {
    fn kind(self) -> FaultKind {
        match self {
            Self::Killed | Self::Terminated | Self::Exits(_) => Died,
            Self::Panics => Panicked,
            Self::Fails => Failed,
            Self::Leaves => Left,
            Self::Stopped => Silent,
        }
    }

    /// What the test does to it from outside.
    fn signal(self) -> Option<Signal> {
        match self {
            Self::Killed => Some(Signal::KILL),
            Self::Terminated => Some(Signal::TERM),
            Self::Stopped => Some(Signal::STOP),
            _ => None,
        }
    }

    /// What it does itself.
    fn words(self) -> String {
        match self {
            Self::Exits(code) => format!("exit:{code}"),
            Self::Panics => "panic".into(),
            Self::Fails => "fail reduces:10".into(),
            Self::Leaves => String::new(),
            Self::Killed | Self::Terminated | Self::Stopped => "ask reduces:10".into(),
        }
    }
}

impl Case {
    fn script(self, rank: u32) -> String {
        let act = if rank == self.culprit { Some(format!("say:now {}", self.act.words())) } else { None };
        match self.moment {
            Moment::First => act.unwrap_or_else(|| "reduces:1000".into()),
            // What it started is under way while it comes to its end.
            Moment::Bucket => match act {
                Some(act) => format!("reduce:{BUCKET} reduce:{BUCKET} start:{BUCKET} {act}"),
                None => format!("reduces:{BUCKET}"),
            },
            Moment::Barrier => format!("reduce:1000 {}", act.unwrap_or_else(|| "barrier reduces:10".into())),
        }
    }

    fn run(self, launch: Launch, bound: Duration) {
        let launch = launch.memory(self.memory);
        let mut ranks = launch.start_all(|rank| self.script(rank));
        let mut culprit = ranks.remove(self.culprit as usize);
        culprit.await_line("@now");
        if let Some(signal) = self.act.signal() {
            culprit.signal(signal);
        }
        let happened = Instant::now();
        let ends: Vec<End> = ranks.into_iter().map(Process::end).collect();
        for end in &ends {
            let fault = end.assert_fault(self.act.kind(), &[self.culprit]);
            assert_eq!(fault.culprits[0].host, rustix::system::uname().nodename().to_string_lossy());
            let took = end.at.saturating_duration_since(happened);
            assert!(took < bound * SLACK, "{self:?}: rank {} knew after {took:?}", end.rank);
            // Without rank 0 each says what it was doing itself.
            if self.culprit != 0 {
                assert_eq!(fault, ends[0].fault(), "{self:?}");
            }
            match self.act {
                Act::Fails => assert!(fault.detail.contains("the disk is full"), "{fault}"),
                Act::Stopped => assert!(fault.op.is_some(), "{fault}"),
                _ => {}
            }
        }
        if self.act == Act::Stopped {
            culprit.signal(Signal::CONT);
            culprit.go();
        }
        self.check_culprit(&culprit.end());
        assert_port_is_free(launch.port);
    }

    fn check_culprit(self, end: &End) {
        use std::os::unix::process::ExitStatusExt;
        match self.act {
            Act::Killed => assert_eq!(end.status.signal(), Some(9), "{end:#?}"),
            Act::Terminated => assert_eq!(end.status.signal(), Some(15), "{end:#?}"),
            Act::Exits(code) => assert_eq!(end.status.code(), Some(code), "{end:#?}"),
            Act::Panics => assert_eq!(end.status.code(), Some(101), "{end:#?}"),
            Act::Leaves => end.assert_done(),
            // It hears of itself what the others heard.
            Act::Fails => drop(end.assert_fault(Failed, &[self.culprit])),
            Act::Stopped => drop(end.assert_fault(Silent, &[self.culprit])),
        }
    }
}

fn run_all(cases: impl IntoIterator<Item = Case>) {
    let files = shared_files();
    for case in cases {
        println!("{case:?}");
        case.run(Launch::new(WORLD_SIZE), BOUND);
    }
    assert_no_files_left(&files);
}

/// All of moment, culprit and transport.
#[test]
fn one_that_is_killed_is_named_by_all() {
    run_all(MOMENTS.into_iter().flat_map(|moment| {
        CULPRITS.into_iter().flat_map(move |culprit| {
            [true, false].map(|memory| Case { act: Act::Killed, moment, culprit, memory })
        })
    }));
}

/// Every way at every moment; culprit and transport rotate from where a seed says.
#[test]
fn one_that_ends_in_any_other_way_is_named_by_all() {
    let mut dice = Dice(20_261_123);
    let acts = [Act::Terminated, Act::Exits(0), Act::Exits(1), Act::Panics, Act::Fails, Act::Leaves];
    run_all(acts.into_iter().flat_map(|act| {
        let (first, memory) = (dice.below(3), dice.below(2));
        (0..3).map(move |turn| Case {
            act,
            moment: MOMENTS[turn],
            culprit: CULPRITS[(first + turn) % 3],
            memory: (memory + turn) % 2 == 0,
        })
    }));
}

/// Nothing tells of it but silence; when it goes on it finds itself expelled.
#[test]
fn one_that_is_stopped_is_named_by_all_and_ends_when_it_wakes() {
    let files = shared_files();
    for (turn, moment) in MOMENTS.into_iter().enumerate() {
        for (culprit, memory) in [(turn as u32, true), ((turn as u32 + 1) % 3, false)] {
            let case = Case { act: Act::Stopped, moment, culprit, memory };
            println!("{case:?}");
            case.run(Launch::new(WORLD_SIZE).clocks(200, 2500), Duration::from_secs(4));
        }
    }
    assert_no_files_left(&files);
}

/// The contract's ten seconds, with the clocks that everybody has.
#[test]
fn silence_is_noticed_within_ten_seconds() {
    let case = Case { act: Act::Stopped, moment: Moment::Bucket, culprit: 2, memory: true };
    // Not five times as long: of the ten seconds eight are waiting, which takes no processor.
    case.run(Launch::new(WORLD_SIZE), Duration::from_secs(10) * 2 / SLACK);
}

#[test]
fn one_that_never_comes_is_named_by_all() {
    for absent in [0, 2] {
        let launch = Launch::new(WORLD_SIZE).var("BURN_DIST_STARTUP_TIMEOUT_S", 3);
        let ranks: Vec<_> = (0..WORLD_SIZE)
            .filter(|rank| *rank != absent)
            .map(|rank| launch.start(rank, "barrier"))
            .collect();
        for end in ranks.into_iter().map(Process::end) {
            let expected =
                if absent == 0 { "did not meet rank 0 at" } else { "of 4 ranks, [2] did not come within 3s" };
            assert!(end.error().contains(expected), "{end:#?}");
        }
        assert_port_is_free(launch.port);
    }
}

/// Connections that rank 0 has at its port.
fn num_connected(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[1].ends_with(&local) && fields[3] == "01").count()
}

#[test]
fn one_that_dies_while_the_job_forms_is_named_by_all() {
    for culprit in [0, 1] {
        let launch = Launch::new(WORLD_SIZE).var("BURN_DIST_STARTUP_TIMEOUT_S", 4);
        let mut ranks: Vec<_> = (0..3).map(|rank| launch.start(rank, "barrier")).collect();
        poll("two ranks at rank 0", || num_connected(launch.port) == 2);
        let killed = ranks.remove(culprit);
        killed.signal(Signal::KILL);
        drop(killed.end());
        ranks.push(launch.start(3, "barrier"));
        for end in ranks.into_iter().map(Process::end) {
            let expected = if culprit == 0 {
                "did not meet rank 0 at"
            } else {
                "of 4 ranks, [1] did not come within 4s"
            };
            assert!(end.error().contains(expected), "{end:#?}");
        }
    }
}

#[test]
fn one_that_is_stopped_while_the_job_forms_is_named_by_all() {
    let launch = Launch::new(WORLD_SIZE).var("BURN_DIST_STARTUP_TIMEOUT_S", 4);
    let mut ranks: Vec<_> = (0..3).map(|rank| launch.start(rank, "barrier")).collect();
    poll("two ranks at rank 0", || num_connected(launch.port) == 2);
    let mut stopped = ranks.remove(1);
    stopped.signal(Signal::STOP);
    ranks.push(launch.start(3, "barrier"));
    for end in ranks.into_iter().map(Process::end) {
        // It had joined, or it had not.
        let error = end.error();
        assert!(error.contains("rank 1 on ") || error.contains("of 4 ranks, [1] did not come"), "{end:#?}");
    }
    stopped.signal(Signal::CONT);
    stopped.go();
    stopped.end().error();
}

/// Killed at the moment at which ranks show each other shared memory: whoever survives cleans up.
#[test]
fn no_file_outlives_one_that_dies_while_ranks_connect() {
    let files = shared_files();
    for turn in 0..2 * WORLD_SIZE {
        let launch = Launch::new(WORLD_SIZE).memory(true).var("BURN_DIST_STARTUP_TIMEOUT_S", 4);
        let mut ranks = launch.start_all(|_| "reduces:1000".into());
        let culprit = turn % WORLD_SIZE;
        poll("its first shared memory", || ranks[culprit as usize].maps().contains("burn-dist-"));
        let killed = ranks.remove(culprit as usize);
        killed.signal(Signal::KILL);
        drop(killed.end());
        for end in ranks.into_iter().map(Process::end) {
            if end.has_fault() {
                end.assert_fault(Died, &[culprit]);
            } else {
                assert!(end.error().contains(&format!("rank {culprit} on ")), "{end:#?}");
            }
        }
    }
    assert_no_files_left(&files);
}
