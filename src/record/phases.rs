//! What was executed of the schedule, phase by phase, from the rows of a run: the plan is in the phase rows, but a run
//! may stop early. Pure.
//!
//! An epoch is cold if it is the run's first, or the first of a phase that changes the size of images or batches: file
//! caches, loaders and kernels then meet something new, and its speed is not that of the epochs after it.

use super::metrics::{EpochRow, PhaseRow, Row};

/// A phase as it was run.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ExecutedPhase {
    /// Its first row: sizes and plan.
    pub(super) plan: PhaseRow,
    /// Whole epochs that were run.
    pub(super) num_epochs: u32,
    /// The learning rate of each epoch's last step.
    pub(super) lr_by_epoch: Vec<f64>,
    /// Seconds on the run's clock, evaluation included.
    pub(super) seconds: f64,
    /// Training alone, in epochs that were cold.
    pub(super) cold: Pace,
    /// Training alone, in the others.
    pub(super) warm: Pace,
    /// Seconds of evaluation.
    pub(super) eval_s: Option<f64>,
    /// Seconds without a batch.
    pub(super) data_wait_s: Option<f64>,
    /// Seconds without the other ranks' gradients.
    pub(super) comm_wait_s: Option<f64>,
    /// What it cost, where the rows give money.
    pub(super) cost_usd: Option<f64>,
}

/// Images, and the seconds of training that they took; of epochs that have a speed on record.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Pace {
    images: f64,
    seconds: f64,
}

impl Pace {
    pub(super) fn seconds(self) -> f64 {
        self.seconds
    }

    /// `None` without an epoch.
    pub(super) fn images_per_s(self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.images / self.seconds)
    }
}

impl std::iter::Sum for Pace {
    fn sum<I: Iterator<Item = Self>>(paces: I) -> Self {
        paces.fold(Self::default(), |sum, pace| Self {
            images: sum.images + pace.images,
            seconds: sum.seconds + pace.seconds,
        })
    }
}

impl ExecutedPhase {
    /// The learning rates at the start and at the end: a phase that was cut short ends where it was cut.
    pub(super) fn lr(&self) -> Option<(f64, f64)> {
        let begin = self.plan.lr?;
        Some((begin, self.lr_by_epoch.last().copied().or(self.plan.lr_end).unwrap_or(begin)))
    }

    /// Whether the learning rate went on a straight line, as far as the ends of epochs tell.
    pub(super) fn is_linear(&self) -> bool {
        let Some((begin, end)) = self.lr() else { return false };
        let num_epochs = self.lr_by_epoch.len() as f64;
        let on_line = |epoch: f64| begin + (end - begin) * epoch / num_epochs;
        let slack = 1e-9 * begin.abs().max(end.abs());
        (1..).zip(&self.lr_by_epoch).all(|(epoch, lr)| (lr - on_line(f64::from(epoch))).abs() <= slack)
    }

    fn add_epoch(&mut self, epoch: &EpochRow, images: u64, is_cold: bool) {
        let add = |sum: &mut Option<f64>, value: Option<f64>| {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                *sum = Some(sum.unwrap_or(0.0) + value);
            }
        };
        self.num_epochs += 1;
        self.lr_by_epoch.extend(epoch.lr);
        if let Some(speed) = epoch.images_per_s.filter(|speed| *speed > 0.0) {
            let images = images as f64;
            let pace = if is_cold { &mut self.cold } else { &mut self.warm };
            *pace = [*pace, Pace { images, seconds: images / speed }].into_iter().sum();
        }
        add(&mut self.eval_s, epoch.eval_s);
        add(&mut self.data_wait_s, epoch.data_wait_s);
        add(&mut self.comm_wait_s, epoch.comm_wait_s);
    }
}

/// Cuts a run's rows into its phases.
pub(super) fn executed_phases(rows: &[Row]) -> Vec<ExecutedPhase> {
    let mut phases: Vec<ExecutedPhase> = Vec::new();
    let (mut images_before_epoch, mut cost_before_phase, mut cost_usd) = (0, 0.0, None);
    let mut is_cold = true;
    for row in rows {
        if let Row::Phase(plan) = row {
            let sizes = |plan: &PhaseRow| (plan.size, plan.batch_size, plan.global_batch_size);
            is_cold = phases.last().is_none_or(|last| sizes(&last.plan) != sizes(plan));
            images_before_epoch = plan.at.images;
            cost_before_phase = cost_usd.unwrap_or(0.0);
            phases.push(ExecutedPhase { plan: plan.clone(), ..ExecutedPhase::default() });
            continue;
        }
        cost_usd = row.cost_usd().or(cost_usd);
        let Some(phase) = phases.last_mut() else { continue };
        phase.seconds = (row.at().elapsed_s - phase.plan.at.elapsed_s).max(0.0);
        phase.cost_usd = cost_usd.map(|cost| cost - cost_before_phase);
        if let Row::Epoch(epoch) = row {
            phase.add_epoch(epoch, epoch.at.images.saturating_sub(images_before_epoch), is_cold);
            images_before_epoch = epoch.at.images;
            is_cold = false;
        }
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::super::Moment;
    use super::*;

    /// 100 images an epoch, at `speeds`; the clock also has a second of evaluation an epoch.
    fn phase(rows: &mut Vec<Row>, size: u32, batch_size: u32, speeds: &[f64]) {
        let before = rows.last().map(|row| *row.at()).unwrap_or_default();
        let at = Moment { phase: before.phase + 1, ..before };
        let sizes = (Some(size), Some(batch_size));
        rows.push(Row::Phase(PhaseRow { at, size: sizes.0, batch_size: sizes.1, ..PhaseRow::default() }));
        for speed in speeds {
            let before = *rows.last().expect("the phase's own row").at();
            let elapsed_s = before.elapsed_s + 100.0 / speed + 1.0;
            let at = Moment { images: before.images + 100, elapsed_s, ..before };
            rows.push(Row::Epoch(EpochRow {
                at,
                images_per_s: Some(*speed),
                eval_s: Some(1.0),
                cost_usd: Some(elapsed_s / 4.0),
                ..EpochRow::default()
            }));
        }
    }

    #[test]
    fn the_first_epoch_of_the_run_and_of_new_sizes_is_cold() {
        let mut rows = Vec::new();
        phase(&mut rows, 128, 64, &[10.0, 20.0, 50.0]);
        phase(&mut rows, 128, 64, &[25.0, 25.0]);
        phase(&mut rows, 128, 128, &[4.0, 25.0]);
        phase(&mut rows, 224, 128, &[5.0]);
        let phases = executed_phases(&rows);
        let speeds: Vec<_> =
            phases.iter().map(|phase| [phase.cold, phase.warm].map(Pace::images_per_s)).collect();
        // 200 images in 5 + 2 s: a mean over images, not over epochs.
        let expected =
            [[Some(10.0), Some(200.0 / 7.0)], [None, Some(25.0)], [Some(4.0), Some(25.0)], [Some(5.0), None]];
        assert_eq!(speeds, expected);
        let told = |value: fn(&ExecutedPhase) -> Option<f64>| phases.iter().map(value).collect::<Vec<_>>();
        assert_eq!(told(|phase| Some(phase.seconds)), [20.0, 10.0, 31.0, 21.0].map(Some));
        assert_eq!(told(|phase| phase.eval_s), [3.0, 2.0, 2.0, 1.0].map(Some));
        assert_eq!(told(|phase| phase.cost_usd), [5.0, 2.5, 7.75, 5.25].map(Some));
    }
}
