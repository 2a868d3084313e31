//! Antialiased bilinear resize that gives Pillow's bytes: every one of them, not nearly.
//!
//! Source: Pillow's `libImaging/Resample.c`, `BILINEAR` on 8-bit channels. A triangle filter as wide as the reduction
//! (never narrower than a pixel), its weights in fixed point of 22 bits; rows first, then columns, rounded to 8 bits
//! in between. That is Pillow until 12; 13 takes the columns first where that is less work, and so may be 1 apart.
//!
//! The crate `fast_image_resize` is not used: columns first and 16-bit weights put it 1 apart on 13 %
//! of the bytes of this project's fixtures (3 % if made to take rows first).
//!
//! Where the processor has AVX2, `wide` does the work with the same result.
//!
//! # Cost
//!
//! For a reduction by `s`, some `2 s + 1` multiplications a byte of each of the two passes' outputs.

#[cfg_attr(target_arch = "x86_64", path = "resize/avx2.rs")]
#[cfg_attr(not(target_arch = "x86_64"), path = "resize/none.rs")]
mod wide;

use std::ops::Range;

use super::{
    crop::CropBox,
    picture::{Channels, Picture},
};

/// 32 bits less 8 of the result and 2 to spare, as Pillow has it.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const ONE_HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The first of the old pixels that make a new one, and the weights from it on.
type Taps<'a> = (usize, &'a [i32]);

/// A row of `between` is this much longer than its pixels at most: [`wide`] writes a few pixels at a time.
const SPARE_BYTES: usize = 16;

/// Resizes pictures; keeps its memory from one to the next.
#[derive(Debug)]
pub struct Resizer {
    columns: Filter,
    rows: Filter,
    /// The crop with its rows resized.
    between: Vec<u8>,
    /// A row of sums.
    sums: Vec<i32>,
    wide: Option<wide::Wide>,
}

impl Default for Resizer {
    fn default() -> Self {
        let (columns, rows) = (Filter::default(), Filter::default());
        Self { columns, rows, between: Vec::new(), sums: Vec::new(), wide: wide::Wide::new() }
    }
}

impl Resizer {
    /// Resizes `crop` of `picture` to `width` x `height` and writes `part` of the result to `out`, mirrored left to right
    /// if `flip`. The filter sees nothing outside of the crop; what is not in the part is not computed.
    ///
    /// # Shapes
    ///
    /// `out`: `[part.height, part.width, channels]`, the channels being the picture's.
    pub fn resize(
        &mut self,
        picture: &Picture,
        crop: &CropBox,
        (width, height): (usize, usize),
        part: &CropBox,
        flip: bool,
        out: &mut [u8],
    ) {
        let depth = picture.channels().count();
        self.columns.set(crop.width, width, part.left..part.left + part.width);
        if flip {
            self.columns.mirror();
        }
        self.rows.set(crop.height, height, part.top..part.top + part.height);
        self.resize_rows(picture, crop);

        let row_bytes = part.width * depth;
        let stride = row_bytes + SPARE_BYTES;
        self.sums.resize(row_bytes, 0);
        let first_needed = self.rows.needed().start;
        for ((first, weights), target) in self.rows.taps().zip(out.chunks_exact_mut(row_bytes)) {
            let rows = &self.between[(first - first_needed) * stride..];
            if let Some(wide) = &mut self.wide {
                wide.add_rows(rows, stride, weights, target);
                continue;
            }
            self.sums.fill(ONE_HALF);
            for (row, &weight) in rows.chunks_exact(stride).zip(weights) {
                for (sum, &value) in self.sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (target, &sum) in target.iter_mut().zip(&self.sums) {
                *target = rounded(sum);
            }
        }
    }

    /// Fills `between` with the rows of the crop that the columns' filter needs.
    fn resize_rows(&mut self, picture: &Picture, crop: &CropBox) {
        let depth = picture.channels().count();
        let old_stride = picture.width() * depth;
        let needed = self.rows.needed();
        let old_rows = &picture.pixels()[(crop.top + needed.start) * old_stride + crop.left * depth..];
        let row_bytes = self.columns.bounds.len() * depth;
        let stride = row_bytes + SPARE_BYTES;
        let num_bytes = needed.len() * stride;
        self.between.resize(self.between.len().max(num_bytes), 0);
        let between = &mut self.between[..num_bytes];
        let mut num_done = 0;
        if let (Some(wide), Channels::Rgb) = (&mut self.wide, picture.channels()) {
            wide.set(self.columns.taps());
            num_done = wide.resize_rows(old_rows, old_stride, between, stride);
        }
        let rows = old_rows.chunks(old_stride).zip(between.chunks_exact_mut(stride));
        for (row, target) in rows.skip(num_done) {
            match picture.channels() {
                Channels::Grey => self.columns.resize_row::<1>(row, &mut target[..row_bytes]),
                Channels::Rgb => self.columns.resize_row::<3>(row, &mut target[..row_bytes]),
            }
        }
    }
}

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The weights of the old pixels in each new pixel, in one direction.
#[derive(Debug, Default)]
struct Filter {
    /// The first old pixel, and how many have a weight.
    bounds: Vec<(usize, usize)>,
    /// As many a new pixel as `num_weights`; those beyond the bounds are not used.
    weights: Vec<i32>,
    num_weights: usize,
    scratch: Vec<f64>,
}

impl Filter {
    /// Computes those of the new pixels in `part`, in Pillow's order of operations.
    fn set(&mut self, old_side: usize, new_side: usize, part: Range<usize>) {
        let scale = old_side as f64 / new_side as f64;
        let radius = scale.max(1.0);
        self.num_weights = radius.ceil() as usize * 2 + 1;
        self.bounds.clear();
        self.weights.clear();
        for new in part {
            let center = (new as f64 + 0.5) * scale;
            // A cast to an integer cuts off towards 0, and what is below 0 becomes 0.
            let first = (center - radius + 0.5) as usize;
            let end = ((center + radius + 0.5) as usize).min(old_side);
            let triangle = |old: usize| (1.0 - ((old as f64 - center + 0.5) * (1.0 / radius)).abs()).max(0.0);
            self.scratch.clear();
            self.scratch.extend((first..end).map(triangle));
            let sum: f64 = self.scratch.iter().sum();
            let fixed = |weight: &f64| (0.5 + weight / sum * f64::from(1 << PRECISION_BITS)) as i32;
            self.weights.extend(self.scratch.iter().map(fixed));
            self.bounds.push((first, end - first));
            self.weights.resize(self.bounds.len() * self.num_weights, 0);
        }
    }

