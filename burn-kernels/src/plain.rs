//! The same operations out of Burn's own, for any backend and number type: what the fast ones must agree with.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::DType;
use burn::tensor::ops::ConvOptions;

type Float<B> = FloatTensor<B>;

pub(crate) fn conv2d<B: Backend>(x: Float<B>, weight: Float<B>, stride: usize, padding: usize) -> Float<B> {
    B::conv2d(x, weight, None, options(stride, padding))
}

pub(crate) fn conv2d_input_grad<B: Backend>(
    [x, weight, grad]: [Float<B>; 3],
    stride: usize,
    padding: usize,
) -> Float<B> {
    B::conv2d_x_backward(x, weight, grad, options(stride, padding))
}

pub(crate) fn conv2d_weight_grad<B: Backend>(
    [x, weight, grad]: [Float<B>; 3],
    stride: usize,
    padding: usize,
) -> Float<B> {
    B::conv2d_weight_backward(x, weight, grad, options(stride, padding))
}

/// Output, in the number type of x; mean and biased variance, in that of gamma, in which all is computed.
pub(crate) fn norm<B: Backend>(
    [x, gamma, beta]: [Float<B>; 3],
    residual: Option<Float<B>>,
    epsilon: f64,
    relu: bool,
) -> (Float<B>, Float<B>, Float<B>) {
    let (outer, inner) = (x.dtype(), gamma.dtype());
    let norm = B::batch_norm_train(cast::<B>(x, inner), gamma, beta, epsilon);
    let sum = match residual {
        Some(residual) => B::float_add(norm.output, cast::<B>(residual, inner)),
        None => norm.output,
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
    let (x, wide) = (cast::<B>(x, inner), cast::<B>(grad.clone(), inner));
    let grads = B::batch_norm_train_backward(x, gamma, mean, variance, epsilon, wide);
    (cast::<B>(grads.x_grad, outer), grads.gamma_grad, grads.beta_grad, grad)
}

fn cast<B: Backend>(tensor: Float<B>, dtype: DType) -> Float<B> {
    if tensor.dtype() == dtype { tensor } else { B::float_cast(tensor, dtype.into()) }
}

fn options(stride: usize, padding: usize) -> ConvOptions<2> {
    ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1)
}
