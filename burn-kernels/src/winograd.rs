//! Convolutions of 3x3 and stride 1 by fewer products: F(4x4, 3x3), which takes 36 products a channel for 16 results where
//! sums over taps take 144. Tiles of 4x4 pixels, overlapping by two, and kernels are brought to 36 values each, whose
//! products are sums over channels alone, and come back from there. The kernels' gradient goes the same way.
//!
//! Not here: other kernels and strides, and whether it pays, but for [`pays`].
//!
//! Sources: Lavin and Gray 2015, [1509.09308](https://arxiv.org/abs/1509.09308). They take the points 0, 1, -1, 2, -2; here
//! they are 0, r, -r, 1/r, -1/r with r the root of one half, which err less (Alam et al. 2022,
//! [2201.10369](https://arxiv.org/abs/2201.10369)).

use core::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::geometry::{Geometry, NOWHERE, Tiles};
use crate::memory::{Buffer, filled};
use crate::processor::Processor;
use crate::tile::{ChannelSums, PixelSums, TileFor, TileSize};

/// The side of a tile of results, and of the pixels that they are made of.
const TILE: usize = 4;
const WINDOW: usize = 6;
const KERNEL: usize = 3;
/// Values of a window, and so products a channel.
const POINTS: usize = WINDOW * WINDOW;
const TAPS: usize = KERNEL * KERNEL;

/// Bytes of values at the points that are multiplied at a time, at most.
const BLOCK_BYTES: usize = 5 << 20;
/// Bytes of them for the kernels' gradient, which come from all cores before they are multiplied.
const SUPER_BLOCK_BYTES: usize = 8 << 20;
/// Windows that the kernels' gradient is summed over at a time.
const CHUNK: usize = 64;
/// So that the values of a pixel at all points do not fall on the same places of a cache: a line more.
const SPARE: usize = 16;

/// r and 1/r.
const ROOT: f32 = core::f32::consts::FRAC_1_SQRT_2;
const INVERSE: f32 = core::f32::consts::SQRT_2;

/// Whether a convolution can go this way, and is the faster for it. The same for its three products.
pub(crate) fn pays(g: &Geometry) -> bool {
    let fits = g.kernel == [KERNEL; 2] && g.stride == 1 && g.padding == 1;
    let is_whole = |channels: usize| channels % Processor::new().dispatch(TileFor(channels)).channels == 0;
    if !fits || !is_whole(g.channels_in) || !is_whole(g.channels_out) {
        return false;
    }
    let pixels = g.batch * g.height * g.width;
    // Products of a channel in and one out, and what bringing a kernel to the points and back costs in such.
    g.channels_in.min(g.channels_out) >= 64 && pixels * TAPS > 54 * (Tiling::of(g).num_tiles() + 60)
}

/// `y = w * x`; `finish` as in [`crate::conv_cpu::forward`].
pub(crate) fn forward(
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Buffer {
    let (c, k) = (g.channels_in, g.channels_out);
    let kernels = Kernels { data: weight, channel_step: c * TAPS, depth_step: TAPS, is_turned: false };
    correlate(&Tiling::of(g), x, [c, k], &kernels, finish)
}

/// Gradient of the images, given that of the output.
pub(crate) fn input_grad(g: &Geometry, weight: &[f32], grad: &[f32]) -> Buffer {
    let (c, k) = (g.channels_in, g.channels_out);
    let kernels = Kernels { data: weight, channel_step: TAPS, depth_step: c * TAPS, is_turned: true };
    correlate(&Tiling::of(g), grad, [k, c], &kernels, |_, _| ())
}

/// Tiles of images, counted row by row through all of them.
#[derive(Debug, Clone, Copy)]
struct Tiling {
    batch: usize,
    height: usize,
    width: usize,
    /// Tiles of an image.
    down: usize,
    across: usize,
}

impl Tiling {
    fn of(g: &Geometry) -> Self {
        let (down, across) = (g.height.div_ceil(TILE), g.width.div_ceil(TILE));
        Self { batch: g.batch, height: g.height, width: g.width, down, across }
    }

    fn num_tiles(&self) -> usize {
        self.batch * self.down * self.across
    }

    /// The first row of pixels, counted through all images, of a row of tiles.
    fn first_row(&self, tile_row: usize) -> usize {
        tile_row / self.down * self.height + tile_row % self.down * TILE
    }

    /// A tile's image, and the row and column of its first pixel.
    fn place(&self, tile: usize) -> [usize; 3] {
        let row = tile / self.across;
        [row / self.down, row % self.down * TILE, tile % self.across * TILE]
    }

    /// The numbers of the pixels in the square of `side` that begins `before` pixels before a tile.
    fn pixels<const SIDE: usize>(&self, tile: usize, before: usize) -> [[u32; SIDE]; SIDE] {
        let [image, top, left] = self.place(tile);
        core::array::from_fn(|i| {
            core::array::from_fn(|j| match ((top + i).checked_sub(before), (left + j).checked_sub(before)) {
                (Some(row), Some(column)) if row < self.height && column < self.width => {
                    ((image * self.height + row) * self.width + column) as u32
                }
                _ => NOWHERE,
            })
        })
    }
}

/// Where the kernel of a channel of the result and one of the source is, and whether it is turned by half a circle.
struct Kernels<'a> {
    data: &'a [f32],
    channel_step: usize,
    depth_step: usize,
    is_turned: bool,
}

