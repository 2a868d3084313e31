//! Batch norm by the batch's own statistics on f32 images that lie with their channels last, with the addition and ReLU
//! behind it in the same pass over memory, and its gradients (Ioffe and Szegedy 2015, section 3).
//!
//! A channel's values are summed in blocks: f32 lanes inside a block, f64 across blocks, always in the same order. The
//! variance is a corrected two-pass one in each block (Chan, Golub and LeVeque 1983, equation 1.7), merged by their
//! equation 2.1: no cancellation, whatever the mean.

mod pixels;

use rayon::prelude::*;

pub(crate) use self::pixels::Pixels;
use crate::memory::{Buffer, filled};
use crate::processor::Processor;

/// Blocks whose statistics a thread brings together.
const BLOCKS: usize = 2;

/// What maps a value to its normal one: `(x - mean) * gamma / sqrt(variance + epsilon)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub(crate) mean: &'a [f32],
    pub(crate) variance: &'a [f32],
    pub(crate) gamma: &'a [f32],
    pub(crate) epsilon: f64,
}

impl Affine<'_> {
    fn inverse_deviation(self, channel: usize) -> f64 {
        (f64::from(self.variance[channel]) + self.epsilon).sqrt().recip()
    }

    fn scale(self, channel: usize) -> f64 {
        f64::from(self.gamma[channel]) * self.inverse_deviation(channel)
    }
}

/// Mean and biased variance of each channel.
pub(crate) fn statistics(pixels: Pixels, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let channels = pixels.channels;
    let processor = Processor::new();
    // Count, and for each channel mean and sum of squared distances from it.
    let block = |x: &[f32]| {
        let n = (x.len() / channels) as f64;
        let [sums] = pixels.sum_rows(
            processor,
            [x],
            [],
            #[inline(always)]
            |[x], []| [x],
        );
        let shifts: Vec<f32> = pixels.fold(&sums).iter().map(|sum| (sum / n) as f32).collect();
        let shift = pixels.lanes(|channel| shifts[channel]);
        let [first, second] = pixels.sum_rows(
            processor,
            [x],
            [&shift],
            #[inline(always)]
            |[x], [shift]| {
                let distance = x - shift;
                [distance, distance * distance]
            },
        );
        let sums = pixels.fold(&first).into_iter().zip(pixels.fold(&second)).zip(shifts);
        let parts =
            sums.map(|((first, second), shift)| (f64::from(shift) + first / n, second - first * first / n));
        (n, parts.collect::<Vec<_>>())
    };
    let merge = |(count, mut parts): (f64, Vec<(f64, f64)>), (n, others): (f64, Vec<(f64, f64)>)| {
        let total = count + n;
        for ((mean, squares), (other_mean, other_squares)) in parts.iter_mut().zip(others) {
            let delta = other_mean - *mean;
            *mean += delta * n / total;
            *squares += other_squares + delta * delta * count * n / total;
        }
        (total, parts)
    };
    let nothing = || (0.0, vec![(0.0, 0.0); channels]);
    let several = |x: &[f32]| x.chunks(pixels.block()).map(block).fold(nothing(), merge);
    let parts: Vec<_> = x.par_chunks(pixels.block() * BLOCKS).map(several).collect();
    let (count, parts) = parts.into_iter().fold(nothing(), merge);
    parts.into_iter().map(|(mean, squares)| (mean as f32, (squares.max(0.0) / count) as f32)).unzip()
}

/// Normalises, adds `residual` where there is one, and applies ReLU if `relu`.
pub(crate) fn forward(
    pixels: Pixels,
    x: &[f32],
    affine: Affine<'_>,
    beta: &[f32],
    residual: Option<&[f32]>,
    relu: bool,
) -> Buffer {
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let processor = Processor::new();
    let [mean, scale, beta] = lanes(pixels, affine, beta);
    let (row, part) = (pixels.row(), pixels.part());
    let [y] = filled(x.len(), part, |index, [y]| {
        let x = &x[index * part..][..y.len()];
        processor.run(
            #[inline(always)]
            || {
                let bound = bound(floor);
                let rows = y.chunks_mut(row).zip(x.chunks(row));
                let lanes = || mean.iter().zip(&scale).zip(&beta);
                match residual {
                    Some(residual) => {
                        for ((y, x), residual) in rows.zip(residual[index * part..].chunks(row)) {
                            for (((y, x), residual), ((mean, scale), beta)) in
                                y.iter_mut().zip(x).zip(residual).zip(lanes())
                            {
                                *y = bound((x - mean) * scale + beta + residual);
                            }
                        }
                    }
                    None => {
                        for (y, x) in rows {
                            for ((y, x), ((mean, scale), beta)) in y.iter_mut().zip(x).zip(lanes()) {
                                *y = bound((x - mean) * scale + beta);
                            }
                        }
                    }
                }
            },
        );
    });
    y
}

