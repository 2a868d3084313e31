//! A batch in the making: a place for every sample, filled by several threads in any order.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    error::{DataError, SampleError},
    transform::Transform,
    worker::Produced,
};

/// A batch in the making.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) positions: Range<usize>,
    pub(super) transform: Transform,
    pub(super) filling: Mutex<Filling>,
}

#[derive(Debug)]
pub(super) struct Filling {
    pub(super) images: Vec<u8>,
    /// By place in the batch; `None` is not made yet, or left out.
    pub(super) indices: Vec<Option<usize>>,
    pub(super) num_left: usize,
    /// By place in the batch, in any order.
    pub(super) skipped: Vec<(usize, SampleError)>,
    /// Of the foremost place.
    pub(super) error: Option<(usize, DataError)>,
}

impl Slot {
    /// An empty one; what `images` holds is written over.
    pub(super) fn new(positions: Range<usize>, transform: Transform, images: Vec<u8>) -> Self {
        let num_left = positions.len();
        let indices = vec![None; num_left];
        Self {
            positions,
            transform,
            filling: Mutex::new(Filling { images, indices, num_left, skipped: Vec::new(), error: None }),
        }
    }

    /// Whether every sample is in its place.
    pub(super) fn is_whole(&self) -> bool {
        lock(&self.filling).num_left == 0
    }

    /// Puts a run of samples in their places. Returns whether the batch is whole.
    pub(super) fn fill(
        &self,
        places: Range<usize>,
        images: &[u8],
        sample_bytes: usize,
        results: Vec<Result<Produced, DataError>>,
    ) -> bool {
        let filling = &mut *lock(&self.filling);
        let num_bytes = places.len() * sample_bytes;
        filling.images[places.start * sample_bytes..][..num_bytes].copy_from_slice(&images[..num_bytes]);
        filling.num_left -= places.len();
        for (place, result) in places.zip(results) {
            match result {
                Ok(produced) => {
                    filling.indices[place] = produced.index;
                    filling.skipped.extend(produced.skipped.map(|error| (place, error)));
                }
                Err(error) => {
                    if filling.error.as_ref().is_none_or(|(foremost, _)| place < *foremost) {
                        filling.error = Some((place, error));
                    }
                }
            }
        }
        filling.num_left == 0
    }
}

/// A panic while the lock was held leaves numbers that are still whole: nothing in here is half done between two
/// statements that can panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
