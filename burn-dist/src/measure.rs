//! How fast a job's connections and collectives are, measured by using them. What NCCL's tests call algorithm bandwidth
//! is bytes of the buffer a second; bus bandwidth counts what each rank must send, so that it can be held against a
//! link's rate: 2 (n - 1) / n times as much for an all-reduce.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use crate::{
    communicator::Communicator,
    error::{DistError, Result},
    wire::number::ReduceOp,
};

/// Seconds of the same thing, done several times.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// Each time, shortest first.
    pub seconds: Vec<f64>,
    /// Processor seconds a second of this process, all threads, while all of them ran.
    pub cores: f64,
}

impl Timing {
    /// Times `work`, which returns its own seconds, after a few turns that do not count.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn of(repetitions: usize, mut work: impl FnMut() -> Result<f64>) -> Result<Self> {
        for _ in 0..3 {
            work()?;
        }
        let (before, started) = (cpu_s(), Instant::now());
        let mut seconds = (0..repetitions.max(1)).map(|_| work()).collect::<Result<Vec<_>>>()?;
        let cores = (cpu_s() - before) / started.elapsed().as_secs_f64();
        seconds.sort_by(f64::total_cmp);
        Ok(Self { seconds, cores })
    }

    /// The one in the middle.
    pub fn median(&self) -> f64 {
        self.seconds[self.seconds.len() / 2]
    }

    /// The shortest and the longest.
    pub fn range(&self) -> (f64, f64) {
        (self.seconds[0], self.seconds[self.seconds.len() - 1])
    }
}

/// Processor seconds of this process so far.
fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Times the sum of `count` numbers of 32 bits: the slowest rank's time from a barrier on, and short ones as means of
/// many in a row, since ranks leave a barrier further apart than those take. All ranks must call it alike.
///
/// # Errors
/// The fault that ended the job; a sum that is wrong.
pub fn all_reduce(comm: &Communicator, count: usize, repetitions: usize) -> Result<Timing> {
    let expected = comm.rank().world_size().count() as f32;
    let mut data = vec![1f32; count];
    comm.all_reduce(&mut data, ReduceOp::Sum)?;
    if let Some(wrong) = data.iter().find(|&&value| value != expected) {
        return Err(DistError::usage(format!("a sum of ones over {expected} ranks is {wrong}")));
    }
    // Zeros stay finite however often they are summed.
    data.fill(0.0);
    let calls = match count {
        0..=4_096 => 100,
        4_097..=131_072 => 10,
        _ => 1,
    };
    Timing::of(repetitions, || {
        comm.barrier()?;
        let started = Instant::now();
        for _ in 0..calls {
            comm.all_reduce(&mut data, ReduceOp::Sum)?;
        }
        let mut slowest = [started.elapsed().as_secs_f64() / f64::from(calls)];
        comm.all_reduce(&mut slowest, ReduceOp::Max)?;
        Ok(slowest[0])
    })
}

/// Times a way there and back of `bytes` between two ranks. All ranks must call it alike; the times are those of
/// `from`, other ranks' mean nothing.
///
/// # Errors
/// As [`Communicator::round_trip`].
pub fn round_trip(
    comm: &Communicator,
    from: usize,
    to: usize,
    bytes: usize,
    repetitions: usize,
) -> Result<Timing> {
    let mut data = vec![1u8; bytes];
    Timing::of(repetitions, || comm.round_trip(&mut data, from, to))
}
