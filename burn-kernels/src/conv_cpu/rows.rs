//! Convolutions of few channels, whose images are copied band by band between zeros: what a tile of pixels meets then lies at
//! distances that are known when this is compiled, and nothing is looked up. Lists of pixels (`indirect`) cost as much as
//! the few products that each one takes part in.
//!
//! Not here: strides of more than 2, and of more than the kernel.

mod axis;
mod band;
mod sums;

use rayon::prelude::*;

use self::axis::Axis;
use self::band::{Band, LINE};
use self::sums::{RowSums, RowTile, Run, TapSums, TapTile};
use super::{PARTS, sum_parts};
use crate::geometry::Geometry;
use crate::memory::{Buffer, filled};
use crate::processor::Processor;

/// More weights than these many channels have do not stay in the first-level cache.
const MOST_CHANNELS: usize = 64;
/// Values of a band, at most, if that is a row of results: two thirds of a first-level cache.
const BAND: usize = 8 * 1024;

/// Whether a convolution can go this way, and is the faster for it. The same for its three products.
pub(super) fn pays(g: &Geometry) -> bool {
    g.taps() > 1
        && (1..=2).contains(&g.stride)
        && g.kernel.iter().all(|&kernel| kernel >= g.stride)
        && g.channels_in.max(g.channels_out) <= MOST_CHANNELS
}

/// `y = w * x`; `finish` as in [`super::forward`].
pub(super) fn forward(
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Buffer {
    let (c, taps) = (g.channels_in, g.taps());
    let axes = [0, 1].map(|number| Axis::forward(g, number));
    let weights = Weights { data: weight, channel_step: c * taps, depth_step: taps, width: g.kernel[1] };
    correlate(g.batch, &axes, x, [c, g.channels_out], &weights, finish)
}

/// Gradient of the images, given that of the output.
pub(super) fn input_grad(g: &Geometry, weight: &[f32], grad: &[f32]) -> Buffer {
    let (c, taps) = (g.channels_in, g.taps());
    let axes = [0, 1].map(|number| Axis::back(g, number));
    let weights = Weights { data: weight, channel_step: taps, depth_step: c * taps, width: g.kernel[1] };
    correlate(g.batch, &axes, grad, [g.channels_out, c], &weights, |_, _| ())
}

/// Where the kernel of a channel of the result and one of the source is.
struct Weights<'a> {
    data: &'a [f32],
    channel_step: usize,
    depth_step: usize,
    /// Taps of a kernel's row.
    width: usize,
}

/// Every so many pixels of the result, which the same taps meet.
struct Phase {
    first: [usize; 2],
    runs: Vec<Run>,
    /// `[panels, what the runs meet, channels of a panel]`, with zeros beyond the last channel.
    weights: Buffer,
}

impl Phase {
    fn new(
        first: [usize; 2],
        axes: &[Axis; 2],
        band: &Band,
        weights: &Weights<'_>,
        [depth, channels]: [usize; 2],
        panel: usize,
    ) -> Self {
        let [rows, columns] = [0, 1].map(|axis| &axes[axis].taps[first[axis]]);
        let [[above, _], [before, _]] = [0, 1].map(|axis| axes[axis].offsets());
        let blocks = depth / band.block;
        let places = rows.iter().flat_map(|row| (0..blocks).map(move |block| (row, block)));
        let runs = places.clone().map(|(row, block)| Run {
            first: (row.offset - above) as usize * band.row_len()
                + (block * band.columns + (columns[0].offset - before) as usize) * band.block,
            len: columns.len() * band.block,
        });
        let values = places.flat_map(|(row, block)| {
            let taps = columns.iter().map(move |column| row.number * weights.width + column.number);
            taps.flat_map(move |tap| {
                (0..band.block).map(move |d| (block * band.block + d) * weights.depth_step + tap)
            })
        });
        let values: Vec<_> = values.collect();
        let panel_len = values.len() * panel;
        let [packed] = filled(channels.div_ceil(panel) * panel_len, panel_len, |index, [packed]| {
            let here = panel.min(channels - index * panel);
            let data = &weights.data[index * panel * weights.channel_step..];
            for (packed, place) in packed.chunks_exact_mut(panel).zip(&values) {
                let (packed, beyond) = packed.split_at_mut(here);
                let from = data[*place..].iter().step_by(weights.channel_step);
                packed.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                beyond.fill(0.0);
            }
        });
        Self { first, runs: runs.collect(), weights: packed }
    }
}

