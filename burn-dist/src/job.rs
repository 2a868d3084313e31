//! What the clones of a communicator share: the engine, and the queue before it. Operations that are waited for run on
//! the caller's thread, those that are started and left run on one worker; both in the order of the calls.

use std::{
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use crate::{
    assemble::Assembled,
    config::{Agreed, Config},
    control::{Control, Farewell},
    engine::{Caller, Engine},
    error::{DistError, Result},
    flight::FlightRecorder,
    pending::{Pending, Reduced},
    rendezvous::{Door, Roster},
    topology::Topology,
    trace::Trace,
};

/// A rank's part of a job of two or more.
pub(crate) struct Job {
    pub(crate) roster: Arc<Roster>,
    pub(crate) topology: Topology,
    pub(crate) agreed: Agreed,
    #[cfg(feature = "nccl")]
    pub(crate) is_encrypted: bool,
    pub(crate) control: Arc<Control>,
    pub(crate) flight: Arc<FlightRecorder>,
    trace: Arc<Trace>,
    /// Where the trace goes in the end, if there is to be one.
    trace_dir: Option<PathBuf>,
    desk: Arc<Desk>,
    /// Carries out what was started and is not waited for at once.
    worker: Mutex<Option<Worker>>,
    _door: Option<Door>,
}

/// Where operations queue.
struct Desk {
    engine: Mutex<Engine>,
    /// Operations that the worker has yet to carry out.
    queued: Mutex<usize>,
    emptied: Condvar,
}

type Task = Box<dyn FnOnce(&mut Engine) + Send>;

/// A place in the queue: given back when the operation is through, and also when it never will be.
struct Place(Arc<Desk>);

impl Place {
    fn take(desk: &Arc<Desk>) -> Self {
        *lock(&desk.queued) += 1;
        Self(Arc::clone(desk))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *lock(&self.0.queued) -= 1;
        self.0.emptied.notify_all();
    }
}

struct Worker {
    tasks: Sender<(Task, Place)>,
    thread: JoinHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic inside an operation ends the job by its own way; the lock itself has nothing to tell.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    pub(crate) fn new(assembled: Assembled, config: &Config) -> Self {
        let Assembled { engine, topology, roster, door } = assembled;
        let (control, flight, trace) =
            (Arc::clone(&engine.control), Arc::clone(&engine.flight), Arc::clone(&engine.trace));
        let agreed = engine.agreed.clone();
        let trace_dir = config.trace_dir.clone();
        if trace_dir.is_some() {
            trace.start();
        }
        let desk =
            Arc::new(Desk { engine: Mutex::new(engine), queued: Mutex::new(0), emptied: Condvar::new() });
        let worker = Mutex::new(None);
        Self {
            roster,
            topology,
            agreed,
            #[cfg(feature = "nccl")]
            is_encrypted: config.tls.is_some(),
            control,
            flight,
            trace,
            trace_dir,
            desk,
            worker,
            _door: door,
        }
    }

    /// Carries out an operation on the caller's thread, when those that were started before are through.
    pub(crate) fn now<R>(&self, operation: impl FnOnce(&mut Engine) -> Result<R>) -> Result<R> {
        let mut queued = lock(&self.desk.queued);
        while *queued > 0 {
            queued = self.desk.emptied.wait(queued).unwrap_or_else(PoisonError::into_inner);
        }
        // Not to be overtaken by what is started from now on.
        let mut engine = lock(&self.desk.engine);
        drop(queued);
        engine.caller = Caller::Waits;
        operation(&mut engine)
    }

    /// Carries out an operation on the worker, after those that were started before.
    pub(crate) fn start<B: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Engine) -> Result<Reduced<B>> + Send + 'static,
    ) -> Pending<B> {
        let (answer, pending) = Pending::new();
        let refused = answer.clone();
        // Nobody may wait for the answer; that is no error.
        let task = Box::new(move |engine: &mut Engine| drop(answer.send(operation(engine))));
        if let Err(error) = self.later(task) {
            let _ = refused.send(Err(error));
        }
        pending
    }

    /// Hands an operation to the worker, which is started by the first.
    fn later(&self, task: Task) -> Result<()> {
        let mut worker = lock(&self.worker);
        if worker.is_none() {
            let (tasks, queue) = mpsc::channel::<(Task, Place)>();
            let desk = Arc::clone(&self.desk);
            let thread = thread::Builder::new().name("burn-dist data".into()).spawn(move || {
                for (task, _place) in queue {
                    let mut engine = lock(&desk.engine);
                    engine.caller = Caller::Computes;
                    task(&mut engine);
                }
            });
            let thread =
                thread.map_err(|error| DistError::usage(format!("cannot start a thread: {error}")))?;
            *worker = Some(Worker { tasks, thread });
        }
        let place = Place::take(&self.desk);
        let sent = worker.as_ref().is_some_and(|worker| worker.tasks.send((task, place)).is_ok());
        if sent { Ok(()) } else { Err(DistError::usage("the data thread of this communicator is gone")) }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if thread::panicking() {
            self.control.leave(Farewell::Panicked("a panic while the communicator was in use".into()));
        }
        // What was started is carried out: other ranks count on it.
        if let Some(Worker { tasks, thread }) = lock(&self.worker).take() {
            drop(tasks);
            let _ = thread.join();
        }
        self.control.leave(Farewell::Done);
        if let Some(folder) = &self.trace_dir
            && let Err(error) = self.trace.write(folder)
        {
            eprintln!("burn-dist: cannot write the trace to {}: {error}", folder.display());
        }
    }
}