impl Kernels<'_> {
    /// `[panels, points, depth, channels of a panel]`.
    fn to_points(&self, [depth, channels]: [usize; 2], size: TileSize) -> Buffer {
        let panel_len = POINTS * depth * size.channels;
        let processor = Processor::new();
        let [points] = filled(channels / size.channels * panel_len, panel_len, |panel, [out]| {
            let data = &self.data[panel * size.channels * self.channel_step..];
            processor.dispatch(KernelsToPoints { kernels: &Self { data, ..*self }, depth, size, out });
        });
        points
    }
}

/// For every pixel of the result and every channel, the sum over taps and depth.
fn correlate(
    tiling: &Tiling,
    source: &[f32],
    [depth, channels]: [usize; 2],
    kernels: &Kernels<'_>,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Buffer {
    let processor = Processor::new();
    let size = processor.dispatch(TileFor(channels));
    let points = kernels.to_points([depth, channels], size);
    let len = depth * size.channels;
    let zeros = vec![0.0; depth];

    // Whole rows of tiles, so that what comes out is a piece of the result.
    let num_rows = tiling.batch * tiling.down;
    let least = (2 * size.pixels).div_ceil(tiling.across).min(num_rows);
    let most = BLOCK_BYTES / (4 * POINTS * (depth + channels) * tiling.across);
    // What the thread with the most blocks has to do, in tiles of sums.
    let threads = rayon::current_num_threads();
    let work = |rows: &usize| {
        num_rows.div_ceil(*rows).div_ceil(threads) * (rows * tiling.across).div_ceil(size.pixels)
    };
    let rows = (least..=most.clamp(least, num_rows)).min_by_key(work).expect("least is one of them");
    let mut out = Buffer::of_any(tiling.batch * tiling.height * tiling.width * channels);
    let row_len = tiling.width * channels;
    let mut blocks = Vec::with_capacity(num_rows.div_ceil(rows));
    let mut rest = &mut out[..];
    for first in (0..num_rows).step_by(rows) {
        let tile_rows = first..num_rows.min(first + rows);
        let pixel_rows = tiling.first_row(tile_rows.start)..tiling.first_row(tile_rows.end);
        let piece = rest.split_off_mut(..pixel_rows.len() * row_len).expect("the rows add up to the result");
        blocks.push((tile_rows, pixel_rows.start, piece));
    }
    blocks.into_par_iter().for_each(|(tile_rows, first_row, out)| {
        let tiles = tile_rows.start * tiling.across..tile_rows.end * tiling.across;
        let numbers = numbers(tiles.len(), size.pixels);
        // The same for a last block that is smaller: memory is found again by its size.
        let [from, to] = [depth, channels].map(|channels| rows * tiling.across * channels + SPARE);
        let (mut before, mut after) = (Buffer::of_any(POINTS * from), Buffer::of_any(POINTS * to));
        processor.dispatch(WindowsToPoints {
            tiling,
            tiles: tiles.clone(),
            source,
            depth,
            out: &mut before,
            step: from,
        });
        for (point, (before, after)) in before.chunks_exact(from).zip(after.chunks_exact_mut(to)).enumerate()
        {
            for (panel, points) in points.chunks_exact(POINTS * len).enumerate() {
                processor.dispatch(PixelSums {
                    size,
                    tiles: &numbers,
                    source: before,
                    pitch: depth,
                    zeros: &zeros,
                    weights: &points[point * len..][..len],
                    out: &mut after[panel * size.channels..],
                    out_pitch: channels,
                    channels: size.channels,
                });
            }
        }
        let first_pixel = first_row * tiling.width;
        processor.dispatch(TilesFromPoints {
            tiling,
            tiles,
            points: &after,
            step: to,
            channels,
            first_pixel,
            out,
        });
        finish(first_row * row_len, out);
    });
    out
}

