//! Mixup and cutmix: a batch of pictures made of two each, and their targets in the same ratio. Zhang et al. 2018,
//! [1710.09412](https://arxiv.org/abs/1710.09412); Yun et al. 2019, [1905.04899](https://arxiv.org/abs/1905.04899).
//!
//! As torchvision does it, a picture's partner is the one before it in the batch, whose order is random anyway, and the
//! whole batch has one ratio. As in torchvision and timm, every rank draws its own. Where both are on, each batch gets one
//! of them, with equal odds (timm's `switch_prob`).

use std::{f64::consts::TAU, ops::Range};

use burn::tensor::{Int, Tensor, s};

use super::loss::Targets;
use crate::{config::OptimizerConfig, data::random::Stream};

/// What is done to a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Mix {
    /// Mixup: pictures are blended.
    Blend {
        /// The picture's own share; the rest is its partner's.
        share: f64,
    },
    /// Cutmix: a box of the partner covers the same box of the picture.
    Paste {
        /// Rows of the box.
        rows: Range<usize>,
        /// Its columns.
        columns: Range<usize>,
    },
}

impl Mix {
    /// What `config` wants for a batch of images of `[height, width]`, drawn from the batch's own stream.
    pub(super) fn draw(config: &OptimizerConfig, size: [usize; 2], stream: &mut Stream) -> Option<Self> {
        let OptimizerConfig { mixup, cutmix, .. } = *config;
        let paste = match (mixup > 0.0, cutmix > 0.0) {
            (false, false) => return None,
            (true, true) => stream.uniform() < 0.5,
            (_, cutmix) => cutmix,
        };
        if !paste {
            return Some(Self::Blend { share: beta(mixup, stream) });
        }
        let share = beta(cutmix, stream);
        Some(Self::paste(share, size.map(|side| stream.below(side as u64) as usize), size))
    }

    /// The box of about `1 - share` of an image of `size`, in its shape, around `center`, as far as it is inside.
    pub fn paste(share: f64, center: [usize; 2], size: [usize; 2]) -> Self {
        let half = 0.5 * (1.0 - share).sqrt();
        let along = |side: usize| {
            let half = (half * size[side] as f64) as usize;
            center[side].saturating_sub(half)..(center[side] + half).min(size[side])
        };
        Self::Paste { rows: along(0), columns: along(1) }
    }

    /// Mixes a batch.
    ///
    /// # Shapes
    /// `[n, channels, height, width]` and `[n]`, kept. A box counts with the area that it has.
    pub fn apply(&self, images: Tensor<4>, classes: Tensor<1, Int>) -> (Tensor<4>, Targets) {
        let (partners, others) = (images.clone().roll(&[1], &[0]), classes.clone().roll(&[1], &[0]));
        let (images, share) = match self.clone() {
            Self::Blend { share } => (images.mul_scalar(share) + partners.mul_scalar(1.0 - share), share),
            Self::Paste { rows, columns } if rows.is_empty() || columns.is_empty() => (images, 1.0),
            Self::Paste { rows, columns } => {
                let [_, _, height, width] = images.dims();
                let area = (rows.len() * columns.len()) as f64 / (height * width) as f64;
                let place = s![.., .., rows, columns];
                (images.slice_assign(place, partners.slice(place)), 1.0 - area)
            }
        };
        (images, Targets::mixed(classes, others, share))
    }
}

