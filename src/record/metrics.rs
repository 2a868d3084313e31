//! `metrics.jsonl`: what happened in a run, a JSON object a line. Everything else that a run leaves (curves,
//! TensorBoard events, DAWNBench files, the report) is made from these rows.
//!
//! A value that is not known has no key (there is no `null`). A number that JSON cannot write is a string, as in
//! protobuf's JSON mapping: `"NaN"`, `"Infinity"`, `"-Infinity"`, so the loss that stopped a run is on record.
//! Top-k values are percent. Not a log for people: see [`super::Progress`]. The file itself is in `log`.

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Row {
    /// An optimizer update.
    Step(StepRow),
    /// The end of an epoch, after its evaluation.
    Epoch(EpochRow),
    /// The start of a phase.
    Phase(PhaseRow),
    /// The end of the run.
    End(EndRow),
}

impl Row {
    /// Where in the run the row was written.
    pub fn at(&self) -> &Moment {
        match self {
            Self::Step(row) => &row.at,
            Self::Epoch(row) => &row.at,
            Self::Phase(row) => &row.at,
            Self::End(row) => &row.at,
        }
    }

    /// What the run had cost by then, if the row says so.
    pub(super) fn cost_usd(&self) -> Option<f64> {
        match self {
            Self::Step(row) => row.cost_usd,
            Self::Epoch(row) => row.cost_usd,
            Self::Phase(_) => None,
            Self::End(row) => row.cost_usd,
        }
    }
}

/// A point in a run; every row has one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// The epoch under way, or just ended; from 0.
    pub epoch: u32,
    /// Optimizer updates made so far: the first step's row has 1.
    pub step: u64,
    /// The phase under way, from 0.
    pub phase: u32,
    /// Training images seen so far, over all ranks.
    pub images: u64,
    /// Seconds on the run's clock, evaluation included; it goes on where it stood after a resume.
    #[serde(with = "number")]
    pub elapsed_s: f64,
}

/// A training step, or the mean of the few steps since the last row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// Where in the run.
    #[serde(flatten)]
    pub at: Moment,
    /// The learning rate that the step used.
    #[serde(with = "number")]
    pub lr: f64,
    /// Training loss.
    #[serde(with = "number")]
    pub train_loss: f64,
    /// Training top-1, percent.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub train_top1: Option<f64>,
    /// Training top-5, percent.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub train_top5: Option<f64>,
    /// Training speed over all ranks.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub images_per_s: Option<f64>,
    /// Seconds for which training stood still for want of a batch since the last step row.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub data_wait_s: Option<f64>,
    /// Seconds for which training stood still for want of gradients from other ranks since the last step row.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub comm_wait_s: Option<f64>,
    /// Seconds for which gradients were on their way between ranks since the last step row: what of them is not
    /// `comm_wait_s` was hidden behind the backward pass.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub comm_s: Option<f64>,
    /// Cost of the run so far.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Images left out so far because their files are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_images: Option<u64>,
    /// What the step's loss was multiplied by for the backward pass, if it was.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Steps so far that left the weights as they were because a gradient was no number; they count as steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u64>,
}

/// An epoch: means over its training steps, and the evaluation after it if there was one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// Where in the run.
    #[serde(flatten)]
    pub at: Moment,
    /// The learning rate of the epoch's last step.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Mean training loss.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// Mean training top-1, percent.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub train_top1: Option<f64>,
    /// Mean training top-5, percent.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub train_top5: Option<f64>,
    /// Validation loss.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Validation top-1, percent.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub val_top1: Option<f64>,
    /// Validation top-5, percent.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub val_top5: Option<f64>,
    /// Images that the evaluation saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_images: Option<u64>,
    /// Seconds that the evaluation took.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub eval_s: Option<f64>,
    /// Side in pixels of the centre crop that was measured beside a validation which does not compare with others'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_center_size: Option<u32>,
    /// Validation top-1 by that crop, percent.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub val_center_top1: Option<f64>,
    /// Validation top-5 by that crop, percent.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub val_center_top5: Option<f64>,
    /// Training speed over all ranks, evaluation apart.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub images_per_s: Option<f64>,
    /// Seconds of the epoch for which training stood still for want of a batch.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub data_wait_s: Option<f64>,
    /// Seconds of the epoch for which training stood still for want of gradients from other ranks.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub comm_wait_s: Option<f64>,
    /// Seconds of the epoch for which gradients were on their way between ranks.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub comm_s: Option<f64>,
    /// A hash of all parameters and running statistics, in hexadecimal: the same on all ranks, which compared it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param_hash: Option<String>,
    /// Cost of the run so far.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Images left out so far because their files are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_images: Option<u64>,
    /// Steps so far that left the weights as they were because a gradient was no number; they count as steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u64>,
}

/// The start of a phase, and what the schedule plans for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseRow {
    /// Where in the run: `step` and `images` are those before the phase.
    #[serde(flatten)]
    pub at: Moment,
    /// Image side in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Images a step and rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// Images a step over all ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_batch_size: Option<u32>,
    /// First epoch, and the one after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<(u32, u32)>,
    /// Learning rate at the start.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Learning rate at the end; the phase's rule says how it gets there.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<f64>,
    /// The optimizer's momentum.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
}

/// The end of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndRow {
    /// Where in the run.
    #[serde(flatten)]
    pub at: Moment,
    /// Why it ended.
    pub reason: EndReason,
    /// For a run that failed: why, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Cost of the run.
    #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Images left out because their files are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_images: Option<u64>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndReason {
    /// The schedule is through.
    Done,
    /// The user stopped it; it can be resumed.
    Stopped,
    /// It failed.
    Failed,
    /// It reached the accuracy that it was to stop at.
    Target,
}

/// A number that may be beyond JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Number {
    Finite(f64),
    Other(Special),
}

#[derive(Serialize, Deserialize)]
enum Special {
    NaN,
    Infinity,
    #[serde(rename = "-Infinity")]
    MinusInfinity,
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        match value {
            x if x.is_nan() => Self::Other(Special::NaN),
            f64::INFINITY => Self::Other(Special::Infinity),
            f64::NEG_INFINITY => Self::Other(Special::MinusInfinity),
            finite => Self::Finite(finite),
        }
    }
}

impl From<Number> for f64 {
    fn from(value: Number) -> Self {
        match value {
            Number::Finite(value) => value,
            Number::Other(Special::NaN) => Self::NAN,
            Number::Other(Special::Infinity) => Self::INFINITY,
            Number::Other(Special::MinusInfinity) => Self::NEG_INFINITY,
        }
    }
}

mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        super::Number::from(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        super::Number::deserialize(deserializer).map(f64::from)
    }
}

mod optional_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(super::Number::from).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<super::Number>::deserialize(deserializer)?.map(f64::from))
    }
}
