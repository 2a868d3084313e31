//! A step's buckets on their way: off the device, launched strictly in order, back again.
//!
//! Reading waits for the device, so it is done by threads that a bucket is handed to as soon as it is complete; the
//! thread that runs the backward pass goes on. Not the plan (`bucket`), nor who fills a bucket (`sink`).

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
};

use burn::tensor::Tensor;

use crate::{Communicator, Note, Pending, ReduceOp, Reduced, Result};

/// Threads that read buckets from the device: one at work, one waiting, so that a request is on its way before the
/// device is done with what the one before it waits for.
const NUM_READERS: usize = 2;

/// A complete bucket.
pub(super) struct Load {
    pub(super) bucket: usize,
    /// Those of its gradients that exist, in order: each by itself, or several in one tensor.
    pub(super) values: Vec<Tensor<1>>,
    /// Its parameters in order: their number of values, and whether they are among `values`; else they are zeros.
    pub(super) pieces: Vec<(usize, bool)>,
    /// What every value is multiplied by.
    pub(super) scale: f32,
}

/// Gradients of this rank that are no numbers: the first bucket that has one, and the place of its parameter there.
pub(super) type Bad = Option<(usize, usize)>;

/// One step's buckets.
pub(super) struct Flight {
    comm: Communicator,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The bucket to be launched next.
    next: usize,
    /// Read already, but not their turn.
    waiting: BTreeMap<usize, (Vec<f32>, bool)>,
    launched: VecDeque<Pending<f32>>,
    bad: Bad,
}

impl Flight {
    pub(super) fn new(comm: Communicator) -> Self {
        Self { comm, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Reads a bucket and launches it once its turn has come.
    fn carry(&self, load: Load) {
        let bucket = load.bucket;
        // Tensor operations panic where a device fails; the thread that waits for this bucket must hear of it.
        let gathered = panic::catch_unwind(AssertUnwindSafe(|| gather(load)));
        let (buffer, bad) =
            gathered.unwrap_or_else(|_| Err("the device's library panicked".into())).unwrap_or_else(|why| {
                self.comm.fail(&format!("cannot read the gradients of bucket {bucket}: {why}"));
                (Vec::new(), None)
            });
        let mut state = self.lock();
        if let Some(piece) = bad {
            state.bad = Some(state.bad.map_or((bucket, piece), |before| before.min((bucket, piece))));
        }
        state.waiting.insert(bucket, (buffer, bad.is_some()));
        while let Some((buffer, not_finite)) = {
            let next = state.next;
            state.waiting.remove(&next)
        } {
            let note = Note { bucket: state.next as u32, not_finite };
            let pending = self.comm.start_all_reduce(buffer, ReduceOp::Mean, note);
            state.launched.push_back(pending);
            state.next += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for the next bucket in order.
    pub(super) fn next(&self) -> Result<Reduced<f32>> {
        let mut state = self.lock();
        let pending = loop {
            match state.launched.pop_front() {
                Some(pending) => break pending,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        pending.wait()
    }

    /// This rank's own first gradient that is no number, once all buckets have landed.
    pub(super) fn bad(&self) -> Bad {
        self.lock().bad
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies, scales and looks for what is no number in one pass. Returns the bucket and its first piece that has one.
fn gather(load: Load) -> Result<(Vec<f32>, Option<usize>), String> {
    let Load { values, pieces, scale, .. } = load;
    let read = |values: Tensor<1>| values.try_into_data().map_err(|error| format!("{error:?}"));
    let data = values.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut tensors = data.iter();
    let mut values: &[f32] = &[];
    let mut buffer = Vec::with_capacity(pieces.iter().map(|piece| piece.0).sum());
    let mut bad = None;
    for (place, (len, exists)) in pieces.into_iter().enumerate() {
        if !exists {
            buffer.resize(buffer.len() + len, 0.0);
            continue;
        }
        if values.is_empty() {
            let next = tensors.next().ok_or("fewer tensors than gradients")?;
            values = next.as_slice::<f32>().map_err(|error| format!("{error:?}"))?;
        }
        let (source, others) = values.split_at_checked(len).ok_or("fewer values than the parameters have")?;
        values = others;
        let mut finite = true;
        buffer.extend(source.iter().map(|value| {
            let scaled = value * scale;
            finite &= scaled.is_finite();
            scaled
        }));
        if !finite && bad.is_none() {
            bad = Some(place);
        }
    }
    Ok((buffer, bad))
}

/// The threads that read.
pub(super) struct Readers {
    jobs: Option<mpsc::Sender<(Arc<Flight>, Load)>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start() -> Self {
        let (jobs, queue) = mpsc::channel::<(Arc<Flight>, Load)>();
        let queue = Arc::new(Mutex::new(queue));
        let thread = |_| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((flight, load)) = job else { return };
                    flight.carry(load);
                }
            })
        };
        Self { threads: (0..NUM_READERS).map(thread).collect(), jobs: Some(jobs) }
    }

    pub(super) fn hand_over(&self, flight: &Arc<Flight>, load: Load) {
        let jobs = self.jobs.as_ref().expect("taken only by drop");
        jobs.send((Arc::clone(flight), load)).expect("the threads end only when this sender is gone");
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A reader's panic was told by the panic itself.
            let _ = thread.join();
        }
    }
}
