//! The two products, a tile of the result in registers at a time: pixels of a row by channels, and taps by channels.

use core::ops::Range;

use pulp::{Simd, WithSimd};

/// Of a tile in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileSize {
    /// Pixels, or places that a tap and a channel make.
    pub(super) rows: usize,
    vectors: usize,
    lanes: usize,
}

impl TileSize {
    pub(super) fn channels(self) -> usize {
        self.vectors * self.lanes
    }

    /// Of those, the one by which `rows` and `channels` cost least.
    #[inline(always)]
    fn cheapest<S: Simd>(sizes: &[[usize; 2]], rows: usize, channels: usize) -> Self {
        let sizes = sizes.iter().map(|&[rows, vectors]| Self { rows, vectors, lanes: S::F32_LANES });
        let cost = |size: &Self| {
            // In halves of a cycle, in which a product or a load begins; a sum takes a product at most every eighth of them. Two
            // for the tile's beginning and end.
            let products = (size.rows * size.vectors).max(size.rows + size.vectors).max(8);
            rows.div_ceil(size.rows) * channels.div_ceil(size.channels()) * (products + 2)
        };
        sizes.min_by_key(cost).expect("a list of some")
    }
}

/// The tile for rows of so many pixels, and so many channels.
pub(super) struct RowTile {
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl WithSimd for RowTile {
    type Output = TileSize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> TileSize {
        // As many sums as registers hold beside the weights and a pixel's value, or fewer for narrow rows.
        let many = [[28, 1], [16, 1], [14, 2], [8, 2], [7, 4], [4, 4]];
        let few = [[6, 2], [4, 2]];
        let sizes: &[_] = if S::REGISTER_COUNT >= 32 { &many } else { &few };
        TileSize::cheapest::<S>(sizes, self.width, self.channels)
    }
}

/// Values of a source that lie side by side and meet weights that do so, for the first pixel of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) first: usize,
    pub(super) len: usize,
}

/// `out[pixel][channel] = sum over runs and their places of source[pixel][place] * weights[place][channel]`, for a row of
/// pixels and up to a tile's channels.
pub(super) struct RowSums<'a> {
    pub(super) size: TileSize,
    /// Its pixels are `pitch` apart: 1, 2, 16 or 32.
    pub(super) source: &'a [f32],
    pub(super) pitch: usize,
    pub(super) runs: &'a [Run],
    /// `[places of all runs, channels of a tile]`.
    pub(super) weights: &'a [f32],
    /// Pixels.
    pub(super) width: usize,
    /// Pixels `out_pitch` apart, of which these channels are written.
    pub(super) out: &'a mut [f32],
    pub(super) out_pitch: usize,
    pub(super) channels: Range<usize>,
}

impl WithSimd for RowSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.pitch {
            1 => self.of_pitch::<S, 1>(simd),
            2 => self.of_pitch::<S, 2>(simd),
            16 => self.of_pitch::<S, 16>(simd),
            32 => self.of_pitch::<S, 32>(simd),
            _ => unreachable!("a step of one or two blocks"),
        }
    }
}

impl RowSums<'_> {
    #[inline(always)]
    fn of_pitch<S: Simd, const PITCH: usize>(self, simd: S) {
        match [self.size.rows, self.size.vectors] {
            [28, 1] => self.tiles::<S, PITCH, 28, 1>(simd),
            [16, 1] => self.tiles::<S, PITCH, 16, 1>(simd),
            [14, 2] => self.tiles::<S, PITCH, 14, 2>(simd),
            [8, 2] => self.tiles::<S, PITCH, 8, 2>(simd),
            [7, 4] => self.tiles::<S, PITCH, 7, 4>(simd),
            [4, 4] => self.tiles::<S, PITCH, 4, 4>(simd),
            [6, 2] => self.tiles::<S, PITCH, 6, 2>(simd),
            [4, 2] => self.tiles::<S, PITCH, 4, 2>(simd),
            _ => unreachable!("a size of RowTile"),
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, const PITCH: usize, const PIXELS: usize, const VECTORS: usize>(self, simd: S) {
        let here = self.channels.start..self.channels.end.min(self.channels.start + VECTORS * S::F32_LANES);
        for first in (0..self.width).step_by(PIXELS) {
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; PIXELS];
            let mut weights = S::as_simd_f32s(self.weights).0.as_chunks::<VECTORS>().0;
            for run in self.runs {
                let source = &self.source[first * PITCH + run.first..];
                sums = add_products::<S, PITCH, PIXELS, VECTORS>(simd, sums, source, &weights[..run.len]);
                weights = &weights[run.len..];
            }
            let out = self.out[first * self.out_pitch..].chunks_mut(self.out_pitch).take(self.width - first);
            if here.len() == VECTORS * S::F32_LANES {
                for (sums, out) in sums.iter().zip(out) {
                    let out = S::as_mut_simd_f32s(&mut out[here.start..]).0.first_chunk_mut::<VECTORS>();
                    *out.expect("a panel's channels") = *sums;
                }
            } else {
                for (sums, out) in sums.iter().zip(out) {
                    out[here.clone()]
                        .copy_from_slice(&bytemuck::cast_slice::<S::f32s, f32>(sums)[..here.len()]);
                }
            }
        }
    }
}

