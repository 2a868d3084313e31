//! A run from its first step, or from the checkpoint it was resumed at, to its end.
//!
//! [`epochs`] is the loop. World size 1 is the same code as 128: a rank differs in the images it takes, and rank 0 in
//! that it writes.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use burn::{module::Module, tensor::Device};
use burn_dist::rank::Rank;
use burn_resnet::ResNet;

use super::{
    checkpoint::{self, Progress},
    classifier::{self, About},
    epoch::{self, Pace},
    evaluate::{Accuracy, evaluate},
    input::Normalizer,
    optimizer::Sgd,
};
use crate::{
    config::{CheckpointConfig, Plan},
    data::{Channels, Loader, LoaderConfig, Pair, Pass, Transform},
    error::{Error, Result},
    recipe::{Position, Schedule},
    record::{
        self, EndReason, EndRow, EpochRow, Moment, PhaseRow, ProgressMode, Recorder, RunInfo, StepRow, Totals,
    },
};

/// Everything a run is given.
#[derive(Debug)]
pub struct Job<'a> {
    /// The checked configuration.
    pub plan: &'a Plan,
    /// The pictures.
    pub data: &'a Pair,
    /// Where tensors live, without autodiff.
    pub device: &'a Device,
    /// Which of the job's processes this is.
    pub rank: Rank,
    /// The run's folder.
    pub out: &'a Path,
    /// Whether to go on from the folder's newest checkpoint, if it has one.
    pub resume: bool,
    /// How the user asks to stop.
    pub stop: &'a Stop,
    /// How progress is shown.
    pub progress: ProgressMode,
    /// What the report says of machine and program.
    pub info: RunInfo,
    /// Seconds since 1970, for the event files' names.
    pub now_s: f64,
}

/// The user's wish to stop, set from a signal handler and looked at between steps.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Nobody asked yet.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Asks the run to save its state and end. Returns whether somebody had asked before.
    pub fn request(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    pub(super) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub reason: EndReason,
    /// How far it came.
    pub progress: Progress,
    /// The evaluation of its last epoch, if this process got to one.
    pub accuracy: Option<Accuracy>,
}

/// Trains until the schedule is through, the target is reached, or the user stops it.
///
/// # Errors
/// Data that cannot be read, a loss that is none, files that cannot be written. The newest checkpoint is kept, and the
/// error is on record.
pub fn run(job: Job<'_>) -> Result<Outcome> {
    let (mut run, mut session) = begin(job)?;
    let ended = epochs(&mut run, &mut session);
    let (reason, message) = match &ended {
        Ok(reason) => (*reason, None),
        Err(error) => (EndReason::Failed, Some(error.to_string())),
    };
    let skipped = session.progress.skipped_images;
    let end = run.observer.end(&EndRow {
        at: session.moment(session.last_position(&run.plan.schedule)),
        reason,
        message,
        cost_usd: None,
        skipped_images: (skipped > 0).then_some(skipped),
    });
    // What ended the run matters more than what its last row met.
    ended?;
    end?;
    Ok(Outcome { reason, progress: session.progress, accuracy: session.accuracy })
}

/// The training loop.
fn epochs(run: &mut Run<'_>, session: &mut Session) -> Result<EndReason> {
    let schedule = &run.plan.schedule;
    while session.progress.epochs_done < schedule.num_epochs() {
        if let Some(first) = session.rest_of_epoch(schedule) {
            if first.step_in_epoch == 0 && first.epoch == schedule.epochs_of(first.phase).0 {
                run.observer.phase(&session.phase_row(run, first))?;
            }
            if epoch::train(run, session, first)? == Pace::Stopped {
                return Ok(EndReason::Stopped);
            }
        }
        let Some(accuracy) = session.evaluate(run)? else {
            session.save(run)?;
            return Ok(EndReason::Stopped);
        };
        session.end_epoch(run, accuracy)?;
        let target_reached =
            run.plan.target.is_some_and(|target| target.is_reached(accuracy.top1, accuracy.top5));
        let through = session.progress.epochs_done == schedule.num_epochs();
        if target_reached
            || through
            || run.plan.config.checkpoint.is_due_after_epoch(session.progress.epochs_done)
        {
            session.save(run)?;
        }
        if target_reached {
            return Ok(EndReason::Target);
        }
    }
    Ok(EndReason::Done)
}