/// What ReLU, or nothing, does. A copy of `floor`: one that is referred to is read anew for each value, which keeps loops from
/// being vectors. `max` would turn NaN into the floor and hide a training that has diverged.
#[inline(always)]
fn bound(floor: f32) -> impl Fn(f32) -> f32 {
    move |y| if y < floor { floor } else { y }
}

/// What batch norm by known statistics does to a channel, with what follows it: `x * scale + shift`, plus a residual where
/// there is one, and ReLU if `relu`.
#[derive(Debug)]
pub(crate) struct Line {
    pixels: Pixels,
    scale: Vec<f32>,
    shift: Vec<f32>,
    floor: f32,
}

impl Line {
    /// For images of as many channels as `scale` and `shift` are long.
    pub(crate) fn new(scale: &[f32], shift: &[f32], relu: bool) -> Self {
        let pixels = Pixels { count: 1, channels: scale.len() };
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        Self {
            pixels,
            scale: pixels.lanes(|channel| scale[channel]),
            shift: pixels.lanes(|channel| shift[channel]),
            floor,
        }
    }

    /// In the place of `x`, which are whole pixels.
    pub(crate) fn apply(&self, x: &mut [f32], residual: Option<&[f32]>) {
        let row = self.pixels.row();
        let lanes = || self.scale.iter().zip(&self.shift);
        let bound = bound(self.floor);
        Processor::new().run(
            #[inline(always)]
            || match residual {
                Some(residual) => {
                    for (x, residual) in x.chunks_mut(row).zip(residual.chunks(row)) {
                        for ((x, residual), (scale, shift)) in x.iter_mut().zip(residual).zip(lanes()) {
                            *x = bound(*x * scale + shift + residual);
                        }
                    }
                }
                None => {
                    for x in x.chunks_mut(row) {
                        for (x, (scale, shift)) in x.iter_mut().zip(lanes()) {
                            *x = bound(*x * scale + shift);
                        }
                    }
                }
            },
        );
    }

    /// The same on every core.
    pub(crate) fn apply_to_all(&self, x: &mut [f32], residual: Option<&[f32]>) {
        let part = self.pixels.part();
        x.par_chunks_mut(part)
            .enumerate()
            .for_each(|(index, x)| self.apply(x, residual.map(|residual| &residual[index * part..])));
    }
}

/// Of each channel, the sum of the gradient and of its product with the centred input: of the gradient behind the ReLU, if
/// `relu`, whose output is told from the input.
pub(crate) fn grad_sums(
    pixels: Pixels,
    x: &[f32],
    affine: Affine<'_>,
    beta: &[f32],
    grad: &[f32],
    relu: bool,
) -> Vec<[f64; 2]> {
    let processor = Processor::new();
    let ([mean, scale, beta], threshold) = (&lanes(pixels, affine, beta), threshold(relu));
    let block = pixels.block();
    let blocks = x.par_chunks(block).zip(grad.par_chunks(block)).map(|(x, grad)| {
        let [sums, products] = pixels.sum_rows(
            processor,
            [x, grad],
            [mean, scale, beta],
            #[inline(always)]
            move |[x, grad], lane| {
                let grad = behind(x, grad, lane, threshold);
                [grad, grad * (x - lane[0])]
            },
        );
        [pixels.fold(&sums), pixels.fold(&products)]
    });
    total(pixels, blocks.collect())
}

