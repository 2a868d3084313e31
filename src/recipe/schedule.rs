//! From a step's number to its epoch, phase and learning rate. Pure arithmetic, the same on every rank.

use super::{Phase, Ramp, ramp::Place};

/// The phases of a run laid out over the steps of a data set of known size.
#[derive(Debug, Clone)]
pub struct Schedule {
    phases: Vec<Span>,
}

/// What an epoch is for one rank. All of a phase are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochShape {
    /// Steps.
    pub num_steps: u64,
    /// Images in the last of them; the others have the phase's batch size.
    pub last_batch_size: usize,
}

/// A phase with its place in the run.
#[derive(Debug, Clone)]
struct Span {
    phase: Phase,
    first_epoch: u32,
    first_step: u64,
    epoch: EpochShape,
}

impl Span {
    fn num_steps(&self) -> u64 {
        u64::from(self.phase.epochs) * self.epoch.num_steps
    }

    fn num_images(&self) -> u64 {
        let in_epoch =
            (self.epoch.num_steps - 1) * self.phase.batch_size as u64 + self.epoch.last_batch_size as u64;
        u64::from(self.phase.epochs) * in_epoch
    }

    /// The value of a ramp at the phase's step `step`, counted from 1.
    fn value(&self, ramp: Ramp, step: u64) -> f64 {
        ramp.at(Place {
            step,
            steps_per_epoch: self.epoch.num_steps,
            first_epoch: self.first_epoch,
            num_epochs: self.phase.epochs,
        })
    }
}

/// Where a step stands in the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// The phase's index, from 0.
    pub phase: usize,
    /// The epoch, from 0.
    pub epoch: u32,
    /// The step's index in its epoch, from 0.
    pub step_in_epoch: u64,
    /// The learning rate of the step.
    pub lr: f64,
    /// The momentum of the step, where its phase has one of its own.
    pub momentum: Option<f64>,
}

/// A schedule that cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A schedule needs a phase.
    #[error("the recipe has no phase: add at least one [[phase]]")]
    Empty,
    /// A phase that cannot be.
    #[error("phase {phase}: {what}")]
    Phase {
        /// Its number, from 1, as a person counts the `[[phase]]` tables.
        phase: usize,
        /// What is wrong with it.
        what: String,
    },
}

impl Schedule {
    /// Lays `phases` out, where `epoch_shape` tells what an epoch of a phase is.
    ///
    /// # Errors
    /// No phase, one without epochs or steps, or a learning rate or momentum that is none.
    pub fn new(phases: &[Phase], epoch_shape: impl Fn(&Phase) -> EpochShape) -> Result<Self, ScheduleError> {
        if phases.is_empty() {
            return Err(ScheduleError::Empty);
        }
        let mut spans = Vec::with_capacity(phases.len());
        let (mut first_epoch, mut first_step) = (0, 0);
        for (index, phase) in phases.iter().enumerate() {
            let wrong = |what: String| ScheduleError::Phase { phase: index + 1, what };
            if phase.epochs == 0 {
                return Err(wrong("`epochs` must be at least 1".into()));
            }
            let end_epoch = u32::checked_add(first_epoch, phase.epochs)
                .ok_or_else(|| wrong("the epochs up to its end are too many to count".into()))?;
            let epochs = (first_epoch, end_epoch);
            phase.lr.check(epochs, f64::INFINITY).map_err(|why| wrong(format!("`lr` {why}")))?;
            if let Some(momentum) = phase.momentum {
                momentum.check(epochs, 1.0).map_err(|why| wrong(format!("`momentum` {why}")))?;
            }
            let epoch = epoch_shape(phase);
            if epoch.num_steps == 0 {
                return Err(wrong("it has no step: there is no training image".into()));
            }
            let span = Span { phase: phase.clone(), first_epoch, first_step, epoch };
            first_epoch = end_epoch;
            first_step += span.num_steps();
            spans.push(span);
        }
        Ok(Self { phases: spans })
    }

    /// The number of phases.
    pub fn num_phases(&self) -> usize {
        self.phases.len()
    }

    /// The phase at `index`.
    pub fn phase(&self, index: usize) -> &Phase {
        &self.phases[index].phase
    }

    /// The epochs of the phase at `index`, end exclusive.
    pub fn epochs_of(&self, index: usize) -> (u32, u32) {
        let span = &self.phases[index];
        (span.first_epoch, span.first_epoch + span.phase.epochs)
    }

    /// An epoch of the phase at `index`.
    pub fn epoch_shape(&self, index: usize) -> EpochShape {
        self.phases[index].epoch
    }

    /// The number of steps in an epoch of the phase at `index`.
    pub fn steps_per_epoch(&self, index: usize) -> u64 {
        self.phases[index].epoch.num_steps
    }

    /// The steps of the phase at `index`, counted from 1, end exclusive.
    pub fn steps_of(&self, index: usize) -> (u64, u64) {
        let span = &self.phases[index];
        (span.first_step + 1, span.first_step + 1 + span.num_steps())
    }

    /// The images that a rank takes in the phase at `index`.
    pub fn num_images_of(&self, index: usize) -> u64 {
        self.phases[index].num_images()
    }

    /// The learning rates with which the phase at `index` begins and ends.
    pub fn lr_ends(&self, index: usize) -> (f64, f64) {
        let span = &self.phases[index];
        match span.phase.lr {
            // As written: arithmetic may miss them by the last bit.
            Ramp::Linear(from, to) => (from, to),
            ramp => (span.value(ramp, 0), span.value(ramp, span.num_steps())),
        }
    }

    /// The number of epochs of the whole run.
    pub fn num_epochs(&self) -> u32 {
        self.phases.iter().map(|span| span.phase.epochs).sum()
    }

    /// The number of steps of the whole run.
    pub fn num_steps(&self) -> u64 {
        self.phases.iter().map(Span::num_steps).sum()
    }

    /// The images that a rank takes in the whole run.
    pub fn num_images(&self) -> u64 {
        self.phases.iter().map(Span::num_images).sum()
    }

    /// Where step `step` stands, counted from 1. `None` before the first and past the last.
    pub fn position(&self, step: u64) -> Option<Position> {
        let index = step.checked_sub(1)?;
        let span = self.phases.iter().rfind(|span| span.first_step <= index)?;
        let in_phase = index - span.first_step;
        let epoch_in_phase = u32::try_from(in_phase / span.epoch.num_steps).ok()?;
        self.at(span.first_epoch + epoch_in_phase, in_phase % span.epoch.num_steps)
    }

    /// Where the last step of epoch `epoch` stands. `None` past the last.
    pub fn last_of(&self, epoch: u32) -> Option<Position> {
        let span = self.phases.iter().rfind(|span| span.first_epoch <= epoch)?;
        self.at(epoch, span.epoch.num_steps - 1)
    }

    /// Where the step after `steps_done` of epoch `epoch` stands. `None` past the end of either.
    pub fn at(&self, epoch: u32, steps_done: u64) -> Option<Position> {
        let phase = self.phases.iter().rposition(|span| span.first_epoch <= epoch)?;
        let span = &self.phases[phase];
        let epoch_in_phase = epoch - span.first_epoch;
        let in_phase = u64::from(epoch_in_phase) * span.epoch.num_steps + steps_done;
        (epoch_in_phase < span.phase.epochs && steps_done < span.epoch.num_steps).then(|| Position {
            phase,
            epoch,
            step_in_epoch: steps_done,
            lr: span.value(span.phase.lr, in_phase + 1),
            momentum: span.phase.momentum.map(|momentum| span.value(momentum, in_phase + 1)),
        })
    }
}
