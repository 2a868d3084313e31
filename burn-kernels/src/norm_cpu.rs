//! Batch norm by the batch's own statistics on NCHW slices of f32, with the addition and ReLU behind it in the same pass
//! over memory, and its gradients (Ioffe and Szegedy 2015, section 3).
//!
//! A channel's values are summed in blocks: f32 lanes inside a block, f64 across blocks, always in the same order. The
//! variance is a corrected two-pass one in each block (Chan, Golub and LeVeque 1983, equation 1.7), merged by their
//! equation 2.1: no cancellation, whatever the mean.

use rayon::prelude::*;

/// Values summed in f32 before f64 takes over: they stay in the first-level cache for the second pass.
const BLOCK: usize = 2048;
/// Independent partial sums, so that the compiler may use vectors.
const LANES: usize = 16;
/// Values below which it does not pay to hand planes to another thread.
const GRAIN: usize = 8192;

/// `[batch, channels, area]`, none of them 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planes {
    batch: usize,
    pub(crate) channels: usize,
    area: usize,
}

impl Planes {
    /// From the shape of the images and the lengths of gain and offset.
    ///
    /// # Panics
    /// If the images are empty, or a length is not the number of channels.
    pub(crate) fn new(x: [usize; 4], gamma: usize, beta: usize) -> Self {
        let [batch, channels, height, width] = x;
        assert!(!x.contains(&0), "batch norm: empty images {x:?}");
        assert!(
            gamma == channels && beta == channels,
            "batch norm: images {x:?} need {channels} gains and offsets, got {gamma} and {beta}"
        );
        Self { batch, channels, area: height * width }
    }

    /// Values of one channel.
    fn values(self) -> f64 {
        (self.batch * self.area) as f64
    }

    /// Planes a thread should take at least.
    fn grain(self) -> usize {
        GRAIN.div_ceil(self.area)
    }

    /// One channel's blocks, as ranges of the whole slice.
    fn blocks(self, channel: usize) -> impl Iterator<Item = core::ops::Range<usize>> {
        (0..self.batch).flat_map(move |image| {
            let start = (image * self.channels + channel) * self.area;
            let end = start + self.area;
            (start..end).step_by(BLOCK).map(move |first| first..end.min(first + BLOCK))
        })
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
pub(crate) fn statistics(planes: Planes, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let channel = |channel| {
        let (mut count, mut mean, mut squares) = (0.0_f64, 0.0_f64, 0.0_f64);
        for block in planes.blocks(channel).map(|block| &x[block]) {
            let n = block.len() as f64;
            let [sum] = sums([block], |[x]| [x]);
            let shift = (sum / n) as f32;
            let [first, second] = sums([block], |[x]| [x - shift, (x - shift) * (x - shift)]);
            let (block_mean, block_squares) = (f64::from(shift) + first / n, second - first * first / n);
            let (delta, total) = (block_mean - mean, count + n);
            mean += delta * n / total;
            squares += block_squares + delta * delta * count * n / total;
            count = total;
        }
        (mean as f32, (squares.max(0.0) / count) as f32)
    };
    (0..planes.channels).into_par_iter().map(channel).unzip()
}

/// Normalises, adds `residual` where there is one, and applies ReLU if `relu`.
pub(crate) fn forward(
    planes: Planes,
    x: &[f32],
    affine: Affine<'_>,
    beta: &[f32],
    residual: Option<&[f32]>,
    relu: bool,
) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    y.par_chunks_exact_mut(planes.area).with_min_len(planes.grain()).enumerate().for_each(|(plane, y)| {
        let channel = plane % planes.channels;
        let (mean, scale, beta) = (affine.mean[channel], affine.scale(channel) as f32, beta[channel]);
        let range = plane * planes.area..(plane + 1) * planes.area;
        let x = &x[range.clone()];
        // `max` would turn NaN into the floor and hide a training that has diverged.
        let bound = |y: f32| if y < floor { floor } else { y };
        match residual {
            Some(residual) => {
                for ((y, x), residual) in y.iter_mut().zip(x).zip(&residual[range]) {
                    *y = bound((x - mean) * scale + beta + residual);
                }
            }
            None => {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = bound((x - mean) * scale + beta);
                }
            }
        }
    });
    y
}

