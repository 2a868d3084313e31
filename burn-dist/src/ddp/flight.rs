//! A step's buckets on their way: off the device, launched strictly in order, back again.
//!
//! Reading waits for the device, so it is done by threads that a bucket is handed to as soon as it is complete; the
//! thread that runs the backward pass goes on. Not the plan (`bucket`), nor who fills a bucket (`sink`).

use std::{
    collections::{BTreeMap, VecDeque},
    iter,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
};

use burn::tensor::{Device, Tensor, Transaction};

use super::{
    buffer::{Buffer, words},
    gpu::{Exchange, Group},
    pack::Packed,
};
use crate::{Communicator, Note, Pending, ReduceOp, Reduced, Result, config::Wire};

/// Threads that read buckets from a device. A request waits for all that the device was told before it, so the next
/// bucket's must not wait until this one's is answered; and a reader's copies run beside the backward pass, for each
/// thread has a stream of its own.
const NUM_READERS: usize = 4;

/// A complete bucket.
pub(super) struct Load {
    pub(super) bucket: usize,
    /// Its parameters' numbers of values, in order.
    pub(super) lens: Vec<usize>,
    pub(super) content: Content,
}

/// What is in a bucket, and where it becomes one.
pub(super) enum Content {
    /// Gradients, to be put together on the host: `None` for one that is not there and counts as zeros, and what every
    /// value is multiplied by.
    Apart(Vec<Option<Tensor<1>>>, f32),
    /// Put together on the device, and the number type of its values.
    Packed(Box<Packed>, Wire),
    /// Likewise, to go from GPU to GPU; and where on the device its average goes.
    Stays(Box<(Packed, Tensor<1>)>, Arc<Group>),
}

/// A bucket, and the first of its parameters with a value that is no number.
pub(super) type Checked<T> = (T, Option<usize>);

/// A bucket that is ready to go, or came back.
pub(super) enum Cargo {
    Host(Buffer),
    Gpu(Box<Exchange>),
}

impl Cargo {
    /// What came back, on the device or on its way there.
    pub(super) fn into_tensor(self, device: &Device) -> Tensor<1> {
        match self {
            Self::Host(buffer) => buffer.into_tensor(device),
            Self::Gpu(exchange) => exchange.into_tensor(),
        }
    }
}

/// A bucket under way.
enum Launched {
    Host(Pending<Buffer>),
    Gpu(Pending<Exchange>),
}

/// A bucket that came back.
pub(super) struct Landed {
    pub(super) average: Cargo,
    /// Some rank's values are not finite. Of what goes from GPU to GPU only a vote can tell.
    pub(super) not_finite: bool,
    /// How long it was under way.
    pub(super) seconds: f64,
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
    waiting: BTreeMap<usize, (Cargo, bool)>,
    launched: VecDeque<Launched>,
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
        let (cargo, bad) =
            gathered.unwrap_or_else(|_| Err("the device's library panicked".into())).unwrap_or_else(|why| {
                self.comm.fail(&format!("cannot read the gradients of bucket {bucket}: {why}"));
                (Cargo::Host(Buffer::Host(Vec::new())), None)
            });
        let mut state = self.lock();
        if let Some(piece) = bad {
            state.bad = Some(state.bad.map_or((bucket, piece), |before| before.min((bucket, piece))));
        }
        state.waiting.insert(bucket, (cargo, bad.is_some()));
        while let Some((cargo, not_finite)) = {
            let next = state.next;
            state.waiting.remove(&next)
        } {
            let bucket = state.next;
            let note = Note { bucket: bucket as u32, not_finite };
            state.launched.push_back(match cargo {
                Cargo::Host(buffer) => {
                    Launched::Host(self.comm.start_all_reduce(buffer, ReduceOp::Mean, note))
                }
                Cargo::Gpu(exchange) => Launched::Gpu(exchange.start(&self.comm, bucket)),
            });
            state.next += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for the next bucket in order.
    pub(super) fn next(&self) -> Result<Landed> {
        let mut state = self.lock();
        let launched = loop {
            match state.launched.pop_front() {
                Some(launched) => break launched,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        match launched {
            Launched::Host(pending) => {
                let Reduced { data, not_finite, seconds, .. } = pending.wait()?;
                Ok(Landed { average: Cargo::Host(data), not_finite, seconds })
            }
            Launched::Gpu(pending) => {
                let Reduced { data, seconds, .. } = pending.wait()?;
                Ok(Landed { average: Cargo::Gpu(Box::new(data)), not_finite: false, seconds })
            }
        }
    }

    /// This rank's own first gradient that is no number, once all buckets have landed.
    pub(super) fn bad(&self) -> Bad {
        self.lock().bad
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bucket once it is there, ready to go.
fn gather(load: Load) -> Result<Checked<Cargo>, String> {
    let Load { lens, content, .. } = load;
    match content {
        Content::Apart(gradients, scale) => {
            let (values, bad) = put_together(&lens, gradients, scale)?;
            Ok((Cargo::Host(Buffer::Host(values)), bad))
        }
        Content::Packed(packed, wire) => {
            let Packed { values, sum } = *packed;
            // Both at once: one wait for the device.
            let read = Transaction::default().register(values).register(sum).try_execute().map_err(words)?;
            let [values, sum] = <[_; 2]>::try_from(read).map_err(|_| "not what was asked for")?;
            let mut buffer = Buffer::read(values, wire)?;
            let is_finite = sum.iter::<f32>().all(f32::is_finite);
            let bad = if is_finite { None } else { first_bad(&lens, buffer.as_mut()) };
            Ok((Cargo::Host(buffer), bad))
        }
        Content::Stays(bucket, group) => {
            let (packed, target) = *bucket;
            let (exchange, bad) = group.prepare(packed, target, &lens)?;
            Ok((Cargo::Gpu(Box::new(exchange)), bad))
        }
    }
}

/// Copies, scales and looks for what is no number in one pass.
fn put_together(
    lens: &[usize],
    gradients: Vec<Option<Tensor<1>>>,
    scale: f32,
) -> Result<Checked<Vec<f32>>, String> {
    let read = |gradient: Option<Tensor<1>>| gradient.map(Tensor::try_into_data).transpose();
    let data = gradients.into_iter().map(read).collect::<Result<Vec<_>, _>>().map_err(words)?;
    let mut buffer = Vec::with_capacity(lens.iter().sum());
    let mut bad = None;
    for (place, (&len, data)) in lens.iter().zip(&data).enumerate() {
        let Some(data) = data else {
            buffer.extend(iter::repeat_n(0.0, len));
            continue;
        };
        let mut finite = true;
        buffer.extend(data.as_slice::<f32>().map_err(words)?.iter().map(|value| {
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

/// The first piece with a value that is no number.
pub(super) fn first_bad(lens: &[usize], mut values: &[f32]) -> Option<usize> {
    lens.iter().position(|&len| {
        let (piece, others) = values.split_at_checked(len).unwrap_or((values, &[]));
        values = others;
        !piece.iter().all(|value| value.is_finite())
    })
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