fn begin(job: Job<'_>) -> Result<(Run<'_>, Session)> {
    let last_gain = if job.plan.config.model.zero_gamma { 0.0 } else { 1.0 };
    let Job { plan, data, device, rank, out, resume, stop, progress: mode, info, now_s } = job;
    let mut model = plan.model.init_with_last_gain(plan.config.seed, &device.clone().autodiff(), last_gain);
    let mut optimizer = Sgd::new(&plan.config.optimizer, &model);
    let restored = if resume { checkpoint::restore(out, &mut model, &mut optimizer)? } else { None };
    let totals = Totals {
        epochs: plan.schedule.num_epochs(),
        images: plan.schedule.num_images() * rank.world_size().count() as u64,
    };
    let mut shown = record::Progress::new(totals, mode);

    let (progress, recorder) = match restored {
        Some((progress, damaged)) => {
            for damaged in damaged {
                shown.note(&format!("passed over a damaged checkpoint: {damaged}"));
            }
            shown.note(&format!("resuming after step {}", progress.step));
            let recorder = rank.is_main().then(|| Recorder::resume(out, progress.metrics_bytes, info, now_s));
            (progress, recorder.transpose()?)
        }
        None => {
            if let Some(path) = &plan.config.model.pretrained {
                if classifier::start_from(path, &mut model)? {
                    let num_classes = plan.model.num_classes();
                    shown.note(&format!("{}: body kept, new head for {num_classes} classes", path.display()));
                }
                optimizer = Sgd::new(&plan.config.optimizer, &model);
            }
            if resume {
                shown.note("no checkpoint yet: starting from the beginning");
            }
            // A run that was killed before its first checkpoint left rows that are to be forgotten.
            let begun = resume && out.join("metrics.jsonl").exists();
            let recorder = rank.is_main().then(|| {
                if begun { Recorder::resume(out, 0, info, now_s) } else { Recorder::create(out, info, now_s) }
            });
            (Progress::default(), recorder.transpose()?)
        }
    };
    let channels = Channels::from_count(plan.model.channels()).expect("a network has 1 or 3 channels");
    let run = Run { plan, data, rank, out, stop, channels, observer: Observer { recorder, shown } };
    let now = Instant::now();
    let session = Session {
        normalizer: Normalizer::new(&plan.normalization, device),
        model,
        optimizer,
        started: now,
        elapsed_before_s: progress.elapsed_s,
        lap_started: now,
        last_saved: resume.then_some(progress.step).filter(|&step| step > 0),
        progress,
        accuracy: None,
    };
    Ok((run, session))
}

/// What stays the same all through a run, and where its record goes.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) data: &'a Pair,
    pub(super) rank: Rank,
    pub(super) stop: &'a Stop,
    pub(super) observer: Observer,
    out: &'a Path,
    channels: Channels,
}

impl Run<'_> {
    /// A loader's settings, for evaluation unless `pass` is replaced.
    pub(super) fn loader_config(&self, transform: Transform, batch_size: usize) -> LoaderConfig {
        let data = &self.plan.config.data;
        LoaderConfig {
            rank: self.rank,
            num_workers: data.num_workers,
            batches_ahead: data.batches_ahead,
            on_bad_file: data.on_bad_file,
            ..LoaderConfig::new(transform, self.channels, batch_size, Pass::Evaluate)
        }
    }

    fn about(&self, val_size: (u32, u32)) -> About {
        About {
            classes: Some(self.data.train.class_names().to_vec()),
            normalization: self.plan.normalization.clone(),
            size: val_size.0,
            resize: val_size.1,
        }
    }
}

/// Where rows go: to the record, which rank 0 keeps, and to the user.
pub(super) struct Observer {
    recorder: Option<Recorder>,
    shown: record::Progress,
}

impl Observer {
    pub(super) fn step(&mut self, row: &StepRow) -> Result<()> {
        self.shown.step(row);
        Ok(self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.step(row))?)
    }

    fn phase(&mut self, row: &PhaseRow) -> Result<()> {
        self.shown.phase(row);
        Ok(self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.phase(row))?)
    }

    fn epoch(&mut self, row: &EpochRow) -> Result<()> {
        self.shown.epoch(row);
        Ok(self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.epoch(row))?)
    }

    fn end(self, row: &EndRow) -> Result<()> {
        self.shown.finish(row);
        Ok(self.recorder.map_or(Ok(()), |recorder| recorder.end(row))?)
    }
}

/// What changes during a run: network, optimizer, counters, clock.
pub(super) struct Session {
    pub(super) model: ResNet,
    pub(super) optimizer: Sgd,
    pub(super) normalizer: Normalizer,
    pub(super) progress: Progress,
    accuracy: Option<Accuracy>,
    last_saved: Option<u64>,
    started: Instant,
    elapsed_before_s: f64,
    lap_started: Instant,
}

