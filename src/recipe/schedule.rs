//! From a step's number to its epoch, phase and learning rate. Pure arithmetic, the same on every rank.

use super::{LrRule, Phase, lr::Place};

/// The phases of a run laid out over the steps of a data set of known size.
#[derive(Debug, Clone)]
pub struct Schedule {
    phases: Vec<Span>,
}

/// A phase with its place in the run.
#[derive(Debug, Clone)]
struct Span {
    phase: Phase,
    first_epoch: u32,
    first_step: u64,
    steps_per_epoch: u64,
}

impl Span {
    /// The learning rate of the phase's step `step`, counted from 1.
    fn lr(&self, step: u64) -> f64 {
        let &Self { ref phase, first_epoch, steps_per_epoch, .. } = self;
        phase.lr.at(Place { step, steps_per_epoch, first_epoch, num_epochs: phase.epochs })
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
}

/// A schedule that cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A schedule needs a phase.
    #[error("the recipe has no phase: add at least one [[phase]]")]
    Empty,
    /// A phase that holds no step.
    #[error("phase {phase}: {what}")]
    Phase {
        /// Its number, from 1, as a person counts the `[[phase]]` tables.
        phase: usize,
        /// What is wrong with it.
        what: String,
    },
}

impl Schedule {
    /// Lays `phases` out, where `steps_per_epoch` tells how many steps an epoch of a phase has.
    ///
    /// # Errors
    /// No phase, one without epochs or steps, or a learning rate that is none.
    pub fn new(phases: &[Phase], steps_per_epoch: impl Fn(&Phase) -> u64) -> Result<Self, ScheduleError> {
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
            phase.lr.check((first_epoch, end_epoch)).map_err(wrong)?;
            let steps_per_epoch = steps_per_epoch(phase);
            if steps_per_epoch == 0 {
                return Err(wrong("it has no step: there is no training image".into()));
            }
            spans.push(Span { phase: phase.clone(), first_epoch, first_step, steps_per_epoch });
            first_epoch = end_epoch;
            first_step += u64::from(phase.epochs) * steps_per_epoch;
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

    /// The learning rates with which the phase at `index` begins and ends.
    pub fn lr_ends(&self, index: usize) -> (f64, f64) {
        let span = &self.phases[index];
        match span.phase.lr {
            // As written: arithmetic may miss them by the last bit.
            LrRule::Linear(from, to) => (from, to),
            _ => (span.lr(0), span.lr(u64::from(span.phase.epochs) * span.steps_per_epoch)),
        }
    }

    /// The number of epochs of the whole run.
    pub fn num_epochs(&self) -> u32 {
        self.phases.iter().map(|span| span.phase.epochs).sum()
    }

    /// The number of steps of the whole run.
    pub fn num_steps(&self) -> u64 {
        self.phases.iter().map(|span| u64::from(span.phase.epochs) * span.steps_per_epoch).sum()
    }

    /// The number of steps in an epoch of the phase at `index`.
    pub fn steps_per_epoch(&self, index: usize) -> u64 {
        self.phases[index].steps_per_epoch
    }

    /// The images that a rank takes in the whole run.
    pub fn num_images(&self) -> u64 {
        let images =
            |span: &Span| u64::from(span.phase.epochs) * span.steps_per_epoch * span.phase.batch_size as u64;
        self.phases.iter().map(images).sum()
    }

    /// Where step `step` stands, counted from 1. `None` before the first and past the last.
    pub fn position(&self, step: u64) -> Option<Position> {
        let index = step.checked_sub(1)?;
        let phase = self.phases.iter().rposition(|span| span.first_step <= index)?;
        let span = &self.phases[phase];
        let in_phase = index - span.first_step;
        let epoch_in_phase = u32::try_from(in_phase / span.steps_per_epoch).ok()?;
        (epoch_in_phase < span.phase.epochs).then(|| Position {
            phase,
            epoch: span.first_epoch + epoch_in_phase,
            step_in_epoch: in_phase % span.steps_per_epoch,
            lr: span.lr(in_phase + 1),
        })
    }
}
