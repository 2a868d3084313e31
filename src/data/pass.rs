//! How a loader goes through a source: what it is asked for, not how it does it.

use burn_dist::rank::Rank;
use serde::{Deserialize, Serialize};

use super::{
    error::DataError,
    picture::Channels,
    sampler::Tail,
    shuffle::Shuffle,
    transform::{MAX_SIZE, Transform},
};

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

/// What a [`Loader`](super::Loader) is made of, beside its source.
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
    /// How a training pass draws its order.
    pub shuffle: Shuffle,
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
    /// A single rank's loader with one thread a processor, 3 batches ahead and a full shuffle, that fails on a bad file.
    pub fn new(transform: Transform, channels: Channels, batch_size: usize, pass: Pass) -> Self {
        Self {
            transform,
            channels,
            batch_size,
            rank: Rank::SINGLE,
            pass,
            shuffle: Shuffle::Full,
            start_batch: 0,
            num_workers: 0,
            batches_ahead: 3,
            on_bad_file: OnBadFile::Fail,
        }
    }

    /// Refuses settings that make no sense for a source of so many pictures.
    pub(super) fn check(&self, num_images: usize) -> Result<(), DataError> {
        self.transform.check()?;
        let setting = |field, reason: String| Err(DataError::Setting { field, reason });
        if self.batch_size == 0 {
            return setting("batch_size", "expected at least 1".into());
        }
        if self.batches_ahead == 0 {
            return setting("batches_ahead", "expected at least 1".into());
        }
        if num_images == 0 || u32::try_from(num_images).is_err() {
            return setting("source", format!("expected 1 to {} pictures, got {num_images}", u32::MAX));
        }
        let largest_bytes = MAX_SIZE * MAX_SIZE * self.channels.count();
        if largest_bytes.checked_mul(self.batch_size).is_none_or(|bytes| bytes > isize::MAX as usize) {
            return setting("batch_size", "a batch would not fit in memory".into());
        }
        Ok(())
    }
}
