//! Images and kernels to the points and back, vector by vector of channels.

#![expect(clippy::needless_range_loop, reason = "rows and columns of squares, as the paper has them")]

use core::ops::Range;

use pulp::{Simd, WithSimd};

use super::maps::{Kernel, KernelGrad, Map, Tile, TileGrad, Window};
use super::tiling::Tiling;
use super::{KERNEL, Kernels, TAPS, TILE, WINDOW};
use crate::conv_cpu::tile::TileSize;
use crate::geometry::NOWHERE;

/// `out[point][tile][channel]`, the points `step` values apart, of the windows of tiles.
pub(super) struct WindowsToPoints<'a> {
    pub(super) tiling: &'a Tiling,
    pub(super) tiles: Range<usize>,
    pub(super) source: &'a [f32],
    pub(super) depth: usize,
    pub(super) out: &'a mut [f32],
    pub(super) step: usize,
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
pub(super) struct TilesToPoints<'a> {
    pub(super) tiling: &'a Tiling,
    pub(super) tiles: Range<usize>,
    pub(super) source: &'a [f32],
    pub(super) depth: usize,
    pub(super) size: TileSize,
    pub(super) out: &'a mut [f32],
    pub(super) step: usize,
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
        store::<S, WINDOW>(to, &mut out[first..], step);
    }
}

/// A square of vectors that lie `step` values apart, row by row.
#[inline(always)]
fn load<S: Simd, const N: usize>(simd: S, from: &[f32], step: usize) -> [[S::f32s; N]; N] {
    let mut square = [[simd.splat_f32s(0.0); N]; N];
    for i in 0..N {
        for j in 0..N {
            square[i][j] = S::as_simd_f32s(&from[(i * N + j) * step..][..S::F32_LANES]).0[0];
        }
    }
    square
}

/// Writes one so.
#[inline(always)]
fn store<S: Simd, const N: usize>(square: [[S::f32s; N]; N], to: &mut [f32], step: usize) {
    for i in 0..N {
        for j in 0..N {
            S::as_mut_simd_f32s(&mut to[(i * N + j) * step..][..S::F32_LANES]).0[0] = square[i][j];
        }
    }
}

/// Tiles of the result, which `out` is from its pixel `first_pixel` on, from the points.
pub(super) struct TilesFromPoints<'a> {
    pub(super) tiling: &'a Tiling,
    pub(super) tiles: Range<usize>,
    pub(super) points: &'a [f32],
    pub(super) step: usize,
    pub(super) channels: usize,
    pub(super) first_pixel: usize,
    pub(super) out: &'a mut [f32],
}

impl WithSimd for TilesFromPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tiling, tiles, points, step, channels, first_pixel, out } = self;
        for (place, tile) in tiles.enumerate() {
            let pixels = tiling.pixels::<TILE>(tile, 0);
            for first in (0..channels).step_by(S::F32_LANES) {
                let to = Tile::square(simd, load(simd, &points[place * channels + first..], step));
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
pub(super) struct KernelsToPoints<'a> {
    pub(super) kernels: &'a Kernels<'a>,
    pub(super) depth: usize,
    pub(super) size: TileSize,
    pub(super) out: &'a mut [f32],
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
                let to = Kernel::square(simd, load(simd, &lanes[first..], size.channels));
                store::<S, WINDOW>(to, &mut out[d * size.channels + first..], depth * size.channels);
            }
        }
    }
}

/// The kernels of a panel of channels, `[channels of a panel, depth, taps]`, from sums at the points, `step` apart.
pub(super) struct KernelsFromPoints<'a> {
    pub(super) points: &'a [f32],
    pub(super) step: usize,
    pub(super) depth: usize,
    pub(super) size: TileSize,
    pub(super) channels: usize,
    pub(super) panel: usize,
    pub(super) out: &'a mut [f32],
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
                let to = KernelGrad::square(simd, load(simd, &points[row + first..], step));
                store::<S, KERNEL>(to, &mut lanes[first..], size.channels);
            }
            for (channel, out) in out.chunks_exact_mut(depth * TAPS).enumerate() {
                for tap in 0..TAPS {
                    out[d * TAPS + tap] = lanes[tap * size.channels + channel];
                }
            }
        }
    }
}
