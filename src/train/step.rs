//! One update of the weights: forward, backward, update, over one batch cut into micro-batches.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Int, Tensor},
};
use burn_resnet::{ResNet, backward_staged};

use super::{loss, optimizer::Sgd};

/// What a step saw, still on the device: reading it waits for the step to end.
#[derive(Debug)]
pub struct StepResult {
    /// Mean loss over the batch, `[1]`.
    pub loss: Tensor<1>,
    /// Each image's [`target_rank`](super::target_rank), `[n]`.
    pub target_ranks: Tensor<1, Int>,
}

/// Trains `model` on one batch.
///
/// The batch is cut into `micro_batches` of the same length, whose gradients are averaged: the same update as the
/// whole batch gives, but for batch norm, which sees one micro-batch at a time.
///
/// # Shapes
/// `images` is `[n, channels, height, width]`, `targets` `[n]`, both off the graph, as a batch comes.
pub fn step(
    model: &mut ResNet,
    optimizer: &mut Sgd,
    (images, targets): (Tensor<4>, Tensor<1, Int>),
    lr: f64,
    smoothing: f64,
    micro_batches: usize,
) -> StepResult {
    let share = 1.0 / micro_batches as f64;
    let mut sum = GradientsParams::new();
    let mut losses = Vec::with_capacity(micro_batches);
    let mut ranks = Vec::with_capacity(micro_batches);
    for (images, targets) in images.chunk(micro_batches, 0).into_iter().zip(targets.chunk(micro_batches, 0)) {
        let (images, on_graph) = (Tensor::from_inner(images), Tensor::from_inner(targets.clone()));
        let micro_loss = |logits| loss::cross_entropy(logits, on_graph, smoothing).mul_scalar(share);
        let staged = backward_staged(model, images, micro_loss, |_, segment| add(model, &mut sum, segment));
        losses.push(staged.loss);
        ranks.push(loss::target_rank(staged.logits, targets));
    }
    *model = optimizer.step(lr, model.clone(), sum);
    StepResult { loss: Tensor::cat(losses, 0).sum(), target_ranks: Tensor::cat(ranks, 0) }
}

/// Adds a segment's gradients to those of earlier micro-batches.
fn add(model: &ResNet, sum: &mut GradientsParams, segment: GradientsParams) {
    struct Add<'a> {
        sum: &'a mut GradientsParams,
        segment: GradientsParams,
    }
    impl ModuleVisitor for Add<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.segment.remove::<D>(param.id) else { return };
            let gradient = match self.sum.remove::<D>(param.id) {
                Some(earlier) => earlier + gradient,
                None => gradient,
            };
            self.sum.register(param.id, gradient);
        }
    }
    model.visit(&mut Add { sum, segment });
}
