//! Jobs of three ranks whose network does harm between two of them: bytes are late, lost, doubled, changed, forged. An
//! error that names the peer, or a right result; never a wrong one, never a wait without end.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use burn_dist::{
    Agreed, Communicator, DistError, Fault,
    FaultKind::{Corrupt, Died, LinkLost, Silent, Stalled},
    Rank, ReduceOp, Timeouts, WorldSize,
    env::Identity,
};
use common::{
    SLACK, WATCHDOG,
    dice::Dice,
    free_port,
    proxy::{Harm, Place, Proxy, Strike, forge},
};

const WORLD_SIZE: u32 = 3;
/// What it sends to the other goes through the proxy, and its control connection to rank 0.
const RELAYED: u32 = 1;
const OTHER: u32 = 2;
/// Of an operation: several segments to each neighbour.
const COUNT: usize = 60_000;
const SEGMENT_BYTES: usize = 16 << 10;
const NUM_OPS: usize = 12;

/// What a rank got: nothing, after all results were right.
type Outcome = Result<(), Fault>;

fn connect(rank: u32, port: u16, generation: u32, timeouts: Timeouts) -> Communicator {
    let identity = Identity {
        rank: Rank::new(rank, WorldSize::new(WORLD_SIZE).unwrap()).unwrap(),
        local_rank: None,
        local_world_size: None,
        master_addr: "127.0.0.1".into(),
        master_port: port,
        generation,
        source: "by the test",
    };
    let agreed =
        Agreed { streams: 1, shared_memory: false, segment_bytes: SEGMENT_BYTES, ..Agreed::default() };
    Communicator::builder().identity(identity).agreed(agreed).timeouts(timeouts).connect().unwrap()
}

fn patient() -> Timeouts {
    Timeouts { startup: Duration::from_secs(20), operation: Duration::from_secs(40), ..Timeouts::default() }
}

fn work(comm: &Communicator, num_ops: usize) -> Outcome {
    for op in 0..num_ops {
        let values = |rank: usize| (0..COUNT).map(move |at| ((at * 3 + rank * 17 + op % 100) % 241) as f32);
        let mut data: Vec<f32> = values(comm.rank().index()).collect();
        match comm.all_reduce(&mut data, ReduceOp::Sum) {
            Ok(()) => {
                let sum = values(0).zip(values(1)).zip(values(2)).map(|((a, b), c)| a + b + c);
                assert!(data.into_iter().eq(sum), "a wrong result");
            }
            Err(DistError::Fault(fault)) => {
                let again = comm.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
                assert_eq!(again.fault(), Some(&*fault));
                return Err((*fault).clone());
            }
            Err(other) => panic!("{other}"),
        }
    }
    Ok(())
}

/// Runs a job of a generation; what each rank got, and how long it took.
fn run_as(generation: u32, place: Place, harm: Harm, timeouts: Timeouts) -> (Vec<Outcome>, Duration) {
    run_ops(generation, place, harm, timeouts, NUM_OPS)
}

