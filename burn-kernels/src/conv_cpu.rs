//! Convolution and its two gradients on f32 images that lie with their channels last: the fastest way for a shape.
//!
//! Every sum is taken in an order that depends on the shapes alone, so neither the number of threads nor their timing
//! changes a bit of any result.

mod indirect;
mod rows;
mod tile;
mod winograd;

use rayon::prelude::*;

use crate::geometry::Geometry;
use crate::memory::Buffer;
use crate::processor::Processor;

/// Into how many parts the work on a weight gradient is cut. A constant: it decides the order of summation.
const PARTS: usize = 16;
/// Values that a thread sums at a time.
const GRAIN: usize = 1 << 12;

/// `y = w * x`: `[batch, out height, out width, channels out]`. `finish` gets every part of it, whole pixels of all channels,
/// while it is in the cache, with the number of its first value.
pub(crate) fn forward(
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Buffer {
    if winograd::pays(g) {
        winograd::forward(g, x, weight, finish)
    } else if rows::pays(g) {
        rows::forward(g, x, weight, finish)
    } else {
        indirect::forward(g, x, weight, finish)
    }
}

/// Gradient of the images, given that of the output.
pub(crate) fn input_grad(g: &Geometry, weight: &[f32], grad: &[f32]) -> Buffer {
    if winograd::pays(g) {
        winograd::input_grad(g, weight, grad)
    } else if rows::pays(g) {
        rows::input_grad(g, weight, grad)
    } else {
        indirect::input_grad(g, weight, grad)
    }
}

/// Gradient of the weights, given that of the output: `[channels out, channels in, kernel height, kernel width]`.
pub(crate) fn weight_grad(g: &Geometry, x: &[f32], grad: &[f32]) -> Buffer {
    if winograd::pays(g) {
        winograd::weight_grad(g, x, grad)
    } else if rows::pays(g) {
        rows::weight_grad(g, x, grad)
    } else {
        indirect::weight_grad(g, x, grad)
    }
}

/// Adds to the first part of `len` values all others, in order.
fn sum_parts(parts: &mut [f32], len: usize) -> &[f32] {
    let (sums, others) = parts.split_at_mut(len);
    sums.par_chunks_mut(GRAIN).enumerate().for_each(|(index, sums)| {
        Processor::new().run(
            #[inline(always)]
            || {
                for part in others.chunks_exact(len) {
                    sums.iter_mut().zip(&part[index * GRAIN..]).for_each(|(sum, value)| *sum += value);
                }
            },
        );
    });
    sums
}

/// For tests: whole numbers, so that sums are exact in any order.
#[cfg(test)]
fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|index| (index * 7 % 11) as f32 - 5.0).collect()
}
