//! How far a run has come: the counters that a checkpoint holds and a resumed run goes on from.

use burn_dist::WorldSize;
use serde::{Deserialize, Serialize};

use super::scaler::Scaler;
use crate::{
    error::{Error, Result},
    recipe::{Position, Schedule},
};

/// How far a run has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Updates made.
    pub step: u64,
    /// Epochs whose evaluation is recorded.
    pub epochs_done: u32,
    /// Updates made in the epoch after them.
    pub steps_in_epoch: u64,
    /// Ranks of the job.
    pub world_size: u32,
    /// Ranks that the run began with, which the recipe's learning rates are for.
    pub first_world_size: u32,
    /// Training images seen over all ranks.
    pub images: u64,
    /// Seconds on the run's clock.
    pub elapsed_s: f64,
    /// Bad files that training replaced and evaluation left out.
    pub skipped_images: u64,
    /// The epoch under way.
    pub epoch: EpochTotals,
    /// The loss scale, and the steps skipped on its account.
    #[serde(default)]
    pub scaler: Scaler,
    /// The evaluation recorded last, as (top-1, top-5) in percent.
    pub last_accuracy: Option<(f64, f64)>,
    /// The length of `metrics.jsonl`.
    pub metrics_bytes: u64,
}

impl Progress {
    /// The same progress in a job of `world_size` ranks, and what is to be said of it.
    ///
    /// Batches stay what they are on a rank, so all of them together change, and with them the learning rate: in
    /// proportion (the linear rule of Goyal et al. 2017, section 2.1).
    ///
    /// # Errors
    /// [`Error::Usage`] for another world size inside an epoch, whose batches were made for the one before.
    pub(super) fn on(self, world_size: WorldSize, schedule: &Schedule) -> Result<(Self, Option<String>)> {
        if self.last_position(schedule).is_none() {
            let Self { steps_in_epoch, epochs_done, .. } = self;
            return Err(Error::run(format!(
                "the checkpoint has made {steps_in_epoch} steps of epoch {epochs_done}, which are more than there are: \
                 it is of another recipe, or the training pictures have become fewer"
            )));
        }
        let now = world_size.count() as u32;
        let before = self.world_size;
        if before == 0 {
            return Ok((Self { world_size: now, first_world_size: now, ..self }, None));
        }
        if before == now {
            return Ok((self, None));
        }
        if self.steps_in_epoch > 0 {
            return Err(Error::usage(format!(
                "the checkpoint of step {} lies inside epoch {} of a job of {before} ranks, and this one has {now}: \
                 resume with {before}, or remove the checkpoints of this epoch to go on from its beginning",
                self.step, self.epochs_done
            )));
        }
        let (scale, first) = (f64::from(now) / f64::from(self.first_world_size), self.first_world_size);
        let said = format!(
            "{now} ranks instead of {before}: batches stay as they are on a rank, learning rates are {scale} times \
             those of the recipe, which began with {first}"
        );
        Ok((Self { world_size: now, ..self }, Some(said)))
    }

    /// Where the last step stood, or the first will. `None` if the schedule has no such step.
    pub(super) fn last_position(&self, schedule: &Schedule) -> Option<Position> {
        match (self.epochs_done, self.steps_in_epoch) {
            (0, 0) => schedule.at(0, 0),
            (epochs, 0) => schedule.last_of(epochs - 1),
            (epochs, steps) => schedule.at(epochs, steps - 1),
        }
    }

    /// What the recipe's learning rates are multiplied by.
    pub(super) fn lr_scale(&self) -> f64 {
        f64::from(self.world_size) / f64::from(self.first_world_size)
    }

    /// Whether this is the same point of the same run; clocks may differ.
    pub(super) fn is_same_point_as(&self, other: &Self) -> bool {
        let point = |progress: &Self| (progress.step, progress.epochs_done, progress.metrics_bytes);
        point(self) == point(other)
    }
}

/// Sums over the steps of an epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochTotals {
    /// Images.
    pub images: u64,
    /// The sum of their losses.
    #[serde(with = "bits")]
    pub loss: f64,
    /// How many had their class first.
    pub top1: u64,
    /// How many had it among the first five.
    pub top5: u64,
    /// Seconds of training.
    pub train_s: f64,
    /// Seconds of them that were spent waiting for a batch; the mean over all ranks.
    pub data_wait_s: f64,
    /// Seconds of them that were spent waiting for other ranks' gradients; the mean over all ranks.
    #[serde(default)]
    pub comm_wait_s: f64,
    /// Seconds for which gradients were on their way; the mean over all ranks.
    #[serde(default)]
    pub comm_s: f64,
}

/// A number as its bits: read as a decimal it may come back off by the last one.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}
