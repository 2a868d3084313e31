//! The accuracy of a network over a whole data set: every image once, counted, not averaged over batches.

use burn_dist::{Communicator, ReduceOp};
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
    loader: Loader,
    seen: impl FnMut(usize),
    stop: impl Fn() -> bool,
) -> Result<Option<Accuracy>> {
    Ok(tally(model, normalizer, loader, seen, stop)?.accuracy())
}

/// The centre crop, as size and resize, whose accuracy belongs beside that of a validation which others' figures
/// cannot be compared with: one by rectangles, or above 224 pixels. It is 224 pixels of 256, and the validation's own
/// square where its images are smaller than that. `None` if the validation is such a crop itself.
pub fn comparable_crop(size: u32, resize: u32, rectangles: bool) -> Option<(u32, u32)> {
    let crop = if size < 224 { (size, resize) } else { (224, 256) };
    (rectangles || size > 224).then_some(crop)
}

/// Counts of an evaluation, or of a rank's part of it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The sum of the images' losses.
    loss: f64,
    top1: u64,
    top5: u64,
    num_images: u64,
    pub(super) num_skipped: u64,
    /// Whether it was stopped before its end.
    stopped: bool,
}

/// Evaluates as [`evaluate`] does, and leaves the counts uncombined.
pub(super) fn tally(
    model: &ResNet,
    normalizer: &Normalizer,
    mut loader: Loader,
    mut seen: impl FnMut(usize),
    stop: impl Fn() -> bool,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for batch in loader.by_ref() {
        if stop() {
            tally.stopped = true;
            return Ok(tally);
        }
        let batch = batch?;
        let (images, targets) = normalizer.tensors(&batch);
        let logits = model.forward(images);
        let mean = loss::cross_entropy(logits.clone(), targets.clone(), 0.0).into_scalar::<f32>();
        tally.loss += f64::from(mean) * batch.len() as f64;
        let (first, among_five) = loss::count_top(loss::target_rank(logits, targets));
        tally.top1 += first;
        tally.top5 += among_five;
        tally.num_images += batch.len() as u64;
        seen(batch.len());
    }
    tally.num_skipped = loader.num_skipped() as u64;
    Ok(tally)
}

impl Tally {
    /// The sum over all ranks, which all get; stopped if any rank was.
    pub(super) fn over_ranks(self, comm: &Communicator) -> Result<Self> {
        let Self { loss, top1, top5, num_images, num_skipped, stopped } = self;
        let stopped = u64::from(stopped);
        // Counts are exact in 64 bits up to 2^53.
        let counts = [top1, top5, num_images, num_skipped, stopped].map(|count| count as f64);
        let mut sums: Vec<f64> = [loss].into_iter().chain(counts).collect();
        comm.all_reduce(&mut sums, ReduceOp::Sum)?;
        let count = |at: usize| sums[at] as u64;
        Ok(Self {
            loss: sums[0],
            top1: count(1),
            top5: count(2),
            num_images: count(3),
            num_skipped: count(4),
            stopped: count(5) > 0,
        })
    }

    /// Means and percentages, unless it was stopped.
    pub(super) fn accuracy(&self) -> Option<Accuracy> {
        let Self { loss, top1, top5, num_images, num_skipped, stopped } = *self;
        let percent = |count: u64| 100.0 * count as f64 / num_images as f64;
        (!stopped).then(|| Accuracy {
            loss: loss / num_images as f64,
            top1: percent(top1),
            top5: percent(top5),
            num_images,
            num_skipped,
        })
    }
}
