//! Max pooling and its gradient on f32 images that lie with their channels last, one image row or one image a thread.

use core::ops::Range;

use pulp::{Simd, WithSimd};

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

/// Gradient of the images, given that of the output.
pub(crate) fn input_grad(g: &Geometry, x: &[f32], grad: &[f32]) -> Buffer {
    let channels = g.channels_in;
    let (image_len, grad_len) = (g.height * g.width * channels, g.out_height() * g.out_width() * channels);
    let [x_grad] = filled(x.len(), image_len, |image, [x_grad]| {
        let (x, grad) = (&x[image * image_len..][..image_len], &grad[image * grad_len..][..grad_len]);
        Processor::new().dispatch(ImageGrad { g, x, grad, x_grad });
    });
    x_grad
}

/// Of one image.
struct ImageGrad<'a> {
    g: &'a Geometry,
    x: &'a [f32],
    grad: &'a [f32],
    x_grad: &'a mut [f32],
}

impl WithSimd for ImageGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { g, x, grad, x_grad } = self;
        let channels = g.channels_in;
        let mut places = Vec::with_capacity(g.taps());
        x_grad.fill(0.0);
        for (pixel, grad) in grad.chunks_exact(channels).enumerate() {
            let (row, column) = (pixel / g.out_width(), pixel % g.out_width());
            places.clear();
            for row in window(g, 0, row) {
                places.extend(window(g, 1, column).map(|column| (row * g.width + column) * channels));
            }
            // What is looked for stays in registers, for as many channels as one holds.
            for (first, grad) in (0..).step_by(S::F32_LANES).zip(grad.chunks(S::F32_LANES)) {
                let mut greatest = simd.splat_f32s(f32::NEG_INFINITY);
                let mut winner = simd.splat_u32s(u32::MAX);
                for (number, place) in (0..).zip(&places) {
                    let x = simd.partial_load_f32s(&x[place + first..][..grad.len()]);
                    let is_nan = simd.not_m32s(simd.equal_f32s(x, x));
                    let wins = simd.or_m32s(simd.greater_than_f32s(x, greatest), is_nan);
                    greatest = simd.select_f32s(wins, x, greatest);
                    winner = simd.select_u32s(wins, simd.splat_u32s(number), winner);
                }
                let zeros = simd.splat_f32s(0.0);
                let grads = simd.partial_load_f32s(grad);
                for (number, place) in (0..).zip(&places) {
                    let x_grad = &mut x_grad[place + first..][..grad.len()];
                    let is_winner = simd.equal_u32s(winner, simd.splat_u32s(number));
                    let sum = simd
                        .add_f32s(simd.partial_load_f32s(x_grad), simd.select_f32s(is_winner, grads, zeros));
                    simd.partial_store_f32s(x_grad, sum);
                }
            }
        }
    }
}