/// Each pixel alone, in order.
fn numbers(num_pixels: usize, size: usize) -> Tiles {
    let all = || 0..num_pixels as u32;
    let last = num_pixels as u32 - 1;
    let spare = num_pixels.next_multiple_of(size) - num_pixels;
    Tiles { places: all().collect(), sources: all().chain(core::iter::repeat_n(last, spare)).collect() }
}

/// Gradient of the weights, given that of the output.
pub(crate) fn weight_grad(g: &Geometry, x: &[f32], grad: &[f32]) -> Buffer {
    let (tiling, processor) = (Tiling::of(g), Processor::new());
    let (c, k) = (g.channels_in, g.channels_out);
    let size = processor.dispatch(TileFor(k));
    let rows = c.next_multiple_of(size.pixels);
    let [step_x, step_grad] = [c, k].map(|channels| CHUNK * channels + SPARE);
    let num_tiles = tiling.num_tiles();
    let num_chunks = num_tiles.div_ceil(CHUNK);
    let together = (SUPER_BLOCK_BYTES / (4 * POINTS * (step_x + step_grad))).clamp(1, num_chunks);

    // [points, tiles of rows, tiles of columns, rows of a tile, columns of a tile].
    let mut sums = Buffer::of_any(POINTS * rows * k);
    let mut at_points = [step_x, step_grad].map(|step| Buffer::of_any(together * POINTS * step));
    let numbers: Vec<u32> = (0..CHUNK as u32).collect();
    for first in (0..num_chunks).step_by(together) {
        let chunks = first..num_chunks.min(first + together);
        let tiles = |chunk: usize| (first + chunk) * CHUNK..num_tiles.min((first + chunk + 1) * CHUNK);
        let [x_points, grad_points] = &mut at_points;
        let pairs = x_points.par_chunks_exact_mut(POINTS * step_x);
        let pairs = pairs.zip(grad_points.par_chunks_exact_mut(POINTS * step_grad)).take(chunks.len());
        pairs.enumerate().for_each(|(chunk, (x_points, grad_points))| {
            let (tiling, tiles) = (&tiling, tiles(chunk));
            processor.dispatch(WindowsToPoints {
                tiling,
                tiles: tiles.clone(),
                source: x,
                depth: c,
                out: x_points,
                step: step_x,
            });
            processor.dispatch(TilesToPoints {
                tiling,
                tiles,
                source: grad,
                depth: k,
                size,
                out: grad_points,
                step: step_grad,
            });
        });
        sums.par_chunks_exact_mut(rows * k).enumerate().for_each(|(point, sums)| {
            let mut room = Vec::new();
            for chunk in 0..chunks.len() {
                let numbers = &numbers[..tiles(chunk).len()];
                let x = &at_points[0][(chunk * POINTS + point) * step_x..][..step_x];
                let grad = &at_points[1][(chunk * POINTS + point) * step_grad..][..step_grad];
                for (tile, sums) in sums.chunks_exact_mut(size.pixels * k).enumerate() {
                    processor.dispatch(ChannelSums {
                        size,
                        source: x,
                        pitch: c,
                        depth: c,
                        taps: &[numbers],
                        first_row: tile * size.pixels,
                        grad: &grad[..numbers.len() * k],
                        sums,
                        adds: first + chunk > 0,
                        room: &mut room,
                    });
                }
            }
        });
    }

    let panel_len = size.channels * c * TAPS;
    let [weight_grad] = filled(k * c * TAPS, panel_len, |panel, [out]| {
        processor.dispatch(KernelsFromPoints {
            points: &sums,
            step: rows * k,
            depth: c,
            size,
            channels: k,
            panel,
            out,
        });
    });
    weight_grad
}

