//! Which places of an epoch's order are in which batch of which rank. Pure functions; no picture is touched.
//!
//! The order of an epoch ([`super::shuffle`]) is made over the whole set and cut into global batches first; the ranks share each
//! global batch out second. So batch `k` over all ranks is the same set of samples for any number of ranks.
//! PyTorch's `DistributedSampler` deals samples to ranks first, and so changes every batch with the world size.

use std::ops::Range;

use burn_dist::rank::Rank;
use serde::{Deserialize, Serialize};

/// What becomes of the samples left over when an epoch is cut into whole global batches, in training.
///
/// Either way every rank has the same number of batches, and batches of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

#[cfg(test)]
mod tests {
    use burn_dist::rank::WorldSize;

    use super::*;

    fn ranks(world_size: u32) -> impl Iterator<Item = Rank> {
        (0..world_size).filter_map(move |index| Rank::new(index, WorldSize::new(world_size)?))
    }

    /// All batches of all ranks, `[batch][rank]`.
    fn all(
        num_images: usize,
        batch_size: usize,
        world_size: u32,
        coverage: Coverage,
    ) -> Vec<Vec<Vec<usize>>> {
        let plans: Vec<Plan> =
            ranks(world_size).map(|rank| Plan::new(num_images, batch_size, rank, coverage)).collect();
        let num_batches = plans.iter().map(Plan::num_batches).max().unwrap_or(0);
        let batch = |k: usize| {
            plans.iter().filter(|p| k < p.num_batches()).map(|p| p.positions(k).collect()).collect()
        };
        (0..num_batches).map(batch).collect()
    }

    /// Numbers of images around multiples of everything, small batches, up to 5 ranks.
    fn cases() -> impl Iterator<Item = (usize, usize, u32)> {
        (1..40).flat_map(|n| (1..8).flat_map(move |b| (1..6).map(move |w| (n, b, w))))
    }

    #[test]
    fn evaluation_covers_everything_once() {
        for (n, b, w) in cases() {
            let mut positions: Vec<usize> =
                all(n, b, w, Coverage::Once).into_iter().flatten().flatten().collect();
            positions.sort_unstable();
            assert_eq!(positions, (0..n).collect::<Vec<_>>(), "{n} images, batch {b}, {w} ranks");
        }
    }

    #[test]
    fn evaluation_has_no_empty_batch_and_shares_the_last_one() {
        for (n, b, w) in cases() {
            for (k, batch) in all(n, b, w, Coverage::Once).iter().enumerate() {
                assert!(batch.iter().all(|part| !part.is_empty() && part.len() <= b), "{n} {b} {w} {k}");
                let share = batch[0].len();
                assert!(batch[..batch.len() - 1].iter().all(|part| part.len() == share), "{n} {b} {w} {k}");
                assert!(batch[batch.len() - 1].len() <= share, "{n} {b} {w} {k}");
            }
        }
    }

    #[test]
    fn training_gives_all_ranks_the_same_amount() {
        for (n, b, w) in cases() {
            let global = b * w as usize;
            for tail in [Tail::Drop, Tail::Short] {
                let batches = all(n, b, w, Coverage::Train(tail));
                assert!(!batches.is_empty());
                for (k, batch) in batches.iter().enumerate() {
                    assert_eq!(batch.len(), w as usize, "{n} {b} {w} {tail:?} {k}");
                    assert!(batch.iter().all(|part| part.len() == batch[0].len() && !part.is_empty()));
                    assert!(batch[0].len() == b || (tail == Tail::Short && k + 1 == batches.len()));
                    // One after the other without a gap, so no image twice before the order goes round.
                    let flat: Vec<usize> = batch.iter().flatten().copied().collect();
                    assert_eq!(flat, (k * global..).take(flat.len()).collect::<Vec<_>>());
                }
                let covered = batches.iter().flatten().flatten().count();
                match tail {
                    Tail::Drop if n < global => assert_eq!(covered, global),
                    Tail::Drop => assert!(covered <= n && n - covered < global),
                    Tail::Short => assert!(covered >= n && covered - n < w as usize),
                }
            }
        }
    }

    /// As many ranks as divide the global batch: the same samples in global batch k.
    #[test]
    fn global_batches_do_not_depend_on_the_world_size() {
        let global = |w: u32| -> Vec<Vec<usize>> {
            all(1000, 24 / w as usize, w, Coverage::Train(Tail::Drop))
                .into_iter()
                .map(|b| b.concat())
                .collect()
        };
        for w in [2, 3, 4, 6, 8, 12, 24] {
            assert_eq!(global(w), global(1), "{w} ranks");
        }
    }

    /// The run of 2018 on 16 machines: 1,281,167 images over 128 ranks, 10,010 each.
    #[test]
    fn a_short_tail_counts_as_in_the_imagenet_run() {
        let rank = Rank::new(127, WorldSize::new(128).expect("not 0")).expect("below");
        for (batch_size, num_batches, last) in [(64, 157, 26), (128, 79, 26), (192, 53, 26)] {
            let plan = Plan::new(1_281_167, batch_size, rank, Coverage::Train(Tail::Short));
            assert_eq!(plan.num_batches(), num_batches);
            assert_eq!(plan.positions(num_batches - 1).len(), last);
        }
    }
}
