//! Training batch norm, with what usually follows it, as a differentiable function.

use std::env;
use std::sync::OnceLock;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch};
use burn::tensor::Tensor;

use crate::backend::Kernels;

/// A variable of the environment; with [`BURNS_NORM`] in it, batch norm on GPUs is Burn's, to compare the two.
pub const NORM_VARIABLE: &str = "BURN_KERNELS_NORM";

/// See [`NORM_VARIABLE`].
pub const BURNS_NORM: &str = "burn";

/// Whether batch norm on GPUs is Burn's. Looked up once a process.
pub fn norm_is_burns() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| env::var(NORM_VARIABLE).is_ok_and(|word| word == BURNS_NORM))
}

/// What [`batch_norm_train`] returns.
#[derive(Debug, Clone)]
pub struct BatchNormOutput {
    /// The images, normalised.
    pub output: Tensor<4>,
    /// The batch's mean of each channel, `[channels]`; no gradient flows through it.
    pub mean: Tensor<1>,
    /// The batch's biased variance of each channel, `[channels]`; no gradient flows through it.
    pub variance: Tensor<1>,
}

/// Normalises each channel by the mean and variance of the batch, scales by `gamma` and shifts by `beta`; then adds
/// `residual`, if there is one; then applies ReLU, if `relu`.
///
/// # Shapes
/// `x` and `residual` are `[batch, height, width, channels]`, `gamma` and `beta` `[channels]`.
///
/// # Number types
/// Computed in that of `gamma` and `beta`, which the statistics have too. `x` and `residual` may be of another one, such
/// as f16 where `gamma` is f32; the output and their gradients are of theirs.
///
/// # Cost
/// Forward, one pass over memory for the statistics and one for the rest; backward the same. Keeps `x`, and with ReLU
/// the output.
///
/// # Panics
/// If shapes do not fit, number types differ within a pair, or there are no values.
#[must_use]
pub fn batch_norm_train(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    residual: Option<Tensor<4>>,
    epsilon: f64,
    relu: bool,
) -> BatchNormOutput {
    if let Some(residual) = &residual {
        assert_eq!(x.dims(), residual.dims(), "batch norm: the residual must have the images' shape");
    }
    let (x, gamma, beta) = (x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch());
    let (output, mean, variance) = match residual {
        Some(residual) => Dispatch::norm_add_forward(x, gamma, beta, residual.into_dispatch(), epsilon, relu),
        None => Dispatch::norm_forward(x, gamma, beta, epsilon, relu),
    };
    BatchNormOutput {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// Multiplies each channel by `scale` and adds `shift`; then adds `residual`, if there is one; then applies ReLU, if
/// `relu`: batch norm by statistics that are known, differentiable as such.
///
/// # Shapes
/// `x` and `residual` are `[batch, height, width, channels]`, `scale` and `shift` `[channels]`.
///
/// # Number types
/// As [`batch_norm_train`].
///
/// # Cost
/// One pass over memory, in place where nobody else holds `x`.
///
/// # Panics
/// If shapes do not fit or number types differ within a pair.
#[must_use]
pub fn scale_shift(
    x: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Tensor<4> {
    let channels = [x.dims()[3]];
    assert!(
        scale.dims() == channels && shift.dims() == channels,
        "scale and shift: images {:?} need {channels:?} each, got {:?} and {:?}",
        x.dims(),
        scale.dims(),
        shift.dims()
    );
    let (x_dims, x) = (x.dims(), x.into_dispatch());
    let (scale, shift) = (scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(match residual {
        Some(residual) => {
            assert_eq!(x_dims, residual.dims(), "scale and shift: the residual must have the images' shape");
            Dispatch::scale_shift_add(x, scale, shift, residual.into_dispatch(), relu)
        }
        None => Dispatch::scale_shift(x, scale, shift, relu),
    })
}

/// [`conv2d`](crate::conv2d), then [`scale_shift`], in one pass over memory: what a convolution and its batch norm are once
/// training is over. Rounded as the two are in f32, and once where the images have 16 bits.
///
/// # Shapes
/// As those two: `scale` and `shift` are as long as `weight` has kernels, `residual` is like the result.
///
/// # Cost
/// That of the convolution. Differentiable, at the cost of the two.
///
/// # Panics
/// As those two.
#[must_use]
pub fn conv2d_scale_shift(
    x: Tensor<4>,
    weight: Tensor<4>,
    [stride, padding]: [usize; 2],
    [scale, shift]: [Tensor<1>; 2],
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Tensor<4> {
    let channels = [weight.dims()[0]];
    assert!(
        scale.dims() == channels && shift.dims() == channels,
        "scale and shift: {channels:?} kernels need {channels:?} each, got {:?} and {:?}",
        scale.dims(),
        shift.dims()
    );
    let extent = |axis: usize| {
        (x.dims()[axis] + 2 * padding)
            .checked_sub(weight.dims()[axis + 1])
            .map_or(0, |room| room / stride + 1)
    };
    let dims = [x.dims()[0], extent(1), extent(2), channels[0]];
    let [x, weight] = [x, weight].map(Tensor::into_dispatch);
    let [scale, shift] = [scale, shift].map(Tensor::into_dispatch);
    Tensor::from_dispatch(match residual {
        Some(residual) => {
            assert_eq!(dims, residual.dims(), "scale and shift: the residual must have the result's shape");
            let residual = residual.into_dispatch();
            Dispatch::conv2d_line_add(x, weight, scale, shift, residual, stride, padding, relu)
        }
        None => Dispatch::conv2d_line(x, weight, scale, shift, stride, padding, relu),
    })
}

/// The node of a batch norm, without (three parents) and with (four) a residual.
#[derive(Debug)]
struct Norm;

#[derive(Debug, Clone)]
struct Saved<B: Kernels> {
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    output: FloatTensor<B>,
    epsilon: f64,
    relu: bool,
}

impl<B: Kernels> Backward<B, 3> for Norm {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let Saved { x, gamma, beta, mean, variance, output, epsilon, relu } = ops.state;
        let (x, gamma, beta) = B::norm_grads(x, gamma, beta, mean, variance, output, grad, epsilon, relu);
        for (node, grad) in ops.parents.into_iter().zip([x, gamma, beta]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

impl<B: Kernels> Backward<B, 4> for Norm {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let Saved { x, gamma, beta, mean, variance, output, epsilon, relu } = ops.state;
        let (x, gamma, beta, residual) =
            B::norm_add_grads(x, gamma, beta, mean, variance, output, grad, epsilon, relu);
        for (node, grad) in ops.parents.into_iter().zip([x, gamma, beta, residual]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// The forward pass of the autodiff backend: the inner backend's, and a node with its gradient.
pub(crate) fn tracked_norm<B: Kernels, C: CheckpointStrategy>(
    [x, gamma, beta]: [Tracked<B, C>; 3],
    residual: Option<Tracked<B, C>>,
    epsilon: f64,
    relu: bool,
) -> (Tracked<B, C>, Tracked<B, C>, Tracked<B, C>) {
    let [(x, x_node), (gamma, gamma_node), (beta, beta_node)] =
        [x, gamma, beta].map(|tensor| tensor.into_parts());
    let saved = |(output, mean, variance): &(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>)| Saved::<B> {
        x: x.clone(),
        gamma: gamma.clone(),
        beta: beta.clone(),
        mean: mean.clone(),
        variance: variance.clone(),
        // Only the mask of the ReLU reads it; a stand-in that is kept anyway lets the output go.
        output: if relu { output.clone() } else { x.clone() },
        epsilon,
        relu,
    };
    let (output, mean, variance) = match residual {
        None => {
            let result = B::norm_forward(x.clone(), gamma.clone(), beta.clone(), epsilon, relu);
            let output = match Norm.prepare::<C>([x_node, gamma_node, beta_node]).compute_bound().stateful() {
                OpsKind::Tracked(node) => node.finish(saved(&result), result.0),
                OpsKind::UnTracked(node) => node.finish(result.0),
            };
            (output, result.1, result.2)
        }
        Some(residual) => {
            let (residual, residual_node) = residual.into_parts();
            let result = B::norm_add_forward(x.clone(), gamma.clone(), beta.clone(), residual, epsilon, relu);
            let nodes = [x_node, gamma_node, beta_node, residual_node];
            let output = match Norm.prepare::<C>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(node) => node.finish(saved(&result), result.0),
                OpsKind::UnTracked(node) => node.finish(result.0),
            };
            (output, result.1, result.2)
        }
    };
    (output, Tracked::<B, C>::new(mean), Tracked::<B, C>::new(variance))
}
