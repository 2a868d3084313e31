//! The two products that a convolution is made of, a tile of the result in registers at a time: pixels by channels, and
//! channels by channels. For whatever vectors the processor has, by the crate `pulp`; parallelism is the caller's.
//!
//! The tile's pixels are found through a list of their numbers, so that no image is unrolled (Dukhan 2019, "The Indirect
//! Convolution Algorithm", [1907.02129](https://arxiv.org/abs/1907.02129)).

use pulp::{Simd, WithSimd};

use crate::geometry::{NOWHERE, Tiles};

/// Of a tile of pixels by channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileSize {
    pub(crate) pixels: usize,
    pub(crate) channels: usize,
}

/// The one for a result of so many channels.
pub(crate) struct TileFor(pub(crate) usize);

impl WithSimd for TileFor {
    type Output = TileSize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> TileSize {
        // As many sums as registers hold beside the weights and a pixel's value.
        let (wide, narrow) = if S::REGISTER_COUNT >= 32 { (14, 28) } else { (6, 12) };
        if self.0 <= S::F32_LANES {
            TileSize { pixels: narrow, channels: S::F32_LANES }
        } else {
            TileSize { pixels: wide, channels: 2 * S::F32_LANES }
        }
    }
}

/// `out[place][channel] = sum over taps and depth of source[pixel][d] * weights[tap][d][channel]`, for the pixels of
/// `tiles` and up to a tile's channels.
pub(crate) struct PixelSums<'a> {
    pub(crate) size: TileSize,
    pub(crate) tiles: &'a Tiles,
    /// Pixels of `depth` values.
    pub(crate) source: &'a [f32],
    /// As many zeros as the depth.
    pub(crate) zeros: &'a [f32],
    /// `[taps, depth, channels of a tile]`.
    pub(crate) weights: &'a [f32],
    /// Pixels `out_pitch` apart; their first `channels` values are written.
    pub(crate) out: &'a mut [f32],
    pub(crate) out_pitch: usize,
    pub(crate) channels: usize,
}

impl WithSimd for PixelSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.size.pixels, self.size.channels == S::F32_LANES) {
            (14, false) => self.tiles::<S, 14, 2>(simd),
            (28, true) => self.tiles::<S, 28, 1>(simd),
            (6, false) => self.tiles::<S, 6, 2>(simd),
            (12, true) => self.tiles::<S, 12, 1>(simd),
            _ => unreachable!("a size of TileFor by the same processor"),
        }
    }
}

impl PixelSums<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const PIXELS: usize, const VECTORS: usize>(self, simd: S) {
        let (depth, channels) = (self.zeros.len(), VECTORS * S::F32_LANES);
        let taps = self.weights.len() / (depth * channels);
        let sources = self.tiles.sources.chunks_exact(taps * PIXELS);
        for (sources, places) in sources.zip(self.tiles.places.chunks(PIXELS)) {
            // So that the lines to be written are on their way from memory while the sums are made.
            for &place in places {
                let out = &mut self.out[place as usize * self.out_pitch..][..self.channels];
                if let Some(out) = S::as_mut_simd_f32s(out).0.first_chunk_mut::<VECTORS>() {
                    *out = [simd.splat_f32s(0.0); VECTORS];
                }
            }
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; PIXELS];
            for (tap, weights) in
                sources.as_chunks::<PIXELS>().0.iter().zip(self.weights.chunks_exact(depth * channels))
            {
                let pixels: [&[f32]; PIXELS] = core::array::from_fn(|p| match tap[p] {
                    NOWHERE => self.zeros,
                    number => &self.source[number as usize * depth..][..depth],
                });
                let weights = S::as_simd_f32s(weights).0.as_chunks::<VECTORS>().0;
                sums = add_products(simd, sums, pixels, weights);
            }
            for (sums, &place) in sums.iter().zip(places) {
                let out = &mut self.out[place as usize * self.out_pitch..][..self.channels];
                // A copy of a length that is not known would be a call.
                match S::as_mut_simd_f32s(&mut *out).0.first_chunk_mut::<VECTORS>() {
                    Some(out) => *out = *sums,
                    None => out.copy_from_slice(&bytemuck::cast_slice::<S::f32s, f32>(sums)[..self.channels]),
                }
            }
        }
    }
}

