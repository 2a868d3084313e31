//! What changes during a run, and what is said of it: network, optimizer, counters, clock; checkpoint, evaluation, rows.

use std::time::Instant;

use burn::module::Module;
use burn_dist::DataParallel;
use burn_resnet::ResNet;

use super::{
    checkpoint::{self, Contents},
    ema::Average,
    evaluate::{Accuracy, comparable_crop, tally},
    feed::Feed,
    input::Normalizer,
    lost,
    optimizer::Optimizer,
    progress::Progress,
    run::Run,
    statistics,
};
use crate::{
    config::CheckpointConfig,
    data::Transform,
    error::{Error, Result},
    recipe::{Phase, Position, Schedule, ValCrop},
    record::{EpochRow, Moment, PhaseRow},
};

/// What changes during a run: network, optimizer, counters, clock.
pub(super) struct Session {
    pub(super) model: ResNet,
    pub(super) optimizer: Optimizer,
    pub(super) average: Option<Average>,
    pub(super) ddp: DataParallel,
    pub(super) normalizer: Normalizer,
    pub(super) feed: Feed,
    pub(super) progress: Progress,
    pub(super) accuracy: Option<Accuracy>,
    /// Of the same epoch, by a centre crop of so many pixels.
    pub(super) center: Option<(u32, Accuracy)>,
    /// Whether the job has other ranks than the one before it, and has not recorded that yet.
    pub(super) batches_changed: bool,
    last_saved: Option<u64>,
    started: Instant,
    elapsed_before_s: f64,
    lap_started: Instant,
    saved_at: Instant,
}

impl Session {
    /// Takes up a run at `progress`.
    pub(super) fn new(
        (model, optimizer, average, ddp): (ResNet, Optimizer, Option<Average>, DataParallel),
        normalizer: Normalizer,
        progress: Progress,
    ) -> Self {
        let now = Instant::now();
        Self {
            model,
            optimizer,
            average,
            ddp,
            normalizer,
            feed: Feed::default(),
            started: now,
            elapsed_before_s: progress.elapsed_s,
            lap_started: now,
            saved_at: now,
            // There is progress only if a checkpoint had it.
            last_saved: Some(progress.step).filter(|&step| step > 0),
            progress,
            accuracy: None,
            center: None,
            batches_changed: false,
        }
    }

    /// Where the next step stands, if it belongs to the epoch that is under way.
    pub(super) fn next_position(&self, schedule: &Schedule) -> Option<Position> {
        let Progress { epochs_done, steps_in_epoch, .. } = self.progress;
        schedule.at(epochs_done, steps_in_epoch).map(|at| self.scaled(at))
    }

    /// Where the last step stood, or the first will.
    pub(super) fn last_position(&self, schedule: &Schedule) -> Position {
        self.scaled(self.progress.last_position(schedule).expect("progress was checked against the schedule"))
    }

    /// With the learning rate of this many ranks.
    fn scaled(&self, at: Position) -> Position {
        Position { lr: at.lr * self.progress.lr_scale(), ..at }
    }

    pub(super) fn checkpoint_due(&self, config: &CheckpointConfig) -> bool {
        config.every_steps > 0 && self.progress.step.is_multiple_of(config.every_steps)
    }

    /// Whether the last checkpoint is older than it may be, by this rank's clock.
    pub(super) fn checkpoint_overdue(&self, config: &CheckpointConfig) -> bool {
        config.every_s > 0.0 && self.saved_at.elapsed().as_secs_f64() >= config.every_s
    }

