//! The operations as Burn sees them: a trait whose default methods are Burn's own operations. Flex overrides them in
//! `flex`; gradients are wired up in `conv` and `norm`.

#![cfg_attr(
    feature = "ndarray",
    allow(deprecated, reason = "Burn deprecates ndarray, which is a second opinion for tests")
)]

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, backend_extension};

use crate::conv::tracked_conv2d;
use crate::max_pool::tracked_max_pool;
use crate::norm::tracked_norm;
use crate::option_a::tracked_option_a;
use crate::plain;
use crate::seed::tracked_seed;
use crate::sgd::SgdStep;

/// What a backend must offer for the functions of this crate; all of it has a default.
///
/// Tensors are as in [`conv2d`](crate::conv2d) and [`batch_norm_train`](crate::batch_norm_train). The gradients are for
/// the autodiff backend to call and are not themselves differentiable.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff
)]
#[allow(clippy::too_many_arguments, reason = "a backend extension passes tensors one by one")]
pub trait Kernels: Backend {
    /// Convolution without bias.
    fn conv2d_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        plain::conv2d::<Self>(x, weight, stride, padding)
    }

    /// Gradient of a convolution's images.
    fn conv2d_input_grad(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        plain::conv2d_input_grad::<Self>([x, weight, grad], stride, padding)
    }

    /// Gradient of a convolution's weights.
    fn conv2d_weight_grad(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        plain::conv2d_weight_grad::<Self>([x, weight, grad], stride, padding)
    }

    /// Batch norm by the batch's statistics, then ReLU if `relu`: output, mean, biased variance.
    fn norm_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        plain::norm::<Self>([x, gamma, beta], None, epsilon, relu)
    }

    /// As [`norm_forward`](Self::norm_forward), with `residual` added before the ReLU.
    fn norm_add_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        plain::norm::<Self>([x, gamma, beta], Some(residual), epsilon, relu)
    }

    /// Gradients of `x`, gamma and beta, given what the forward pass took and returned and the gradient of its output.
    fn norm_grads(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        // Of use to those that tell the ReLU's mask from the input.
        let _ = beta;
        let state = [x, gamma, mean, variance];
        let (x_grad, gamma_grad, beta_grad, _) =
            plain::norm_grads::<Self>(state, output, grad, epsilon, relu);
        (x_grad, gamma_grad, beta_grad)
    }

    /// As [`norm_grads`](Self::norm_grads), and the gradient of the residual last.
    fn norm_add_grads(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let _ = beta;
        plain::norm_grads::<Self>([x, gamma, mean, variance], output, grad, epsilon, relu)
    }

    /// Images times `scale` plus `shift`, each channel its own, then ReLU if `relu`.
    fn scale_shift(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        relu: bool,
    ) -> FloatTensor<Self> {
        plain::scale_shift::<Self>([x, scale, shift], None, relu)
    }

    /// As [`scale_shift`](Self::scale_shift), with `residual` added before the ReLU.
    fn scale_shift_add(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        relu: bool,
    ) -> FloatTensor<Self> {
        plain::scale_shift::<Self>([x, scale, shift], Some(residual), relu)
    }

    /// A convolution, then [`scale_shift`](Self::scale_shift) of what it gives.
    fn conv2d_line(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        stride: usize,
        padding: usize,
        relu: bool,
    ) -> FloatTensor<Self> {
        plain::conv2d_line::<Self>([x, weight, scale, shift], None, [stride, padding], relu)
    }

    /// As [`conv2d_line`](Self::conv2d_line), with `residual` added before the ReLU.
    fn conv2d_line_add(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        stride: usize,
        padding: usize,
        relu: bool,
    ) -> FloatTensor<Self> {
        plain::conv2d_line::<Self>([x, weight, scale, shift], Some(residual), [stride, padding], relu)
    }

    /// Greatest values of square windows.
    fn max_pool_forward(
        x: FloatTensor<Self>,
        size: usize,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        plain::max_pool::<Self>(x, size, stride, padding)
    }

    /// Gradient of a max pool's images.
    fn max_pool_grad(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        size: usize,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        plain::max_pool_grad::<Self>(x, grad, size, stride, padding)
    }

    /// Sum of two tensors of one shape.
    fn add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::add::<Self>(a, b)
    }

    /// A number, `[1]`, whose gradient by `output` is `gradient`.
    fn seed_gradient(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = gradient;
        plain::zero::<Self>(&output)
    }

    /// Every second pixel among zero channels.
    fn option_a_forward(x: FloatTensor<Self>, channels: usize) -> FloatTensor<Self> {
        plain::option_a::<Self>(x, channels)
    }

    /// Gradient of its images.
    fn option_a_grad(
        grad: FloatTensor<Self>,
        height: usize,
        width: usize,
        channels: usize,
    ) -> FloatTensor<Self> {
        plain::option_a_grad::<Self>(grad, [height, width, channels])
    }

    /// New weights and velocity of SGD.
    fn sgd_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        plain::sgd_step::<Self>(weight, gradient, velocity, SgdStep { lr, momentum, weight_decay, nesterov })
    }
}

#[cfg(all(feature = "flex", not(feature = "fast")))]
impl Kernels for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl Kernels for burn::backend::NdArray {}

impl<B: Kernels, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn conv2d_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        tracked_conv2d::<B, C>(x, weight, stride, padding)
    }

    fn norm_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        tracked_norm::<B, C>([x, gamma, beta], None, epsilon, relu)
    }

    fn norm_add_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        tracked_norm::<B, C>([x, gamma, beta], Some(residual), epsilon, relu)
    }

    fn max_pool_forward(
        x: FloatTensor<Self>,
        size: usize,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self> {
        tracked_max_pool::<B, C>(x, size, stride, padding)
    }

    fn option_a_forward(x: FloatTensor<Self>, channels: usize) -> FloatTensor<Self> {
        tracked_option_a::<B, C>(x, channels)
    }

    fn seed_gradient(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        tracked_seed::<B, C>(output, gradient)
    }
}
