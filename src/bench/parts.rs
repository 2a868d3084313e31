//! Where a step's time goes: every convolution and batch norm of the network by itself, forward and backward, at the
//! shape and number type that it has in the step. What is left of the step is the rest: pool, classifier, loss, casts,
//! update, and whatever the device stands still for.
//!
//! Equal shapes are timed once. An operation by itself cannot be fused with its neighbours, nor start before the one
//! before it has ended, so the parts may add up to more than the step: then the rest is negative, and is shown so.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use burn_resnet::{ConvShape, ResNetConfig, Then};

use super::{
    case::{Case, Size},
    clock::{Spread, repeated, settle},
    page::{ConvTimes, Parts, StepRow},
};
use crate::{error::Result, train::dtype};

const REPEATS: usize = 3;
/// Batch norm's, as the network has it.
const EPSILON: f64 = 1e-5;

/// Each value once, with how often it came, in order.
fn counted<T: PartialEq + Copy>(all: impl IntoIterator<Item = T>) -> Vec<(T, usize)> {
    let mut counts: Vec<(T, usize)> = Vec::new();
    for value in all {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    counts
}

/// A convolution's shape without what follows it, and a norm's.
type Conv = (usize, usize, usize, usize, usize, usize, bool);
type Norm = ((usize, usize), usize, Then);

/// Fills in where the time of `row`'s step goes.
///
/// # Errors
/// The device fails.
pub(super) fn measure(config: &ResNetConfig, case: Case, device: &Device, row: &mut StepRow) -> Result<()> {
    let Size { size, batch_size } = case.size;
    let shapes = config.convs(size, size);
    let bench = Bench { batch_size, case, device };
    let mut parts = Parts::default();
    // The first one's images need no gradient.
    let convs = shapes.iter().enumerate().map(|(place, shape)| {
        let ConvShape { input, output, size, stride, height, width, .. } = *shape;
        (input, output, size, stride, height, width, place > 0)
    });
    for (conv, count) in counted::<Conv>(convs) {
        let times = bench.conv(conv, count)?;
        parts.conv_forward_s += times.forward_s * count as f64;
        parts.conv_input_grad_s += times.input_grad_s.unwrap_or(0.0) * count as f64;
        parts.conv_weight_grad_s += times.weight_grad_s * count as f64;
        parts.convs.push(times);
    }
    let norms = shapes.iter().map(|shape| (shape.output_image(), shape.output, shape.then));
    for (norm, count) in counted::<Norm>(norms) {
        parts.norm_s += bench.norm(norm)? * count as f64;
    }
    let known = parts.conv_forward_s + parts.conv_input_grad_s + parts.conv_weight_grad_s + parts.norm_s;
    parts.rest_s = row.step.map_or(0.0, |step| step.median_s - known);
    row.parts = Some(parts);
    Ok(())
}

struct Bench<'a> {
    batch_size: usize,
    case: Case,
    device: &'a Device,
}

impl Bench<'_> {
    fn images(&self, height: usize, width: usize, channels: usize) -> Tensor<4> {
        self.random([self.batch_size, height, width, channels])
    }

    fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::<D>::random(shape, Distribution::Normal(0.0, 1.0), self.device)
            .cast(dtype(self.case.precision))
    }

    fn conv(&self, conv: Conv, count: usize) -> Result<ConvTimes> {
        let (input, output, size, stride, height, width, needs_input_grad) = conv;
        let (x, weight) = (self.images(height, width, input), self.random([output, input, size, size]));
        let padding = size / 2;
        let apply = |x: Tensor<4>, weight: Tensor<4>| burn_kernels::conv2d(x, weight, stride, padding);
        let forward = repeated(self.device, REPEATS, || {
            drop(apply(x.clone(), weight.clone()));
            Ok(())
        })?;
        let input_grad = match needs_input_grad {
            true => Some(self.backward(|| apply(tracked(&x), untracked(&weight)))?.median_s),
            false => None,
        };
        let weight_grad = self.backward(|| apply(untracked(&x), tracked(&weight)))?;
        let (out_height, out_width) = (height.div_ceil(stride), width.div_ceil(stride));
        let macs = (input * output * size * size * out_height * out_width * self.batch_size) as f64;
        Ok(ConvTimes {
            input,
            output,
            size,
            stride,
            height,
            width,
            count,
            flop: 2.0 * macs,
            forward_s: forward.median_s,
            input_grad_s: input_grad,
            weight_grad_s: weight_grad.median_s,
        })
    }

    /// Forward and backward.
    fn norm(&self, ((height, width), channels, then): Norm) -> Result<f64> {
        let x = self.images(height, width, channels);
        let residual = (then == Then::AddNormRelu).then(|| self.images(height, width, channels));
        let gain = Tensor::<1>::ones([channels], self.device);
        let offset = Tensor::<1>::zeros([channels], self.device);
        let apply = || {
            let residual = residual.as_ref().map(tracked);
            let (gain, offset) = (tracked(&gain), tracked(&offset));
            burn_kernels::batch_norm_train(tracked(&x), gain, offset, residual, EPSILON, then != Then::Norm)
                .output
        };
        let forward = repeated(self.device, REPEATS, || {
            drop(apply());
            Ok(())
        })?;
        Ok(forward.median_s + self.backward(apply)?.median_s)
    }

    /// The backward pass of what `forward` makes, by itself.
    fn backward(&self, forward: impl Fn() -> Tensor<4>) -> Result<Spread> {
        let gradient = forward().inner().ones_like();
        let pass = || {
            let output = forward();
            settle(self.device)?;
            let started = Instant::now();
            drop(burn_kernels::seed_gradient(output, gradient.clone()).backward());
            settle(self.device)?;
            Ok(started.elapsed().as_secs_f64())
        };
        pass()?;
        Ok(Spread::of((0..REPEATS).map(|_| pass()).collect::<Result<_>>()?))
    }
}

fn tracked<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(tensor.clone()).require_grad()
}

fn untracked<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(tensor.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shapes_are_counted() {
        assert_eq!(counted([3, 1, 3, 3, 2]), [(3, 3), (1, 1), (2, 1)]);
        assert_eq!(counted(Vec::<u8>::new()), []);
    }
}
