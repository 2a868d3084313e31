//! Batch norm by the batch's own statistics on f32 images that lie with their channels last, with the addition and ReLU
//! behind it in the same pass over memory, and its gradients (Ioffe and Szegedy 2015, section 3).
//!
//! A channel's values are summed in blocks: f32 lanes inside a block, f64 across blocks, always in the same order. The
//! variance is a corrected two-pass one in each block (Chan, Golub and LeVeque 1983, equation 1.7), merged by their
//! equation 2.1: no cancellation, whatever the mean.

use crate::processor::Processor;
use rayon::prelude::*;

use crate::memory::{Buffer, filled};

/// Values that a lane sums in f32 before f64 takes over.
const TERMS: usize = 64;
/// Blocks whose statistics a thread brings together.
const BLOCKS: usize = 8;
/// Lanes side by side at least, so that images of few channels fill the vectors too: several pixels are then a row.
const LANES: usize = 64;
/// Values that a thread takes at a time where nothing is summed.
const GRAIN: usize = 1 << 15;

/// `[pixels of all images, channels]`, none of them 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pixels {
    count: usize,
    pub(crate) channels: usize,
}

impl Pixels {
    /// From the shape of the images and the lengths of gain and offset.
    ///
    /// # Panics
    /// If the images are empty, or a length is not the number of channels.
    pub(crate) fn new(x: [usize; 4], gamma: usize, beta: usize) -> Self {
        let [batch, height, width, channels] = x;
        assert!(!x.contains(&0), "batch norm: empty images {x:?}");
        assert!(
            gamma == channels && beta == channels,
            "batch norm: images {x:?} need {channels} gains and offsets, got {gamma} and {beta}"
        );
        Self { count: batch * height * width, channels }
    }

    /// Lanes side by side: a whole number of pixels.
    fn row(self) -> usize {
        self.channels * (LANES / self.channels).max(1)
    }

    /// Values in a block that is summed in f32.
    fn block(self) -> usize {
        self.row() * TERMS
    }

    /// Values in a part that is mapped.
    fn part(self) -> usize {
        self.row() * (GRAIN / self.row()).max(1)
    }

    /// One value a lane.
    fn lanes(self, value: impl Fn(usize) -> f32) -> Vec<f32> {
        (0..self.row()).map(|lane| value(lane % self.channels)).collect()
    }

    /// One sum a channel.
    fn fold(self, lanes: &[f32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.channels];
        for lanes in lanes.chunks_exact(self.channels) {
            sums.iter_mut().zip(lanes).for_each(|(sum, lane)| *sum += f64::from(*lane));
        }
        sums
    }
}

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
        let mut sums = vec![0.0; pixels.row()];
        processor.dispatch(|| {
            for x in x.chunks(sums.len()) {
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
            }
        });
        let shifts: Vec<f32> = pixels.fold(&sums).iter().map(|sum| (sum / n) as f32).collect();
        let shift = pixels.lanes(|channel| shifts[channel]);
        let (mut first, mut second) = (vec![0.0; pixels.row()], vec![0.0; pixels.row()]);
        processor.dispatch(|| {
            for x in x.chunks(first.len()) {
                let lanes = first.iter_mut().zip(&mut second).zip(&shift);
                for (((first, second), shift), x) in lanes.zip(x) {
                    let distance = x - shift;
                    *first += distance;
                    *second += distance * distance;
                }
            }
        });
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
    let mean = pixels.lanes(|channel| affine.mean[channel]);
    let scale = pixels.lanes(|channel| affine.scale(channel) as f32);
    let beta = pixels.lanes(|channel| beta[channel]);
    let (row, part) = (pixels.row(), pixels.part());
    // `max` would turn NaN into the floor and hide a training that has diverged.
    let bound = |y: f32| if y < floor { floor } else { y };
    let [y] = filled(x.len(), part, |index, [y]| {
        let x = &x[index * part..][..y.len()];
        processor.dispatch(|| {
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
        });
    });
    y
}