/// Adds, for each place of a run, every pixel's value times that place's weights.
#[inline(always)]
#[expect(unsafe_code, reason = "bounds checks in the innermost loop cost two thirds of its speed")]
fn add_products<S: Simd, const PITCH: usize, const PIXELS: usize, const VECTORS: usize>(
    simd: S,
    mut sums: [[S::f32s; VECTORS]; PIXELS],
    source: &[f32],
    weights: &[[S::f32s; VECTORS]],
) -> [[S::f32s; VECTORS]; PIXELS] {
    assert!(
        source.len() >= (PIXELS - 1) * PITCH + weights.len(),
        "every pixel has a value for each place of the run"
    );
    // Loops of a known length over arrays keep the sums in registers.
    for d in 0..weights.len() {
        let weights = weights[d];
        for (p, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `p` is below `PIXELS` and `d` below `weights.len()`, so by the assertion the source is longer.
            let value = simd.splat_f32s(unsafe { *source.get_unchecked(p * PITCH + d) });
            for v in 0..VECTORS {
                sums[v] = simd.mul_add_e_f32s(value, weights[v], sums[v]);
            }
        }
    }
    sums
}

/// The tile for runs of so many places, and so many channels.
pub(super) struct TapTile {
    pub(super) len: usize,
    pub(super) channels: usize,
}

impl WithSimd for TapTile {
    type Output = TileSize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> TileSize {
        let many = [[24, 1], [12, 2], [9, 1], [9, 2], [7, 4]];
        let few = [[6, 2], [3, 4]];
        let sizes: &[_] = if S::REGISTER_COUNT >= 32 { &many } else { &few };
        TileSize::cheapest::<S>(sizes, self.len, self.channels)
    }
}

/// `sums[place][channel] += sum over pixels of source[pixel][place] * grad[pixel][channel]`, or `=` that, for a tile of them.
pub(super) struct TapSums<'a> {
    pub(super) size: TileSize,
    /// Rows `row_step` apart, of pixels `pitch` apart; from the first pixel's first place on.
    pub(super) source: &'a [f32],
    pub(super) row_step: usize,
    pub(super) pitch: usize,
    /// `rows` of `width` pixels of `grad_pitch` channels, from the first channel on.
    pub(super) grad: &'a [f32],
    pub(super) grad_pitch: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
    /// `[places of a tile, channels of a tile]`.
    pub(super) sums: &'a mut [f32],
    /// Whether there are sums already.
    pub(super) adds: bool,
}

impl WithSimd for TapSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match [self.size.rows, self.size.vectors] {
            [24, 1] => self.add::<S, 24, 1>(simd),
            [12, 2] => self.add::<S, 12, 2>(simd),
            [9, 1] => self.add::<S, 9, 1>(simd),
            [9, 2] => self.add::<S, 9, 2>(simd),
            [7, 4] => self.add::<S, 7, 4>(simd),
            [6, 2] => self.add::<S, 6, 2>(simd),
            [3, 4] => self.add::<S, 3, 4>(simd),
            _ => unreachable!("a size of TapTile"),
        }
    }
}