/// Of each channel, the sum of the gradient behind the ReLU, and of its product with the centred input. `output` is
/// there where there was a ReLU.
pub(crate) fn grad_sums(
    planes: Planes,
    x: &[f32],
    mean: &[f32],
    grad: &[f32],
    output: Option<&[f32]>,
) -> Vec<[f64; 2]> {
    let channel = |channel| {
        let mean: f32 = mean[channel];
        let mut total = [0.0; 2];
        for block in planes.blocks(channel) {
            let (x, grad) = (&x[block.clone()], &grad[block.clone()]);
            let part = match output {
                Some(output) => sums([x, grad, &output[block]], |[x, grad, output]| {
                    let grad = if output > 0.0 { grad } else { 0.0 };
                    [grad, grad * (x - mean)]
                }),
                None => sums([x, grad], |[x, grad]| [grad, grad * (x - mean)]),
            };
            total = [total[0] + part[0], total[1] + part[1]];
        }
        total
    };
    (0..planes.channels).into_par_iter().map(channel).collect()
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
    planes: Planes,
    x: &[f32],
    affine: Affine<'_>,
    grad: &[f32],
    output: Option<&[f32]>,
    sums: &[[f64; 2]],
    masked: bool,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let mut x_grad = vec![0.0; x.len()];
    // dx = scale (dy - mean(dy) - (x - mean) mean(dy (x - mean)) / (variance + epsilon))
    let plane_grads = |plane: usize, x_grad: &mut [f32], masked: Option<&mut [f32]>| {
        let channel = plane % planes.channels;
        let [sum, product] = sums[channel];
        let (mean, scale) = (affine.mean[channel], affine.scale(channel) as f32);
        let inverse = affine.inverse_deviation(channel);
        let offset = (sum / planes.values()) as f32;
        let slope = (product / planes.values() * inverse * inverse) as f32;
        let range = plane * planes.area..(plane + 1) * planes.area;
        let (x, grad) = (&x[range.clone()], &grad[range.clone()]);
        let step = |x: f32, grad: f32| scale * (grad - offset - (x - mean) * slope);
        let behind = |grad: f32, output: f32| if output > 0.0 { grad } else { 0.0 };
        match (output.map(|output| &output[range]), masked) {
            (Some(output), Some(masked)) => {
                let places = x_grad.iter_mut().zip(masked).zip(x).zip(grad).zip(output);
                for ((((x_grad, masked), x), grad), output) in places {
                    *masked = behind(*grad, *output);
                    *x_grad = step(*x, *masked);
                }
            }
            (Some(output), None) => {
                for (((x_grad, x), grad), output) in x_grad.iter_mut().zip(x).zip(grad).zip(output) {
                    *x_grad = step(*x, behind(*grad, *output));
                }
            }
            (None, _) => {
                for ((x_grad, x), grad) in x_grad.iter_mut().zip(x).zip(grad) {
                    *x_grad = step(*x, *grad);
                }
            }
        }
    };
    let parts = x_grad.par_chunks_exact_mut(planes.area).with_min_len(planes.grain());
    if !masked {
        parts.enumerate().for_each(|(plane, x_grad)| plane_grads(plane, x_grad, None));
        return (x_grad, None);
    }
    let mut residual_grad = vec![0.0; x.len()];
    parts.zip(residual_grad.par_chunks_exact_mut(planes.area)).enumerate().for_each(
        |(plane, (x_grad, masked))| {
            plane_grads(plane, x_grad, Some(masked));
        },
    );
    (x_grad, Some(residual_grad))
}

/// Sums of the terms made of each place of some slices of one length: f32 in lanes, the lanes in f64.
fn sums<const S: usize, const K: usize>(
    slices: [&[f32]; S],
    term: impl Fn([f32; S]) -> [f32; K],
) -> [f64; K] {
    let mut lanes = [[0.0_f32; LANES]; K];
    let mut add = |lane: usize, place: [f32; S]| {
        for (lanes, term) in lanes.iter_mut().zip(term(place)) {
            lanes[lane] += term;
        }
    };
    let chunks = slices.map(|slice| slice.as_chunks::<LANES>());
    for index in 0..chunks[0].0.len() {
        let chunk = chunks.map(|(chunks, _)| &chunks[index]);
        for lane in 0..LANES {
            add(lane, chunk.map(|chunk| chunk[lane]));
        }
    }
    for lane in 0..chunks[0].1.len() {
        add(lane, chunks.map(|(_, rest)| rest[lane]));
    }
    lanes.map(|lanes| lanes.iter().map(|&lane| f64::from(lane)).sum())
}
