//! Where a backward pass begins: a gradient that is known, put at a tensor. Not an operation of its own right: Burn's
//! backward pass begins at one number, with 1.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch};
use burn::tensor::Tensor;

use crate::backend::Kernels;

/// A number, `[1]`, whose gradient by `output` is `gradient`: its `backward` continues there a backward pass that ended
/// with that gradient, to the bit. What the number is, is not said.
///
/// # Shapes
/// `gradient` has that of `output`; it is off the graph.
///
/// # Cost
/// None; a product with `gradient`, summed, would do the same in five passes over memory.
///
/// ```
/// use burn::tensor::{Device, Tensor};
///
/// let x = Tensor::<4>::ones([1, 1, 1, 3], &Device::flex().autodiff()).require_grad();
/// let gradient = Tensor::<4>::from_data([[[[1.0, 2.0, 3.0]]]], &Device::flex());
/// let grads = burn_kernels::seed_gradient(x.clone() * 2.0, gradient).backward();
/// x.grad(&grads).unwrap().into_data().assert_eq(&[[[[2.0f32, 4.0, 6.0]]]].into(), true);
/// ```
///
/// # Panics
/// If the shapes differ.
#[must_use]
pub fn seed_gradient(output: Tensor<4>, gradient: Tensor<4>) -> Tensor<1> {
    assert_eq!(
        output.dims(),
        gradient.dims(),
        "seed_gradient: a gradient has the shape of what it is the gradient of"
    );
    let gradient = Tensor::from_inner(gradient).into_dispatch();
    Tensor::from_dispatch(Dispatch::seed_gradient(output.into_dispatch(), gradient))
}

#[derive(Debug)]
struct Seed;

impl<B: Kernels> Backward<B, 1> for Seed {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<FloatTensor<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        // A 1: the number is where the pass begins.
        grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, ops.state);
        }
    }
}

pub(crate) fn tracked_seed<B: Kernels, C: CheckpointStrategy>(
    output: FloatTensor<Autodiff<B, C>>,
    gradient: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let ((output, node), (gradient, _)) = (output.into_parts(), gradient.into_parts());
    let number = B::seed_gradient(output, gradient.clone());
    match Seed.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(node) => node.finish(gradient, number),
        OpsKind::UnTracked(node) => node.finish(number),
    }
}
