//! How pixels are cut into rows, blocks and parts, and sums along them, a channel each. Not what is summed.

use crate::processor::Processor;

/// Values that a lane sums in f32 before f64 takes over: at least and at most, and so many that a block stays in the
/// second-level cache.
const MIN_TERMS: usize = 64;
const MAX_TERMS: usize = 128;
const BLOCK: usize = 1 << 15;
/// Lanes side by side at least, so that images of few channels fill the vectors too: several pixels are then a row.
const LANES: usize = 64;
/// Lanes that are summed together.
const STRIP: usize = 32;
/// Values that a thread takes at a time where nothing is summed.
const GRAIN: usize = 1 << 15;

/// `[pixels of all images, channels]`, none of them 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pixels {
    pub(super) count: usize,
    pub(crate) channels: usize,
}

impl Pixels {
    /// From the shape of the images and the lengths of gain and offset.
    ///
    /// # Panics
    /// If the images are empty, or a length is not the number of channels.
    pub(crate) fn new(x: [usize; 4], gamma: usize, beta: usize) -> Self {
        let [batch, height, width, channels] = x;
        assert!(!x.contains(&0), "batch norm: empty images {x:?}");
        assert!(
            gamma == channels && beta == channels,
            "batch norm: images {x:?} need {channels} gains and offsets, got {gamma} and {beta}"
        );
        Self { count: batch * height * width, channels }
    }

    /// Lanes side by side: a whole number of pixels.
    pub(super) fn row(self) -> usize {
        self.channels * (LANES / self.channels).max(1)
    }

    /// Values in a block that is summed in f32.
    pub(super) fn block(self) -> usize {
        self.row() * (BLOCK / self.row()).clamp(MIN_TERMS, MAX_TERMS)
    }

    /// Values in a part that is mapped.
    pub(super) fn part(self) -> usize {
        self.row() * (GRAIN / self.row()).max(1)
    }

    /// One value a lane.
    pub(super) fn lanes(self, value: impl Fn(usize) -> f32) -> Vec<f32> {
        (0..self.row()).map(|lane| value(lane % self.channels)).collect()
    }

    /// For each lane of a row, the sums of what `terms` makes of the values that `images` have there, row by row, and of the
    /// lane's `constants`.
    #[inline(always)]
    pub(super) fn sum_rows<const IMAGES: usize, const CONSTANTS: usize, const SUMS: usize>(
        self,
        processor: Processor,
        images: [&[f32]; IMAGES],
        constants: [&[f32]; CONSTANTS],
        terms: impl Fn([f32; IMAGES], [f32; CONSTANTS]) -> [f32; SUMS],
    ) -> [Vec<f32>; SUMS] {
        let row = self.row();
        let mut sums: [Vec<f32>; SUMS] = core::array::from_fn(|_| vec![0.0; row]);
        processor.run(
            #[inline(always)]
            || {
                let whole = row / STRIP * STRIP;
                for first in (0..whole).step_by(STRIP) {
                    sum_strip::<STRIP, _, _, _>(first, row, images, constants, &mut sums, &terms);
                }
                for first in whole..row {
                    sum_strip::<1, _, _, _>(first, row, images, constants, &mut sums, &terms);
                }
                // Of images that do not end with a row.
                let last = images[0].len() / row * row;
                for lane in 0..images[0].len() - last {
                    let values = images.map(|image| image[last + lane]);
                    let terms = terms(values, constants.map(|constants| constants[lane]));
                    sums.iter_mut().zip(terms).for_each(|(sums, term)| sums[lane] += term);
                }
            },
        );
        sums
    }

    /// One sum a channel.
    pub(super) fn fold(self, lanes: &[f32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.channels];
        for lanes in lanes.chunks_exact(self.channels) {
            sums.iter_mut().zip(lanes).for_each(|(sum, lane)| *sum += f64::from(*lane));
        }
        sums
    }
}

/// Some lanes, from `first` on, over whole rows: their sums stay in registers.
#[inline(always)]
fn sum_strip<const LANES: usize, const IMAGES: usize, const CONSTANTS: usize, const SUMS: usize>(
    first: usize,
    row: usize,
    images: [&[f32]; IMAGES],
    constants: [&[f32]; CONSTANTS],
    sums: &mut [Vec<f32>; SUMS],
    terms: &impl Fn([f32; IMAGES], [f32; CONSTANTS]) -> [f32; SUMS],
) {
    let mut kept = [[0.0; LANES]; SUMS];
    let constants: [&[f32; LANES]; CONSTANTS] =
        constants.map(|constants| constants[first..].first_chunk().expect("a row has these lanes"));
    for start in (first..).step_by(row).take(images[0].len() / row) {
        let images: [&[f32; LANES]; IMAGES] =
            images.map(|image| image[start..].first_chunk().expect("a whole row"));
        for lane in 0..LANES {
            let terms = terms(images.map(|image| image[lane]), constants.map(|constants| constants[lane]));
            for sum in 0..SUMS {
                kept[sum][lane] += terms[sum];
            }
        }
    }
    for (sums, kept) in sums.iter_mut().zip(kept) {
        sums[first..first + LANES].copy_from_slice(&kept);
    }
}
