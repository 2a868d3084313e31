//! What was executed of the schedule, phase by phase, from the rows of a run: the plan is in the phase rows, but a run
//! may stop early. Pure.

use super::metrics::{EpochRow, PhaseRow, Row};

/// A phase as it was run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ExecutedPhase {
    /// Its first row: sizes and plan.
    pub(super) plan: PhaseRow,
    /// Whole epochs that were run.
    pub(super) num_epochs: u32,
    /// Training images seen.
    pub(super) images: u64,
    /// Seconds on the run's clock, evaluation included.
    pub(super) seconds: f64,
    /// Seconds that training alone took, where the rows give speeds.
    pub(super) train_s: Option<f64>,
    /// Seconds without a batch.
    pub(super) data_wait_s: Option<f64>,
    /// Seconds without the other ranks' gradients.
    pub(super) comm_wait_s: Option<f64>,
}

impl ExecutedPhase {
    /// The learning rates of the first and the last epoch run: a phase that was cut short ends on its line.
    pub(super) fn lr(&self) -> Option<(f64, f64)> {
        let begin = self.plan.lr?;
        let end = self.plan.lr_end.unwrap_or(begin);
        let num_planned = self.plan.epochs.map_or(self.num_epochs, |(first, end)| end.saturating_sub(first));
        if self.num_epochs >= num_planned {
            return Some((begin, end));
        }
        Some((begin, begin + (end - begin) * f64::from(self.num_epochs) / f64::from(num_planned)))
    }
}

/// Cuts a run's rows into its phases.
pub(super) fn executed_phases(rows: &[Row]) -> Vec<ExecutedPhase> {
    let mut phases: Vec<ExecutedPhase> = Vec::new();
    let mut images_before_epoch = 0;
    for row in rows {
        if let Row::Phase(plan) = row {
            images_before_epoch = plan.at.images;
            phases.push(ExecutedPhase {
                plan: plan.clone(),
                num_epochs: 0,
                images: 0,
                seconds: 0.0,
                train_s: None,
                data_wait_s: None,
                comm_wait_s: None,
            });
            continue;
        }
        let Some(phase) = phases.last_mut() else { continue };
        phase.images = row.at().images.saturating_sub(phase.plan.at.images);
        phase.seconds = (row.at().elapsed_s - phase.plan.at.elapsed_s).max(0.0);
        if let Row::Epoch(epoch) = row {
            add_epoch(phase, epoch, epoch.at.images.saturating_sub(images_before_epoch));
            images_before_epoch = epoch.at.images;
        }
    }
    phases
}

fn add_epoch(phase: &mut ExecutedPhase, epoch: &EpochRow, images: u64) {
    let add = |sum: &mut Option<f64>, value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            *sum = Some(sum.unwrap_or(0.0) + value);
        }
    };
    phase.num_epochs += 1;
    add(
        &mut phase.train_s,
        epoch.images_per_s.filter(|speed| *speed > 0.0).map(|speed| images as f64 / speed),
    );
    add(&mut phase.data_wait_s, epoch.data_wait_s);
    add(&mut phase.comm_wait_s, epoch.comm_wait_s);
}
