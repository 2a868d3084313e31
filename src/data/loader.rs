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

use burn_dist::WorldSize;

use super::{
    batches::Batches,
    cores::cores,
    error::{DataError, SampleError},
    pass::{LoaderConfig, Pass},
    rect::{PictureSize, Rectangles},
    sampler::{self, Coverage, Plan},
    slot::{Filling, Slot, lock},
    source::SharedSource,
    transform::Transform,
    worker::{Job, Scratch},
};

/// How many bytes of samples a ticket is for: enough that taking it costs nothing beside the work.
const TICKET_BYTES: usize = 64 << 10;

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
    batches: Batches,
    num_images: usize,
    num_batches: usize,
    batches_ahead: usize,
    channels: usize,
    is_alone: bool,
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
        config.check(source.num_images())?;
        let num_images = source.num_images();
        let (coverage, order) = match config.pass {
            Pass::Train { seed, epoch, tail } => {
                (Coverage::Train(tail), Some(sampler::order(num_images as u32, seed, epoch)))
            }
            Pass::Evaluate => (Coverage::Once, None),
        };
        let plan = Plan::new(num_images, config.batch_size, config.rank, coverage);
        Self::start(source, config, Batches::Alike(plan, config.transform), order)
    }

    /// Starts the threads for a rectangular validation: batches are chunks of `config.batch_size` pictures of like
    /// shape, cut to their own shape after the resize of `config.transform`, a [`Transform::CenterCrop`]. `sizes` are
    /// those of the source's pictures ([`super::sizes::of`]); pictures without one are left out.
    ///
    /// # Errors
    ///
    /// [`DataError::Setting`] for a setting that makes no sense.
    pub fn rectangular(
        source: SharedSource,
        config: LoaderConfig,
        sizes: &[PictureSize],
    ) -> Result<Self, DataError> {
        config.check(source.num_images())?;
        let (Transform::CenterCrop { size, resize }, Pass::Evaluate) = (config.transform, config.pass) else {
            let reason = "rectangular batches are of an evaluation by centre crops".into();
            return Err(DataError::Setting { field: "transform", reason });
        };
        let chunks = Rectangles::new(sizes, config.batch_size, size);
        let order = Some(chunks.order().to_vec());
        Self::start(source, config, Batches::Rectangles { chunks, rank: config.rank, resize }, order)
    }

    fn start(
        source: SharedSource,
        config: LoaderConfig,
        batches: Batches,
        order: Option<Vec<u32>>,
    ) -> Result<Self, DataError> {
        let num_batches = batches.count();
        let setting = |field, reason: String| Err(DataError::Setting { field, reason });
        if config.start_batch > num_batches {
            let start = config.start_batch;
            let reason = format!("expected at most {num_batches}, the batches of an epoch, got {start}");
            return setting("start_batch", reason);
        }
        let num_workers = match config.num_workers {
            0 => cores(),
            n => n,
        };
        let shared = Arc::new(Shared {
            num_images: source.num_images(),
            job: Job::new(source, config, order),
            batches,
            num_batches,
            batches_ahead: config.batches_ahead,
            channels: config.channels.count(),
            is_alone: config.rank.world_size() == WorldSize::ONE,
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
                Err(error) => return setting("num_workers", format!("no thread can be started: {error}")),
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
                // An evaluation of which nothing was left is no evaluation. What other ranks have left is not known here.
                if self.num_given == 0 && !self.skipped.is_empty() && self.shared.is_alone {
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
            let batch = self.shared.batch(number, &slot.transform, &mut filling, &mut self.skipped);
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
        let mut images = Vec::new();
        while let Some((slot, places)) = self.ticket() {
            let sample_bytes = self.sample_bytes(&slot.transform);
            images.resize(places.len() * sample_bytes, 0);
            let mut results = Vec::with_capacity(places.len());
            for (place, out) in places.clone().zip(images.chunks_exact_mut(sample_bytes)) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let position = slot.positions.start + place;
                results.push(self.job.produce(position, &slot.transform, &mut scratch, out));
            }
            if slot.fill(places, &images, sample_bytes, results) {
                // Under the lock, so that the consumer is either waiting or will see it.
                let _state = lock(&self.state);
                self.ready.notify_all();
            }
        }
    }

    fn sample_bytes(&self, transform: &Transform) -> usize {
        let (width, height) = transform.shape();
        width * height * self.channels
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
                let (positions, transform) = self.batches.get(batch);
                let mut images = state.free.pop().unwrap_or_default();
                images.resize(positions.len() * self.sample_bytes(&transform), 0);
                state.begun.push_back(Arc::new(Slot::new(positions, transform, images)));
            }
            let slot = state.begun[batch - state.consuming].clone();
            let num_samples = (TICKET_BYTES / self.sample_bytes(&slot.transform)).clamp(1, 64);
            let end = (begun_samples + num_samples).min(slot.positions.len());
            state.next = if end == slot.positions.len() { (batch + 1, 0) } else { (batch, end) };
            return Some((slot, begun_samples..end));
        }
    }

    /// Makes a batch of a slot that is filled; moves `skipped` into it.
    fn batch(
        self: &Arc<Self>,
        number: usize,
        transform: &Transform,
        filling: &mut Filling,
        skipped: &mut Vec<SampleError>,
    ) -> Batch {
        let mut images = std::mem::take(&mut filling.images);
        let sample_bytes = self.sample_bytes(transform);
        let (width, height) = transform.shape();
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
            shape: [indices.len(), height, width, self.channels],
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
