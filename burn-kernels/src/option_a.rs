//! The shortcut without parameters where a stage halves the image: option A of He et al. 2015, section 3.3. Of Burn's own
//! operations it takes a slice, zeros and a concatenation, each of which runs on one core of a CPU.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, TensorMetadata};
use burn::tensor::Tensor;

use crate::backend::Kernels;

/// Every second pixel, and zero channels: as many before its own as after, or one more after.
///
/// # Shapes
/// `[batch, height, width, in]` to `[batch, ceil(height / 2), ceil(width / 2), channels]`.
///
/// # Cost
/// Writes the result once, and so does its gradient.
///
/// # Panics
/// If `x` has more channels than that.
#[must_use]
pub fn option_a(x: Tensor<4>, channels: usize) -> Tensor<4> {
    let own = x.dims()[3];
    assert!(own <= channels, "option A: {own} channels do not fit into {channels}");
    Tensor::from_dispatch(Dispatch::option_a_forward(x.into_dispatch(), channels))
}

#[derive(Debug)]
struct OptionA;

impl<B: Kernels> Backward<B, 1> for OptionA {
    /// Height, width and channels of the images.
    type State = [usize; 3];

    fn backward(self, ops: Ops<[usize; 3], 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [height, width, channels] = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::option_a_grad(grad, height, width, channels));
        }
    }
}

/// The forward pass of the autodiff backend: the inner backend's, and a node with its gradient.
pub(crate) fn tracked_option_a<B: Kernels, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    channels: usize,
) -> FloatTensor<Autodiff<B, C>> {
    let (x, node) = x.into_parts();
    let [_, height, width, own] = x.shape().dims();
    let y = B::option_a_forward(x, channels);
    match OptionA.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(node) => node.finish([height, width, own], y),
        OpsKind::UnTracked(node) => node.finish(y),
    }
}