    /// Lets the new pixels come in the opposite order.
    fn mirror(&mut self) {
        self.bounds.reverse();
        self.weights.reverse();
        self.weights.chunks_exact_mut(self.num_weights).for_each(<[i32]>::reverse);
    }

    /// The old pixels that have a weight in any of the new ones.
    fn needed(&self) -> Range<usize> {
        match (self.bounds.first(), self.bounds.last()) {
            (Some(&(start, _)), Some(&(last, len))) => start..last + len,
            _ => 0..0,
        }
    }

    /// Of each new pixel.
    fn taps(&self) -> impl Iterator<Item = Taps<'_>> + Clone {
        let weights = self.weights.chunks_exact(self.num_weights);
        self.bounds.iter().zip(weights).map(|(&(first, len), weights)| (first, &weights[..len]))
    }

    fn resize_row<const DEPTH: usize>(&self, row: &[u8], target: &mut [u8]) {
        for ((first, weights), target) in self.taps().zip(target.chunks_exact_mut(DEPTH)) {
            let mut sums = [ONE_HALF; DEPTH];
            for (pixel, &weight) in row[first * DEPTH..].chunks_exact(DEPTH).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (target, sum) in target.iter_mut().zip(sums) {
                *target = rounded(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_instructions_give_the_same_bytes() {
        let mut plain = Resizer { wide: None, ..Resizer::default() };
        let mut wide = Resizer::default();
        if wide.wide.is_none() {
            eprintln!("SKIP: this processor has no AVX2");
            return;
        }
        // A generator of bytes that needs no crate (Knuth's MMIX).
        let mut state = 1_u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for round in 0..200 {
            let channels = if round % 5 == 0 { Channels::Grey } else { Channels::Rgb };
            let (width, height) = (1 + next(180), 1 + next(120));
            let mut picture = Picture::default();
            let extreme = round % 3 == 0;
            for byte in picture.reshape(width, height, channels).unwrap() {
                *byte = if extreme { 255 * next(2) as u8 } else { next(256) as u8 };
            }
            let (left, top) = (next(width), next(height));
            let crop = CropBox { left, top, width: 1 + next(width - left), height: 1 + next(height - top) };
            let resized = (1 + next(100), 1 + next(100));
            let (left, top) = (next(resized.0), next(resized.1));
            let part =
                CropBox { left, top, width: 1 + next(resized.0 - left), height: 1 + next(resized.1 - top) };
            let flip = next(2) == 1;
            let mut outs = [1, 2].map(|filling| vec![filling; part.width * part.height * channels.count()]);
            plain.resize(&picture, &crop, resized, &part, flip, &mut outs[0]);
            wide.resize(&picture, &crop, resized, &part, flip, &mut outs[1]);
            assert!(outs[0] == outs[1], "{width}x{height} {channels:?} {crop:?} {resized:?} {part:?} {flip}");
        }
    }

    #[test]
    fn a_mirrored_result_is_the_result_mirrored() {
        let mut picture = Picture::default();
        for (i, byte) in picture.reshape(23, 9, Channels::Rgb).unwrap().iter_mut().enumerate() {
            *byte = (i * i % 251) as u8;
        }
        let crop = CropBox { left: 2, top: 1, width: 20, height: 7 };
        let part = CropBox { left: 0, top: 0, width: 11, height: 5 };
        let [mut straight, mut mirrored] = [0, 1].map(|filling| vec![filling; 11 * 5 * 3]);
        let mut resizer = Resizer::default();
        resizer.resize(&picture, &crop, (11, 5), &part, false, &mut straight);
        resizer.resize(&picture, &crop, (11, 5), &part, true, &mut mirrored);
        for (straight, mirrored) in straight.chunks(33).zip(mirrored.chunks(33)) {
            assert!(straight.chunks(3).rev().eq(mirrored.chunks(3)));
        }
    }
}