/// A linear map of a line of `N` values to one of `P`.
trait Map<const N: usize, const P: usize> {
    fn line<S: Simd>(simd: S, line: [S::f32s; N]) -> [S::f32s; P];

    /// Of all columns, then of all rows.
    #[inline(always)]
    fn square<S: Simd>(simd: S, from: [[S::f32s; N]; N]) -> [[S::f32s; P]; P] {
        let mut half = [[simd.splat_f32s(0.0); N]; P];
        for column in 0..N {
            let mut line = [simd.splat_f32s(0.0); N];
            for row in 0..N {
                line[row] = from[row][column];
            }
            let line = Self::line(simd, line);
            for row in 0..P {
                half[row][column] = line[row];
            }
        }
        let mut to = [[simd.splat_f32s(0.0); P]; P];
        for row in 0..P {
            to[row] = Self::line(simd, half[row]);
        }
        to
    }
}

/// A window to the points.
struct Window;

impl Map<WINDOW, WINDOW> for Window {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::f32s; WINDOW]) -> [S::f32s; WINDOW] {
        let minus = |factor: f32| simd.splat_f32s(-factor);
        let both = |even, odd, factor: f32| {
            [simd.splat_f32s(factor), minus(factor)].map(
                #[inline(always)]
                |factor| simd.mul_add_e_f32s(odd, factor, even),
            )
        };
        let first = simd.add_f32s(simd.mul_add_e_f32s(c, minus(2.5), a), e);
        let last = simd.add_f32s(simd.mul_add_e_f32s(d, minus(2.5), b), f);
        let near = [simd.mul_add_e_f32s(c, minus(2.0), e), simd.mul_add_e_f32s(b, minus(2.0), d)];
        let far = [simd.mul_add_e_f32s(c, minus(0.5), e), simd.mul_add_e_f32s(b, minus(0.5), d)];
        let [p, q] = both(near[0], near[1], ROOT);
        let [r, s] = both(far[0], far[1], INVERSE);
        [first, p, q, r, s, last]
    }
}

/// A kernel to the points.
struct Kernel;

impl Map<KERNEL, WINDOW> for Kernel {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c]: [S::f32s; KERNEL]) -> [S::f32s; WINDOW] {
        let times = |value, factor: f32| simd.mul_f32s(value, simd.splat_f32s(factor));
        let near = times(simd.mul_add_e_f32s(c, simd.splat_f32s(0.5), a), -1.0 / 1.5);
        let far = times(simd.mul_add_e_f32s(c, simd.splat_f32s(2.0), a), 1.0 / 6.0);
        let (near_odd, far_odd) = (times(b, -ROOT / 1.5), times(b, INVERSE / 6.0));
        [
            a,
            simd.add_f32s(near, near_odd),
            simd.sub_f32s(near, near_odd),
            simd.add_f32s(far, far_odd),
            simd.sub_f32s(far, far_odd),
            c,
        ]
    }
}

/// The points to a tile.
struct Tile;

impl Map<WINDOW, TILE> for Tile {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::f32s; WINDOW]) -> [S::f32s; TILE] {
        let sum = |near, far, [p, q]: [f32; 2]| {
            simd.mul_add_e_f32s(near, simd.splat_f32s(p), simd.mul_f32s(far, simd.splat_f32s(q)))
        };
        let (near, far) = (simd.add_f32s(b, c), simd.add_f32s(d, e));
        let (near_odd, far_odd) = (simd.sub_f32s(b, c), simd.sub_f32s(d, e));
        [
            simd.add_f32s(simd.add_f32s(a, near), far),
            sum(near_odd, far_odd, [ROOT, INVERSE]),
            sum(near, far, [0.5, 2.0]),
            simd.add_f32s(sum(near_odd, far_odd, [ROOT / 2.0, INVERSE * 2.0]), f),
        ]
    }
}

/// The gradient of a tile to that of the points.
struct TileGrad;

impl Map<TILE, WINDOW> for TileGrad {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; TILE]) -> [S::f32s; WINDOW] {
        let at = |square: f32, root: f32| {
            let even = simd.mul_add_e_f32s(c, simd.splat_f32s(square), a);
            let odd = simd.mul_add_e_f32s(d, simd.splat_f32s(square), b);
            [root, -root].map(
                #[inline(always)]
                |root| simd.mul_add_e_f32s(odd, simd.splat_f32s(root), even),
            )
        };
        let [p, q] = at(0.5, ROOT);
        let [r, s] = at(2.0, INVERSE);
        [a, p, q, r, s, d]
    }
}

