//! Batches of pictures, made by threads a few batches ahead of their consumer.
//!
//! The threads take tickets for small runs of samples, in order; a ticket of batch k is handed out only while k is
//! less than `batches_ahead` beyond the batch consumed last, so memory is bounded. Each run is made in the thread's
//! own memory and copied to its place in the batch, so that one slow picture holds up one thread and not a batch,
//! and no batch depends on who made it. A consumed batch's memory is used again.
//!
//! Not here: which sample is where (`sampler`), what becomes of one (`worker`), and any tensor.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use burn_dist::rank::Rank;
use serde::{Deserialize, Serialize};

use super::{
    cores::cores,
    error::{DataError, SampleError},
    picture::Channels,
    sampler::{Coverage, Plan, Tail},
    slot::{Filling, Slot, lock},
    source::SharedSource,
    transform::Transform,
    worker::{Job, Scratch},
};

/// How many bytes of samples a ticket is for: enough that taking it costs nothing beside the work.
const TICKET_BYTES: usize = 64 << 10;

/// How a loader goes through a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// In random order, with random transforms: every rank gets as many batches and samples as the others.
    Train {
        /// The run's seed.
        seed: u64,
        /// The epoch, from 0.
        epoch: u64,
        /// What becomes of the last, incomplete batch.
        tail: Tail,
    },
    /// In the source's order; every picture exactly once over all ranks.
    Evaluate,
}

/// What a loader does with a picture that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadFile {
    /// Ends with an error that names it.
    #[default]
    Fail,
    /// Training uses the next picture of the order in its place; evaluation leaves it out. Both report it.
    Skip,
}

/// What a [`Loader`] is made of, beside its source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoaderConfig {
    /// What becomes of each picture.
    pub transform: Transform,
    /// The channels of the batches: grey pictures are repeated for RGB, RGB ones turned to luma for grey.
    pub channels: Channels,
    /// The samples of this rank in a batch.
    pub batch_size: usize,
    /// Whose batches: the ranks share the global batches out.
    pub rank: Rank,
    /// Training or evaluation.
    pub pass: Pass,
    /// The batch to begin with; the batches before it are not made. For resuming within an epoch.
    pub start_batch: usize,
    /// The threads; 0 stands for one a processor that this process may use.
    pub num_workers: usize,
    /// The batches that may be begun beyond the one consumed last, at least 1.
    pub batches_ahead: usize,
    /// What becomes of a bad file.
    pub on_bad_file: OnBadFile,
}

impl LoaderConfig {
    /// A single rank's loader with one thread a processor, 3 batches ahead, that fails on a bad file.
    pub fn new(transform: Transform, channels: Channels, batch_size: usize, pass: Pass) -> Self {
        Self {
            transform,
            channels,
            batch_size,
            rank: Rank::SINGLE,
            pass,
            start_batch: 0,
            num_workers: 0,
            batches_ahead: 3,
            on_bad_file: OnBadFile::Fail,
        }
    }
}

/// A batch of samples. Its memory goes back to the loader when it is dropped, but for what was taken out of it.
pub struct Batch {
    /// The pixels, `[num_images, height, width, channels]`.
    pub images: Vec<u8>,
    /// The classes, `[num_images]`.
    pub labels: Vec<u32>,
    /// The samples' indices in the source, `[num_images]`.
    pub indices: Vec<usize>,
    /// `[num_images, height, width, channels]`.
    pub shape: [usize; 4],
    /// The batch's number in the epoch.
    pub number: usize,
    /// The bad pictures that were replaced or left out.
    pub skipped: Vec<SampleError>,
    home: Weak<Shared>,
}

impl Batch {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none; a loader never gives such a batch.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, shape, skipped, .. } = self;
        f.debug_struct("Batch")
            .field("number", number)
            .field("shape", shape)
            .field("skipped", skipped)
            .finish_non_exhaustive()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(shared) = self.home.upgrade().filter(|_| self.images.capacity() > 0) {
            lock(&shared.state).free.push(std::mem::take(&mut self.images));
        }
    }
}

/// An iterator over one epoch's batches of one rank, in order.
///
/// After an error it ends. Dropping it stops its threads, each after the sample it is at.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Of evaluation batches in which nothing was left.
    skipped: Vec<SampleError>,
    num_given: usize,
    num_skipped: usize,
}

