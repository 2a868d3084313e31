//! The same operations out of Burn's own, for any backend and number type: what the fast ones must agree with.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, IntDType, Scalar, Shape, Slice};

use crate::backend::Kernels;
use crate::sgd::SgdStep;

type Float<B> = FloatTensor<B>;

pub(crate) fn conv2d<B: Backend>(x: Float<B>, weight: Float<B>, stride: usize, padding: usize) -> Float<B> {
    let weight = cast::<B>(weight, x.dtype());
    if let Some([batch, channels_in, channels_out]) = of_vectors::<B>(&x, &weight, stride, padding) {
        let x = B::float_reshape(x, Shape::new([batch, channels_in]));
        let weight = B::float_reshape(weight, Shape::new([channels_out, channels_in]));
        let y = B::float_matmul(x, B::float_transpose(weight));
        return B::float_reshape(y, Shape::new([batch, 1, 1, channels_out]));
    }
    channels_last::<B>(B::conv2d(channels_first::<B>(x), weight, None, options(stride, padding)))
}

pub(crate) fn conv2d_input_grad<B: Backend>(
    [x, weight, grad]: [Float<B>; 3],
    stride: usize,
    padding: usize,
) -> Float<B> {
    let weight = cast::<B>(weight, x.dtype());
    if let Some([batch, channels_in, channels_out]) = of_vectors::<B>(&x, &weight, stride, padding) {
        let grad = B::float_reshape(grad, Shape::new([batch, channels_out]));
        let weight = B::float_reshape(weight, Shape::new([channels_out, channels_in]));
        return B::float_reshape(B::float_matmul(grad, weight), Shape::new([batch, 1, 1, channels_in]));
    }
    let [x, grad] = [x, grad].map(channels_first::<B>);
    channels_last::<B>(B::conv2d_x_backward(x, weight, grad, options(stride, padding)))
}

pub(crate) fn conv2d_weight_grad<B: Backend>(
    [x, weight, grad]: [Float<B>; 3],
    stride: usize,
    padding: usize,
) -> Float<B> {
    let (outer, inner) = (weight.dtype(), x.dtype());
    if let Some([batch, channels_in, channels_out]) = of_vectors::<B>(&x, &weight, stride, padding) {
        let x = B::float_reshape(x, Shape::new([batch, channels_in]));
        let grad = B::float_reshape(grad, Shape::new([batch, channels_out]));
        let weight_grad = B::float_matmul(B::float_transpose(grad), x);
        let shape = Shape::new([channels_out, channels_in, 1, 1]);
        return cast::<B>(B::float_reshape(weight_grad, shape), outer);
    }
    let [x, grad] = [x, grad].map(channels_first::<B>);
    let weight = cast::<B>(weight, inner);
    cast::<B>(B::conv2d_weight_backward(x, weight, grad, options(stride, padding)), outer)
}

/// Of images of one pixel and kernels that are one too, which is a product of matrices: images, channels in and out.
fn of_vectors<B: Backend>(
    x: &Float<B>,
    weight: &Float<B>,
    stride: usize,
    padding: usize,
) -> Option<[usize; 3]> {
    let ([batch, height, width, channels_in], weight) = (x.shape().dims(), weight.shape().dims::<4>());
    let is_one = [height, width, weight[2], weight[3], stride] == [1; 5] && padding == 0;
    (is_one && weight[1] == channels_in).then_some([batch, channels_in, weight[0]])
}

/// Output, in the number type of x; mean and biased variance, in that of gamma, in which all is computed.
pub(crate) fn norm<B: Backend>(
    [x, gamma, beta]: [Float<B>; 3],
    residual: Option<Float<B>>,
    epsilon: f64,
    relu: bool,
) -> (Float<B>, Float<B>, Float<B>) {
    let (outer, inner) = (x.dtype(), gamma.dtype());
    let norm = B::batch_norm_train(cast::<B>(channels_first::<B>(x), inner), gamma, beta, epsilon);
    let normal = channels_last::<B>(norm.output);
    let sum = match residual {
        Some(residual) => B::float_add(normal, cast::<B>(residual, inner)),
        None => normal,
    };
    let output = if relu { B::relu(sum) } else { sum };
    (cast::<B>(output, outer), norm.mean, norm.variance)
}

/// Gradients of x, gamma, beta and the residual, each in its number type; computed in that of gamma.
pub(crate) fn norm_grads<B: Backend>(
    [x, gamma, mean, variance]: [Float<B>; 4],
    output: Float<B>,
    grad: Float<B>,
    epsilon: f64,
    relu: bool,
) -> (Float<B>, Float<B>, Float<B>, Float<B>) {
    let (outer, inner) = (x.dtype(), gamma.dtype());
    let grad = if relu { B::relu_backward(output, grad) } else { grad };
    let [x, wide] = [x, grad.clone()].map(|tensor| cast::<B>(channels_first::<B>(tensor), inner));
    let grads = B::batch_norm_train_backward(x, gamma, mean, variance, epsilon, wide);
    (cast::<B>(channels_last::<B>(grads.x_grad), outer), grads.gamma_grad, grads.beta_grad, grad)
}

