//! One update of the weights: forward, backward, update, over one batch cut into micro-batches.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Int, Tensor},
};
use burn_dist::{DataParallel, DistError};
use burn_resnet::{ResNet, backward_staged};

use super::{
    loss::{self, Targets},
    optimizer::Optimizer,
};
use crate::config::Loss;

/// What a step saw, still on the device: reading it waits for the step to end.
#[derive(Debug)]
pub struct StepResult {
    /// Mean loss over the batch, `[1]`.
    pub loss: Tensor<1>,
    /// Each image's [`target_rank`](super::target_rank), `[n]`; of a mixed image that of its larger share.
    pub target_ranks: Tensor<1, Int>,
    /// Seconds for which this rank stood still for want of the others' gradients.
    pub comm_wait_s: f64,
    /// Seconds for which gradients were on their way.
    pub comm_s: f64,
}

/// Trains `model` on one batch of every rank.
///
/// The batch is cut into `micro_batches` of the same length, whose gradients are averaged: the same update as the
/// whole batch gives, but for batch norm, which sees one micro-batch at a time. Gradients leave for the other ranks
/// block by block while the backward pass of the last micro-batch runs.
///
/// # Shapes
/// `images` is `[n, channels, height, width]`, `targets` of `n`, both off the graph, as a batch comes.
///
/// # Errors
/// Those of [`GradientSink`](burn_dist::GradientSink); the weights are then what they were.
pub fn step(
    model: &mut ResNet,
    optimizer: &mut Optimizer,
    ddp: &mut DataParallel,
    (images, targets): (Tensor<4>, Targets),
    lr: f64,
    (loss, smoothing): (Loss, f64),
    micro_batches: usize,
) -> Result<StepResult, DistError> {
    let share = 1.0 / micro_batches as f64;
    let mut sum = GradientsParams::new();
    let mut losses = Vec::with_capacity(micro_batches);
    let mut ranks = Vec::with_capacity(micro_batches);
    let mut sink = ddp.sink();
    let mut taken = Ok(());
    let parts = images.chunk(micro_batches, 0).into_iter().zip(targets.chunk(micro_batches));
    for (index, (images, targets)) in parts.enumerate() {
        let (images, on_graph) = (Tensor::from_inner(images), targets.clone().on_graph());
        let micro_loss = |logits| loss::training_loss(loss, logits, on_graph, smoothing).mul_scalar(share);
        let is_last = index + 1 == micro_batches;
        let staged = backward_staged(model, images, micro_loss, |_, segment| {
            let segment = add(model, &mut sum, segment, is_last);
            if is_last && taken.is_ok() {
                taken = sink.ready(model, segment);
            }
        });
        losses.push(staged.loss);
        ranks.push(loss::target_rank(staged.logits, targets.dominant()));
    }
    taken?;
    let synced = sink.finish(model)?;
    *model = optimizer.step(lr, model.clone(), synced.gradients);
    Ok(StepResult {
        loss: Tensor::cat(losses, 0).sum(),
        target_ranks: Tensor::cat(ranks, 0),
        comm_wait_s: synced.comm_wait_s,
        comm_s: synced.wire_s,
    })
}

/// Adds a segment's gradients to those of earlier micro-batches in `sum`, and takes them out of it for the `last` one.
fn add(model: &ResNet, sum: &mut GradientsParams, segment: GradientsParams, last: bool) -> GradientsParams {
    struct Add<'a> {
        sum: &'a mut GradientsParams,
        segment: GradientsParams,
        last: bool,
        out: GradientsParams,
    }
    impl ModuleVisitor for Add<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.segment.remove::<D>(param.id) else { return };
            let gradient = match self.sum.remove::<D>(param.id) {
                Some(earlier) => earlier + gradient,
                None => gradient,
            };
            let to = if self.last { &mut self.out } else { &mut *self.sum };
            to.register(param.id, gradient);
        }
    }
    let mut add = Add { sum, segment, last, out: GradientsParams::new() };
    model.visit(&mut add);
    add.out
}
