//! The data pipeline's randomness: streams of numbers that are functions of what they are for.
//!
//! ChaCha with 8 rounds (D. J. Bernstein, 2008), whose output `rand_chacha` promises never to change. What is made
//! of its output is spelled out here, so that no release of a library changes an order or a crop.
//!
//! # The key
//!
//! 32 bytes: 8 bytes naming the purpose, then the seed, the epoch and the sample index, each a little-endian
//! `u64`. The order of an epoch is one stream (`"order\0\0\0"`, index 0), that of its blocks another (`"blocks\0\0"`,
//! index 0), each sample's augmentation a third (`"augment\0"`). How a rank mixes a batch is a fourth, whose purpose is
//! `"mix\0"` and the rank as a little-endian `u32`, and whose index is the batch's.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// A stream of random numbers.
#[derive(Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream that orders an epoch.
    pub fn of_order(seed: u64, epoch: u64) -> Self {
        Self::new(*b"order\0\0\0", seed, epoch, 0)
    }

    /// The stream that orders an epoch's blocks.
    pub fn of_blocks(seed: u64, epoch: u64) -> Self {
        Self::new(*b"blocks\0\0", seed, epoch, 0)
    }

    /// The stream that augments a sample in an epoch.
    pub fn of_sample(seed: u64, epoch: u64, index: usize) -> Self {
        Self::new(*b"augment\0", seed, epoch, index as u64)
    }

    /// The stream that decides how a rank mixes the pictures of a batch.
    pub fn of_mix(seed: u64, epoch: u64, batch: u64, rank: u32) -> Self {
        let mut purpose = *b"mix\0\0\0\0\0";
        purpose[4..].copy_from_slice(&rank.to_le_bytes());
        Self::new(purpose, seed, epoch, batch)
    }

    fn new(purpose: [u8; 8], seed: u64, epoch: u64, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&purpose);
        key[8..16].copy_from_slice(&seed.to_le_bytes());
        key[16..24].copy_from_slice(&epoch.to_le_bytes());
        key[24..].copy_from_slice(&index.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number in `[0, 1)`: the upper 53 bits of the next word over 2^53.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An integer in `[0, bound)`, each with the same probability; 0 for `bound` 0.
    ///
    /// The upper half of a 64 by 64 bit product, drawing again while the lower half is in the short
    /// remainder (D. Lemire, "Fast Random Integer Generation in an Interval", 2019).
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        let rejected = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.0.next_u64()) * u128::from(bound);
            if product as u64 >= rejected {
                return (product >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_integers_are_in_bounds_and_uniform() {
        let mut stream = Stream::of_order(1, 2);
        assert_eq!((stream.below(0), stream.below(1)), (0, 0));
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        // Chi-squared with 6 degrees of freedom: 0.1 % point.
        let chi_squared: f64 = counts.iter().map(|&n| (f64::from(n) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi_squared < 22.5, "{chi_squared}");
        // Two thirds of the range: without rejection some numbers would come up twice as often as others.
        let bound = u64::MAX / 3 * 2;
        let odd_halves = (0..30_000).filter(|_| stream.below(bound) % 2 == 1).count();
        assert!((14_500..15_500).contains(&odd_halves), "{odd_halves}");
    }

    #[test]
    fn uniform_numbers_are_below_1() {
        let mut stream = Stream::of_sample(1, 2, 3);
        let numbers: Vec<f64> = (0..10_000).map(|_| stream.uniform()).collect();
        assert!(numbers.iter().all(|u| (0.0..1.0).contains(u)));
        assert!((numbers.iter().sum::<f64>() / 10_000.0 - 0.5).abs() < 0.015);
    }

    #[test]
    fn purpose_seed_epoch_and_index_all_count() {
        let mut first = [
            Stream::of_order(1, 2),
            Stream::of_order(2, 1),
            Stream::of_blocks(1, 2),
            Stream::of_sample(1, 2, 0),
            Stream::of_sample(1, 2, 1),
            Stream::of_sample(1, 3, 0),
            Stream::of_mix(1, 2, 0, 0),
            Stream::of_mix(1, 2, 1, 0),
            Stream::of_mix(1, 2, 0, 1),
        ]
        .map(|mut stream| stream.below(u64::MAX));
        first.sort_unstable();
        assert!(first.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
