//! Which samples are in which batch of which rank. Pure functions; no picture is touched.
//!
//! The order of an epoch is made over the whole set and cut into global batches first; the ranks share each
//! global batch out second. So batch `k` over all ranks is the same set of samples for any number of ranks.
//! PyTorch's `DistributedSampler` deals samples to ranks first, and so changes every batch with the world size.

use std::ops::Range;

use burn_dist::rank::Rank;

use super::random::Stream;

/// What becomes of the samples left over when an epoch is cut into whole global batches, in training.
///
/// Either way every rank has the same number of batches, and batches of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tail {
    /// They are left out of this epoch (the next one's order leaves out others). If the set is smaller than one
    /// global batch, one batch is filled by going round the set as often as it takes.
    #[default]
    Drop,
    /// They make a last batch, shorter than the others and evened out over the ranks by going round to the
    /// epoch's first samples: `drop_last=False` in PyTorch, as in the ImageNet run of 2018.
    Short,
}

/// How an epoch covers a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coverage {
    /// Equal numbers of batches and samples on all ranks.
    Train(Tail),
    /// Every sample exactly once over all ranks; a rank may have one batch less than another, or a shorter one.
    Once,
}

/// An epoch's order: a permutation of the sample indices, a function of (seed, epoch) and of their number.
///
/// Fisher-Yates from the end (Durstenfeld 1964) on [`Stream::of_order`].
pub fn order(num_images: u32, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..num_images).collect();
    let mut stream = Stream::of_order(seed, epoch);
    for last in (1..order.len()).rev() {
        let chosen = stream.below(last as u64 + 1) as usize;
        order.swap(last, chosen);
    }
    order
}

/// An epoch cut into batches, as one rank sees it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    num_images: usize,
    batch_size: usize,
    rank: Rank,
    coverage: Coverage,
}

impl Plan {
    /// Plans an epoch over `num_images` samples in batches of `batch_size` a rank; both must be above 0.
    pub fn new(num_images: usize, batch_size: usize, rank: Rank, coverage: Coverage) -> Self {
        assert!(num_images > 0 && batch_size > 0, "the caller checks both");
        Self { num_images, batch_size, rank, coverage }
    }

    /// The number of batches that this rank has in the epoch.
    pub fn num_batches(&self) -> usize {
        let whole = self.num_images / self.global_batch_size();
        let left_over = self.num_images % self.global_batch_size();
        let extra = match self.coverage {
            Coverage::Train(Tail::Drop) => whole == 0,
            Coverage::Train(Tail::Short) => left_over > 0,
            Coverage::Once => !self.share_of_tail(left_over).is_empty(),
        };
        whole + usize::from(extra)
    }

    /// The positions of batch `batch` of this rank in the epoch's order. In training a position may lie beyond
    /// the order's end: it goes round, modulo the number of images.
    pub fn positions(&self, batch: usize) -> Range<usize> {
        let global = self.global_batch_size();
        let start = batch * global;
        let left = self.num_images.saturating_sub(start);
        let in_batch = match self.coverage {
            _ if left >= global => return self.at(start, self.batch_size),
            Coverage::Train(Tail::Drop) => return self.at(start, self.batch_size),
            Coverage::Train(Tail::Short) => {
                return self.at(start, left.div_ceil(self.rank.world_size().count()));
            }
            Coverage::Once => self.share_of_tail(left),
        };
        start + in_batch.start..start + in_batch.end
    }

    /// The size of a batch over all ranks.
    fn global_batch_size(&self) -> usize {
        self.batch_size * self.rank.world_size().count()
    }

    fn at(&self, start: usize, num_samples: usize) -> Range<usize> {
        let start = start + self.rank.index() * num_samples;
        start..start + num_samples
    }

    /// This rank's part of the last, incomplete global batch in evaluation: equal parts, the last ranks' shorter.
    fn share_of_tail(&self, left_over: usize) -> Range<usize> {
        let share = left_over.div_ceil(self.rank.world_size().count());
        let start = (self.rank.index() * share).min(left_over);
        start..(start + share).min(left_over)
    }
}
