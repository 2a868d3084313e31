//! Batches of pictures, made by threads a few batches ahead of their consumer, through one pass after another: when an
//! epoch's last batches are consumed, the next one's first are being made, in another size if its phase has one.
//!
//! Each run of samples is made by one thread in its place in the batch, so that one slow picture holds up one thread and not
//! a batch, and no batch depends on who made it. A consumed batch's memory is used again.
//!
//! Not here: what is made when (`tickets`), and any tensor.

use std::{sync::Arc, thread};

use super::{
    batch::Batch,
    cores::cores,
    error::{DataError, SampleError},
    leg::Leg,
    pass::{LoaderConfig, Pass},
    rect::PictureSize,
    slot::{Filling, lock},
    source::SharedSource,
    tickets::{Begun, Shared},
};

/// An iterator over the batches of one rank, in order: those of a pass, and of the passes added after it.
///
/// After an error it ends. Dropping it stops its threads, each after the sample it is at.
///
/// # Cost
///
/// `batches_ahead` batches in memory, and those that the consumer holds; where passes differ, each of at most the bytes
/// of the largest.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Of the batch given last.
    leg: Arc<Leg>,
    /// Of evaluation batches in which nothing was left.
    skipped: Vec<SampleError>,
    num_given: usize,
    num_skipped: usize,
}

impl Loader {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`DataError::Setting`] for a setting that makes no sense.
    pub fn new(source: SharedSource, config: LoaderConfig) -> Result<Self, DataError> {
        Self::start(Leg::alike(source, config)?, config)
    }

    /// Starts the threads for a rectangular validation: batches are chunks of `config.batch_size` pictures of like
    /// shape, cut to their own shape after the resize of `config.transform`, a
    /// [`Transform::CenterCrop`](super::Transform::CenterCrop). `sizes` are those of the source's pictures
    /// ([`super::sizes::of`]); pictures without one are left out.
    ///
    /// # Errors
    ///
    /// [`DataError::Setting`] for a setting that makes no sense.
    pub fn rectangular(
        source: SharedSource,
        config: LoaderConfig,
        sizes: &[PictureSize],
    ) -> Result<Self, DataError> {
        Self::start(Leg::rectangular(source, config, sizes)?, config)
    }

    fn start(leg: Leg, config: LoaderConfig) -> Result<Self, DataError> {
        let num_workers = match config.num_workers {
            0 => cores(),
            n => n,
        };
        let shared = Arc::new(Shared::new(config.batches_ahead));
        let leg = Arc::new(leg);
        shared.add(leg.clone());
        let mut loader =
            Self { shared, threads: Vec::new(), leg, skipped: Vec::new(), num_given: 0, num_skipped: 0 };
        for worker in 0..num_workers {
            let shared = loader.shared.clone();
            let thread = thread::Builder::new().name(format!("loader-{worker}")).spawn(move || shared.work());
            match thread {
                Ok(thread) => loader.threads.push(thread),
                // Fewer threads than wanted give the same batches.
                Err(_) if worker > 0 => break,
                Err(error) => {
                    let reason = format!("no thread can be started: {error}");
                    return Err(DataError::Setting { field: "num_workers", reason });
                }
            }
        }
        Ok(loader)
    }

    /// Adds a training pass after those that are there, so that its first batches are made while their last ones are
    /// consumed. Threads and batches ahead stay as they are.
    ///
    /// # Errors
    ///
    /// [`DataError::Setting`] for a setting that makes no sense, and for an evaluation: of pictures that are left out
    /// each loader keeps one account.
    ///
    /// # Cost
    ///
    /// The pass' order, on the calling thread: 4 bytes a picture.
    pub fn add(&mut self, source: SharedSource, config: LoaderConfig) -> Result<(), DataError> {
        if config.pass == Pass::Evaluate {
            let reason = "expected a training pass after another, got an evaluation".into();
            return Err(DataError::Setting { field: "pass", reason });
        }
        self.shared.add(Arc::new(Leg::alike(source, config)?));
        Ok(())
    }

    /// The number of batches on this rank of the whole pass that is being consumed, those before `start_batch`
    /// included.
    pub fn num_batches(&self) -> usize {
        self.leg.num_batches
    }

    /// The number of pictures that the source of that pass has, over all ranks.
    pub fn num_images(&self) -> usize {
        self.leg.num_images
    }

    /// The bad pictures that were replaced or left out so far.
    pub fn num_skipped(&self) -> usize {
        self.num_skipped
    }

    /// Makes a batch of a slot that is filled.
    fn batch(&mut self, number: usize, filling: &mut Filling, shape: (usize, usize)) -> Batch {
        let leg = &self.leg;
        let (width, height) = shape;
        let sample_bytes = width * height * leg.channels;
        let mut images = filling.take_images();
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
            labels: indices.iter().map(|&index| leg.job.label(index)).collect(),
            shape: [indices.len(), height, width, leg.channels],
            indices,
            number,
            skipped: std::mem::take(&mut self.skipped),
            home: Arc::downgrade(&self.shared.recycled),
        }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(Begun { leg, number, slot, .. }) = self.shared.next() else {
                // An evaluation of which nothing was left is no evaluation. What other ranks have left is not known here.
                if self.num_given == 0 && !self.skipped.is_empty() && self.leg.is_alone {
                    let num_tried = self.skipped.len();
                    let first = self.skipped.swap_remove(0);
                    self.skipped.clear();
                    return Some(Err(DataError::NothingReadable { num_tried, first }));
                }
                return None;
            };
            self.leg = leg;
            let mut filling = lock(&slot.filling);
            if let Some((_, error)) = filling.error.take() {
                self.shared.stop();
                self.skipped.clear();
                return Some(Err(error));
            }
            filling.skipped.sort_by_key(|(place, _)| *place);
            self.num_skipped += filling.skipped.len();
            self.skipped.extend(filling.skipped.drain(..).map(|(_, error)| error));
            let batch = self.batch(number, &mut filling, slot.transform.shape());
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
