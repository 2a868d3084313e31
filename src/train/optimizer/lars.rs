//! LARS: every layer's gradient is scaled so that a step of learning rate 1 moves it by a share of its own norm. You et
//! al. 2017, [1708.03888](https://arxiv.org/abs/1708.03888), in timm's form: `g = (g + wd w) eta |w| / (|g| + wd |w| +
//! eps)`, as it is where either norm is 0; where weight decay is off, so is this. SGD's momentum follows.

use burn::tensor::Tensor;

use super::{sgd::decayed, sum_of_squares, trust};

/// timm's.
const EPS: f64 = 1e-8;

/// The rule's number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lars {
    /// Eta: the share.
    pub(super) trust_coefficient: f64,
}

impl Lars {
    /// The gradient with the penalty's, at its layer's scale.
    pub(super) fn scaled<const D: usize>(
        self,
        gradient: Tensor<D>,
        weight: &Tensor<D>,
        decay: f64,
    ) -> Tensor<D> {
        if decay == 0.0 {
            return gradient;
        }
        let [weight_norm, gradient_norm] =
            [weight, &gradient].map(|tensor| sum_of_squares(tensor.clone()).sqrt());
        let penalty_norm = weight_norm.clone().mul_scalar(decay);
        let ratio = weight_norm.clone().mul_scalar(self.trust_coefficient)
            / (gradient_norm.clone() + penalty_norm).add_scalar(EPS);
        decayed(gradient, weight, decay) * trust(ratio, weight_norm, gradient_norm)
    }
}
