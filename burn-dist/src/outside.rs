//! Operations that something else carries out, such as a GPU's own collectives: in the order of all others, numbered,
//! recorded and watched like them, although their bytes go another way.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    control::{Farewell, Suspicion},
    engine::{Carried, Engine, fingerprint},
    error::{DistError, OpName, Result},
    trace::Span,
};

/// Between two looks at an operation that takes longer than a short while.
const LOOK: Duration = Duration::from_micros(50);
/// For the verdict that explains an error, before it is taken for this rank's own: what a library notices first is mostly
/// that a peer is gone.
const ECHO: Duration = Duration::from_secs(3);

/// What is carried out elsewhere. Every rank must begin it.
pub(crate) trait Outside: Send {
    /// Begins, and waits for nobody.
    ///
    /// # Errors
    /// In words.
    fn begin(&mut self) -> Result<(), String>;

    /// Whether it is through. Waits for nobody.
    ///
    /// # Errors
    /// In words; it is then aborted.
    fn is_done(&mut self) -> Result<bool, String>;

    /// Ends it wherever it stands, within a bounded time. Nothing is asked of it afterwards.
    fn abort(&mut self);
}

impl Engine {
    /// Carries out such an operation on `bytes` bytes.
    ///
    /// # Errors
    /// The verdict, if the job came to its end before or during the operation, which is then aborted.
    pub(crate) fn run_outside(
        &mut self,
        what: String,
        bytes: usize,
        operation: &mut dyn Outside,
    ) -> Result<Carried> {
        if let Some(fault) = self.control.fault() {
            return Err(DistError::Fault(fault));
        }
        self.seq += 1;
        let started = Instant::now();
        let fingerprint = fingerprint(&what, self.agreed.wire, &self.agreed);
        let name = OpName { seq: self.seq, what };
        self.flight.begin(name.clone(), fingerprint, bytes as u64);
        if let Err(error) = self.watch(operation, started) {
            operation.abort();
            return Err(error);
        }
        let seconds = started.elapsed().as_secs_f64();
        self.trace.add(Span::of(&name, 0, bytes, started, seconds, 0.0));
        self.flight.end();
        Ok(Carried { seconds, ..Carried::default() })
    }

    fn watch(&self, operation: &mut dyn Outside, started: Instant) -> Result<()> {
        operation.begin().map_err(|why| self.explain(&why))?;
        loop {
            // Looked up first: what was through before the end still is.
            let fault = self.control.fault();
            if operation.is_done().map_err(|why| self.explain(&why))? {
                return Ok(());
            }
            if let Some(fault) = fault {
                return Err(DistError::Fault(fault));
            }
            let waited = started.elapsed();
            if waited >= self.deadline {
                // For whom it waits only the others' heartbeats can tell.
                let (waiting_for, received) = (Vec::new(), 0);
                let suspicion = Suspicion::Deadline { seq: self.seq, waiting_for, received };
                return Err(DistError::Fault(self.control.suspect(suspicion)));
            }
            if waited < self.caller.spin() { thread::yield_now() } else { thread::sleep(LOOK) }
        }
    }