impl Session {
    /// Where the next step stands, if it belongs to the epoch that is under way.
    fn rest_of_epoch(&self, schedule: &Schedule) -> Option<Position> {
        schedule.position(self.progress.step + 1).filter(|at| at.epoch == self.progress.epochs_done)
    }

    /// Where the next step stands.
    pub(super) fn next_position(&self, schedule: &Schedule) -> Result<Position> {
        let step = self.progress.step + 1;
        schedule
            .position(step)
            .ok_or_else(|| Error::run(format!("step {step} is past the end of the schedule")))
    }

    /// Where the last step stood, or the first will.
    fn last_position(&self, schedule: &Schedule) -> Position {
        schedule
            .position(self.progress.step.max(1))
            .expect("a schedule has a first step, and none past its last")
    }

    pub(super) fn checkpoint_due(&self, config: &CheckpointConfig) -> bool {
        config.every_steps > 0 && self.progress.step.is_multiple_of(config.every_steps)
    }

    /// Saves the whole state.
    pub(super) fn save(&mut self, run: &mut Run<'_>) -> Result<()> {
        let Some(recorder) = &run.observer.recorder else { return Ok(()) };
        self.progress.metrics_bytes = recorder.position()?;
        self.progress.elapsed_s = self.elapsed_s();
        let at = self.last_position(&run.plan.schedule);
        let about = run.about(run.plan.schedule.phase(at.phase).validation());
        let keep = run.plan.config.checkpoint.keep;
        checkpoint::save(run.out, keep, &self.model, &about, &self.optimizer, &self.progress)?;
        self.last_saved = Some(self.progress.step);
        self.lap_started = Instant::now();
        Ok(())
    }

    pub(super) fn last_checkpoint_in_words(&self) -> String {
        match self.last_saved {
            Some(step) => format!("the checkpoint of step {step} is kept"),
            None => "there is no checkpoint yet".into(),
        }
    }

    /// Evaluates the network as it stands; `None` if the user stopped it.
    fn evaluate(&mut self, run: &mut Run<'_>) -> Result<Option<Accuracy>> {
        let at = self.last_position(&run.plan.schedule);
        let phase = run.plan.schedule.phase(at.phase);
        let (size, resize) = phase.validation();
        let transform = Transform::CenterCrop { size: size as usize, resize: resize as usize };
        let loader = Loader::new(run.data.val.clone(), run.loader_config(transform, phase.batch_size))?;
        let stop = run.stop;
        evaluate(&self.model.valid(), &self.normalizer, loader, |_| {}, || stop.requested())
    }

    fn end_epoch(&mut self, run: &mut Run<'_>, accuracy: Accuracy) -> Result<()> {
        let at = self.last_position(&run.plan.schedule);
        self.progress.epochs_done += 1;
        self.progress.skipped_images += accuracy.num_skipped;
        self.progress.last_accuracy = Some((accuracy.top1, accuracy.top5));
        self.accuracy = Some(accuracy);
        let totals = &self.progress.epoch;
        let mean = |sum: f64| Some(sum / totals.images as f64);
        let skipped = self.progress.skipped_images;
        let row = EpochRow {
            at: self.moment(at),
            lr: Some(at.lr),
            train_loss: mean(totals.loss),
            train_top1: mean(100.0 * totals.top1 as f64),
            train_top5: mean(100.0 * totals.top5 as f64),
            val_loss: Some(accuracy.loss),
            val_top1: Some(accuracy.top1),
            val_top5: Some(accuracy.top5),
            val_images: Some(accuracy.num_images),
            images_per_s: Some(totals.images as f64 / totals.train_s),
            data_wait_s: Some(totals.data_wait_s),
            skipped_images: (skipped > 0).then_some(skipped),
            ..EpochRow::default()
        };
        run.observer.epoch(&row)?;
        self.lap_started = Instant::now();
        Ok(())
    }

    fn phase_row(&self, run: &Run<'_>, first: Position) -> PhaseRow {
        let phase = run.plan.schedule.phase(first.phase);
        let (lr, lr_end) = phase.lr.ends();
        PhaseRow {
            at: self.moment(first),
            size: Some(phase.size),
            batch_size: Some(phase.batch_size as u32),
            global_batch_size: Some((phase.batch_size * run.rank.world_size().count()) as u32),
            epochs: Some(run.plan.schedule.epochs_of(first.phase)),
            lr: Some(lr),
            lr_end: Some(lr_end),
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

    /// Seconds of training since the last step's numbers came.
    pub(super) fn lap(&mut self) -> f64 {
        let now = Instant::now();
        (now - std::mem::replace(&mut self.lap_started, now)).as_secs_f64()
    }
}
