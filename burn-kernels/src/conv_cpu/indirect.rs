//! Convolutions of any shape: tiles of the result in registers (`tile`), whose pixels meet those of a list; parallel over the
//! result's pixels or, where the weights are the larger part, over its channels.

use rayon::prelude::*;

use super::tile::{ChannelSums, Columns, PixelSums, TileFor, TileSize};
use super::{PARTS, sum_parts};
use crate::geometry::{Geometry, Meeting};
use crate::memory::{Buffer, filled};
use crate::processor::Processor;

/// Tiles of pixels that a thread takes at a time, all channels of them: enough for the weights to be worth reading.
const TILES: usize = 4;
/// Pixels whose gradients stay in the second-level cache while all rows of a weight gradient go over them.
const PIXELS: usize = 64;
/// Places in depth, or rows, that are transposed together: a cache line.
const LINE: usize = 16;
/// Weight gradients up to this many elements are summed by groups of pixels, larger ones by rows.
const SMALL_WEIGHT: usize = 64 * 1024;
/// Pixels that a thread brings together at a time from the panels of their channels.
const GATHERED: usize = 64;

/// `y = w * x`; `finish` as in [`super::forward`].
pub(super) fn forward(
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Buffer {
    let (taps, c) = (g.taps(), g.channels_in);
    let weights = Weights { data: weight, step: c * taps, tap_step: [g.kernel[1], 1], depth_step: taps };
    sums(&g.forward(), Source { data: x, depth: c }, &weights, g.channels_out, finish)
}

/// Gradient of the images, given that of the output.
pub(super) fn input_grad(g: &Geometry, weight: &[f32], grad: &[f32]) -> Buffer {
    let taps = g.taps();
    let weights =
        Weights { data: weight, step: taps, tap_step: [g.kernel[1], 1], depth_step: g.channels_in * taps };
    let source = Source { data: grad, depth: g.channels_out };
    sums(&g.back(), source, &weights, g.channels_in, |_, _| ())
}

/// Pixels of `depth` values.
#[derive(Clone, Copy)]
struct Source<'a> {
    data: &'a [f32],
    depth: usize,
}

/// Where the weight of a channel, a tap and a place in depth is.
struct Weights<'a> {
    data: &'a [f32],
    step: usize,
    tap_step: [usize; 2],
    depth_step: usize,
}

