//! A batch in the making: a place for every sample, filled by several threads in any order.
//!
//! Each thread has the memory of its samples' places to itself until they are filled, so nothing is copied.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};

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
    /// What is filled, each part with its first place, in any order.
    parts: Vec<(usize, BytesMut)>,
    /// By place in the batch; `None` is not made yet, or left out.
    pub(super) indices: Vec<Option<usize>>,
    pub(super) num_left: usize,
    /// By place in the batch, in any order.
    pub(super) skipped: Vec<(usize, SampleError)>,
    /// Of the foremost place.
    pub(super) error: Option<(usize, DataError)>,
}

impl Slot {
    /// An empty one.
    pub(super) fn new(positions: Range<usize>, transform: Transform) -> Self {
        let num_left = positions.len();
        let indices = vec![None; num_left];
        Self {
            positions,
            transform,
            filling: Mutex::new(Filling {
                parts: Vec::new(),
                indices,
                num_left,
                skipped: Vec::new(),
                error: None,
            }),
        }
    }

    /// Whether every sample is in its place.
    pub(super) fn is_whole(&self) -> bool {
        lock(&self.filling).num_left == 0
    }

    /// Takes a run of samples that are in their places. Returns whether the batch is whole.
    pub(super) fn fill(
        &self,
        places: Range<usize>,
        images: BytesMut,
        results: Vec<Result<Produced, DataError>>,
    ) -> bool {
        let filling = &mut *lock(&self.filling);
        filling.parts.push((places.start, images));
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

impl Filling {
    /// The images of all places, from the parts that their memory was split into: neighbors again, so that nothing is
    /// copied.
    pub(super) fn take_images(&mut self) -> Vec<u8> {
        self.parts.sort_unstable_by_key(|(start, _)| *start);
        let mut parts = self.parts.drain(..).map(|(_, part)| part);
        let mut whole = parts.next().unwrap_or_default();
        parts.for_each(|part| whole.unsplit(part));
        whole.into()
    }
}

/// `images` as memory that can be split; it is not copied.
pub(super) fn splittable(images: Vec<u8>) -> BytesMut {
    Bytes::from(images).into()
}

/// A panic while the lock was held leaves numbers that are still whole: nothing in here is half done between two
/// statements that can panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