/// The same where a residual was added before the ReLU, so that only its output tells what is behind it: `grad` becomes that.
pub(crate) fn mask_and_sum(
    pixels: Pixels,
    x: &[f32],
    mean: &[f32],
    grad: &mut [f32],
    output: &[f32],
) -> Vec<[f64; 2]> {
    let processor = Processor::new();
    let mean = pixels.lanes(|channel| mean[channel]);
    let block = pixels.block();
    let blocks = grad.par_chunks_mut(block).zip(x.par_chunks(block)).zip(output.par_chunks(block));
    let blocks = blocks.map(|((grad, x), output)| {
        processor.run(
            #[inline(always)]
            || {
                for (grad, output) in grad.iter_mut().zip(output) {
                    *grad = if *output > 0.0 { *grad } else { 0.0 };
                }
            },
        );
        let [sums, products] = pixels.sum_rows(
            processor,
            [x, grad],
            [&mean],
            #[inline(always)]
            |[x, grad], [mean]| [grad, grad * (x - mean)],
        );
        [pixels.fold(&sums), pixels.fold(&products)]
    });
    total(pixels, blocks.collect())
}

/// The sums of all blocks, in their order.
fn total(pixels: Pixels, blocks: Vec<[Vec<f64>; 2]>) -> Vec<[f64; 2]> {
    let mut total = vec![[0.0; 2]; pixels.channels];
    for [sums, products] in blocks {
        for ((total, sum), product) in total.iter_mut().zip(sums).zip(products) {
            *total = [total[0] + sum, total[1] + product];
        }
    }
    total
}

/// Mean, scale and offset, lane by lane: what tells from the input whether the ReLU let it pass.
fn lanes(pixels: Pixels, affine: Affine<'_>, beta: &[f32]) -> [Vec<f32>; 3] {
    [
        pixels.lanes(|channel| affine.mean[channel]),
        pixels.lanes(|channel| affine.scale(channel) as f32),
        pixels.lanes(|channel| beta[channel]),
    ]
}

/// What ReLU's output is above where it passes the gradient on.
fn threshold(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

/// What the gradient behind the ReLU is, whose output is computed as [`forward`] does.
#[inline(always)]
fn behind(x: f32, grad: f32, [mean, scale, beta]: [f32; 3], threshold: f32) -> f32 {
    if (x - mean) * scale + beta > threshold { grad } else { 0.0 }
}

/// Gradients of gamma and beta.
pub(crate) fn parameter_grads(affine: Affine<'_>, sums: &[[f64; 2]]) -> (Vec<f32>, Vec<f32>) {
    let both = |(channel, [sum, product]): (usize, &[f64; 2])| {
        ((product * affine.inverse_deviation(channel)) as f32, *sum as f32)
    };
    sums.iter().enumerate().map(both).unzip()
}

/// Gradient of the input, in its place; `grad` is that behind the ReLU already, unless `relu`.
pub(crate) fn input_grads(
    pixels: Pixels,
    x: &mut [f32],
    affine: Affine<'_>,
    beta: &[f32],
    grad: &[f32],
    sums: &[[f64; 2]],
    relu: bool,
) {
    // dx = scale (dy - mean(dy) - (x - mean) mean(dy (x - mean)) / (variance + epsilon))
    let count = pixels.count as f64;
    let offset = pixels.lanes(|channel| (sums[channel][0] / count) as f32);
    let slope = pixels.lanes(|channel| {
        let inverse = affine.inverse_deviation(channel);
        (sums[channel][1] / count * inverse * inverse) as f32
    });
    let ([mean, scale, beta], threshold) = (&lanes(pixels, affine, beta), threshold(relu));
    let processor = Processor::new();
    let (row, part) = (pixels.row(), pixels.part());
    x.par_chunks_mut(part).zip(grad.par_chunks(part)).for_each(|(x, grad)| {
        processor.run(
            #[inline(always)]
            || {
                for (x, grad) in x.chunks_mut(row).zip(grad.chunks(row)) {
                    let lanes = mean.iter().zip(scale).zip(beta).zip(&offset).zip(&slope);
                    for ((x, grad), ((((mean, scale), beta), offset), slope)) in
                        x.iter_mut().zip(grad).zip(lanes)
                    {
                        let grad = behind(*x, *grad, [*mean, *scale, *beta], threshold);
                        *x = scale * (grad - offset - (*x - mean) * slope);
                    }
                }
            },
        );
    });
}