/// Adds, for each place in depth, every pixel's value times that place's weights.
#[inline(always)]
#[expect(unsafe_code, reason = "bounds checks in the innermost loop cost two thirds of its speed")]
fn add_products<S: Simd, const PIXELS: usize, const VECTORS: usize>(
    simd: S,
    mut sums: [[S::f32s; VECTORS]; PIXELS],
    pixels: [&[f32]; PIXELS],
    weights: &[[S::f32s; VECTORS]],
) -> [[S::f32s; VECTORS]; PIXELS] {
    for pixel in pixels {
        assert!(pixel.len() >= weights.len(), "a pixel has a value for each place in depth");
    }
    // Loops of a known length over arrays keep the sums in registers.
    for d in 0..weights.len() {
        let weights = weights[d];
        for p in 0..PIXELS {
            // SAFETY: `d` is below `weights.len()`, and by the assertion no pixel is shorter.
            let value = simd.splat_f32s(unsafe { *pixels[p].get_unchecked(d) });
            for v in 0..VECTORS {
                sums[p][v] = simd.mul_add_e_f32s(value, weights[v], sums[p][v]);
            }
        }
    }
    sums
}

/// `sums[row][column] += sum over pixels of source[pixel][row] * grad[pixel][column]`, or `=` that, for a tile's rows and all
/// columns.
/// Row `tap * depth + d` is place `d` in depth of the pixel that is met at that tap.
pub(crate) struct ChannelSums<'a> {
    pub(crate) size: TileSize,
    /// Pixels of `depth` values.
    pub(crate) source: &'a [f32],
    pub(crate) depth: usize,
    /// Of each tap, the numbers of the pixels that it meets.
    pub(crate) taps: &'a [&'a [u32]],
    pub(crate) first_row: usize,
    /// `[tiles, pixels, columns of a tile]`, as [`Columns`] lays them.
    pub(crate) grad: &'a [f32],
    /// `[tiles, rows of a tile, columns of a tile]`.
    pub(crate) sums: &'a mut [f32],
    /// Whether there are sums already.
    pub(crate) adds: bool,
    /// Room for the rows of all pixels.
    pub(crate) room: &'a mut Vec<f32>,
}

impl WithSimd for ChannelSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.size.pixels, self.size.channels == S::F32_LANES) {
            (14, false) => self.add::<S, 14, 2>(simd),
            (28, true) => self.add::<S, 28, 1>(simd),
            (6, false) => self.add::<S, 6, 2>(simd),
            (12, true) => self.add::<S, 12, 1>(simd),
            _ => unreachable!("a size of TileFor by the same processor"),
        }
    }
}

impl ChannelSums<'_> {
    #[inline(always)]
    fn add<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let mut room = core::mem::take(self.room);
        self.gather::<ROWS>(&mut room);
        let values = room.as_chunks::<ROWS>().0;
        let width = VECTORS * S::F32_LANES;
        for (tile, sums) in self.sums.chunks_exact_mut(ROWS * width).enumerate() {
            let kept = S::as_mut_simd_f32s(sums).0.as_chunks_mut::<VECTORS>().0;
            let kept = kept.first_chunk_mut::<ROWS>().expect("a tile has so many rows");
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
            let grad = &self.grad[tile * values.len() * width..][..values.len() * width];
            for (values, grads) in values.iter().zip(S::as_simd_f32s(grad).0.as_chunks::<VECTORS>().0) {
                for r in 0..ROWS {
                    let value = simd.splat_f32s(values[r]);
                    for v in 0..VECTORS {
                        sums[r][v] = simd.mul_add_e_f32s(value, grads[v], sums[r][v]);
                    }
                }
            }
            // Sums of sums err less than one long one.
            if self.adds {
                for r in 0..ROWS {
                    for v in 0..VECTORS {
                        sums[r][v] = simd.add_f32s(kept[r][v], sums[r][v]);
                    }
                }
            }
            *kept = sums;
        }
        *self.room = room;
    }

    /// Copies the rows of all pixels side by side: where they lie, powers of two apart, they would push each other out of
    /// the cache.
    #[inline(always)]
    fn gather<const ROWS: usize>(&self, room: &mut Vec<f32>) {
        // Rows beyond the last keep what was there: nobody takes their sums.
        room.resize(self.taps[0].len() * ROWS, 0.0);
        let values = room.as_chunks_mut::<ROWS>().0;
        let mut row = 0;
        while row < ROWS {
            let (tap, d) = ((self.first_row + row) / self.depth, (self.first_row + row) % self.depth);
            let Some(numbers) = self.taps.get(tap) else { break };
            let len = (self.depth - d).min(ROWS - row);
            for (values, &number) in values.iter_mut().zip(*numbers) {
                if number == NOWHERE {
                    values[row..row + len].fill(0.0);
                    continue;
                }
                let source = &self.source[number as usize * self.depth + d..][..len];
                if let Some(source) = source.first_chunk::<ROWS>() {
                    *values = *source;
                    continue;
                }
                // By fours: a copy of a length that is not known would be a call.
                let values = &mut values[row..row + len];
                let ((values, last), (source, last_source)) =
                    (values.as_chunks_mut::<4>(), source.as_chunks::<4>());
                values.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
                last.iter_mut().zip(last_source).for_each(|(to, from)| *to = *from);
            }
            row += len;
        }
    }
}

