//! The update of SGD with momentum as one function. Not an optimizer: no state, no schedule.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::backend::Kernels;

/// What SGD multiplies by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f64,
    /// How much of the last step is made again.
    pub momentum: f64,
    /// L2 penalty, by half its square.
    pub weight_decay: f64,
    /// Whether the gradient is looked at one step ahead.
    pub nesterov: bool,
}

/// The new weights and velocity, as PyTorch computes them without dampening: `g += decay w`, `v = m v + g`, then
/// `w -= lr v`, or `w -= lr (g + m v)` with Nesterov's momentum. At rest the velocity is 0.
///
/// # Shapes
/// Three alike, flat.
///
/// # Cost
/// One pass over memory; a velocity that nobody else holds is overwritten where it is, a gradient by the new weights.
///
/// # Panics
/// If lengths or number types differ.
#[must_use]
pub fn sgd_step(
    weight: Tensor<1>,
    gradient: Tensor<1>,
    velocity: Tensor<1>,
    step: SgdStep,
) -> (Tensor<1>, Tensor<1>) {
    let lengths = [&weight, &gradient, &velocity].map(|tensor| tensor.dims()[0]);
    assert!(lengths[0] == lengths[1] && lengths[1] == lengths[2], "sgd: lengths {lengths:?} differ");
    let SgdStep { lr, momentum, weight_decay, nesterov } = step;
    let [weight, gradient, velocity] = [weight, gradient, velocity].map(Tensor::into_dispatch);
    let (weight, velocity) =
        Dispatch::sgd_step(weight, gradient, velocity, lr, momentum, weight_decay, nesterov);
    (Tensor::from_dispatch(weight), Tensor::from_dispatch(velocity))
}
