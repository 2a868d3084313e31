//! What training minimises and what it is judged by: cross-entropy or binary cross-entropy against smoothed and mixed
//! targets, top-k by the target's rank.

use burn::tensor::{
    DType, FloatDType, Int, Tensor,
    activation::{log_softmax, softplus},
};

use crate::config::Loss;

/// What the images of a batch are called: a class each, or two in the same ratio for the whole batch.
///
/// # Shapes
/// `[n]`, twice.
#[derive(Debug, Clone)]
pub struct Targets {
    classes: Tensor<1, Int>,
    /// Other classes, and the share of the first.
    mixed: Option<(Tensor<1, Int>, f64)>,
}

impl From<Tensor<1, Int>> for Targets {
    fn from(classes: Tensor<1, Int>) -> Self {
        Self { classes, mixed: None }
    }
}

impl Targets {
    /// `share` of the one class and the rest of the other, for each image.
    pub fn mixed(classes: Tensor<1, Int>, others: Tensor<1, Int>, share: f64) -> Self {
        Self { classes, mixed: Some((others, share)) }
    }

    /// The class of the larger share: what counts as right while images are mixed.
    pub fn dominant(self) -> Tensor<1, Int> {
        match self.mixed {
            Some((others, share)) if share < 0.5 => others,
            _ => self.classes,
        }
    }

    /// Parts as [`Tensor::chunk`] makes them.
    pub(super) fn chunk(self, chunks: usize) -> Vec<Self> {
        let classes = self.classes.chunk(chunks, 0);
        let Some((others, share)) = self.mixed else { return classes.into_iter().map(Self::from).collect() };
        let others = others.chunk(chunks, 0);
        classes.into_iter().zip(others).map(|(classes, others)| Self::mixed(classes, others, share)).collect()
    }

    /// The same on the autodiff device.
    pub(super) fn on_graph(self) -> Self {
        let mixed = self.mixed.map(|(others, share)| (Tensor::from_inner(others), share));
        Self { classes: Tensor::from_inner(self.classes), mixed }
    }

    /// The mean over the batch of each image's value at its target.
    fn pick(self, values: Tensor<2>) -> Tensor<1> {
        let at = |classes: Tensor<1, Int>| values.clone().gather(1, classes.unsqueeze_dim(1)).mean();
        match self.mixed {
            None => at(self.classes),
            Some((others, share)) => at(self.classes).mul_scalar(share) + at(others).mul_scalar(1.0 - share),
        }
    }
}

/// The mean loss of a batch.
///
/// # Shapes
/// `[n, classes]` and `[n]` to `[1]`.
pub fn training_loss(loss: Loss, logits: Tensor<2>, targets: Targets, smoothing: f64) -> Tensor<1> {
    match loss {
        Loss::CrossEntropy => cross_entropy(logits, targets, smoothing),
        Loss::Bce => binary_cross_entropy(logits, targets, smoothing),
    }
}

/// Mean cross-entropy against targets of which the share `smoothing` is spread evenly over all classes (Szegedy et
/// al. 2016, section 7), as PyTorch's `cross_entropy(.., label_smoothing)`. Computed in f32 at least.
///
/// # Shapes
/// `[n, classes]` and `[n]` to `[1]`.
pub fn cross_entropy(logits: Tensor<2>, targets: impl Into<Targets>, smoothing: f64) -> Tensor<1> {
    let log_probabilities = log_softmax(in_f32(logits), 1);
    let of_target = targets.into().pick(log_probabilities.clone());
    if smoothing == 0.0 {
        return of_target.neg();
    }
    (of_target.mul_scalar(1.0 - smoothing) + log_probabilities.mean().mul_scalar(smoothing)).neg()
}

/// Mean over the images of the sum over the classes of `binary_cross_entropy_with_logits`, against targets of which the
/// share `smoothing` is spread evenly over all classes (Beyer et al. 2020, [2006.07159](https://arxiv.org/abs/2006.07159);
/// the sum as composer takes it).
///
/// timm divides by the number of classes as well. To LAMB that is the same training where `eps` and `max_grad_norm` are
/// larger by that number. Computed in f32 at least.
///
/// # Shapes
/// `[n, classes]` and `[n]` to `[1]`.
pub fn binary_cross_entropy(logits: Tensor<2>, targets: impl Into<Targets>, smoothing: f64) -> Tensor<1> {
    let logits = in_f32(logits);
    // Of class k with target t: softplus(x) - t x. So targets need not be written out.
    let of_none = softplus(logits.clone(), 1.0).sum_dim(1).mean();
    let of_target = targets.into().pick(logits.clone());
    if smoothing == 0.0 {
        return of_none - of_target;
    }
    of_none - of_target.mul_scalar(1.0 - smoothing) - logits.mean().mul_scalar(smoothing)
}

fn in_f32(logits: Tensor<2>) -> Tensor<2> {
    let is_half = matches!(logits.dtype(), DType::F16 | DType::BF16);
    if is_half { logits.cast(FloatDType::F32) } else { logits }
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