/// Lays the channels of pixels as [`ChannelSums`] takes them, with zeros beyond the last: side by side, so that they are read
/// in the order in which they lie.
pub(crate) struct Columns<'a> {
    pub(crate) size: TileSize,
    /// `[pixels, channels]`.
    pub(crate) from: &'a [f32],
    pub(crate) channels: usize,
    pub(crate) to: &'a mut Vec<f32>,
}

impl WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { size: TileSize { channels: width, .. }, from, channels, to } = self;
        let pixels = from.len() / channels;
        to.resize(channels.div_ceil(width) * pixels * width, 0.0);
        for (tile, to) in to.chunks_exact_mut(pixels * width).enumerate() {
            let here = width.min(channels - tile * width);
            let from = from.chunks_exact(channels).map(|from| &from[tile * width..][..here]);
            for (to, from) in to.chunks_exact_mut(width).zip(from) {
                let (vectors, rest) = S::as_simd_f32s(from);
                S::as_mut_simd_f32s(&mut *to).0.iter_mut().zip(vectors).for_each(|(to, from)| *to = *from);
                if here < width {
                    to[here - rest.len()..here].copy_from_slice(rest);
                    to[here..].fill(0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conv_cpu::numbers, geometry::Geometry, processor::Processor};

    #[test]
    fn every_processor_gives_the_sums() {
        for processor in Processor::all() {
            for (depth, channels) in [(1, 1), (3, 5), (7, 16), (20, 33), (5, 70)] {
                sums_agree(processor, depth, channels);
            }
        }
    }

    fn sums_agree(processor: Processor, depth: usize, channels: usize) {
        let g = Geometry::new([2, 5, 6, depth], [channels, depth, 3, 3], 1, 1);
        let (meeting, pixels) = (g.forward(), 60);
        let size = processor.dispatch(TileFor(channels));
        let taps = meeting.taps([0, 0]);
        let (source, by_tap) = (numbers(pixels * depth), meeting.sources_by_tap());
        let value = |tap: usize, pixel: usize, d: usize| match by_tap[tap * pixels + pixel] {
            NOWHERE => 0.0,
            number => source[number as usize * depth + d],
        };
        for first in (0..channels).step_by(size.channels) {
            let here = size.channels.min(channels - first);
            let weights = numbers(taps.len() * depth * size.channels);
            let mut out = vec![f32::NAN; pixels * channels];
            processor.dispatch(PixelSums {
                size,
                tiles: &meeting.tiles(0..10, [0, 0], &taps, size.pixels),
                source: &source,
                zeros: &vec![0.0; depth],
                weights: &weights,
                out: &mut out[first..],
                out_pitch: channels,
                channels: here,
            });
            for (index, got) in out.iter().enumerate() {
                let (pixel, channel) = (index / channels, index % channels);
                if channel < first || channel >= first + here {
                    assert!(got.is_nan(), "another channel was written");
                    continue;
                }
                let products = (0..taps.len() * depth).map(|row| {
                    value(row / depth, pixel, row % depth) * weights[row * size.channels + channel - first]
                });
                assert_eq!(*got, products.sum::<f32>(), "{processor:?} {depth} {channels} at {index}");
            }
        }

        let all = channels.next_multiple_of(size.channels);
        let grad = numbers(pixels * all);
        let mut laid = Vec::new();
        processor.dispatch(Columns { size, from: &grad, channels: all, to: &mut laid });
        for first_row in (0..taps.len() * depth).step_by(size.pixels) {
            let mut sums = vec![1.0; size.pixels * all];
            processor.dispatch(ChannelSums {
                size,
                source: &source,
                depth,
                taps: &by_tap.chunks_exact(pixels).collect::<Vec<_>>(),
                first_row,
                grad: &laid,
                sums: &mut sums,
                adds: true,
                room: &mut Vec::new(),
            });
            for (index, got) in sums.iter().enumerate() {
                let (tile, rest) =
                    (index / (size.pixels * size.channels), index % (size.pixels * size.channels));
                let row = first_row + rest / size.channels;
                let column = tile * size.channels + rest % size.channels;
                let is_row = row < taps.len() * depth;
                let products = (0..pixels)
                    .filter(|_| is_row)
                    .map(|pixel| value(row / depth, pixel, row % depth) * grad[pixel * all + column]);
                assert_eq!(*got, 1.0 + products.sum::<f32>(), "{processor:?} {depth} {channels} at {index}");
            }
        }
    }
}
