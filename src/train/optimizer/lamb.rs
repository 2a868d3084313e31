//! LAMB: Adam's step, scaled for every layer to the norm of its weights. You et al. 2020,
//! [1904.00962](https://arxiv.org/abs/1904.00962), in timm's form: gradients cut back to a common norm, bias correction,
//! `u = m / (sqrt(v) + eps) + wd w`, `w -= lr u |w| / |u|`, unscaled where either norm is 0 or weight decay is off.

use burn::tensor::Tensor;

use super::{sgd::decayed, sum_of_squares, trust};

/// The rule's numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lamb {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
    pub(super) max_grad_norm: f64,
}

impl Lamb {
    /// What gradients with these sums of squares are to be divided by, `[1]`: 1 within the largest norm.
    pub(super) fn divisor(self, squares: Vec<Tensor<1>>) -> Option<Tensor<1>> {
        let sum = squares.into_iter().reduce(|sum, square| sum + square)?;
        Some(sum.sqrt().div_scalar(self.max_grad_norm).clamp_min(1.0))
    }

    /// The direction of step `num_steps`, counted from 1, and the new moments: means of gradients and of their squares.
    pub(super) fn direction<const D: usize>(
        self,
        gradient: Tensor<D>,
        weight: &Tensor<D>,
        decay: f64,
        moments: [Option<Tensor<D>>; 2],
        num_steps: u64,
    ) -> (Tensor<D>, [Tensor<D>; 2]) {
        let moved = |old: Option<Tensor<D>>, new: Tensor<D>, beta: f64| {
            let new = new.mul_scalar(1.0 - beta);
            match old {
                Some(old) => old.mul_scalar(beta) + new,
                None => new,
            }
        };
        let [mean, squares] = moments;
        let squares = moved(squares, gradient.clone() * gradient.clone(), self.beta2);
        let mean = moved(mean, gradient, self.beta1);

        // Both means began at 0.
        let [so_far1, so_far2] = [self.beta1, self.beta2].map(|beta| 1.0 - beta.powf(num_steps as f64));
        let deviation = squares.clone().sqrt().div_scalar(so_far2.sqrt()).add_scalar(self.eps);
        let adam = mean.clone().div_scalar(so_far1) / deviation;
        if decay == 0.0 {
            return (adam, [mean, squares]);
        }
        let step = decayed(adam, weight, decay);
        let [weight_norm, step_norm] = [weight, &step].map(|tensor| sum_of_squares(tensor.clone()).sqrt());
        let ratio = weight_norm.clone() / step_norm.clone();
        (step * trust(ratio, weight_norm, step_norm), [mean, squares])
    }
}
