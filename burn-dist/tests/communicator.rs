//! Jobs inside this process, over real connections: every operation, many in a row, and the same bits on all ranks.

#![allow(clippy::unwrap_used)]

use std::{thread, time::Duration};

use burn_dist::{
    Agreed, Algorithm, Communicator, Config, Note, ReduceOp, Timeouts, Vote, Wire, WorldSize, agree,
};

#[path = "common/dice.rs"]
mod dice;
use dice::Dice;

/// Runs `work` on every rank of a job, each on its thread, and returns what they return.
fn on_all<R: Send>(n: u32, agreed: Agreed, work: impl Fn(Communicator) -> R + Sync) -> Vec<R> {
    let timeouts = Timeouts { operation: Duration::from_secs(20), ..Timeouts::default() };
    let config = Config { agreed, timeouts, ..Config::default() };
    let ranks = Communicator::local_mesh(WorldSize::new(n).unwrap(), &config).unwrap();
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Numbers between -1 and 1 that look random, from a seed.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut dice = Dice(seed);
    (0..count).map(|_| dice.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn ways() -> Vec<(&'static str, Agreed)> {
    let tcp = Agreed { shared_memory: false, small_bytes: 256, ..Agreed::default() };
    vec![
        ("memory", Agreed { small_bytes: 256, ..Agreed::default() }),
        ("one stream", Agreed { streams: 1, ..tcp.clone() }),
        ("four streams", tcp.clone()),
        ("tiny segments", Agreed { segment_bytes: 128, ..tcp.clone() }),
        ("no checksum", Agreed { checksum: false, ..tcp.clone() }),
        ("doubling", Agreed { algorithm: Algorithm::Doubling, ..tcp.clone() }),
        ("f16", Agreed { wire: Wire::F16, ..tcp.clone() }),
        ("bf16", Agreed { wire: Wire::Bf16, ..tcp }),
    ]
}

#[test]
fn a_hundred_operations_in_a_row() {
    for n in [1u32, 2, 3, 4, 5, 8] {
        for (way, agreed) in ways() {
            // Tiny segments are slow by nature.
            let counts: &[usize] = if agreed.segment_bytes < 1024 {
                &[0, 1, n as usize - 1, n as usize + 1, 1023]
            } else {
                &[0, 1, n as usize - 1, n as usize, n as usize + 1, 1023, 70_000, (1 << 20) / 4 + 1]
            };
            let half = agreed.wire != Wire::F32;
            let results = on_all(n, agreed, |comm| {
                let rank = comm.rank().index();
                let mut hashes = Vec::new();
                for turn in 0..100 {
                    let count = counts[turn % counts.len()];
                    let mut data = numbers((rank + 100 * turn) as u64, count);
                    match turn % 7 {
                        0 | 1 => comm.all_reduce(&mut data, ReduceOp::Mean).unwrap(),
                        2 => comm.broadcast(&mut data, turn % n as usize).unwrap(),
                        3 => {
                            let pending: Vec<_> = (0..3)
                                .map(|bucket| {
                                    let note = Note { bucket, not_finite: false };
                                    comm.start_all_reduce(data.clone(), ReduceOp::Sum, note)
                                })
                                .collect();
                            let all: Vec<_> =
                                pending.into_iter().map(|pending| pending.wait().unwrap().data).collect();
                            assert_eq!(bits(&all[0]), bits(&all[2]));
                            data = all.into_iter().next().unwrap();
                        }
                        4 => {
                            let own = comm.reduce_scatter(&mut data, ReduceOp::Max).unwrap();
                            assert_eq!(
                                own.len(),
                                count / n as usize + usize::from(rank < count % n as usize)
                            );
                            comm.all_gather(&mut data).unwrap();
                        }
                        5 => {
                            let all = comm.all_gather_bytes(&vec![rank as u8; rank + turn], 1000).unwrap();
                            for (from, bytes) in all.iter().enumerate() {
                                assert_eq!(bytes, &vec![from as u8; from + turn]);
                            }
                            assert!(comm.vote(true, Vote::All).unwrap());
                            assert_eq!(comm.vote(rank > 0, Vote::All).unwrap(), n == 1 && rank > 0);
                            assert!(comm.vote(rank == 0, Vote::Any).unwrap());
                            data.clear();
                        }
                        _ => {
                            comm.barrier().unwrap();
                            comm.all_reduce(&mut data, ReduceOp::Min).unwrap();
                        }
                    }
                    if turn % 7 == 0 {
                        let all: Vec<_> =
                            (0..n as usize).map(|rank| numbers((rank + 100 * turn) as u64, count)).collect();
                        let mean = |at: usize| {
                            all.iter().map(|of_rank| f64::from(of_rank[at])).sum::<f64>() / f64::from(n)
                        };
                        // A sum of n numbers below 1; halves round at every hop.
                        let bound = if half { f64::from(n) / 128.0 } else { f64::from(n) * 1e-7 };
                        for (at, got) in data.iter().enumerate() {
                            let expected = mean(at);
                            assert!(
                                (f64::from(*got) - expected).abs() <= bound,
                                "{way}: {got}, not {expected}"
                            );
                        }
                    }
                    hashes.push(bits(&data));
                }
                hashes
            });
            for (rank, result) in results.iter().enumerate() {
                assert!(*result == results[0], "{way}: rank {rank} of {n} has other bits than rank 0");
            }
        }
    }
}

#[test]
fn numbers_that_are_not_finite_are_heard_of_everywhere() {
    let heard = on_all(4, Agreed::default(), |comm| {
        let note = Note { bucket: 1, not_finite: comm.rank().index() == 2 };
        comm.start_all_reduce(vec![1f32; 100_000], ReduceOp::Mean, note).wait().unwrap().not_finite
    });
    assert_eq!(heard, [true; 4]);
}

#[test]
fn who_ends_the_job_over_what_was_said_takes_it_from_nobody() {
    for turn in 0..40 {
        let heard = on_all(5, Agreed::default(), |comm| {
            let rank = comm.rank().index();
            let said = agree::say(&comm, if rank == 3 { "here" } else { "" });
            let odd = agree::same_number(&comm, "the numbers", u64::from(rank == 3));
            if rank == turn % 5 {
                comm.fail("it is over");
            }
            (said.map_err(|error| error.to_string()), odd.unwrap_err().to_string())
        });
        for (said, odd) in heard {
            assert!(said.unwrap().ends_with(": here"));
            assert!(odd.contains("the numbers differ: rank 3"), "{odd}");
        }
    }
}

#[test]
fn two_jobs_live_in_one_process() {
    let sums = on_all(2, Agreed::default(), |outer| {
        let inner = on_all(3, Agreed::default(), |inner| {
            let mut data = [inner.rank().index() as f32; 10];
            inner.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            data[9]
        });
        let mut data = [inner[0]; 10];
        outer.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        data[0]
    });
    assert_eq!(sums, [6.0, 6.0]);
}

#[test]
fn other_numbers_can_be_moved() {
    on_all(3, Agreed { small_bytes: 0, ..Agreed::default() }, |comm| {
        let rank = comm.rank().index();
        let mut doubles = vec![rank as f64 + 0.5; 1000];
        comm.all_reduce(&mut doubles, ReduceOp::Mean).unwrap();
        assert!(doubles.iter().all(|&value| value == 1.5));
        let mut whole = vec![rank as u64; 7];
        comm.all_reduce(&mut whole, ReduceOp::Sum).unwrap();
        assert_eq!(whole, [3; 7]);
        let mut bytes = vec![rank as u8; 5];
        comm.broadcast(&mut bytes, 2).unwrap();
        assert_eq!(bytes, [2; 5]);
    });
}

#[test]
fn calls_that_cannot_be_meant_change_nothing() {
    on_all(2, Agreed::default(), |comm| {
        let error = comm.broadcast(&mut [1f32], 2).unwrap_err().to_string();
        assert_eq!(error, "a broadcast from rank 2 in a job of 2");
        let error = comm.all_gather_bytes(&vec![0; comm.rank().index() * 20], 10).unwrap_err().to_string();
        assert_eq!(error, "rank 1 gave 20 bytes to an all-gather of at most 10 a rank");
        let mut data = [1f32];
        comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [2.0]);
    });
}