impl TapSums<'_> {
    #[inline(always)]
    fn add<S: Simd, const PLACES: usize, const VECTORS: usize>(self, simd: S) {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; PLACES];
        for row in 0..self.rows {
            let grad = &self.grad[row * self.width * self.grad_pitch..];
            let source = &self.source[row * self.row_step..];
            let grads = grad.chunks(self.grad_pitch).take(self.width);
            for (grads, first) in grads.zip((0..).step_by(self.pitch)) {
                let grads = S::as_simd_f32s(&grads[..VECTORS * S::F32_LANES]).0;
                let values = &source[first..][..PLACES];
                for r in 0..PLACES {
                    let value = simd.splat_f32s(values[r]);
                    for v in 0..VECTORS {
                        sums[r][v] = simd.mul_add_e_f32s(value, grads[v], sums[r][v]);
                    }
                }
            }
        }
        let kept = S::as_mut_simd_f32s(self.sums).0.as_chunks_mut::<VECTORS>().0;
        let kept = kept.first_chunk_mut::<PLACES>().expect("a tile has so many places");
        // Sums of sums err less than one long one.
        if self.adds {
            for r in 0..PLACES {
                for v in 0..VECTORS {
                    sums[r][v] = simd.add_f32s(kept[r][v], sums[r][v]);
                }
            }
        }
        *kept = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv_cpu::numbers;
    use crate::processor::Processor;

    #[test]
    fn every_processor_sums_rows() {
        for processor in Processor::all() {
            for (width, channels) in
                [(28, 16), (30, 5), (15, 16), (14, 32), (8, 32), (7, 64), (4, 64), (3, 70)]
            {
                for pitch in [1, 2, 16, 32] {
                    rows_agree(processor, width, channels, pitch);
                }
            }
        }
    }

    fn rows_agree(processor: Processor, width: usize, channels: usize, pitch: usize) {
        let size = processor.dispatch(RowTile { width, channels });
        let runs = [Run { first: 3, len: 2 }, Run { first: 40, len: 5 }];
        let source = numbers(width.next_multiple_of(size.rows) * pitch + 45);
        let mut out = vec![f32::NAN; width * 2 * channels];
        for first in (0..channels).step_by(size.channels()) {
            let weights = numbers(7 * size.channels());
            let here = first..channels.min(first + size.channels());
            processor.dispatch(RowSums {
                size,
                source: &source,
                pitch,
                runs: &runs,
                weights: &weights,
                width,
                out: &mut out,
                out_pitch: 2 * channels,
                channels: first..channels,
            });
            for (pixel, channel) in
                (0..width).flat_map(|pixel| here.clone().map(move |channel| (pixel, channel)))
            {
                let places = runs.iter().flat_map(|run| run.first..run.first + run.len);
                let products = places.enumerate().map(|(number, place)| {
                    source[pixel * pitch + place] * weights[number * size.channels() + channel - first]
                });
                let got = out[pixel * 2 * channels + channel];
                assert_eq!(got, products.sum::<f32>(), "{processor:?} {size:?} {pitch}: {pixel}, {channel}");
            }
        }
        assert!(out.chunks_exact(channels).skip(1).step_by(2).flatten().all(|value| value.is_nan()));
    }

    #[test]
    fn every_processor_sums_taps() {
        for processor in Processor::all() {
            for (len, channels) in [(48, 16), (96, 32), (9, 16), (9, 32), (3, 16), (21, 64), (40, 64)] {
                taps_agree(processor, len, channels);
            }
        }
    }

    fn taps_agree(processor: Processor, len: usize, channels: usize) {
        let size = processor.dispatch(TapTile { len, channels });
        let (rows, width, pitch, row_step) = (3, 5, 4, 27);
        let tiles = len.div_ceil(size.rows);
        let source = numbers((rows - 1) * row_step + (width - 1) * pitch + tiles * size.rows);
        let grad = numbers(rows * width * channels);
        for (tile, first) in
            (0..tiles).flat_map(|tile| (0..channels).step_by(size.channels()).map(move |c| (tile, c)))
        {
            for adds in [false, true] {
                let mut sums = vec![2.0; size.rows * size.channels()];
                processor.dispatch(TapSums {
                    size,
                    source: &source[tile * size.rows..],
                    row_step,
                    pitch,
                    grad: &grad[first..],
                    grad_pitch: channels,
                    rows,
                    width,
                    sums: &mut sums,
                    adds,
                });
                for (index, got) in sums.iter().enumerate() {
                    let (place, channel) =
                        (tile * size.rows + index / size.channels(), first + index % size.channels());
                    let pixels = (0..rows).flat_map(|row| (0..width).map(move |column| (row, column)));
                    let products = pixels.map(|(row, column)| {
                        source[row * row_step + column * pitch + place]
                            * grad[(row * width + column) * channels + channel]
                    });
                    let expected = products.sum::<f32>() + if adds { 2.0 } else { 0.0 };
                    assert_eq!(*got, expected, "{processor:?} {size:?}: {place}, {channel}");
                }
            }
        }
    }
}
