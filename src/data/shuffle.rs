//! The order of an epoch: a permutation of the samples, made over the whole set before ranks and threads are thought of.
//! Pure functions of (seed, epoch), the number of samples and how they lie.
//!
//! Full: every permutation alike. Quasi-random, for disks and stores that read neighbours together: blocks are permuted,
//! and so many of them at a time, a window, mixed picture by picture. What is random then is limited by the window: a
//! batch has pictures of as many classes as its blocks have. The idea is FFCV's `QUASI_RANDOM` (Leclerc et al. 2023) and
//! mosaicml-streaming's `py1b`; here a window is of blocks and not of batches, so it does not depend on batch size or
//! ranks.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::{blocks::Blocks, random::Stream};

/// How the order of an epoch is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", expecting = "expected \"full\", or { window = 64 }: at least 1 block")]
pub enum Shuffle {
    /// From all permutations.
    #[default]
    Full,
    /// Blocks in random order, so many of them mixed at a time.
    #[serde(untagged)]
    QuasiRandom {
        /// Blocks.
        window: NonZeroUsize,
    },
}

/// An epoch's order: a permutation of the sample indices, a function of (seed, epoch) and of their number.
///
/// Fisher-Yates from the end (Durstenfeld 1964) on [`Stream::of_order`].
pub fn order(num_images: u32, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..num_images).collect();
    permute(&mut order, &mut Stream::of_order(seed, epoch));
    order
}

fn permute(items: &mut [u32], stream: &mut Stream) {
    for last in (1..items.len()).rev() {
        let chosen = stream.below(last as u64 + 1) as usize;
        items.swap(last, chosen);
    }
}

/// The blocks of a quasi-random epoch, in the order in which they are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    blocks: Vec<u32>,
    window: usize,
    /// The position in the epoch's order after each window's last.
    ends: Vec<usize>,
}

impl Windows {
    /// The windows of an epoch: a permutation of the blocks on [`Stream::of_blocks`], cut into windows of `window`.
    /// The last one is shorter.
    pub fn new(blocks: &Blocks, window: NonZeroUsize, seed: u64, epoch: u64) -> Self {
        let window = window.get();
        let mut order: Vec<u32> = (0..blocks.count() as u32).collect();
        permute(&mut order, &mut Stream::of_blocks(seed, epoch));
        let mut end = 0;
        let ends = order.chunks(window).map(|blocks_of_window| {
            end += blocks_of_window.iter().map(|&block| blocks.range(block as usize).len()).sum::<usize>();
            end
        });
        Self { ends: ends.collect(), blocks: order, window }
    }

    /// The epoch's order: in one window after the other, the pictures of its blocks permuted on [`Stream::of_order`].
    pub fn order(&self, blocks: &Blocks, seed: u64, epoch: u64) -> Vec<u32> {
        let mut stream = Stream::of_order(seed, epoch);
        let mut order = Vec::with_capacity(self.ends.last().copied().unwrap_or(0));
        for window in self.blocks.chunks(self.window) {
            let start = order.len();
            order.extend(window.iter().flat_map(|&block| blocks.range(block as usize)));
            permute(&mut order[start..], &mut stream);
        }
        order
    }

    /// The window that a position of the order is in; the last one for a position beyond its end.
    pub fn window_of(&self, position: usize) -> usize {
        self.ends.partition_point(|&end| end <= position).min(self.ends.len().saturating_sub(1))
    }