/// Computed in the number type of the scale, returned in that of x.
pub(crate) fn scale_shift<B: Backend>(
    [x, scale, shift]: [Float<B>; 3],
    residual: Option<Float<B>>,
    relu: bool,
) -> Float<B> {
    let (outer, inner) = (x.dtype(), scale.dtype());
    let [scale, shift] = [scale, shift].map(|tensor| {
        let channels = tensor.shape().num_elements();
        B::float_reshape(tensor, Shape::new([1, 1, 1, channels]))
    });
    let sum = B::float_add(B::float_mul(cast::<B>(x, inner), scale), shift);
    let sum = match residual {
        Some(residual) => B::float_add(sum, cast::<B>(residual, inner)),
        None => sum,
    };
    cast::<B>(if relu { B::relu(sum) } else { sum }, outer)
}

pub(crate) fn conv2d_line<B: Kernels>(
    [x, weight, scale, shift]: [Float<B>; 4],
    residual: Option<Float<B>>,
    [stride, padding]: [usize; 2],
    relu: bool,
) -> Float<B> {
    let y = B::conv2d_forward(x, weight, stride, padding);
    match residual {
        Some(residual) => B::scale_shift_add(y, scale, shift, residual, relu),
        None => B::scale_shift(y, scale, shift, relu),
    }
}

pub(crate) fn max_pool<B: Backend>(x: Float<B>, size: usize, stride: usize, padding: usize) -> Float<B> {
    let x = channels_first::<B>(x);
    channels_last::<B>(B::max_pool2d(x, [size; 2], [stride; 2], [padding; 2], [1; 2], false))
}

pub(crate) fn max_pool_grad<B: Backend>(
    x: Float<B>,
    grad: Float<B>,
    size: usize,
    stride: usize,
    padding: usize,
) -> Float<B> {
    let [x, grad] = [x, grad].map(channels_first::<B>);
    let (size, stride, padding) = ([size; 2], [stride; 2], [padding; 2]);
    let places =
        B::max_pool2d_with_indices(x.clone(), size, stride, padding, [1; 2], false, IntDType::I32).indices;
    let grads = B::max_pool2d_with_indices_backward(x, size, stride, padding, [1; 2], false, grad, places);
    channels_last::<B>(grads.x_grad)
}

pub(crate) fn add<B: Backend>(a: Float<B>, b: Float<B>) -> Float<B> {
    B::float_add(a, b)
}

pub(crate) fn option_a<B: Backend>(x: Float<B>, channels: usize) -> Float<B> {
    let own = x.shape().dims::<4>()[3];
    let pixels = B::float_slice(x, &every_second_pixel());
    let [batch, height, width, _] = pixels.shape().dims();
    let before = (channels - own) / 2;
    let zeros = |channels: usize| {
        let shape = Shape::new([batch, height, width, channels]);
        B::float_zeros(shape, &pixels.device(), pixels.dtype().into())
    };
    let sides = [before, channels - own - before].map(|channels| (channels > 0).then(|| zeros(channels)));
    let [before, after] = sides;
    B::float_cat(before.into_iter().chain([pixels]).chain(after).collect(), 3)
}

pub(crate) fn option_a_grad<B: Backend>(grad: Float<B>, [height, width, own]: [usize; 3]) -> Float<B> {
    let [batch, _, _, channels] = grad.shape().dims();
    let before = (channels - own) / 2;
    let zeros = B::float_zeros(Shape::new([batch, height, width, own]), &grad.device(), grad.dtype().into());
    let own = Slice::from(before..before + own);
    let grad = B::float_slice(grad, &[Slice::full(), Slice::full(), Slice::full(), own]);
    B::float_slice_assign(zeros, &every_second_pixel(), grad)
}

fn every_second_pixel() -> [Slice; 4] {
    let second = Slice::new(0, None, 2);
    [Slice::full(), second, second, Slice::full()]
}

pub(crate) fn zero<B: Backend>(like: &Float<B>) -> Float<B> {
    B::float_zeros(Shape::new([1]), &like.device(), like.dtype().into())
}

pub(crate) fn sgd_step<B: Backend>(
    weight: Float<B>,
    gradient: Float<B>,
    velocity: Float<B>,
    step: SgdStep,
) -> (Float<B>, Float<B>) {
    let times = |tensor: Float<B>, factor: f64| B::float_mul_scalar(tensor, Scalar::from(factor));
    let gradient = B::float_add(gradient, times(weight.clone(), step.weight_decay));
    let velocity = B::float_add(times(velocity, step.momentum), gradient.clone());
    let direction = match step.nesterov {
        true => B::float_add(gradient, times(velocity.clone(), step.momentum)),
        false => velocity.clone(),
    };
    (B::float_sub(weight, times(direction, step.lr)), velocity)
}

/// `[batch, height, width, channels]` as Burn has it.
fn channels_first<B: Backend>(images: Float<B>) -> Float<B> {
    B::float_permute(images, &[0, 3, 1, 2])
}

fn channels_last<B: Backend>(images: Float<B>) -> Float<B> {
    B::float_permute(images, &[0, 2, 3, 1])
}

fn cast<B: Backend>(tensor: Float<B>, dtype: DType) -> Float<B> {
    if tensor.dtype() == dtype { tensor } else { B::float_cast(tensor, dtype.into()) }
}

fn options(stride: usize, padding: usize) -> ConvOptions<2> {
    ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1)
}