/// The gradient of the points to that of a kernel.
struct KernelGrad;

impl Map<WINDOW, KERNEL> for KernelGrad {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::f32s; WINDOW]) -> [S::f32s; KERNEL] {
        let sum = |near, far, [p, q]: [f32; 2], more| {
            simd.mul_add_e_f32s(near, simd.splat_f32s(p), simd.mul_add_e_f32s(far, simd.splat_f32s(q), more))
        };
        let (near, far) = (simd.add_f32s(b, c), simd.add_f32s(d, e));
        let (near_odd, far_odd) = (simd.sub_f32s(b, c), simd.sub_f32s(d, e));
        [
            sum(near, far, [-1.0 / 1.5, 1.0 / 6.0], a),
            sum(near_odd, far_odd, [-ROOT / 1.5, INVERSE / 6.0], simd.splat_f32s(0.0)),
            sum(near, far, [-0.5 / 1.5, 2.0 / 6.0], f),
        ]
    }
}

/// `out[point][tile][channel]`, the points `step` values apart, of the windows of tiles.
struct WindowsToPoints<'a> {
    tiling: &'a Tiling,
    tiles: Range<usize>,
    source: &'a [f32],
    depth: usize,
    out: &'a mut [f32],
    step: usize,
}

impl WithSimd for WindowsToPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tiling, tiles, source, depth, out, step } = self;
        for (place, tile) in tiles.enumerate() {
            let pixels = tiling.pixels::<WINDOW>(tile, 1);
            let out = &mut out[place * depth..];
            to_points::<S, Window, WINDOW>(simd, pixels, source, depth, out, step, [depth, 0]);
        }
    }
}

/// The same of the gradients of tiles, `out[point][panel][tile][channel of a panel]`.
struct TilesToPoints<'a> {
    tiling: &'a Tiling,
    tiles: Range<usize>,
    source: &'a [f32],
    depth: usize,
    size: TileSize,
    out: &'a mut [f32],
    step: usize,
}

impl WithSimd for TilesToPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tiling, tiles, source, depth, size, out, step } = self;
        let panel = [size.channels, tiles.len() * size.channels];
        for (place, tile) in tiles.enumerate() {
            let (pixels, out) = (tiling.pixels::<TILE>(tile, 0), &mut out[place * size.channels..]);
            to_points::<S, TileGrad, TILE>(simd, pixels, source, depth, out, step, panel);
        }
    }
}

/// Brings some pixels to the points: each point's channels, so many side by side, and those behind them so much further on.
#[inline(always)]
fn to_points<S: Simd, M: Map<N, WINDOW>, const N: usize>(
    simd: S,
    pixels: [[u32; N]; N],
    source: &[f32],
    depth: usize,
    out: &mut [f32],
    step: usize,
    [side_by_side, further]: [usize; 2],
) {
    let mut rows: [[Option<&[S::f32s]>; N]; N] = [[None; N]; N];
    for i in 0..N {
        for j in 0..N {
            if pixels[i][j] != NOWHERE {
                rows[i][j] = Some(S::as_simd_f32s(&source[pixels[i][j] as usize * depth..][..depth]).0);
            }
        }
    }
    for vector in 0..depth / S::F32_LANES {
        let mut from = [[simd.splat_f32s(0.0); N]; N];
        for i in 0..N {
            for j in 0..N {
                if let Some(row) = rows[i][j] {
                    from[i][j] = row[vector];
                }
            }
        }
        let to = M::square(simd, from);
        let channel = vector * S::F32_LANES;
        let first = channel / side_by_side * further + channel % side_by_side;
        for i in 0..WINDOW {
            for j in 0..WINDOW {
                let at = (i * WINDOW + j) * step + first;
                S::as_mut_simd_f32s(&mut out[at..at + S::F32_LANES]).0[0] = to[i][j];
            }
        }
    }
}

/// Tiles of the result, which `out` is from its pixel `first_pixel` on, from the points.
struct TilesFromPoints<'a> {
    tiling: &'a Tiling,
    tiles: Range<usize>,
    points: &'a [f32],
    step: usize,
    channels: usize,
    first_pixel: usize,
    out: &'a mut [f32],
}

