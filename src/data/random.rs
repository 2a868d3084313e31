//! The data pipeline's randomness: streams of numbers that are functions of what they are for.
//!
//! ChaCha with 8 rounds (D. J. Bernstein, 2008), whose output `rand_chacha` promises never to change. What is made
//! of its output is spelled out here, so that no release of a library changes an order or a crop.
//!
//! # The key
//!
//! 32 bytes: 8 bytes naming the purpose, then the seed, the epoch and the sample index, each a little-endian
//! `u64`. The order of an epoch is one stream (`"order\0\0\0"`, index 0), each sample's augmentation another
//! (`"augment\0"`).

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

    /// The stream that augments a sample in an epoch.
    pub fn of_sample(seed: u64, epoch: u64, index: usize) -> Self {
        Self::new(*b"augment\0", seed, epoch, index as u64)
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
