//! Convolutions of 3x3 and stride 1 by fewer products: F(4x4, 3x3), which takes 36 products a channel for 16 results where
//! sums over taps take 144. Tiles of 4x4 pixels, overlapping by two, and kernels are brought to 36 values each, whose
//! products are sums over channels alone, and come back from there. The kernels' gradient goes the same way.
//!
//! Not here: other kernels and strides, and whether it pays, but for [`pays`].
//!
//! Sources: Lavin and Gray 2015, [1509.09308](https://arxiv.org/abs/1509.09308). They take the points 0, 1, -1, 2, -2; here
//! they are 0, r, -r, 1/r, -1/r with r the root of one half, which err less (Alam et al. 2022,
//! [2201.10369](https://arxiv.org/abs/2201.10369)).

mod maps;
mod points;
mod tiling;

use rayon::prelude::*;

use self::points::{KernelsFromPoints, KernelsToPoints, TilesFromPoints, TilesToPoints, WindowsToPoints};
use self::tiling::Tiling;
use super::tile::{ChannelSums, PixelSums, TileFor, TileSize};
use crate::geometry::{Geometry, Tiles};
use crate::memory::{Buffer, filled};
use crate::processor::Processor;

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

/// Whether a convolution can go this way, and is the faster for it. The same for its three products.
pub(crate) fn pays(g: &Geometry) -> bool {
    let fits = g.kernel == [KERNEL; 2] && g.stride == 1 && g.padding == 1;
    let is_whole =
        |channels: usize| channels.is_multiple_of(Processor::new().dispatch(TileFor(channels)).channels);
    if !fits || !is_whole(g.channels_in) || !is_whole(g.channels_out) {
        return false;
    }
    let pixels = g.batch * g.height * g.width;
    // Products of a channel in and one out, and what bringing a kernel to the points and back costs in such.
    g.channels_in.min(g.channels_out) >= 64 && pixels * TAPS > 54 * (Tiling::of(g).num_tiles() + 60)
}

/// `y = w * x`; `finish` as in [`super::forward`].
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
