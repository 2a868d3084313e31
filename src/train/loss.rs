//! What training minimises and what it is judged by: cross-entropy with label smoothing, top-k by the target's rank.

use burn::tensor::{DType, FloatDType, Int, Tensor, activation::log_softmax};

/// Mean cross-entropy against targets of which the share `smoothing` is spread evenly over all classes (Szegedy et
/// al. 2016, section 7), as PyTorch's `cross_entropy(.., label_smoothing)`. Computed in f32 at least.
///
/// # Shapes
/// `[n, classes]` and `[n]` to `[1]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let is_half = matches!(logits.dtype(), DType::F16 | DType::BF16);
    let logits = if is_half { logits.cast(FloatDType::F32) } else { logits };
    let log_probabilities = log_softmax(logits, 1);
    let of_target = log_probabilities.clone().gather(1, targets.unsqueeze_dim(1)).mean();
    if smoothing == 0.0 {
        return of_target.neg();
    }
    (of_target.mul_scalar(1.0 - smoothing) + log_probabilities.mean().mul_scalar(smoothing)).neg()
}

/// How many classes come before the target when logits are sorted downwards; a tie goes to the lower class.
///
/// The target is among the top k exactly if its rank is below k. A logit that is no number comes before the target,
/// and a target whose logit is none comes last: a network that broke down is not right.
///
/// # Shapes
/// `[n, classes]` and `[n]` to `[n]`.
pub fn target_rank(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1, Int> {
    let [_, num_classes] = logits.dims();
    let targets = targets.unsqueeze_dim::<2>(1);
    let of_target = logits.clone().gather(1, targets.clone());
    let classes = Tensor::<1, Int>::arange(0..num_classes as i64, &logits.device()).unsqueeze::<2>();
    let lower_class = classes.lower(targets);
    let not_behind = logits.clone().lower_equal(of_target.clone()).bool_not();
    let ties = logits.equal(of_target).bool_and(lower_class);
    not_behind.bool_or(ties).int().sum_dim(1).squeeze_dim(1)
}

/// How many ranks are below 1, and below 5.
pub(super) fn count_top(ranks: Tensor<1, Int>) -> (u64, u64) {
    let ranks = ranks.into_data();
    let below = |k: i64| ranks.iter::<i64>().filter(|&rank| rank < k).count() as u64;
    (below(1), below(5))
}
