//! Where the data path and the control thread meet: reports in, the verdict out. The control thread never waits here
//! for the data path; it sleeps on its sockets, of which one end of a pair is the bell.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use super::{Farewell, Stall, Suspicion};
use crate::error::Fault;

/// Reports that wait for the control thread: one a data thread, and the first ones are nearest to the cause.
const MAX_SUSPICIONS: usize = 16;

pub(super) struct Mailbox {
    fault: OnceLock<Arc<Fault>>,
    desk: Mutex<Desk>,
    changed: Condvar,
    bell: UnixStream,
    ear: UnixStream,
    on_fault: Box<dyn Fn(&Fault) + Send + Sync>,
    on_stall: Box<dyn Fn(&Stall) + Send + Sync>,
}

#[derive(Default)]
struct Desk {
    suspicions: Vec<Suspicion>,
    farewell: Option<Farewell>,
    left: bool,
    over: bool,
}

impl Mailbox {
    pub(super) fn new(
        on_fault: Box<dyn Fn(&Fault) + Send + Sync>,
        on_stall: Box<dyn Fn(&Stall) + Send + Sync>,
    ) -> io::Result<Self> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        let (fault, desk, changed) = (OnceLock::new(), Mutex::default(), Condvar::new());
        Ok(Self { fault, desk, changed, bell, ear, on_fault, on_stall })
    }

    // The data path's side.

    pub(super) fn fault(&self) -> Option<Arc<Fault>> {
        self.fault.get().cloned()
    }

    /// Leaves a report and waits for the verdict; `None` if the control thread ended without one or took too long.
    pub(super) fn suspect(&self, suspicion: Suspicion, patience: Duration) -> Option<Arc<Fault>> {
        let mut desk = self.lock();
        if desk.suspicions.len() < MAX_SUSPICIONS {
            desk.suspicions.push(suspicion);
        }
        self.ring();
        self.wait(desk, patience, |desk| self.fault.get().is_some() || desk.over);
        self.fault()
    }

    /// Leaves the farewell, if there is none yet, and waits for the end of the control thread.
    pub(super) fn leave(&self, farewell: Farewell, patience: Duration) {
        let mut desk = self.lock();
        if !desk.left {
            desk.left = true;
            desk.farewell = Some(farewell);
            self.ring();
        }
        self.wait(desk, patience, |desk| desk.over);
    }

    /// Whether the control thread has ended.
    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    // The control thread's side.

    /// What to wait on beside the connections.
    pub(super) fn waker(&self) -> BorrowedFd<'_> {
        self.ear.as_fd()
    }

    /// Takes what was left since the last time.
    pub(super) fn take(&self) -> (Vec<Suspicion>, Option<Farewell>) {
        let mut bytes = [0; 64];
        while matches!((&self.ear).read(&mut bytes), Ok(count) if count > 0) {}
        let mut desk = self.lock();
        (std::mem::take(&mut desk.suspicions), desk.farewell.take())
    }

    /// Makes `fault` the verdict, unless there is one, and wakes everybody. Returns the one that counts.
    pub(super) fn decide(&self, fault: Fault) -> Arc<Fault> {
        let mut first = false;
        let verdict = self.fault.get_or_init(|| {
            first = true;
            Arc::new(fault)
        });
        // With the lock: nobody is between looking and sleeping.
        drop(self.lock());
        self.changed.notify_all();
        if first {
            (self.on_fault)(verdict);
        }
        verdict.clone()
    }

    pub(super) fn report(&self, stall: &Stall) {
        (self.on_stall)(stall);
    }

    /// Tells those who wait that the control thread has ended, however it ends, when the guard is dropped.
    pub(super) fn ends_with_this(self: Arc<Self>) -> impl Drop {
        struct Guard(Arc<Mailbox>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.lock().over = true;
                self.0.changed.notify_all();
            }
        }
        Guard(self)
    }

    fn ring(&self) {
        // Full of rings is rung.
        let _ = (&self.bell).write(&[1]);
    }

    fn wait(&self, mut desk: MutexGuard<'_, Desk>, patience: Duration, done: impl Fn(&Desk) -> bool) {
        let deadline = Instant::now() + patience;
        while !done(&desk) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            desk = self.changed.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        // What is on it is whole after every statement, so a panic elsewhere does no harm.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
