//! Max pooling as a differentiable function.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch};
use burn::tensor::Tensor;

use crate::backend::Kernels;

/// The greatest value of each channel in a square window that moves over the images. Beyond the edge there is nothing;
/// the gradient goes to the first of several greatest values, as PyTorch's does.
///
/// # Shapes
/// `x` is `[batch, height, width, channels]`; the result `[batch, (height + 2 padding - size) / stride + 1, ...]`.
///
/// # Cost
/// Keeps `x`: which value was the greatest is found again.
///
/// # Panics
/// If the stride is 0, the window larger than a padded image, or the padding more than half a window.
#[must_use]
pub fn max_pool2d(x: Tensor<4>, size: usize, stride: usize, padding: usize) -> Tensor<4> {
    assert!(2 * padding <= size, "max pool: a padding of {padding} leaves windows of {size} empty");
    Tensor::from_dispatch(Dispatch::max_pool_forward(x.into_dispatch(), size, stride, padding))
}

#[derive(Debug)]
struct MaxPool;

/// Images, size, stride and padding.
type Saved<B> = (FloatTensor<B>, usize, usize, usize);

impl<B: Kernels> Backward<B, 1> for MaxPool {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, size, stride, padding) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::max_pool_grad(x, grad, size, stride, padding));
        }
    }
}

/// The forward pass of the autodiff backend: the inner backend's, and a node with its gradient.
pub(crate) fn tracked_max_pool<B: Kernels, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    size: usize,
    stride: usize,
    padding: usize,
) -> FloatTensor<Autodiff<B, C>> {
    let (x, node) = x.into_parts();
    match MaxPool.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(node) => {
            let y = B::max_pool_forward(x.clone(), size, stride, padding);
            node.finish((x, size, stride, padding), y)
        }
        OpsKind::UnTracked(node) => node.finish(B::max_pool_forward(x, size, stride, padding)),
    }
}
