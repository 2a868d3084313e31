//! A run from its first step, or from the checkpoint it was resumed at, to its end.
//!
//! [`epochs`] is the loop. World size 1 is the same code as 128: a rank differs in the images it takes, and rank 0 in
//! that it writes.

use std::{
    collections::HashSet,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use burn::tensor::Device;
use burn_dist::{Communicator, DataParallel, Rank, WorldSize, agree};

use super::{
    checkpoint::{self, Restored},
    classifier::{self, About},
    epoch::{self, Pace},
    evaluate::Accuracy,
    input::Normalizer,
    optimizer::Sgd,
    progress::Progress,
    session::Session,
};
use crate::{
    config::Plan,
    data::{Channels, LoaderConfig, Pair, Pass, Transform},
    error::{Error, Result},
    record::{
        self, EndReason, EndRow, EpochRow, Moment, PhaseRow, ProgressMode, Recorder, RunInfo, StepRow,
        Totals, write_atomic,
    },
};

/// The file in a run's folder that repeats the run.
pub const CONFIG: &str = "config.toml";

/// Everything a run is given.
#[derive(Debug)]
pub struct Job<'a> {
    /// The checked configuration.
    pub plan: &'a Plan,
    /// The pictures.
    pub data: &'a Pair,
    /// Where tensors live, without autodiff.
    pub device: &'a Device,
    /// This process' way to the others of the job; [`Communicator::single`] if there are none.
    pub comm: Communicator,
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
/// Data that cannot be read, a loss that is none, files that cannot be written, another rank that failed. The newest
/// checkpoint is kept, the error is on record, and the other ranks end with it.
pub fn run(job: Job<'_>) -> Result<Outcome> {
    let comm = job.comm.clone();
    let outcome = carry_out(job);
    if let Err(error) = &outcome {
        comm.fail(&error.to_string());
    }
    outcome
}

fn carry_out(job: Job<'_>) -> Result<Outcome> {
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
        if let Some(first) = session.next_position(schedule) {
            let begins_phase = first.step_in_epoch == 0 && first.epoch == schedule.epochs_of(first.phase).0;
            if begins_phase || std::mem::take(&mut session.batches_changed) {
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
        let config = &run.plan.config.checkpoint;
        let due = config.is_due_after_epoch(session.progress.epochs_done) || session.checkpoint_due(config);
        if target_reached || through || due {
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
    let Job { plan, data, device, comm, out, resume, stop, progress: mode, info, now_s } = job;
    let rank = comm.rank();
    agree::same_lines(&comm, "the runs", &in_words(plan, data)?)?;
    let mut model = plan.model.init_with_last_gain(plan.config.seed, &device.clone().autodiff(), last_gain);
    let mut optimizer = Sgd::new(&plan.config.optimizer, &model);
    // What rank 0 finds is everybody's: the others may be on machines without the run's folder.
    let restored =
        if resume && rank.is_main() { checkpoint::restore(out, &mut model, &mut optimizer)? } else { None };
    let totals = Totals {
        epochs: plan.schedule.num_epochs(),
        images: plan.schedule.num_images() * rank.world_size().count() as u64,
    };
    let mut shown = record::Progress::new(totals, mode);

    let (restored, recorder) = match restored {
        Some(restored) => {
            for damaged in &restored.damaged {
                shown.note(&format!("passed over a damaged checkpoint: {damaged}"));
            }
            let Progress { step, metrics_bytes, .. } = restored.progress;
            shown.note(&format!("resuming after step {step}"));
            let recorder = rank.is_main().then(|| Recorder::resume(out, metrics_bytes, info, now_s));
            (restored, recorder.transpose()?)
        }
        None => {
            if let Some(path) = plan.config.model.pretrained.as_ref().filter(|_| rank.is_main()) {
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
            // Only now: a run that cannot start leaves no folder that would be in the way of the next try.
            if rank.is_main() && !out.join(CONFIG).exists() {
                std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
                let toml = toml::to_string(&plan.config).map_err(Error::run)?;
                write_atomic(&out.join(CONFIG), toml.as_bytes())?;
            }
            let recorder = rank.is_main().then(|| {
                if begun { Recorder::resume(out, 0, info, now_s) } else { Recorder::create(out, info, now_s) }
            });
            (Restored::default(), recorder.transpose()?)
        }
    };
    let channels = Channels::from_count(plan.model.channels()).expect("a network has 1 or 3 channels");
    let (ddp, mut model) = DataParallel::staged(
        comm.clone(),
        model.clone(),
        &model.segments(),
        plan.config.distributed.data_parallel(),
    )?;
    let progress = checkpoint::share(&comm, restored, &mut model, &mut optimizer)?;
    let (progress, changed) = progress.on(rank.world_size(), &plan.schedule)?;
    if let Some(changed) = &changed {
        shown.note(changed);
    }
    let observer = Observer { recorder, shown, cost_per_hour: cost_per_hour(plan, &comm) };
    let run = Run { plan, data, comm, out, stop, channels, observer };
    let normalizer = Normalizer::new(&plan.normalization, device);
    let mut session = Session::new((model, optimizer, ddp), normalizer, progress);
    session.batches_changed = changed.is_some();
    Ok((run, session))
}

/// What must be alike on all ranks: the recipe, and what it is applied to. Where pictures lie, on what device and by how
/// many threads they are worked on is each rank's own business.
fn in_words(plan: &Plan, data: &Pair) -> Result<String> {
    let mut config = plan.config.clone();
    config.device.clear();
    config.data.path = None;
    config.data.num_workers = 0;
    config.model.pretrained = None;
    let toml = toml::to_string(&config).map_err(Error::run)?;
    let Pair { train, val } = data;
    let (num_train, num_val) = (train.num_images(), val.num_images());
    Ok(format!("{num_train} training images\n{num_val} validation images\n{toml}"))
}

/// What stays the same all through a run, and where its record goes.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) data: &'a Pair,
    pub(super) comm: Communicator,
    pub(super) stop: &'a Stop,
    pub(super) observer: Observer,
    pub(super) out: &'a Path,
    channels: Channels,
}

impl Run<'_> {
    pub(super) fn rank(&self) -> Rank {
        self.comm.rank()
    }

    pub(super) fn is_alone(&self) -> bool {
        self.rank().world_size() == WorldSize::ONE
    }

    /// What is of interest only where there are other ranks.
    pub(super) fn among_many(&self, value: f64) -> Option<f64> {
        (!self.is_alone()).then_some(value)
    }

    /// Threads that make batches: the processors are shared with the ranks of the same machine.
    fn num_workers(&self) -> usize {
        let members = self.comm.members();
        let wanted = self.plan.config.data.num_workers;
        let Some(me) = members.get(self.rank().index()).filter(|_| wanted == 0) else { return wanted };
        let here = members.iter().filter(|member| member.host_id == me.host_id).count();
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        (processors / here.max(1)).max(1)
    }

    /// A loader's settings, for evaluation unless `pass` is replaced.
    pub(super) fn loader_config(&self, transform: Transform, batch_size: usize) -> LoaderConfig {
        let data = &self.plan.config.data;
        LoaderConfig {
            rank: self.rank(),
            num_workers: self.num_workers(),
            batches_ahead: data.batches_ahead,
            on_bad_file: data.on_bad_file,
            ..LoaderConfig::new(transform, self.channels, batch_size, Pass::Evaluate)
        }
    }

    pub(super) fn about(&self, val_size: (u32, u32)) -> About {
        About {
            classes: Some(self.data.train.class_names().to_vec()),
            normalization: self.plan.normalization.clone(),
            size: val_size.0,
            resize: val_size.1,
        }
    }
}

/// US dollars for an hour of all machines of the job.
fn cost_per_hour(plan: &Plan, comm: &Communicator) -> Option<f64> {
    let cost = plan.price.as_ref()?.of(num_machines(comm), 3600.0);
    Some(cost.on_demand_usd)
}

/// The machines that the ranks of a job are on.
pub fn num_machines(comm: &Communicator) -> u32 {
    let hosts: HashSet<u64> = comm.members().iter().map(|member| member.host_id).collect();
    hosts.len().max(1) as u32
}

/// Where rows go: to the record, which rank 0 keeps, and to the user.
pub(super) struct Observer {
    pub(super) recorder: Option<Recorder>,
    shown: record::Progress,
    /// Of all machines. The run's clock goes on after a resume, and so does what it costs.
    cost_per_hour: Option<f64>,
}

impl Observer {
    /// What the run has cost by then.
    fn cost_usd(&self, at: Moment) -> Option<f64> {
        self.cost_per_hour.map(|usd| usd * at.elapsed_s / 3600.0)
    }

    pub(super) fn step(&mut self, row: &StepRow) -> Result<()> {
        let row = &StepRow { cost_usd: self.cost_usd(row.at), ..row.clone() };
        self.shown.step(row);
        Ok(self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.step(row))?)
    }

    fn phase(&mut self, row: &PhaseRow) -> Result<()> {
        self.shown.phase(row);
        Ok(self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.phase(row))?)
    }

    pub(super) fn epoch(&mut self, row: &EpochRow) -> Result<()> {
        let row = &EpochRow { cost_usd: self.cost_usd(row.at), ..row.clone() };
        self.shown.epoch(row);
        Ok(self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.epoch(row))?)
    }

    fn end(self, row: &EndRow) -> Result<()> {
        let row = &EndRow { cost_usd: self.cost_usd(row.at), ..row.clone() };
        self.shown.finish(row);
        Ok(self.recorder.map_or(Ok(()), |recorder| recorder.end(row))?)
    }
}