/// A draw from Beta(alpha, alpha). Up to a half by Jöhnk's method (1964), above by Ulrich's (1984); both are exact.
fn beta(alpha: f64, stream: &mut Stream) -> f64 {
    // In (0, 1]: its logarithm is finite.
    let mut positive = || 1.0 - stream.uniform();
    if alpha > 0.5 {
        let radius = (1.0 - positive().powf(2.0 / (2.0 * alpha - 1.0))).sqrt();
        return 0.5 * (1.0 + radius * (TAU * positive()).cos());
    }
    loop {
        // Logarithms, because the powers themselves may both be too small for a number.
        let [x, y] = [positive(), positive()].map(|u| u.ln() / alpha);
        if x.exp() + y.exp() <= 1.0 {
            return 1.0 / (1.0 + (y - x).exp());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(batch: u64) -> Stream {
        Stream::of_mix(1, 2, batch, 0)
    }

    fn config(mixup: f64, cutmix: f64) -> OptimizerConfig {
        OptimizerConfig { mixup, cutmix, ..OptimizerConfig::default() }
    }

    /// Mean 1/2 and variance 1 / (4 (2 alpha + 1)), within five standard errors, and the mass beside the ends, which for
    /// 0.2, 1 and 2 is known in closed form or from SciPy.
    #[test]
    fn ratios_follow_the_beta_distribution() {
        const N: usize = 40_000;
        let mut stream = stream(0);
        // scipy.stats.beta(a, a).cdf(0.1)
        for (alpha, below) in [(0.2, 0.336_689_8), (0.5, 0.204_832_8), (1.0, 0.1), (2.0, 0.028), (8.0, 0.0)] {
            let draws: Vec<f64> = (0..N).map(|_| beta(alpha, &mut stream)).collect();
            assert!(draws.iter().all(|share| (0.0..=1.0).contains(share)));
            let mean = draws.iter().sum::<f64>() / N as f64;
            let moment = |power: i32| draws.iter().map(|x| (x - 0.5).powi(power)).sum::<f64>() / N as f64;
            let variance = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 5.0 * (variance / N as f64).sqrt(), "{alpha}: mean {mean}");
            let spread = ((moment(4) - variance * variance) / N as f64).sqrt();
            assert!((moment(2) - variance).abs() < 5.0 * spread, "{alpha}: variance {}", moment(2));
            let share = draws.iter().filter(|&&x| x < 0.1).count() as f64 / N as f64;
            assert!((share - below).abs() < 5.0 * (0.25 / N as f64).sqrt(), "{alpha}: {share} below 0.1");
        }
        // Far too small for the powers themselves.
        assert!((0..100).all(|_| (0.0..=1.0).contains(&beta(1e-4, &mut stream))));
    }

    #[test]
    fn a_batch_is_mixed_as_it_is_told() {
        let kinds = |mixup, cutmix| {
            let draw = |batch| Mix::draw(&config(mixup, cutmix), [8, 8], &mut stream(batch));
            let mixes: Vec<_> = (0..400).map(draw).collect();
            let count = |kind: fn(&Mix) -> bool| mixes.iter().flatten().filter(|mix| kind(mix)).count();
            [count(|mix| matches!(mix, Mix::Blend { .. })), count(|mix| matches!(mix, Mix::Paste { .. }))]
        };
        assert_eq!((kinds(0.0, 0.0), kinds(0.2, 0.0), kinds(0.0, 1.0)), ([0, 0], [400, 0], [0, 400]));
        let [blends, pastes] = kinds(0.2, 1.0);
        assert!(blends + pastes == 400 && blends.abs_diff(pastes) < 100, "{blends} and {pastes}");
    }

    #[test]
    fn the_same_key_mixes_alike_and_another_differently() {
        let mix = |mut stream: Stream| Mix::draw(&config(0.2, 1.0), [224, 288], &mut stream);
        let first = mix(Stream::of_mix(1, 2, 3, 4));
        assert_eq!(first, mix(Stream::of_mix(1, 2, 3, 4)));
        for key in [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)] {
            assert_ne!(first, mix(Stream::of_mix(key.0, key.1, key.2, key.3)), "{key:?}");
        }
    }

    #[test]
    fn boxes_are_cut_at_the_images_edge() {
        let paste = |share, center| Mix::paste(share, center, [10, 20]);
        let expected = |rows, columns| Mix::Paste { rows, columns };
        assert_eq!(paste(0.75, [5, 10]), expected(3..7, 5..15));
        assert_eq!(paste(0.75, [0, 19]), expected(0..2, 14..20));
        assert_eq!(paste(0.0, [5, 10]), expected(0..10, 0..20));
        assert_eq!(paste(1.0, [5, 10]), expected(5..5, 10..10));
    }
}
