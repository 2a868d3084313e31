//! Convolution as a differentiable function.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch};
use burn::tensor::Tensor;

use crate::backend::Kernels;

/// Convolves images with kernels, without bias, groups or dilation.
///
/// # Shapes
/// `x` is `[batch, height, width, in]`, `weight` `[out, in, kernel height, kernel width]`; the result is
/// `[batch, (height + 2 padding - kernel height) / stride + 1, ..., out]`.
///
/// # Number types
/// The result has that of `x`. Where that has 16 bits, `weight` may be in f32, and so is its gradient: as they are in f32
/// where all is computed so, rounded to the type of `x` elsewhere.
///
/// # Cost
/// The multiplications, and a copy of the weights.
///
/// # Panics
/// If the input channels differ, the number types differ otherwise, the stride is 0, or a kernel is larger than the padded image.
///
/// ```
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex().autodiff();
/// let x = Tensor::<4>::ones([1, 4, 4, 1], &device);
/// let weight = Tensor::<4>::ones([1, 1, 3, 3], &device).require_grad();
/// let y = burn_kernels::conv2d(x, weight.clone(), 1, 0);
/// assert_eq!(y.dims(), [1, 2, 2, 1]);
/// let grad = weight.grad(&y.backward()).unwrap();
/// grad.into_data().assert_eq(&Tensor::<4>::full([1, 1, 3, 3], 4.0, &Device::flex()).into_data(), true);
/// ```
#[must_use]
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::conv2d_forward(
        x.into_dispatch(),
        weight.into_dispatch(),
        stride,
        padding,
    ))
}

#[derive(Debug)]
struct Conv2d;

/// Images, weights, stride and padding.
type Saved<B> = (FloatTensor<B>, FloatTensor<B>, usize, usize);

impl<B: Kernels> Backward<B, 2> for Conv2d {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, stride, padding) = ops.state;
        let [x_node, weight_node] = ops.parents;
        if let Some(node) = x_node {
            let x_grad = B::conv2d_input_grad(x.clone(), weight.clone(), grad.clone(), stride, padding);
            grads.register::<B>(node.id, x_grad);
        }
        if let Some(node) = weight_node {
            grads.register::<B>(node.id, B::conv2d_weight_grad(x, weight, grad, stride, padding));
        }
    }
}

/// The forward pass of the autodiff backend: the inner backend's, and a node with its gradient.
pub(crate) fn tracked_conv2d<B: Kernels, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    stride: usize,
    padding: usize,
) -> FloatTensor<Autodiff<B, C>> {
    let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
    match Conv2d.prepare::<C>([x_node, weight_node]).compute_bound().stateful() {
        OpsKind::Tracked(node) => {
            let y = B::conv2d_forward(x.clone(), weight.clone(), stride, padding);
            node.finish((x, weight, stride, padding), y)
        }
        OpsKind::UnTracked(node) => node.finish(B::conv2d_forward(x, weight, stride, padding)),
    }
}
