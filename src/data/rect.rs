//! Rectangular validation: pictures of like shape are evaluated together, in a crop of their own mean shape, so that
//! less of each is cut off than by a square.
//!
//! Which picture is in which chunk, and the crop of each chunk: pure functions of the pictures' sizes. A chunk is cut
//! before chunks are dealt to ranks, so an image's crop does not depend on how many ranks there are.
//!
//! Source: fast.ai and DIUx, imagenet18 (2018), `sort_ar`, `map_idx2ar` and `RectangularCropTfm` of its dataloader. The
//! numbers are the same to the last bit, with two limits of our own: a crop has at least 8 and at most [`MAX_SIZE`]
//! pixels on its long side, however long the pictures are.

use std::ops::Range;

use super::transform::MAX_SIZE;

/// Sides of crops are multiples of this, in pixels.
const STEP: usize = 8;

/// The width and height of a picture in pixels; both 0 where the picture cannot be used.
pub type PictureSize = (u32, u32);

/// The chunks of a rectangular validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Rectangles {
    order: Vec<u32>,
    chunk_size: usize,
    shapes: Vec<(usize, usize)>,
}

impl Rectangles {
    /// Sorts pictures by aspect ratio and cuts them into chunks of `chunk_size`, the last one shorter; each chunk's crop
    /// has a short side of `size` pixels. Pictures whose size is 0 are left out.
    pub fn new(sizes: &[PictureSize], chunk_size: usize, size: usize) -> Self {
        let mut sorted: Vec<(f64, u32)> = (0..)
            .zip(sizes)
            .filter(|(_, (width, height))| *width > 0 && *height > 0)
            .map(|(index, &picture)| (aspect_ratio(picture), index))
            .collect();
        // Stable: of pictures with the same ratio, the first comes first.
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let chunk_size = chunk_size.max(1);
        let crop = |chunk: &[(f64, u32)]| {
            let ratios: Vec<f64> = chunk.iter().map(|&(ratio, _)| ratio).collect();
            crop_shape(mean_ratio(&ratios), size)
        };
        let shapes = sorted.chunks(chunk_size).map(crop).collect();
        Self { order: sorted.into_iter().map(|(_, index)| index).collect(), chunk_size, shapes }
    }

    /// The pictures' indices, the narrowest first.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// The `(width, height)` of each chunk's crop.
    pub fn shapes(&self) -> &[(usize, usize)] {
        &self.shapes
    }

    /// The places of chunk `chunk` in the order.
    pub fn positions(&self, chunk: usize) -> Range<usize> {
        let start = chunk * self.chunk_size;
        start..(start + self.chunk_size).min(self.order.len())
    }
}

/// Width over height, rounded to 5 digits.
///
/// By way of decimal digits, as Python's `round` has it: it looks at the quotient's exact value, which multiplication
/// by 100,000 would round first.
pub fn aspect_ratio((width, height): PictureSize) -> f64 {
    let ratio = f64::from(width) / f64::from(height);
    format!("{ratio:.5}").parse().expect("digits with a point are a number")
}

/// The mean of ratios, rounded to 5 digits, ties to even: NumPy's `mean` and `round`.
pub fn mean_ratio(ratios: &[f64]) -> f64 {
    let mean = pairwise_sum(ratios) / ratios.len() as f64;
    (mean * 1e5).round_ties_even() / 1e5
}

/// NumPy's order of additions, which decides what becomes of a tie.
fn pairwise_sum(values: &[f64]) -> f64 {
    const LANES: usize = 8;
    match values.len() {
        0..LANES => values.iter().sum(),
        LANES..=128 => {
            let mut lanes = [0.0; LANES];
            let blocks = values.chunks_exact(LANES);
            let rest = blocks.remainder();
            for block in blocks {
                lanes.iter_mut().zip(block).for_each(|(lane, value)| *lane += value);
            }
            let [a, b, c, d, e, f, g, h] = lanes;
            rest.iter().fold(((a + b) + (c + d)) + ((e + f) + (g + h)), |sum, value| sum + value)
        }
        len => {
            let (left, right) = values.split_at(len / 2 / LANES * LANES);
            pairwise_sum(left) + pairwise_sum(right)
        }
    }
}

/// The `(width, height)` of a crop of that aspect ratio whose short side is `size`.
pub fn crop_shape(ratio: f64, size: usize) -> (usize, usize) {
    // A cast cuts off towards 0 and ends at the greatest integer.
    let long = |side: f64| (side as usize / STEP * STEP).clamp(STEP, MAX_SIZE);
    if ratio < 1.0 { (size, long(size as f64 / ratio)) } else { (long(size as f64 * ratio), size) }
}