/// For every pixel of the result and every channel, the sum over taps and depth.
fn correlate(
    batch: usize,
    axes: &[Axis; 2],
    source: &[f32],
    [depth, channels]: [usize; 2],
    weights: &Weights<'_>,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Buffer {
    let [vertical, horizontal] = axes;
    let (processor, period) = (Processor::new(), vertical.taps.len());
    let size = processor.dispatch(RowTile { width: horizontal.num_targets(), channels });
    let [[above, below], [before, after]] = [0, 1].map(|axis| axes[axis].offsets());
    // Also for the pixels that fill up the last tile.
    let last = (horizontal.num_targets().next_multiple_of(size.rows) - 1) * horizontal.step + after as usize;
    let band = Band {
        height: vertical.source,
        width: horizontal.source,
        channels: depth,
        block: if depth.is_multiple_of(LINE) { LINE } else { 1 },
        before: -before as usize,
        columns: -before as usize + horizontal.source.max(last + 1),
    };
    let phases = (0..period).flat_map(|row| (0..period).map(move |column| [row, column]));
    let new = |first| Phase::new(first, axes, &band, weights, [depth, channels], size.channels());
    let phases: Vec<_> = phases.map(new).collect();

    // Rows of results that are met by the same rows of a band, `period` at a time.
    let halo = (below - above) as usize;
    let rows = (BAND / band.row_len()).saturating_sub(halo + 1) / vertical.step + 1;
    let num_rows = vertical.num_targets();
    let rows = num_rows.div_ceil(num_rows.div_ceil(rows));
    let row_len = horizontal.target * channels;
    let mut out = Buffer::of_any(batch * vertical.target * row_len);
    let bands = out.par_chunks_exact_mut(vertical.target * row_len).enumerate().flat_map(|(image, out)| {
        out.par_chunks_mut(rows * period * row_len).enumerate().map(move |(band, out)| (image, band, out))
    });
    bands.for_each_init(Vec::new, |room: &mut Vec<f32>, (image, number, out)| {
        let num_rows = (out.len() / row_len).div_ceil(period);
        let first = (number * rows * vertical.step) as isize + above;
        let rows_met = first..first + ((num_rows - 1) * vertical.step + halo + 1) as isize;
        band.copy(&source[image * band.image_len()..][..band.image_len()], rows_met, room);
        for phase in &phases {
            let panels = phase.weights.chunks_exact(phase.weights.len() / channels.div_ceil(size.channels()));
            for (panel, weights) in panels.enumerate() {
                let out_rows = out.chunks_exact_mut(row_len).skip(phase.first[0]).step_by(period);
                for (row, out) in out_rows.enumerate() {
                    processor.dispatch(RowSums {
                        size,
                        source: &room[row * vertical.step * band.row_len()..],
                        pitch: horizontal.step * band.block,
                        runs: &phase.runs,
                        weights,
                        width: (horizontal.target - phase.first[1]).div_ceil(period),
                        out: &mut out[phase.first[1] * channels..],
                        out_pitch: period * channels,
                        channels: panel * size.channels()..channels,
                    });
                }
            }
        }
        finish(image * vertical.target * row_len + number * rows * period * row_len, out);
    });
    out
}

/// Gradient of the weights, given that of the output.
pub(super) fn weight_grad(g: &Geometry, x: &[f32], grad: &[f32]) -> Buffer {
    let (c, k, processor) = (g.channels_in, g.channels_out, Processor::new());
    let (height, width) = (g.out_height(), g.out_width());
    let band = Band {
        height: g.height,
        width: g.width,
        channels: c,
        block: c,
        before: g.padding,
        columns: g.width + 2 * g.padding,
    };
    // Of a pixel, what a row of the kernel meets lies side by side.
    let len = g.kernel[1] * c;
    let size = processor.dispatch(TapTile { len, channels: k });
    let (tile, tiles, panels) =
        (size.rows * size.channels(), len.div_ceil(size.rows), k.div_ceil(size.channels()));
    let columns = panels * size.channels();

    let rows = (BAND / (g.stride * band.row_len() + width * k)).clamp(1, height);
    let bands: Vec<_> =
        (0..g.batch).flat_map(|image| (0..height).step_by(rows).map(move |row| (image, row))).collect();
    let part = bands.len().div_ceil(PARTS);
    // [parts, kernel's rows, panels, tiles, places of a tile, channels of a panel].
    let sums_len = g.kernel[0] * panels * tiles * tile;
    let [mut sums] = filled(bands.len().div_ceil(part) * sums_len, sums_len, |number, [sums]| {
        let (mut room, mut padded) = (Vec::new(), Vec::new());
        let bands = bands[number * part..].iter().take(part);
        for (index, &(image, row)) in bands.enumerate() {
            let rows = rows.min(height - row);
            let first = (row * g.stride) as isize - g.padding as isize;
            let rows_met = first..first + ((rows - 1) * g.stride + g.kernel[0]) as isize;
            band.copy(&x[image * band.image_len()..][..band.image_len()], rows_met, &mut room);
            let mut grad = &grad[(image * height + row) * width * k..][..rows * width * k];
            if columns > k {
                padded.resize(rows * width * columns, 0.0);
                let pixels = padded.chunks_exact_mut(columns).zip(grad.chunks_exact(k));
                pixels.for_each(|(to, from)| to[..k].copy_from_slice(from));
                grad = &padded;
            }
            for (number, sums) in sums.chunks_exact_mut(tile).enumerate() {
                let (kernel_row, panel, tile) =
                    (number / tiles / panels, number / tiles % panels, number % tiles);
                processor.dispatch(TapSums {
                    size,
                    source: &room[kernel_row * band.row_len() + tile * size.rows..],
                    row_step: g.stride * band.row_len(),
                    pitch: g.stride * c,
                    grad: &grad[panel * size.channels()..],
                    grad_pitch: columns,
                    rows,
                    width,
                    sums,
                    adds: index > 0,
                });
            }
        }
    });
    let sums = sum_parts(&mut sums, sums_len);
    let [weight_grad] = filled(k * c * g.taps(), c * g.taps(), |channel, [out]| {
        let (panel, column) = (channel / size.channels(), channel % size.channels());
        for (place, out) in out.iter_mut().enumerate() {
            let (c_in, row, tap) = (place / g.taps(), place % g.taps() / g.kernel[1], place % g.kernel[1]);
            let from = (row * panels + panel) * tiles * size.rows + tap * c + c_in;
            *out = sums[from * size.channels() + column];
        }
    });
    weight_grad
}