/// `x * scale + shift`, plus `residual` where there is one, and ReLU if `relu`, in the place of `x`.
pub(crate) fn scale_shift(x: &mut [f32], [scale, shift]: [&[f32]; 2], residual: Option<&[f32]>, relu: bool) {
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let pixels = Pixels { count: x.len() / scale.len(), channels: scale.len() };
    let (row, part) = (pixels.row(), pixels.part());
    let (scale, shift) = (pixels.lanes(|channel| scale[channel]), pixels.lanes(|channel| shift[channel]));
    let processor = Processor::new();
    // As in `forward`.
    let bound = |y: f32| if y < floor { floor } else { y };
    x.par_chunks_mut(part).enumerate().for_each(|(index, x)| {
        processor.dispatch(|| {
            let lanes = || scale.iter().zip(&shift);
            match residual {
                Some(residual) => {
                    for (x, residual) in x.chunks_mut(row).zip(residual[index * part..].chunks(row)) {
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
            }
        });
    });
}

/// What the gradient behind the ReLU is: none of it where the output was cut off.
fn behind(grad: f32, output: f32) -> f32 {
    if output > 0.0 { grad } else { 0.0 }
}

/// Of each channel, the sum of the gradient behind the ReLU, and of its product with the centred input. `output` is
/// there where there was a ReLU.
pub(crate) fn grad_sums(
    pixels: Pixels,
    x: &[f32],
    mean: &[f32],
    grad: &[f32],
    output: Option<&[f32]>,
) -> Vec<[f64; 2]> {
    let processor = Processor::new();
    let mean = pixels.lanes(|channel| mean[channel]);
    let (row, block) = (pixels.row(), pixels.block());
    let blocks = x.par_chunks(block).zip(grad.par_chunks(block)).enumerate().map(|(index, (x, grad))| {
        let (mut sums, mut products) = (vec![0.0; row], vec![0.0; row]);
        processor.dispatch(|| {
            let rows = x.chunks(row).zip(grad.chunks(row));
            match output {
                Some(output) => {
                    for ((x, grad), output) in rows.zip(output[index * block..].chunks(row)) {
                        let lanes = sums.iter_mut().zip(&mut products).zip(&mean);
                        for (((((sum, product), mean), x), grad), output) in
                            lanes.zip(x).zip(grad).zip(output)
                        {
                            let grad = behind(*grad, *output);
                            *sum += grad;
                            *product += grad * (x - mean);
                        }
                    }
                }
                None => {
                    for (x, grad) in rows {
                        let lanes = sums.iter_mut().zip(&mut products).zip(&mean);
                        for ((((sum, product), mean), x), grad) in lanes.zip(x).zip(grad) {
                            *sum += grad;
                            *product += grad * (x - mean);
                        }
                    }
                }
            }
        });
        [pixels.fold(&sums), pixels.fold(&products)]
    });
    let mut total = vec![[0.0; 2]; pixels.channels];
    for [sums, products] in blocks.collect::<Vec<_>>() {
        for ((total, sum), product) in total.iter_mut().zip(sums).zip(products) {
            *total = [total[0] + sum, total[1] + product];
        }
    }
    total
}

/// Gradients of gamma and beta.
pub(crate) fn parameter_grads(affine: Affine<'_>, sums: &[[f64; 2]]) -> (Vec<f32>, Vec<f32>) {
    let both = |(channel, [sum, product]): (usize, &[f64; 2])| {
        ((product * affine.inverse_deviation(channel)) as f32, *sum as f32)
    };
    sums.iter().enumerate().map(both).unzip()
}

/// Gradient of the input, and the gradient behind the ReLU if `masked`.
pub(crate) fn input_grads(
    pixels: Pixels,
    x: &[f32],
    affine: Affine<'_>,
    grad: &[f32],
    output: Option<&[f32]>,
    sums: &[[f64; 2]],
    masked: bool,
) -> (Buffer, Option<Buffer>) {
    // dx = scale (dy - mean(dy) - (x - mean) mean(dy (x - mean)) / (variance + epsilon))
    let count = pixels.count as f64;
    let mean = pixels.lanes(|channel| affine.mean[channel]);
    let scale = pixels.lanes(|channel| affine.scale(channel) as f32);
    let offset = pixels.lanes(|channel| (sums[channel][0] / count) as f32);
    let slope = pixels.lanes(|channel| {
        let inverse = affine.inverse_deviation(channel);
        (sums[channel][1] / count * inverse * inverse) as f32
    });
    let processor = Processor::new();
    let (row, part) = (pixels.row(), pixels.part());
    let lanes = || mean.iter().zip(&scale).zip(&offset).zip(&slope);
    let step = |x: f32, grad: f32, (((mean, scale), offset), slope): (((&f32, &f32), &f32), &f32)| {
        scale * (grad - offset - (x - mean) * slope)
    };
    let map = |index: usize, x_grad: &mut [f32], masked: Option<&mut [f32]>| {
        let values = index * part..index * part + x_grad.len();
        let (x, grad) = (&x[values.clone()], &grad[values.clone()]);
        processor.dispatch(|| {
            let rows = x_grad.chunks_mut(row).zip(x.chunks(row)).zip(grad.chunks(row));
            match (output.map(|output| output[values].chunks(row)), masked) {
                (Some(output), Some(masked)) => {
                    for ((((x_grad, x), grad), output), masked) in
                        rows.zip(output).zip(masked.chunks_mut(row))
                    {
                        let places = x_grad.iter_mut().zip(masked).zip(x).zip(grad).zip(output);
                        for (((((x_grad, masked), x), grad), output), lane) in places.zip(lanes()) {
                            *masked = behind(*grad, *output);
                            *x_grad = step(*x, *masked, lane);
                        }
                    }
                }
                (Some(output), None) => {
                    for (((x_grad, x), grad), output) in rows.zip(output) {
                        let places = x_grad.iter_mut().zip(x).zip(grad).zip(output);
                        for ((((x_grad, x), grad), output), lane) in places.zip(lanes()) {
                            *x_grad = step(*x, behind(*grad, *output), lane);
                        }
                    }
                }
                (None, _) => {
                    for ((x_grad, x), grad) in rows {
                        for (((x_grad, x), grad), lane) in x_grad.iter_mut().zip(x).zip(grad).zip(lanes()) {
                            *x_grad = step(*x, *grad, lane);
                        }
                    }
                }
            }
        });
    };
    if masked {
        let [x_grad, masked] =
            filled(x.len(), part, |index, [x_grad, masked]| map(index, x_grad, Some(masked)));
        return (x_grad, Some(masked));
    }
    let [x_grad] = filled(x.len(), part, |index, [x_grad]| map(index, x_grad, None));
    (x_grad, None)
}
