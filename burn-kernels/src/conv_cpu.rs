//! Convolution and its two gradients on NCHW slices of f32: products of matrices that fit a core's second-level cache,
//! parallel over images (or, for the gradient of large weights, over input channels).
//!
//! Every sum is taken in an order that depends on the shapes alone, so neither the number of threads nor their timing
//! changes a bit of any result.

use core::cell::Cell;

use rayon::prelude::*;

use crate::gemm::{View, multiply};
use crate::im2col::Geometry;

/// Elements of the unrolled tile: half a megabyte, a part of the second-level cache of any CPU of the last ten years.
const TILE: usize = 128 * 1024;
/// Weight gradients up to this many elements are summed by groups of images, larger ones by channels.
const SMALL_WEIGHT: usize = 64 * 1024;
/// Into how many parts the work on a weight gradient is cut. A constant: it decides the order of summation.
const PARTS: usize = 16;
/// Output channels that are transposed together: a cache line.
const LINE: usize = 16;

/// `y = w * x`: `[batch, out, out_height, out_width]`.
pub(crate) fn forward(g: &Geometry, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let (unrolled, area) = (g.unrolled(), g.out_area());
    let weight = View::rows(weight, g.channels_out, unrolled, unrolled);
    let mut y = vec![0.0; g.batch * g.channels_out * area];
    let images = x.par_chunks_exact(g.channels_in * g.area());
    y.par_chunks_exact_mut(g.channels_out * area).zip(images).for_each(|(y, x)| {
        if g.is_pointwise() {
            return multiply(y, area, weight, View::rows(x, unrolled, area, area), false);
        }
        for rows in tiles(g, unrolled) {
            let (first, columns) = (rows.start * g.out_width(), rows.len() * g.out_width());
            with_scratch(unrolled * columns, |matrix| {
                g.unroll(x, rows, matrix);
                multiply(
                    &mut y[first..],
                    area,
                    weight,
                    View::rows(matrix, unrolled, columns, columns),
                    false,
                );
            });
        }
    });
    y
}

/// Gradient of the images, given that of the output.
pub(crate) fn input_grad(g: &Geometry, weight: &[f32], grad: &[f32]) -> Vec<f32> {
    let (unrolled, area) = (g.unrolled(), g.out_area());
    // At stride 1 it is the convolution of the gradient with the kernels turned by half a turn.
    if g.stride == 1 && g.kernel[0] == g.kernel[1] && g.padding < g.kernel[0] {
        let turned = Geometry {
            channels_in: g.channels_out,
            channels_out: g.channels_in,
            height: g.out_height(),
            width: g.out_width(),
            padding: g.kernel[0] - 1 - g.padding,
            ..*g
        };
        return forward(&turned, grad, &turn(g, weight));
    }
    let weight = View::rows(weight, g.channels_out, unrolled, unrolled).transposed();
    let mut x_grad = vec![0.0; g.batch * g.channels_in * g.area()];
    let grads = grad.par_chunks_exact(g.channels_out * area);
    x_grad.par_chunks_exact_mut(g.channels_in * g.area()).zip(grads).for_each(|(x_grad, grad)| {
        for rows in tiles(g, unrolled) {
            let (first, columns) = (rows.start * g.out_width(), rows.len() * g.out_width());
            with_scratch(unrolled * columns, |matrix| {
                let grad = View::rows(&grad[first..], g.channels_out, columns, area);
                multiply(matrix, columns, weight, grad, false);
                g.roll_add(matrix, rows, x_grad);
            });
        }
    });
    x_grad
}

/// Gradient of the weights, given that of the output.
pub(crate) fn weight_grad(g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let (taps, unrolled, outputs) = (g.taps(), g.unrolled(), g.channels_out);
    let (images, channels) = if unrolled * outputs <= SMALL_WEIGHT {
        (g.batch.div_ceil(PARTS), g.channels_in)
    } else {
        (g.batch, g.channels_in.div_ceil(PARTS))
    };
    let groups = g.batch.div_ceil(images);
    // Transposed, one copy for each group of images: [group, unrolled, outputs].
    let mut sums = vec![0.0; groups * unrolled * outputs];
    sums.par_chunks_exact_mut(unrolled * outputs).enumerate().for_each(|(group, sums)| {
        let members = group * images..g.batch.min((group + 1) * images);
        sums.par_chunks_mut(channels * taps * outputs).enumerate().for_each(|(block, sums)| {
            let first = block * channels * g.area();
            let planes = sums.len() / (taps * outputs) * g.area();
            for image in members.clone() {
                let x = &x[image * g.channels_in * g.area()..][first..first + planes];
                let grad = &grad[image * outputs * g.out_area()..][..outputs * g.out_area()];
                add_image(g, x, grad, sums);
            }
        });
    });

    let mut weight_grad = vec![0.0; outputs * unrolled];
    weight_grad.par_chunks_mut(LINE * unrolled).enumerate().for_each(|(block, out)| {
        let lanes = out.len() / unrolled;
        for row in 0..unrolled {
            let mut total = [0.0; LINE];
            for sums in sums.chunks_exact(unrolled * outputs) {
                let line = &sums[row * outputs + block * LINE..][..lanes];
                total.iter_mut().zip(line).for_each(|(total, term)| *total += term);
            }
            for (lane, total) in total[..lanes].iter().enumerate() {
                out[lane * unrolled + row] = *total;
            }
        }
    });
    weight_grad
}

/// Adds one image's part of the transposed weight gradient, for the channels in `x`.
fn add_image(g: &Geometry, x: &[f32], grad: &[f32], sums: &mut [f32]) {
    let (area, outputs) = (g.out_area(), g.channels_out);
    let unrolled = sums.len() / outputs;
    if g.is_pointwise() {
        let grad = View::rows(grad, outputs, area, area).transposed();
        return multiply(sums, outputs, View::rows(x, unrolled, area, area), grad, true);
    }
    for rows in tiles(g, unrolled) {
        let (first, columns) = (rows.start * g.out_width(), rows.len() * g.out_width());
        with_scratch(unrolled * columns, |matrix| {
            g.unroll(x, rows, matrix);
            let grad = View::rows(&grad[first..], outputs, columns, area).transposed();
            multiply(sums, outputs, View::rows(matrix, unrolled, columns, columns), grad, true);
        });
    }
}

/// Cuts the output's rows so that `unrolled` rows of the matrix fit a tile, but at least one output row each.
fn tiles(g: &Geometry, unrolled: usize) -> impl Iterator<Item = core::ops::Range<usize>> + use<> {
    let height = g.out_height();
    let step = (TILE / (unrolled * g.out_width()).max(1)).clamp(1, height);
    (0..height).step_by(step).map(move |row| row..height.min(row + step))
}

/// `[out, in, ky, kx]` to `[in, out, last - ky, last - kx]`.
fn turn(g: &Geometry, weight: &[f32]) -> Vec<f32> {
    let taps = g.taps();
    let mut turned = vec![0.0; weight.len()];
    turned.par_chunks_exact_mut(g.channels_out * taps).enumerate().for_each(|(channel, turned)| {
        for (output, turned) in turned.chunks_exact_mut(taps).enumerate() {
            let kernel = &weight[(output * g.channels_in + channel) * taps..][..taps];
            turned.iter_mut().zip(kernel.iter().rev()).for_each(|(to, from)| *to = *from);
        }
    });
    turned
}

/// Lends `len` floats of unknown content that stay with the thread, so that tiles cost no allocation.
fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local!(static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) });
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = work(&mut scratch[..len]);
    SCRATCH.set(scratch);
    result
}
