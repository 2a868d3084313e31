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
use crate::config::{Loss, OptimizerConfig};

/// How a batch is trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepConfig {
    /// What is made small.
    pub loss: Loss,
    /// The share of the target spread evenly over all classes.
    pub smoothing: f64,
    /// Parts that the batch is cut into.
    pub micro_batches: usize,
    /// What the loss is multiplied by for the backward pass; gradients are divided by it in f32.
    pub loss_scale: f64,
}

impl StepConfig {
    /// What the configuration says, and the loss scale as it stands.
    pub fn new(optimizer: &OptimizerConfig, loss_scale: f64) -> Self {
        let OptimizerConfig { loss, label_smoothing: smoothing, micro_batches, .. } = *optimizer;
        Self { loss, smoothing, micro_batches, loss_scale }
    }
}

/// What a step saw, still on the device: reading it waits for the step to end.
#[derive(Debug)]
pub struct StepResult {
    /// Mean loss over the batch, `[1]`.
    pub loss: Tensor<1>,
    /// Each image's [`target_rank`](super::target_rank), `[n]`; of a mixed image that of its larger share.
    pub target_ranks: Tensor<1, Int>,
    /// Why the weights are what they were, the same on all ranks: whose gradient is no number.
    pub skipped: Option<String>,
    /// Seconds for which this rank stood still for want of the others' gradients.
    pub comm_wait_s: f64,
    /// Seconds for which gradients were on their way.
    pub comm_s: f64,
}

/// Trains `model` on one batch of every rank.
///
/// The batch is cut into micro-batches whose gradients are averaged: the same update as the whole batch gives, but for
/// batch norm, which sees one micro-batch at a time. Gradients leave for the other ranks block by block while the
/// backward pass of the last micro-batch runs.
///
/// # Shapes
/// `images` is `[n, channels, height, width]`, `targets` of `n`, both off the graph, as a batch comes.
///
/// # Number types
/// That of the images is that of convolutions and classifier; all else is f32.
///
/// # Errors
/// Those of [`GradientSink`](burn_dist::GradientSink); the weights are then what they were.
pub fn step(
    model: &mut ResNet,
    optimizer: &mut Optimizer,
    ddp: &mut DataParallel,
    batch: (Tensor<4>, impl Into<Targets>),
    lr: f64,
    config: StepConfig,
) -> Result<StepResult, DistError> {
    let mut sink = ddp.scaled_sink(config.loss_scale.recip() as f32);
    let mut taken = Ok(());
    let Pass { loss, target_ranks } = pass(model, batch, config, |segment| {
        if taken.is_ok() {
            taken = sink.ready(model, segment);
        }
    });
    taken?;
    let synced = sink.finish(model)?;
    if synced.skipped.is_none() {
        *model = optimizer.step(lr, model.clone(), synced.gradients);
    }
    Ok(StepResult {
        loss,
        target_ranks,
        skipped: synced.skipped,
        comm_wait_s: synced.comm_wait_s,
        comm_s: synced.wire_s,
    })
}

/// What [`pass`] saw.
pub(super) struct Pass {
    loss: Tensor<1>,
    target_ranks: Tensor<1, Int>,
}

/// Forward and backward over one batch. The gradients of the scaled loss go to `ready`, a segment at a time, once their
/// last micro-batch has been added.
pub(super) fn pass(
    model: &ResNet,
    (images, targets): (Tensor<4>, impl Into<Targets>),
    config: StepConfig,
    mut ready: impl FnMut(GradientsParams),
) -> Pass {
    let StepConfig { loss, smoothing, micro_batches, loss_scale } = config;
    let num_images = images.dims()[0];
    let mut sum = GradientsParams::new();
    let mut losses = Vec::with_capacity(micro_batches);
    let mut ranks = Vec::with_capacity(micro_batches);
    let parts: Vec<_> =
        images.chunk(micro_batches, 0).into_iter().zip(targets.into().chunk(micro_batches)).collect();
    let last = parts.len() - 1;
    for (index, (images, targets)) in parts.into_iter().enumerate() {
        // A short batch at an epoch's end may not divide evenly.
        let share = images.dims()[0] as f64 / num_images as f64;
        let (images, on_graph) = (Tensor::from_inner(images), targets.clone().on_graph());
        let micro_loss =
            |logits| loss::training_loss(loss, logits, on_graph, smoothing).mul_scalar(share * loss_scale);
        let staged = backward_staged(model, images, micro_loss, |_, segment| {
            let segment = add(model, &mut sum, segment, index == last);
            if index == last {
                ready(segment);
            }
        });
        losses.push(staged.loss);
        ranks.push(loss::target_rank(staged.logits, targets.dominant()));
    }
    Pass {
        loss: Tensor::cat(losses, 0).sum().mul_scalar(loss_scale.recip()),
        target_ranks: Tensor::cat(ranks, 0),
    }
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