    /// Saves the whole state, by rank 0; the others wait until it is on the disk.
    pub(super) fn save(&mut self, run: &mut Run<'_>) -> Result<()> {
        run.observer.keep_kernels();
        // A run that never stops has its own statistics on every rank until the epoch's end: they are averaged in
        // copies, which `valid` makes: those of `clone` are shared.
        let average = self.average.as_ref().map(Average::model);
        let statistics = match run.is_alone() || self.progress.steps_in_epoch == 0 {
            true => Vec::new(),
            false => statistics::gather(&run.comm, [&self.model].into_iter().chain(average))?,
        };
        let average = average.map(|average| self.ddp.average_buffers(average.valid())).transpose()?;
        let model = self.ddp.average_buffers(self.model.valid())?;
        if let Some(recorder) = &run.observer.recorder {
            self.progress.metrics_bytes = recorder.position()?;
            self.progress.elapsed_s = self.elapsed_s();
            let at = self.last_position(&run.plan.schedule);
            let about = run.about(run.plan.schedule.phase(at.phase).validation());
            let keep = run.plan.config.checkpoint.keep;
            let contents = Contents {
                model: &model,
                average: average.as_ref(),
                about: &about,
                optimizer: &self.optimizer,
                statistics: &statistics,
                progress: &self.progress,
            };
            checkpoint::save(run.out, keep, &contents)?;
        }
        run.comm.barrier()?;
        self.last_saved = Some(self.progress.step);
        self.saved_at = Instant::now();
        self.lap_started = self.saved_at;
        Ok(())
    }

    /// Saves the state of a run whose data source is away, on all ranks, and says so.
    pub(super) fn saved_from(&mut self, run: &mut Run<'_>, cause: String) -> Error {
        let step = self.progress.step;
        if self.last_saved != Some(step)
            && step > 0
            && let Err(error) = self.save(run)
        {
            return error;
        }
        let kept = match self.last_saved {
            Some(step) => format!(
                "the state after step {step} is saved; once the store is back, go on with: sprint train --out {} --resume",
                run.out.display()
            ),
            None => "no step was made yet".into(),
        };
        Error::Away { cause, kept }
    }

    pub(super) fn last_checkpoint_in_words(&self) -> String {
        match self.last_saved {
            Some(step) => format!("the checkpoint of step {step} is kept"),
            None => "there is no checkpoint yet".into(),
        }
    }

    /// Evaluates the network as it stands, or its average, every rank its part, as the phase validates; `None` if the
    /// user stopped it.
    pub(super) fn evaluate(&mut self, run: &mut Run<'_>) -> Result<Option<Accuracy>> {
        let phase = run.plan.schedule.phase(self.last_position(&run.plan.schedule).phase);
        self.model = self.ddp.average_buffers(self.model.clone())?;
        if let Some(average) = &mut self.average {
            average.model = self.ddp.average_buffers(average.model.clone())?;
        }
        self.measure(run, phase, phase.validation(), phase.val)
    }

    /// The accuracy by the centre crop that can be compared with others' figures, where the phase validates by another
    /// crop; `None` where it does not, or if the user stopped it.
    fn evaluate_comparable(&self, run: &Run<'_>, phase: &Phase) -> Result<Option<(u32, Accuracy)>> {
        let (size, resize) = phase.validation();
        let Some(crop) = comparable_crop(size, resize, phase.val == ValCrop::Rect) else { return Ok(None) };
        let accuracy = self.measure(run, phase, crop, ValCrop::Center)?;
        Ok(accuracy.map(|accuracy| (crop.0, accuracy)))
    }

    fn measure(
        &self,
        run: &Run<'_>,
        phase: &Phase,
        (size, resize): (u32, u32),
        crop: ValCrop,
    ) -> Result<Option<Accuracy>> {
        let transform = Transform::CenterCrop { size: size as usize, resize: resize as usize };
        let config = run.loader_config(transform, phase.batch_size);
        let (loader, num_unreadable) = run.validation.loader(phase, config, crop)?;
        let stop = run.stop;
        let model = self.average.as_ref().map_or_else(|| self.model.valid(), |average| average.model.clone());
        let mine = tally(&model, &self.normalizer, loader, |_| {}, || stop.requested());
        let mut mine = lost::together(run, mine)?;
        mine.num_skipped += if run.rank().is_main() { num_unreadable } else { 0 };
        let all = mine.over_ranks(&run.comm)?.accuracy();
        if let Some(Accuracy { num_images: 0, num_skipped, .. }) = all {
            return Err(Error::run(format!("none of the {num_skipped} validation pictures can be used")));
        }
        Ok(all)
    }