impl Weights<'_> {
    /// `[panels, taps, depth, channels of a tile]`.
    fn pack(&self, taps: &[[usize; 2]], depth: usize, channels: usize, size: TileSize) -> Buffer {
        let panel_len = taps.len() * depth * size.channels;
        let [packed] = filled(channels.div_ceil(size.channels) * panel_len, panel_len, |panel, [packed]| {
            self.pack_panel(panel, taps, depth, channels, size, packed);
        });
        packed
    }

    /// One of the panels, with zeros beyond the last channel.
    fn pack_panel(
        &self,
        panel: usize,
        taps: &[[usize; 2]],
        depth: usize,
        channels: usize,
        size: TileSize,
        packed: &mut [f32],
    ) {
        let first = panel * size.channels;
        let here = size.channels.min(channels - first);
        if here < size.channels {
            packed.fill(0.0);
        }
        let offset = |tap: &[usize; 2]| tap[0] * self.tap_step[0] + tap[1] * self.tap_step[1];
        if self.depth_step < self.step {
            // Where each weight of a channel goes.
            let mut places = vec![usize::MAX; self.step];
            for (number, tap) in taps.iter().enumerate() {
                for d in 0..depth {
                    places[offset(tap) + d * self.depth_step] = (number * depth + d) * size.channels;
                }
            }
            let rows = self.data[first * self.step..].chunks_exact(self.step).take(here);
            return transpose(&rows.collect::<Vec<_>>(), &places, packed);
        }
        for start in (0..depth).step_by(LINE) {
            let block = start..depth.min(start + LINE);
            for (tap, packed) in taps.iter().zip(packed.chunks_exact_mut(depth * size.channels)) {
                let packed = &mut packed[block.start * size.channels..block.end * size.channels];
                let from = &self.data[first * self.step + offset(tap)..];
                for (d, packed) in block.clone().zip(packed.chunks_exact_mut(size.channels)) {
                    let from = &from[d * self.depth_step..];
                    if self.step == 1 {
                        packed[..here].copy_from_slice(&from[..here]);
                    } else {
                        let from = from.iter().step_by(self.step);
                        packed[..here].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        }
    }
}

/// Writes each column of `rows` side by side, where `places` says, if that is a place.
fn transpose(rows: &[&[f32]], places: &[usize], to: &mut [f32]) {
    let len = places.len();
    let whole = len / LINE * LINE;
    for (row, rows) in (0..).step_by(LINE).zip(rows.chunks(LINE)) {
        let blocks = if rows.len() == LINE { whole } else { 0 };
        Processor::new().run(
            #[inline(always)]
            || {
                for start in (0..blocks).step_by(LINE) {
                    let rows: [&[f32; LINE]; LINE] = core::array::from_fn(|r| {
                        rows[r][start..].first_chunk().expect("as long as the others")
                    });
                    for (column, &place) in places[start..start + LINE].iter().enumerate() {
                        if let Some(to) =
                            to.get_mut(place.saturating_add(row)..).and_then(<[f32]>::first_chunk_mut)
                        {
                            *to = core::array::from_fn::<f32, LINE, _>(|r| rows[r][column]);
                        }
                    }
                }
            },
        );
        for (r, from) in rows.iter().enumerate() {
            for (from, &place) in from.iter().zip(places).skip(blocks) {
                if place != usize::MAX {
                    to[place + row + r] = *from;
                }
            }
        }
    }
}

/// For every pixel of the target and every channel, the sum over taps and depth; then `finish`, as in [`forward`].
fn sums(
    meeting: &Meeting,
    source: Source<'_>,
    weights: &Weights<'_>,
    channels: usize,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Buffer {
    let processor = Processor::new();
    let size = processor.dispatch(TileFor(channels));
    let period = meeting.period();
    let phases = (0..period).flat_map(|y| (0..period).map(move |x| [y, x]));
    let phases: Vec<_> =
        phases.map(|phase| (phase, meeting.taps(phase))).filter(|(_, taps)| !taps.is_empty()).collect();
    // Where the stride leaves pixels out, nothing meets them.
    let is_gapless = phases.len() == period * period;
    let zeros = vec![0.0; source.depth];
    let ([height, width], pixels) = (meeting.target, meeting.num_targets());
    let num_taps: usize = phases.iter().map(|(_, taps)| taps.len()).sum();
    if 2 * num_taps * source.depth * channels > source.data.len() {
        // Many weights: each thread takes channels and goes through all pixels, so that they are read once, and what is packed of
        // them stays in the cache.
        let tiles: Vec<_> = phases
            .iter()
            .map(|(phase, taps)| meeting.tiles(0..meeting.batch * height, *phase, taps, size.pixels))
            .collect();
        let panel_len = pixels * size.channels;
        let [panels] = filled(channels.div_ceil(size.channels) * panel_len, panel_len, |panel, [out]| {
            if !is_gapless {
                out.fill(0.0);
            }
            for ((_, taps), tiles) in phases.iter().zip(&tiles) {
                let mut packed = Buffer::of_any(taps.len() * source.depth * size.channels);
                weights.pack_panel(panel, taps, source.depth, channels, size, &mut packed);
                processor.dispatch(PixelSums {
                    size,
                    tiles,
                    source: source.data,
                    zeros: &zeros,
                    weights: &packed,
                    out: &mut *out,
                    out_pitch: size.channels,
                    channels: size.channels,
                });
            }
        });
        let [out] = filled(pixels * channels, GATHERED * channels, |block, [out]| {
            for (pixel, out) in (block * GATHERED..).zip(out.chunks_exact_mut(channels)) {
                for (out, panel) in out.chunks_mut(size.channels).zip(panels.chunks_exact(panel_len)) {
                    out.copy_from_slice(&panel[pixel * size.channels..][..out.len()]);
                }
            }
            finish(block * GATHERED * channels, out);
        });
        return out;
    }

    let phases: Vec<_> = phases
        .into_iter()
        .map(|(phase, taps)| {
            let packed = weights.pack(&taps, source.depth, channels, size);
            (phase, taps, packed)
        })
        .collect();
    let rows = (TILES * size.pixels * period * period).div_ceil(width);
    let [out] = filled(pixels * channels, rows * width * channels, |block, [out]| {
        let first = block * rows * width * channels;
        let rows = block * rows..(block * rows + out.len() / (width * channels));
        if !is_gapless {
            out.fill(0.0);
        }
        for (phase, taps, packed) in &phases {
            let tiles = meeting.tiles(rows.clone(), *phase, taps, size.pixels);
            for (panel, weights) in packed.chunks_exact(taps.len() * source.depth * size.channels).enumerate()
            {
                let first = panel * size.channels;
                processor.dispatch(PixelSums {
                    size,
                    tiles: &tiles,
                    source: source.data,
                    zeros: &zeros,
                    weights,
                    out: &mut out[first..],
                    out_pitch: channels,
                    channels: size.channels.min(channels - first),
                });
            }
        }
        finish(first, out);
    });
    out
}

/// Gradient of the weights, given that of the output: `[channels out, channels in, kernel height, kernel width]`.
pub(super) fn weight_grad(g: &Geometry, x: &[f32], grad: &[f32]) -> Buffer {
    let (meeting, taps, depth) = (g.forward(), g.taps(), g.channels_in);

    let (processor, columns) = (Processor::new(), g.channels_out);
    let size = processor.dispatch(TileFor(columns));
    let (rows, all) = ((taps * depth).next_multiple_of(size.pixels), columns.next_multiple_of(size.channels));
    let numbers = meeting.sources_by_tap();
    let pixels = meeting.num_targets();
    let is_small = rows * all <= SMALL_WEIGHT;
    let add = |sums: &mut [f32], first_row: usize, range: core::ops::Range<usize>| {
        let (mut room, mut grads, first_pixel) = (Vec::new(), Vec::new(), range.start);
        for start in range.clone().step_by(PIXELS) {
            let range = start..range.end.min(start + PIXELS);
            let taps: Vec<_> = numbers.chunks_exact(pixels).map(|numbers| &numbers[range.clone()]).collect();
            let from = &grad[range.start * columns..range.end * columns];
            processor.dispatch(Columns { size, from, channels: columns, to: &mut grads });
            for (tile, sums) in sums.chunks_exact_mut(size.pixels * all).enumerate() {
                processor.dispatch(ChannelSums {
                    size,
                    source: x,
                    depth,
                    taps: &taps,
                    first_row: first_row + tile * size.pixels,
                    grad: &grads,
                    sums,
                    adds: start > first_pixel,
                    room: &mut room,
                });
            }
        }
    };
    let group = if is_small { pixels.div_ceil(PARTS) } else { pixels };
    let groups = pixels.div_ceil(group);
    // A thread that has many rows reads the gradient once for all of them.
    let threads = rayon::current_num_threads();
    let part = if is_small { rows } else { (rows / size.pixels).div_ceil(threads) * size.pixels };
    let mut sums = Buffer::of_any(groups * rows * all);
    sums.par_chunks_exact_mut(rows * all).enumerate().for_each(|(index, sums)| {
        let range = index * group..((index + 1) * group).min(pixels);
        sums.par_chunks_mut(part * all)
            .enumerate()
            .for_each(|(index, sums)| add(sums, index * part, range.clone()));
    });

    let sums = sum_parts(&mut sums, rows * all);
    // From [tiles of rows, tiles of columns, rows of a tile, columns of a tile].
    let weights = g.channels_in * g.taps();
    let [weight_grad] = filled(columns * weights, size.channels * weights, |tile, [out]| {
        for first in (0..g.channels_in).step_by(LINE) {
            let channels = first..g.channels_in.min(first + LINE);
            let places = channels.flat_map(|channel| (0..g.taps()).map(move |tap| (channel, tap)));
            let places = places.map(|(channel, tap)| {
                let row = tap * g.channels_in + channel;
                row / size.pixels * size.pixels * all
                    + (tile * size.pixels + row % size.pixels) * size.channels
            });
            let places: Vec<_> = places.collect();
            for (column, out) in out.chunks_exact_mut(weights).enumerate() {
                let out = &mut out[first * g.taps()..][..places.len()];
                out.iter_mut().zip(&places).for_each(|(out, from)| *out = sums[from + column]);
            }
        }
    });
    weight_grad
}