fn run_ops(
    generation: u32,
    place: Place,
    harm: Harm,
    timeouts: Timeouts,
    num_ops: usize,
) -> (Vec<Outcome>, Duration) {
    let port = free_port();
    let proxy = Proxy::start(port, place, harm);
    let begin = Instant::now();
    let outcomes = thread::scope(|scope| {
        let ranks: Vec<_> = (0..WORLD_SIZE)
            .map(|rank| {
                let port = if rank == RELAYED { proxy.port } else { port };
                scope.spawn(move || work(&connect(rank, port, generation, timeouts), num_ops))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    (outcomes, begin.elapsed())
}

fn run(place: Place, harm: Harm) -> Vec<Outcome> {
    let (outcomes, took) = run_as(0, place, harm, patient());
    assert!(took < WATCHDOG, "{took:?}");
    outcomes
}

/// All ranks have this verdict, whatever the order of its culprits.
#[track_caller]
fn assert_all(outcomes: &[Outcome], kind: burn_dist::FaultKind, culprits: &[u32]) -> Fault {
    for outcome in outcomes {
        assert_eq!(outcome, &outcomes[0]);
    }
    let fault = outcomes[0].clone().unwrap_err();
    let mut named: Vec<u32> = fault.culprits.iter().map(|who| who.rank).collect();
    named.sort_unstable();
    assert_eq!((fault.kind, &*named), (kind, culprits), "{fault}");
    fault
}

#[test]
fn slowness_changes_nothing() {
    for (piece, millis) in [(100_000, 5), (20_000, 2), (4001, 0)] {
        let outcomes = run(Place::Data, Harm::Pace(piece, Duration::from_millis(millis)));
        assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
    }
}

#[test]
fn changed_bytes_are_found_and_their_sender_is_named() {
    let mut dice = Dice(7);
    // Of one operation, in each direction.
    let total = COUNT * 4;
    // A header, its fields, the first payload; then anywhere.
    let places = [0, 5, 6, 9, 13, 17, 25, 33, 41, 45, 50, 61, 64].into_iter();
    let anywhere: Vec<usize> = (0..5).map(|_| dice.below(total)).collect();
    for at in places.chain(anywhere) {
        let outcomes = run(Place::Data, Harm::At(at, Strike::Flip(dice.below(8) as u8)));
        let fault = assert_all(&outcomes, Corrupt, &[RELAYED]);
        assert!(fault.op.is_some(), "{fault}");
    }
}

#[test]
fn bytes_that_come_twice_are_found_and_their_sender_is_named() {
    let mut dice = Dice(8);
    for length in [1, 64, 4000] {
        let at = dice.below(COUNT);
        assert_all(&run(Place::Data, Harm::At(at, Strike::Repeat(length))), Corrupt, &[RELAYED]);
    }
}

#[test]
fn a_connection_that_ends_is_told_to_all() {
    let mut dice = Dice(9);
    for strike in [Strike::Reset, Strike::HalfClose, Strike::Cut] {
        // Before the first byte, inside of a header, inside of a payload.
        for at in [0, 33, 64 + dice.below(SEGMENT_BYTES)] {
            let (outcomes, took) = run_as(0, Place::Data, Harm::At(at, strike), patient());
            assert_all(&outcomes, LinkLost, &[RELAYED, OTHER]);
            assert!(took < Duration::from_secs(2) * SLACK, "{strike:?} at {at}: {took:?}");
        }
    }
}

#[test]
fn a_connection_that_stalls_without_a_word_is_named_at_the_deadline() {
    let timeouts = Timeouts { operation: Duration::from_secs(2), ..patient() };
    let (outcomes, took) = run_as(0, Place::Data, Harm::At(70_000, Strike::Stall), timeouts);
    // Around the ring everybody soon waits for its predecessor; the one that is furthest behind tells.
    let fault = assert_all(&outcomes, Stalled, &[RELAYED]);
    assert!(fault.detail.contains("all called the operation"), "{fault}");
    assert!(took < Duration::from_secs(4) * SLACK, "{took:?}");
}

fn each_frame(mut change: impl FnMut(usize, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static) -> Harm {
    let mut count = 0;
    Harm::Frames(Box::new(move |frame| {
        count += 1;
        change(count - 1, frame)
    }))
}

#[test]
fn frames_in_another_order_are_found() {
    let mut kept = None;
    let swap = each_frame(move |index, frame| match index {
        1 => {
            kept = Some(frame);
            Vec::new()
        }
        2 => vec![frame, kept.take().unwrap()],
        _ => vec![frame],
    });
    assert_all(&run(Place::Data, swap), Corrupt, &[RELAYED]);
    let twice = each_frame(|index, frame| if index == 1 { vec![frame.clone(), frame] } else { vec![frame] });
    assert_all(&run(Place::Data, twice), Corrupt, &[RELAYED]);
}

/// A length that no sum protects any more, since the forger made a right one.
#[test]
fn no_length_takes_memory() {
    let before = peak_kib();
    for length in [u32::MAX, 1 << 31, (SEGMENT_BYTES + 8) as u32, 0] {
        let oversize = each_frame(move |index, mut frame| {
            if index == 1 {
                forge(&mut frame, 40, &length.to_le_bytes());
            }
            vec![frame]
        });
        let fault = assert_all(&run(Place::Data, oversize), Corrupt, &[RELAYED]);
        assert!(fault.detail.contains(&format!("a frame of {length} bytes")), "{fault}");
    }
    let grown = peak_kib() - before;
    assert!(grown < 512 << 10, "{grown} KiB");
}

/// The most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What a job said is worth nothing in the next, although every sum in it is right.
#[test]
fn frames_of_an_earlier_generation_are_refused() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let book = Arc::clone(&heard);
    let record = each_frame(move |_, frame| {
        book.lock().unwrap().push(frame.clone());
        vec![frame]
    });
    let (outcomes, _) = run_as(4, Place::Data, record, patient());
    assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    for at in [0, heard.len() / 2] {
        let old = heard[at].clone();
        let replay =
            each_frame(move |index, frame| if index == at { vec![old.clone()] } else { vec![frame] });
        let (outcomes, _) = run_as(5, Place::Data, replay, patient());
        let fault = assert_all(&outcomes, Corrupt, &[RELAYED]);
        assert!(fault.detail.contains("a frame of generation 4, this job is generation 5"), "{fault}");
    }
}

/// An earlier frame of the same job, as it was.
#[test]
fn frames_of_an_earlier_operation_are_refused() {
    let mut first = None;
    let replay = each_frame(move |index, frame| {
        let first = first.get_or_insert_with(|| frame.clone());
        if index == 100 { vec![first.clone()] } else { vec![frame] }
    });
    let outcomes = run(Place::Data, replay);
    let fault = outcomes[0].clone().unwrap_err();
    assert_eq!(outcomes, vec![Err(fault.clone()); 3]);
    assert_eq!((fault.kind, fault.culprits[0].rank), (burn_dist::FaultKind::Mismatch, RELAYED), "{fault}");
}

#[test]
fn a_control_connection_that_ends_is_a_death() {
    for strike in [Strike::Reset, Strike::Cut] {
        let outcomes = run(Place::ControlOut, Harm::At(10, strike));
        for rank in [0, OTHER] {
            let fault = outcomes[rank as usize].clone().unwrap_err();
            assert_eq!((fault.kind, fault.culprits[0].rank), (Died, RELAYED), "{fault}");
        }
        // From where it stands it is rank 0 that is gone.
        let fault = outcomes[RELAYED as usize].clone().unwrap_err();
        assert_eq!((fault.kind, fault.culprits[0].rank), (Died, 0), "{fault}");
    }
}

#[test]
fn a_control_connection_that_stalls_is_silence() {
    let timeouts =
        Timeouts { heartbeat: Duration::from_millis(100), silence: Duration::from_secs(2), ..patient() };
    for (place, culprit) in [(Place::ControlOut, RELAYED), (Place::ControlIn, 0)] {
        let (outcomes, took) = run_ops(0, place, Harm::At(3000, Strike::Stall), timeouts, usize::MAX);
        assert_all(&outcomes, Silent, &[culprit]);
        assert!(took < Duration::from_secs(4) * SLACK, "{took:?}");
    }
}

/// What ranks say to each other beside the data is protected too. A length that grew lets its receiver wait for more, and
/// hear nothing meanwhile.
#[test]
fn a_flip_on_a_control_connection_is_found_and_its_sender_is_named() {
    let mut dice = Dice(11);
    let timeouts =
        Timeouts { heartbeat: Duration::from_millis(20), silence: Duration::from_secs(2), ..patient() };
    let mut num_sums = 0;
    for turn in 0..10 {
        let (place, culprit) = [(Place::ControlOut, RELAYED), (Place::ControlIn, 0)][turn % 2];
        let at = 800 * (turn % 2) + dice.below(200);
        let flip = Harm::At(at, Strike::Flip(dice.below(8) as u8));
        let (outcomes, took) = run_ops(0, place, flip, timeouts, 20_000);
        let kind = outcomes[0].clone().unwrap_err().kind;
        assert!(matches!(kind, Corrupt | Silent), "{place:?} at {at}: {outcomes:?}");
        let fault = assert_all(&outcomes, kind, &[culprit]);
        num_sums += usize::from(fault.detail.contains("its sender computed"));
        assert!(took < Duration::from_secs(4) * SLACK, "{took:?}");
    }
    assert!(num_sums > 5, "{num_sums}");
}

#[test]
fn strangers_do_not_trouble_a_job_that_runs() {
    let port = free_port();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..WORLD_SIZE)
            .map(|rank| {
                scope.spawn(move || {
                    let comm = connect(rank, port, 0, patient());
                    (0..5).try_for_each(|_| work(&comm, NUM_OPS)).unwrap();
                    let members = comm.members().to_vec();
                    // Nobody takes data connections any more.
                    if rank == 2 {
                        for member in members {
                            TcpStream::connect(member.data_addr).unwrap_err();
                        }
                    }
                    comm.barrier().unwrap();
                })
            })
            .collect();
        let crowd = scope.spawn(|| {
            let mut dice = Dice(12);
            let mut silent = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
                    thread::yield_now();
                    continue;
                };
                let words: Vec<u8> = match dice.below(5) {
                    0 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                    1 => b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
                    2 => (0..200).map(|_| dice.below(256) as u8).collect(),
                    // A hello, for a rank of this job, without a proof.
                    3 => [b"BDSTMEET\x02\x00".as_slice(), &[0; 54]].concat(),
                    _ => Vec::new(),
                };
                let _ = stream.write_all(&words);
                if words.is_empty() && silent.len() < 300 {
                    silent.push(stream);
                } else {
                    let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
                    let _ = stream.read(&mut [0; 64]);
                }
            }
            silent.len()
        });
        let results: Vec<_> = ranks.into_iter().map(|rank| rank.join()).collect();
        over.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
        crowd.join().unwrap();
    });
}
