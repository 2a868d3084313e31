//! What a loader gives: a batch of samples in host memory.

use std::{
    fmt,
    sync::{Mutex, Weak},
};

use super::{error::SampleError, slot::lock};

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
    pub(super) home: Weak<Recycled>,
}

/// The memory of batches that were consumed.
pub(super) type Recycled = Mutex<Vec<Vec<u8>>>;

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
        if let Some(recycled) = self.home.upgrade().filter(|_| self.images.capacity() > 0) {
            lock(&recycled).push(std::mem::take(&mut self.images));
        }
    }
}