    /// The blocks that are wanted from a window on, the soonest first.
    pub fn blocks_from(&self, window: usize) -> impl Iterator<Item = &[u32]> {
        self.blocks.chunks(self.window).skip(window)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const BATCH: usize = 256;

    #[test]
    fn an_order_is_a_permutation_and_a_function_of_seed_and_epoch() {
        for n in [1, 2, 3, 100, 1000] {
            let mut sorted = order(n, 7, 3);
            assert_eq!(sorted, order(n, 7, 3));
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        }
        assert_ne!(order(1000, 7, 3), order(1000, 7, 4));
        assert_ne!(order(1000, 7, 3), order(1000, 8, 3));
    }

    /// A run that another release resumes must go on in the same order. The numbers are those of a ChaCha8 and a
    /// shuffle written anew in Python from the module documentation.
    #[test]
    fn the_order_never_changes() {
        assert_eq!(order(10, 0, 0), [7, 8, 6, 4, 1, 9, 0, 3, 2, 5]);
    }

    /// Each of the 24 orders of 4 comes up as often as the others: chi-squared below its 0.1 % point, 49.7.
    #[test]
    fn orders_are_uniform() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..24_000 {
            *counts.entry(order(4, 1, epoch)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        let chi_squared: f64 = counts.values().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_squared < 49.7, "{chi_squared}");
    }

    fn windows(blocks: &Blocks, window: usize, seed: u64, epoch: u64) -> Windows {
        Windows::new(blocks, NonZeroUsize::new(window).unwrap(), seed, epoch)
    }

    fn quasi_random(blocks: &Blocks, window: usize, seed: u64, epoch: u64) -> Vec<u32> {
        windows(blocks, window, seed, epoch).order(blocks, seed, epoch)
    }

    #[test]
    fn a_quasi_random_order_is_a_permutation_whose_windows_are_those_of_its_blocks() {
        let blocks = Blocks::of_lengths([10, 1, 300, 64, 64, 7, 128, 50]);
        for window in [1, 2, 3, 8, 100] {
            let windows = windows(&blocks, window, 7, 3);
            let order = windows.order(&blocks, 7, 3);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..624).collect::<Vec<_>>());
            assert_eq!(order, quasi_random(&blocks, window, 7, 3));
            assert_ne!(order, quasi_random(&blocks, window, 7, 4));
            assert_ne!(order, quasi_random(&blocks, window, 8, 3));
            let wanted: Vec<u32> = windows.blocks_from(0).flatten().copied().collect();
            assert_eq!(wanted.iter().collect::<BTreeSet<_>>().len(), blocks.count());
            for (position, &index) in order.iter().enumerate() {
                let of_window = windows.blocks_from(windows.window_of(position)).next().unwrap();
                assert!(of_window.contains(&(blocks.block_of(index) as u32)), "{window}: {position}");
            }
        }
        assert_eq!(windows(&blocks, 3, 7, 3).window_of(624), 2, "going round stays at the end");
    }

    /// Of a set sorted by class: the mean number of classes in a batch, and the most pictures of one class in a row.
    fn randomness(order: &[u32], pictures_a_class: u32) -> (f64, usize) {
        let classes: Vec<u32> = order.iter().map(|index| index / pictures_a_class).collect();
        let distinct = |batch: &[u32]| batch.iter().collect::<BTreeSet<_>>().len();
        let num_classes: usize = classes.chunks_exact(BATCH).map(distinct).sum();
        let longest = classes.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap();
        (num_classes as f64 / (classes.len() / BATCH) as f64, longest)
    }

    /// The worst case: 1,000 classes one after the other, 1,280 pictures each, so that every block of 64 is of one.
    ///
    /// N equally likely classes give N (1 - (1 - 1/N)^256) different ones in a batch of 256: 226 of 1,000. Of a window,
    /// the classes of its blocks count; some have more blocks in it than others, which takes off up to 5 % of that. The
    /// documentation has these numbers.
    #[test]
    fn randomness_is_what_the_window_gives() {
        let blocks = Blocks::even(1_280_000);
        let expected = |n: f64| n * (1.0 - (1.0 - 1.0 / n).powi(BATCH as i32));
        let (full, longest) = randomness(&order(1_280_000, 0, 0), 1280);
        eprintln!("full: {full:.1} classes in a batch of {BATCH}, longest run {longest}");
        assert!((full - expected(1000.0)).abs() < 0.5 && longest <= 3);
        for (window, longest_allowed) in [(16, 8), (64, 5), (256, 4), (1024, 3)] {
            let (mean, longest) = randomness(&quasi_random(&blocks, window, 0, 0), 1280);
            eprintln!("window {window}: {mean:.1} classes in a batch of {BATCH}, longest run {longest}");
            // The number of different classes that so many of 20,000 blocks are of, 20 a class.
            let classes = 1000.0 * (1.0 - (1.0 - window as f64 / 20_000.0).powi(20));
            assert!(mean > 0.95 * expected(classes), "{window}: {mean} of {}", expected(classes));
            assert!(longest <= longest_allowed, "{window}: {longest}");
        }
        let (unmixed, _) = randomness(&quasi_random(&blocks, 1, 0, 0), 1280);
        assert!(unmixed < 5.0, "one block at a time does not mix: {unmixed}");
    }
}