impl WithSimd for TilesFromPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tiling, tiles, points, step, channels, first_pixel, out } = self;
        for (place, tile) in tiles.enumerate() {
            let pixels = tiling.pixels::<TILE>(tile, 0);
            for first in (0..channels).step_by(S::F32_LANES) {
                let mut from = [[simd.splat_f32s(0.0); WINDOW]; WINDOW];
                for i in 0..WINDOW {
                    for j in 0..WINDOW {
                        let at = (i * WINDOW + j) * step + place * channels + first;
                        from[i][j] = S::as_simd_f32s(&points[at..at + S::F32_LANES]).0[0];
                    }
                }
                let to = Tile::square(simd, from);
                for i in 0..TILE {
                    for j in 0..TILE {
                        if pixels[i][j] != NOWHERE {
                            let at = (pixels[i][j] as usize - first_pixel) * channels + first;
                            S::as_mut_simd_f32s(&mut out[at..at + S::F32_LANES]).0[0] = to[i][j];
                        }
                    }
                }
            }
        }
    }
}

/// A panel of [`Kernels::to_points`].
struct KernelsToPoints<'a> {
    kernels: &'a Kernels<'a>,
    depth: usize,
    size: TileSize,
    out: &'a mut [f32],
}

impl WithSimd for KernelsToPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { kernels, depth, size, out } = self;
        let mut lanes = vec![0.0; TAPS * size.channels];
        for d in 0..depth {
            for channel in 0..size.channels {
                let at = channel * kernels.channel_step + d * kernels.depth_step;
                let kernel: &[f32; TAPS] = kernels.data[at..].first_chunk().expect("a kernel has its taps");
                for tap in 0..TAPS {
                    let to = if kernels.is_turned { TAPS - 1 - tap } else { tap };
                    lanes[to * size.channels + channel] = kernel[tap];
                }
            }
            for first in (0..size.channels).step_by(S::F32_LANES) {
                let mut from = [[simd.splat_f32s(0.0); KERNEL]; KERNEL];
                for i in 0..KERNEL {
                    for j in 0..KERNEL {
                        let at = (i * KERNEL + j) * size.channels + first;
                        from[i][j] = S::as_simd_f32s(&lanes[at..at + S::F32_LANES]).0[0];
                    }
                }
                let to = Kernel::square(simd, from);
                for i in 0..WINDOW {
                    for j in 0..WINDOW {
                        let at = ((i * WINDOW + j) * depth + d) * size.channels + first;
                        S::as_mut_simd_f32s(&mut out[at..at + S::F32_LANES]).0[0] = to[i][j];
                    }
                }
            }
        }
    }
}

/// The kernels of a panel of channels, `[channels of a panel, depth, taps]`, from sums at the points, `step` apart.
struct KernelsFromPoints<'a> {
    points: &'a [f32],
    step: usize,
    depth: usize,
    size: TileSize,
    channels: usize,
    panel: usize,
    out: &'a mut [f32],
}

impl WithSimd for KernelsFromPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { points, step, depth, size, channels, panel, out } = self;
        let mut lanes = vec![0.0; TAPS * size.channels];
        for d in 0..depth {
            let row = d / size.pixels * size.pixels * channels
                + (panel * size.pixels + d % size.pixels) * size.channels;
            for first in (0..size.channels).step_by(S::F32_LANES) {
                let mut from = [[simd.splat_f32s(0.0); WINDOW]; WINDOW];
                for i in 0..WINDOW {
                    for j in 0..WINDOW {
                        let at = (i * WINDOW + j) * step + row + first;
                        from[i][j] = S::as_simd_f32s(&points[at..at + S::F32_LANES]).0[0];
                    }
                }
                let to = KernelGrad::square(simd, from);
                for i in 0..KERNEL {
                    for j in 0..KERNEL {
                        let at = (i * KERNEL + j) * size.channels + first;
                        S::as_mut_simd_f32s(&mut lanes[at..at + S::F32_LANES]).0[0] = to[i][j];
                    }
                }
            }
            for (channel, out) in out.chunks_exact_mut(depth * TAPS).enumerate() {
                for tap in 0..TAPS {
                    out[d * TAPS + tap] = lanes[tap * size.channels + channel];
                }
            }
        }
    }
}
