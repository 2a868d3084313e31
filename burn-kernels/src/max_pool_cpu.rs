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
fn is_greater(x: f32, than: f32) -> bool {
    x > than || x.is_nan()
}

/// `[batch, out height, out width, channels]`.
pub(crate) fn forward(g: &Geometry, x: &[f32]) -> Buffer {
    let (channels, width) = (g.channels_in, g.out_width());
    let (processor, row_len) = (Processor::new(), width * channels);
    let [y] = filled(g.batch * g.out_height() * row_len, row_len, |row, [y]| {
        let (image, row) = (row / g.out_height(), row % g.out_height());
        processor.dispatch(|| {
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
        });
    });
    y
}

/// Gradient of the images, given that of the output.
pub(crate) fn input_grad(g: &Geometry, x: &[f32], grad: &[f32]) -> Buffer {
    let channels = g.channels_in;
    let (image_len, grad_len) = (g.height * g.width * channels, g.out_height() * g.out_width() * channels);
    let processor = Processor::new();
    let mut x_grad = Buffer::of_zeros(x.len());
    let images = x_grad.par_chunks_exact_mut(image_len).zip(x.par_chunks_exact(image_len));
    images.zip(grad.par_chunks_exact(grad_len)).for_each(|((x_grad, x), grad)| {
        let (mut greatest, mut place) = (vec![0.0; channels], vec![0u32; channels]);
        processor.dispatch(|| {
            for (pixel, grad) in grad.chunks_exact(channels).enumerate() {
                let (row, column) = (pixel / g.out_width(), pixel % g.out_width());
                greatest.fill(f32::NEG_INFINITY);
                place.fill(u32::MAX);
                let places = || {
                    let rows = window(g, 0, row);
                    rows.flat_map(|row| window(g, 1, column).map(move |column| row * g.width + column))
                };
                for at in places() {
                    let lanes = greatest.iter_mut().zip(&mut place).zip(&x[at * channels..][..channels]);
                    for ((greatest, place), x) in lanes {
                        let wins = is_greater(*x, *greatest);
                        *greatest = if wins { *x } else { *greatest };
                        *place = if wins { at as u32 } else { *place };
                    }
                }
                for at in places() {
                    let lanes = x_grad[at * channels..][..channels].iter_mut().zip(&place).zip(grad);
                    for ((x_grad, place), grad) in lanes {
                        *x_grad += if *place == at as u32 { *grad } else { 0.0 };
                    }
                }
            }
        });
    });
    x_grad
}