#[derive(Debug)]
struct Shared {
    job: Job,
    plan: Plan,
    num_images: usize,
    num_batches: usize,
    batches_ahead: usize,
    samples_per_ticket: usize,
    size: usize,
    channels: usize,
    state: Mutex<State>,
    /// The threads wait here for tickets.
    tickets: Condvar,
    /// The consumer waits here for its batch.
    ready: Condvar,
    /// Beside the lock, so that a thread can look between two samples.
    stop: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// The batch whose tickets are being handed out, and how many of its samples have been.
    next: (usize, usize),
    /// The batch that the consumer gets next. `begun` holds it and those after it.
    consuming: usize,
    begun: VecDeque<Arc<Slot>>,
    free: Vec<Vec<u8>>,
}

impl Loader {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`DataError::Setting`] for a setting that makes no sense.
    pub fn new(source: SharedSource, config: LoaderConfig) -> Result<Self, DataError> {
        config.transform.check()?;
        let setting = |field, reason: &str| Err(DataError::Setting { field, reason: reason.into() });
        if config.batch_size == 0 {
            return setting("batch_size", "expected at least 1");
        }
        if config.batches_ahead == 0 {
            return setting("batches_ahead", "expected at least 1");
        }
        let num_images = source.num_images();
        if num_images == 0 || u32::try_from(num_images).is_err() {
            return setting("source", &format!("expected 1 to {} pictures, got {num_images}", u32::MAX));
        }
        let coverage = match config.pass {
            Pass::Train { tail, .. } => Coverage::Train(tail),
            Pass::Evaluate => Coverage::Once,
        };
        let plan = Plan::new(num_images, config.batch_size, config.rank, coverage);
        let num_batches = plan.num_batches();
        if config.start_batch > num_batches {
            let reason = format!(
                "expected at most {num_batches}, the batches of an epoch, got {}",
                config.start_batch
            );
            return setting("start_batch", &reason);
        }
        let sample_bytes = config.transform.size().pow(2) * config.channels.count();
        if sample_bytes.checked_mul(config.batch_size).is_none_or(|bytes| bytes > isize::MAX as usize) {
            return setting("batch_size", "a batch would not fit in memory");
        }
        let num_workers = match config.num_workers {
            0 => cores(),
            n => n,
        };
        let shared = Arc::new(Shared {
            job: Job::new(source, config),
            plan,
            num_images,
            num_batches,
            batches_ahead: config.batches_ahead,
            samples_per_ticket: (TICKET_BYTES / sample_bytes).clamp(1, 64),
            size: config.transform.size(),
            channels: config.channels.count(),
            state: Mutex::new(State {
                next: (config.start_batch, 0),
                consuming: config.start_batch,
                begun: VecDeque::new(),
                free: Vec::new(),
            }),
            tickets: Condvar::new(),
            ready: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut loader =
            Self { shared, threads: Vec::new(), skipped: Vec::new(), num_given: 0, num_skipped: 0 };
        for worker in 0..num_workers {
            let shared = loader.shared.clone();
            let thread = thread::Builder::new().name(format!("loader-{worker}")).spawn(move || shared.work());
            match thread {
                Ok(thread) => loader.threads.push(thread),
                // Fewer threads than wanted give the same batches.
                Err(_) if worker > 0 => break,
                Err(error) => return setting("num_workers", &format!("no thread can be started: {error}")),
            }
        }
        Ok(loader)
    }

    /// The number of batches of a whole epoch on this rank, those before `start_batch` included.
    pub fn num_batches(&self) -> usize {
        self.shared.num_batches
    }

    /// The number of pictures that the loader's source has, over all ranks.
    pub fn num_images(&self) -> usize {
        self.shared.num_images
    }

    /// The bad pictures that were replaced or left out so far.
    pub fn num_skipped(&self) -> usize {
        self.num_skipped
    }

    /// Waits for the next batch to be whole and takes it out.
    fn wait(&self) -> Option<(usize, Arc<Slot>)> {
        let shared = &*self.shared;
        let mut state = lock(&shared.state);
        if state.consuming == shared.num_batches || shared.stop.load(Ordering::Relaxed) {
            return None;
        }
        loop {
            if let Some(slot) = state.begun.pop_front_if(|slot| lock(&slot.filling).num_left == 0) {
                let number = state.consuming;
                state.consuming += 1;
                shared.tickets.notify_all();
                return Some((number, slot));
            }
            state = shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((number, slot)) = self.wait() else {
                // An evaluation of which nothing was left is no evaluation.
                if self.num_given == 0 && !self.skipped.is_empty() {
                    let num_tried = self.skipped.len();
                    let first = self.skipped.swap_remove(0);
                    self.skipped.clear();
                    return Some(Err(DataError::NothingReadable { num_tried, first }));
                }
                return None;
            };
            let mut filling = lock(&slot.filling);
            if let Some((_, error)) = filling.error.take() {
                self.shared.stop();
                self.skipped.clear();
                return Some(Err(error));
            }
            filling.skipped.sort_by_key(|(place, _)| *place);
            self.num_skipped += filling.skipped.len();
            self.skipped.extend(filling.skipped.drain(..).map(|(_, error)| error));
            let batch = self.shared.batch(number, &mut filling, &mut self.skipped);
            if !batch.is_empty() {
                self.num_given += 1;
                return Some(Ok(batch));
            }
            self.skipped.splice(0..0, std::mem::take(&mut { batch }.skipped));
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to say: what it was at is an error already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// What a thread does until it is told to stop.
    fn work(&self) {
        let mut scratch = Scratch::default();
        let sample_bytes = self.job.sample_bytes();
        let mut images = vec![0; self.samples_per_ticket * sample_bytes];
        while let Some((slot, places)) = self.ticket() {
            let mut results = Vec::with_capacity(places.len());
            for (place, out) in places.clone().zip(images.chunks_exact_mut(sample_bytes)) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                results.push(self.job.produce(slot.positions.start + place, &mut scratch, out));
            }
            if slot.fill(places, &images, sample_bytes, results) {
                // Under the lock, so that the consumer is either waiting or will see it.
                let _state = lock(&self.state);
                self.ready.notify_all();
            }
        }
    }

    /// The next run of places in a batch, as soon as that batch may be begun; `None` when there is no more.
    fn ticket(&self) -> Option<(Arc<Slot>, Range<usize>)> {
        let mut state = lock(&self.state);
        loop {
            let (batch, begun_samples) = state.next;
            if self.stop.load(Ordering::Relaxed) || batch == self.num_batches {
                return None;
            }
            if batch >= state.consuming + self.batches_ahead {
                state = self.tickets.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if begun_samples == 0 {
                let positions = self.plan.positions(batch);
                let mut images = state.free.pop().unwrap_or_default();
                images.resize(positions.len() * self.job.sample_bytes(), 0);
                state.begun.push_back(Arc::new(Slot::new(positions, images)));
            }
            let slot = state.begun[batch - state.consuming].clone();
            let end = (begun_samples + self.samples_per_ticket).min(slot.positions.len());
            state.next = if end == slot.positions.len() { (batch + 1, 0) } else { (batch, end) };
            return Some((slot, begun_samples..end));
        }
    }

    /// Makes a batch of a slot that is filled; moves `skipped` into it.
    fn batch(
        self: &Arc<Self>,
        number: usize,
        filling: &mut Filling,
        skipped: &mut Vec<SampleError>,
    ) -> Batch {
        let mut images = std::mem::take(&mut filling.images);
        let sample_bytes = self.job.sample_bytes();
        let indices: Vec<usize> = filling.indices.iter().flatten().copied().collect();
        if indices.len() < filling.indices.len() {
            let left = filling.indices.iter().enumerate().filter(|(_, index)| index.is_some());
            for (to, (from, _)) in left.enumerate() {
                images.copy_within(from * sample_bytes..(from + 1) * sample_bytes, to * sample_bytes);
            }
            images.truncate(indices.len() * sample_bytes);
        }
        Batch {
            images,
            labels: indices.iter().map(|&index| self.job.label(index)).collect(),
            shape: [indices.len(), self.size, self.size, self.channels],
            indices,
            number,
            skipped: std::mem::take(skipped),
            home: Arc::downgrade(self),
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _state = lock(&self.state);
        self.tickets.notify_all();
    }
}