    /// Records an epoch after its evaluation, once all ranks have found that they still have the same network.
    ///
    /// At the end of a phase, or if this is the run's last epoch, the comparable centre crop is measured beside: not at
    /// every epoch, for it takes as long as the evaluation. It comes after the row's time was taken.
    pub(super) fn end_epoch(
        &mut self,
        run: &mut Run<'_>,
        accuracy: Accuracy,
        target_reached: bool,
    ) -> Result<()> {
        // Nothing but the evaluation came after the epoch's last lap.
        let eval_s = self.lap();
        let hash = self.ddp.verify_same(&self.model)?;
        if let Some(average) = &self.average {
            self.ddp.verify_same(&average.model)?;
        }
        let at = self.last_position(&run.plan.schedule);
        let moment = self.moment(at);
        let ends_phase = self.progress.epochs_done + 1 == run.plan.schedule.epochs_of(at.phase).1;
        let phase = run.plan.schedule.phase(at.phase);
        let center = if ends_phase || target_reached { self.evaluate_comparable(run, phase)? } else { None };
        self.progress.epochs_done += 1;
        self.progress.steps_in_epoch = 0;
        self.progress.skipped_images += accuracy.num_skipped;
        self.progress.last_accuracy = Some((accuracy.top1, accuracy.top5));
        self.accuracy = Some(accuracy);
        self.center = center;
        let totals = &self.progress.epoch;
        let mean = |sum: f64| Some(sum / totals.images as f64);
        let skipped = self.progress.skipped_images;
        let skipped_steps = self.progress.scaler.skipped_steps();
        let row = EpochRow {
            at: moment,
            lr: Some(at.lr),
            train_loss: mean(totals.loss),
            train_top1: mean(100.0 * totals.top1 as f64),
            train_top5: mean(100.0 * totals.top5 as f64),
            val_loss: Some(accuracy.loss),
            val_top1: Some(accuracy.top1),
            val_top5: Some(accuracy.top5),
            val_images: Some(accuracy.num_images),
            eval_s: Some(eval_s),
            val_center_size: center.map(|(size, _)| size),
            val_center_top1: center.map(|(_, center)| center.top1),
            val_center_top5: center.map(|(_, center)| center.top5),
            images_per_s: Some(totals.images as f64 / totals.train_s),
            data_wait_s: Some(totals.data_wait_s),
            comm_wait_s: run.among_many(totals.comm_wait_s),
            comm_s: run.among_many(totals.comm_s),
            param_hash: Some(format!("{hash:016x}")),
            skipped_images: (skipped > 0).then_some(skipped),
            skipped_steps: (skipped_steps > 0).then_some(skipped_steps),
            ..EpochRow::default()
        };
        run.observer.epoch(&row)?;
        self.lap_started = Instant::now();
        Ok(())
    }

    pub(super) fn phase_row(&self, run: &Run<'_>, first: Position) -> PhaseRow {
        let phase = run.plan.schedule.phase(first.phase);
        let (lr, lr_end) = run.plan.schedule.lr_ends(first.phase);
        let scale = self.progress.lr_scale();
        PhaseRow {
            at: self.moment(first),
            size: Some(phase.size),
            batch_size: Some(phase.batch_size as u32),
            global_batch_size: Some((phase.batch_size * run.rank().world_size().count()) as u32),
            epochs: Some(run.plan.schedule.epochs_of(first.phase)),
            lr: Some(lr * scale),
            lr_end: Some(lr_end * scale),
            momentum: Some(first.momentum.unwrap_or(run.plan.config.optimizer.momentum)),
        }
    }

    /// The present, as a row says it, of a run that is at `at`.
    pub(super) fn moment(&self, at: Position) -> Moment {
        Moment {
            epoch: at.epoch,
            step: self.progress.step,
            phase: at.phase as u32,
            images: self.progress.images,
            elapsed_s: self.elapsed_s(),
        }
    }

    fn elapsed_s(&self) -> f64 {
        self.elapsed_before_s + self.started.elapsed().as_secs_f64()
    }

    /// Seconds of training since the last lap.
    pub(super) fn lap(&mut self) -> f64 {
        let now = Instant::now();
        (now - std::mem::replace(&mut self.lap_started, now)).as_secs_f64()
    }
}
