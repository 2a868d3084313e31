//! The accuracy of a network over a whole data set: every image once, counted, not averaged over batches.

use burn_resnet::ResNet;

use super::{input::Normalizer, loss};
use crate::{data::Loader, error::Result};

/// What an evaluation found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// Mean cross-entropy, without smoothing.
    pub loss: f64,
    /// Images whose class came first, in percent.
    pub top1: f64,
    /// Images whose class was among the first five, in percent.
    pub top5: f64,
    /// Images evaluated.
    pub num_images: u64,
    /// Pictures that could not be read and are not among them.
    pub num_skipped: u64,
}

/// Evaluates `model`, which must be on a plain device, over what is left of `loader`. `None` if `stop` said so
/// between two batches.
///
/// # Errors
/// Those of the loader, which name the file.
pub fn evaluate(
    model: &ResNet,
    normalizer: &Normalizer,
    mut loader: Loader,
    mut seen: impl FnMut(usize),
    stop: impl Fn() -> bool,
) -> Result<Option<Accuracy>> {
    let (mut loss, mut top1, mut top5, mut num_images) = (0.0, 0u64, 0u64, 0u64);
    for batch in loader.by_ref() {
        if stop() {
            return Ok(None);
        }
        let batch = batch?;
        let (images, targets) = normalizer.tensors(&batch);
        let logits = model.forward(images);
        let mean = loss::cross_entropy(logits.clone(), targets.clone(), 0.0).into_scalar::<f32>();
        loss += f64::from(mean) * batch.len() as f64;
        let (first, among_five) = loss::count_top(loss::target_rank(logits, targets));
        top1 += first;
        top5 += among_five;
        num_images += batch.len() as u64;
        seen(batch.len());
    }
    let percent = |count: u64| 100.0 * count as f64 / num_images as f64;
    Ok(Some(Accuracy {
        loss: loss / num_images as f64,
        top1: percent(top1),
        top5: percent(top5),
        num_images,
        num_skipped: loader.num_skipped() as u64,
    }))
}