    /// What is behind an error: the verdict of the job if there is one, else this rank itself.
    fn explain(&self, why: &str) -> DistError {
        let until = Instant::now() + ECHO;
        while self.control.fault().is_none() && Instant::now() < until {
            thread::sleep(LOOK);
        }
        if self.control.fault().is_none() {
            self.control.leave(Farewell::Failed(why.into()));
        }
        self.control.fault().map_or_else(|| DistError::usage(why), DistError::Fault)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    use super::*;
    use crate::{Communicator, Config, FaultKind, ReduceOp, Timeouts, WorldSize};

    /// How an operation goes that nobody carries out.
    #[derive(Debug, Clone)]
    struct Pretended {
        /// Looks until it is through; `None`: never.
        looks: Option<u32>,
        fails: Option<&'static str>,
        /// Called with the first look.
        begun: Option<mpsc::Sender<()>>,
        aborts: Arc<AtomicU32>,
    }

    impl Outside for Pretended {
        fn begin(&mut self) -> Result<(), String> {
            Ok(())
        }

        fn is_done(&mut self) -> Result<bool, String> {
            if let Some(begun) = self.begun.take() {
                begun.send(()).unwrap();
            }
            if let Some(why) = self.fails {
                return Err(why.into());
            }
            let Some(looks) = &mut self.looks else { return Ok(false) };
            *looks = looks.saturating_sub(1);
            Ok(*looks == 0)
        }

        fn abort(&mut self) {
            self.aborts.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pretended(looks: Option<u32>) -> Pretended {
        Pretended { looks, fails: None, begun: None, aborts: Arc::default() }
    }

    fn mesh(world_size: u32, timeouts: Timeouts) -> Vec<Communicator> {
        let config = Config { timeouts, ..Config::default() };
        Communicator::local_mesh(WorldSize::new(world_size).unwrap(), &config).unwrap()
    }

    /// Runs `work` on all ranks, each on a thread.
    fn on_ranks<T: Send>(mesh: Vec<Communicator>, work: impl Fn(usize, Communicator) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let spawn = |(rank, comm)| {
                scope.spawn({
                    let work = &work;
                    move || work(rank, comm)
                })
            };
            let ranks: Vec<_> = mesh.into_iter().enumerate().map(spawn).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn it_takes_its_place_among_all_others() {
        on_ranks(mesh(2, Timeouts::default()), |rank, comm| {
            let operation = pretended(Some(3 + 100 * rank as u32));
            let aborts = Arc::clone(&operation.aborts);
            let before = comm.start_all_reduce(vec![1f32; 1000], ReduceOp::Sum, Default::default());
            let pending = comm.start_outside("elsewhere".into(), 4000, operation);
            let mut after = [rank as u32];
            comm.all_reduce(&mut after, ReduceOp::Sum).unwrap();
            assert_eq!(after, [1]);
            assert_eq!(before.wait().unwrap().data, vec![2f32; 1000]);
            let done = pending.wait().unwrap();
            assert_eq!(done.data.looks, Some(0));
            assert_eq!(aborts.load(Ordering::SeqCst), 0);
            let recorder = comm.flight_recorder().unwrap();
            assert_eq!(recorder.find(2).unwrap().name.what, "elsewhere");
        });
    }

    /// Such as a collective whose peer is gone: without the abort it would wait for ever.
    #[test]
    fn a_lost_rank_aborts_what_waits_for_it_and_is_named() {
        let (begun, waits) = mpsc::channel();
        let waits = std::sync::Mutex::new(waits);
        let faults = on_ranks(mesh(3, Timeouts::default()), |rank, comm| {
            if rank == 2 {
                // Once both others are in it.
                (0..2).for_each(|_| waits.lock().unwrap().recv().unwrap());
                comm.fail("the GPU fell off the bus");
                return None;
            }
            let operation = Pretended { begun: Some(begun.clone()), ..pretended(None) };
            let aborts = Arc::clone(&operation.aborts);
            let error = comm.start_outside("elsewhere".into(), 4, operation).wait().unwrap_err();
            assert_eq!(aborts.load(Ordering::SeqCst), 1);
            Some(error.fault().unwrap().clone())
        });
        for fault in faults.into_iter().flatten() {
            assert_eq!((fault.kind, fault.culprits[0].rank), (FaultKind::Failed, 2), "{fault}");
            assert!(fault.detail.contains("fell off the bus"), "{fault}");
        }
    }

    #[test]
    fn who_does_not_come_is_named_at_the_deadline() {
        let timeouts = Timeouts { operation: Duration::from_millis(300), ..Timeouts::default() };
        let (told, verdict) = mpsc::channel();
        let verdict = std::sync::Mutex::new(verdict);
        on_ranks(mesh(2, timeouts), |rank, comm| {
            if rank == 1 {
                // It stays away until the other has given it up.
                verdict.lock().unwrap().recv().unwrap();
                return;
            }
            let error = comm.start_outside("elsewhere".into(), 4, pretended(None)).wait().unwrap_err();
            told.send(()).unwrap();
            let fault = error.fault().unwrap();
            assert_eq!((fault.kind, fault.culprits[0].rank), (FaultKind::Stalled, 1), "{fault}");
        });
    }

    #[test]
    fn an_error_that_nobody_else_explains_is_this_rank_s() {
        let faults = on_ranks(mesh(2, Timeouts::default()), |rank, comm| {
            let fails = (rank == 1).then_some("NCCL: unhandled cuda error");
            let operation = Pretended { fails, ..pretended(None) };
            let error = comm.start_outside("elsewhere".into(), 4, operation).wait().unwrap_err();
            error.fault().unwrap().clone()
        });
        for fault in faults {
            assert_eq!((fault.kind, fault.culprits[0].rank), (FaultKind::Failed, 1), "{fault}");
            assert!(fault.detail.contains("unhandled cuda error"), "{fault}");
        }
    }
}
