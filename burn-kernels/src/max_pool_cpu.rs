//! Max pooling and its gradient on f32 images that lie with their channels last, one image row or one image a thread.

use core::ops::Range;

use rayon::prelude::*;

use crate::geometry::Geometry;
use crate::memory::{Buffer, filled};
use crate::processor::Processor;

/// A pool's windows are those of a convolution of as many channels out as in.
fn window(g: &Geometry, axis: usize, place: usize) -> Range<usize> {
    let len = [g.height, g.width][axis];
    let first = place * g.stride;
    first.saturating_sub(g.padding)..(first + g.kernel[axis] - g.padding).min(len)
}

/// `greatest(x, so far)`; NaN stays.
#[inline(always)]
fn is_greater(x: f32, than: f32) -> bool {
    x > than || x.is_nan()
}

/// `[batch, out height, out width, channels]`.
pub(crate) fn forward(g: &Geometry, x: &[f32]) -> Buffer {
    let (channels, width) = (g.channels_in, g.out_width());
    let (processor, row_len) = (Processor::new(), width * channels);
    let [y] = filled(g.batch * g.out_height() * row_len, row_len, |row, [y]| {
        let (image, row) = (row / g.out_height(), row % g.out_height());
        processor.run(
            #[inline(always)]
            || {
                for (column, y) in y.chunks_exact_mut(channels).enumerate() {
                    y.fill(f32::NEG_INFINITY);
                    for source_row in window(g, 0, row) {
                        for source_column in window(g, 1, column) {
                            let at = ((image * g.height + source_row) * g.width + source_column) * channels;
                            for (y, x) in y.iter_mut().zip(&x[at..at + channels]) {
                                *y = if is_greater(*x, *y) { *x } else { *y };
                            }
                        }
                    }
                }
            },
        );
    });
    y
}

/// Channels that are looked at together: their greatest values so far stay in registers.
const LANES: usize = 16;

/// Gradient of the images, given that of the output.
pub(crate) fn input_grad(g: &Geometry, x: &[f32], grad: &[f32]) -> Buffer {
    let channels = g.channels_in;
    let (image_len, grad_len) = (g.height * g.width * channels, g.out_height() * g.out_width() * channels);
    let processor = Processor::new();
    let mut x_grad = Buffer::of_any(x.len());
    let images = x_grad.par_chunks_exact_mut(image_len).zip(x.par_chunks_exact(image_len));
    images.zip(grad.par_chunks_exact(grad_len)).for_each(|((x_grad, x), grad)| {
        let mut places = Vec::with_capacity(g.taps());
        processor.run(
            #[inline(always)]
            || {
                x_grad.fill(0.0);
                for (pixel, grad) in grad.chunks_exact(channels).enumerate() {
                    let (row, column) = (pixel / g.out_width(), pixel % g.out_width());
                    places.clear();
                    for row in window(g, 0, row) {
                        places.extend(window(g, 1, column).map(|column| (row * g.width + column) * channels));
                    }
                    let whole = channels / LANES * LANES;
                    for first in (0..whole).step_by(LANES) {
                        add_where_greatest::<LANES>(x, &places, first, grad, x_grad);
                    }
                    for first in whole..channels {
                        add_where_greatest::<1>(x, &places, first, grad, x_grad);
                    }
                }
            },
        );
    });
    x_grad
}

/// Adds `grad` of some channels, from `first` on, at the foremost of the greatest values at `places`.
#[inline(always)]
fn add_where_greatest<const LANES: usize>(
    x: &[f32],
    places: &[usize],
    first: usize,
    grad: &[f32],
    x_grad: &mut [f32],
) {
    let mut greatest = [f32::NEG_INFINITY; LANES];
    let mut winner = [u32::MAX; LANES];
    for (number, place) in (0..).zip(places) {
        let x: &[f32; LANES] = x[place + first..].first_chunk().expect("a pixel has all channels");
        for lane in 0..LANES {
            let wins = is_greater(x[lane], greatest[lane]);
            greatest[lane] = if wins { x[lane] } else { greatest[lane] };
            winner[lane] = if wins { number } else { winner[lane] };
        }
    }
    let grad: &[f32; LANES] = grad[first..].first_chunk().expect("a pixel has all channels");
    for (number, place) in (0..).zip(places) {
        let x_grad: &mut [f32; LANES] =
            x_grad[place + first..].first_chunk_mut().expect("a pixel has all channels");
        for lane in 0..LANES {
            x_grad[lane] += if winner[lane] == number { grad[lane] } else { 0.0 };
        }
    }
}
