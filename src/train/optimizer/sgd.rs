//! SGD with momentum, as PyTorch computes it: `v = m v + (g + wd w)`, `w -= lr v`, with no dampening and the first
//! velocity equal to the first gradient (Goyal et al. 2017, equation 9: no correction is due when `lr` changes).

use burn::tensor::Tensor;

/// How much of the last step is made again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Momentum {
    pub(super) factor: f64,
    pub(super) nesterov: bool,
}

impl Momentum {
    /// The direction of the step and the new velocity.
    pub(super) fn direction<const D: usize>(
        self,
        gradient: Tensor<D>,
        velocity: Option<Tensor<D>>,
    ) -> (Tensor<D>, Tensor<D>) {
        let velocity = match velocity {
            Some(old) => old.mul_scalar(self.factor) + gradient.clone(),
            None => gradient.clone(),
        };
        let direction = if self.nesterov {
            gradient + velocity.clone().mul_scalar(self.factor)
        } else {
            velocity.clone()
        };
        (direction, velocity)
    }
}

/// The gradient with the L2 penalty's.
pub(super) fn decayed<const D: usize>(gradient: Tensor<D>, weight: &Tensor<D>, decay: f64) -> Tensor<D> {
    if decay == 0.0 { gradient } else { gradient + weight.clone().mul_scalar(decay) }
}
