//! NCCL's operations as the job's: begun in its order, looked at until they are through, aborted with it. Not the calls
//! themselves (`ffi`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaEvent;

use super::ffi::{Communicator, Id, Number, Region, cuda};
use crate::outside::Outside;

/// A communicator that operations share; they run one after the other.
pub(crate) type Shared = Arc<Mutex<Communicator>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Communicator> {
    // A panic inside a call ends the job by its own way; the communicator is then aborted.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ranks become a communicator.
pub(crate) struct Join {
    pub(crate) ordinal: usize,
    pub(crate) id: Id,
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    /// From the beginning on.
    pub(crate) joined: Option<Shared>,
}

impl Outside for Join {
    fn begin(&mut self) -> Result<(), String> {
        let Self { ordinal, id, rank, world_size, .. } = self;
        let begun = Communicator::begin(*ordinal, id, *rank, *world_size)?;
        self.joined = Some(Arc::new(Mutex::new(begun)));
        Ok(())
    }

    fn is_done(&mut self) -> Result<bool, String> {
        self.joined.as_ref().map_or(Ok(false), |joined| lock(joined).is_idle())
    }

    fn abort(&mut self) {
        if let Some(joined) = self.joined.take() {
            lock(&joined).abort();
        }
    }
}

/// A bucket becomes the average of all ranks'.
pub(crate) struct Average {
    comm: Shared,
    /// What is averaged and where that goes; `None` once an abort did not come back, for the GPU may still use them.
    regions: Option<(Region, Region)>,
    count: usize,
    number: Number,
    /// From its launch on.
    running: Option<CudaEvent>,
}

impl Average {
    pub(crate) fn new(comm: &Shared, from: Region, to: Region, count: usize, number: Number) -> Self {
        Self { comm: Arc::clone(comm), regions: Some((from, to)), count, number, running: None }
    }
}

impl Outside for Average {
    fn begin(&mut self) -> Result<(), String> {
        let Some((from, to)) = &mut self.regions else { return Err("there is nothing to average".into()) };
        lock(&self.comm).average(from, to, self.count, self.number)
    }

    fn is_done(&mut self) -> Result<bool, String> {
        let mut comm = lock(&self.comm);
        // Also while it runs: this is how NCCL tells of a peer that it lost.
        if !comm.is_idle()? {
            return Ok(false);
        }
        let running = match self.running.take() {
            Some(running) => running,
            None => comm.mark()?,
        };
        let is_done = running.try_is_complete().map_err(cuda)?;
        self.running = Some(running);
        Ok(is_done)
    }

    fn abort(&mut self) {
        let ended = lock(&self.comm).abort();
        if !ended {
            std::mem::forget(self.regions.take());
        }
    }
}
