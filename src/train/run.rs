//! A run from its first step, or from the checkpoint it was resumed at, to its end.
//!
//! [`epochs`] is the loop. World size 1 is the same code as 128: a rank differs in the images it takes, and rank 0 in
//! that it writes.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use burn::tensor::Device;
use burn_dist::{Communicator, DataParallel, Rank, WorldSize, agree};
use burn_kernels::kernel_cache;
use burn_resnet::ResNet;

use super::{
    checkpoint::{self, Restored},
    classifier::{self, About},
    ema::Average,
    epoch::{self, Pace},
    evaluate::Accuracy,
    input::Normalizer,
    money::{cost_per_hour, cost_usd},
    optimizer::Optimizer,
    precision,
    progress::Progress,
    rehearse,
    session::Session,
    validation::Validation,
};
use crate::{
    config::{Plan, StoreConfig},
    data::{Channels, Copies, LoaderConfig, Pair, Pass, Shuffle, Transform},
    error::{Error, Result},
    record::{
        self, EndReason, EndRow, EpochRow, PhaseRow, ProgressMode, Recorder, RunInfo, StepRow, Totals,
        write_atomic,
    },
};

/// The file in a run's folder that repeats the run.
pub const CONFIG: &str = "config.toml";

/// Everything a run is given.
#[derive(Debug)]
pub struct Job<'a> {
    /// The checked configuration.
    pub plan: &'a Plan,
    /// The pictures, with the copies that the phases name.
    pub data: &'a Copies,
    /// Where tensors live, without autodiff. A GPU: call [`kernel_cache::open`] before it is made.
    pub device: &'a Device,
    /// This process' way to the others of the job; [`Communicator::single`] if there are none.
    pub comm: Communicator,
    /// The run's folder.
    pub out: &'a Path,
    /// Whether to go on from the folder's newest checkpoint, if it has one.
    pub resume: bool,
    /// Whether every shape of the run is tried before its clock starts, so that memory runs out then or never.
    pub rehearse: bool,
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
    /// The same by a centre crop of so many pixels, where that evaluation is not one that compares with others'
    /// ([`comparable_crop`](super::comparable_crop)) and the run went on to its end.
    pub center: Option<(u32, Accuracy)>,
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
    let ended = match epochs(&mut run, &mut session) {
        Err(Error::Away { cause, .. }) => Err(session.saved_from(&mut run, cause)),
        other => other,
    };
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
    Ok(Outcome { reason, progress: session.progress, accuracy: session.accuracy, center: session.center })
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
        let target_reached =
            run.plan.target.is_some_and(|target| target.is_reached(accuracy.top1, accuracy.top5));
        session.end_epoch(run, accuracy, target_reached)?;
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
    let Job { plan, data, device, comm, out, resume, rehearse, stop, progress: mode, info, now_s } = job;
    let rank = comm.rank();
    precision::check_device(&plan.config, device)?;
    agree::same_lines(&comm, "the runs", &in_words(plan, data)?)?;
    let mut model = plan.model.init_with(plan.config.seed, &device.clone().autodiff(), plan.start);
    let mut optimizer = Optimizer::new(&plan.config.optimizer, &model);
    let average_of = |model: &ResNet| plan.config.optimizer.ema.map(|ema| Average::new(ema, model));
    let mut average = average_of(&model);
    // What rank 0 finds is everybody's: the others may be on machines without the run's folder.
    let restored = if resume && rank.is_main() {
        checkpoint::restore(out, &mut model, average.as_mut(), &mut optimizer)?
    } else {
        None
    };
    let totals = Totals {
        epochs: plan.schedule.num_epochs(),
        images: plan.schedule.num_images() * rank.world_size().count() as u64,
    };
    let mut shown = record::Progress::new(totals, mode);
    let validation = Validation::prepare(plan, data, &comm, |note| shown.note(note))?;
    let normalizer =
        Normalizer::new(&plan.normalization, device).rounded_to(precision::dtype(plan.config.precision));
    if rehearse {
        let begun = Instant::now();
        let num_shapes = rehearse::rehearse(plan, &validation, &normalizer, device, &comm)?;
        let seconds = begun.elapsed().as_secs_f64();
        shown.note(&format!("rehearsed {num_shapes} shapes of batches in {seconds:.1} s"));
    }

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
                optimizer = Optimizer::new(&plan.config.optimizer, &model);
                average = average_of(&model);
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
        plan.config.distributed.data_parallel(precision::non_finite(&plan.config)),
    )?;
    if let Some(average) = &mut average {
        average.model = ddp.broadcast(average.model.clone())?;
    }
    let progress = checkpoint::share(&comm, restored, &mut model, average.as_mut(), &mut optimizer)?;
    let (progress, changed) = progress.on(rank.world_size(), &plan.schedule)?;
    if let Some(changed) = &changed {
        shown.note(changed);
    }
    let mut observer = Observer { recorder, shown, cost_per_hour: cost_per_hour(plan, &comm) };
    if rehearse {
        observer.keep_kernels();
    }
    let run = Run { plan, data, validation, comm, out, stop, channels, observer };
    let mut session = Session::new((model, optimizer, average, ddp), normalizer, progress);
    session.batches_changed = changed.is_some();
    Ok((run, session))
}

/// What must be alike on all ranks: the recipe, and what it is applied to. Where pictures lie, on what device and by how
/// many threads they are worked on is each rank's own business.
fn in_words(plan: &Plan, data: &Copies) -> Result<String> {
    let mut config = plan.config.clone();
    config.device.clear();
    config.data.path = None;
    config.data.num_workers = 0;
    config.data.store = StoreConfig::default();
    config.model.pretrained = None;
    let toml = toml::to_string(&config).map_err(Error::run)?;
    let Pair { train, val } = data.main();
    let (num_train, num_val) = (train.num_images(), val.num_images());
    let mut words = format!("{num_train} training images\n{num_val} validation images\n");
    if plan.config.data.shuffle != Shuffle::Full {
        // The order follows from how pictures lie, which may differ where they are the same.
        for phase in &plan.config.phase {
            let blocks = data.get(phase.data.as_deref())?.train.blocks();
            let mut hasher = DefaultHasher::new();
            blocks.hash(&mut hasher);
            words += &format!("{} blocks of training images, hash {:x}\n", blocks.count(), hasher.finish());
        }
    }
    Ok(words + &toml)
}

/// What stays the same all through a run, and where its record goes.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) data: &'a Copies,
    pub(super) validation: Validation<'a>,
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
            classes: Some(self.data.main().train.class_names().to_vec()),
            normalization: self.plan.normalization.clone(),
            size: val_size.0,
            resize: val_size.1,
        }
    }
}

/// Where rows go: to the record, which rank 0 keeps, and to the user.
pub(super) struct Observer {
    pub(super) recorder: Option<Recorder>,
    shown: record::Progress,
    /// Of all machines. The run's clock goes on after a resume, and so does what it costs.
    cost_per_hour: Option<f64>,
}

impl Observer {
    /// Keeps what a GPU's library has chosen by trying. Without it the next process tries again: no reason to end this one.
    pub(super) fn keep_kernels(&mut self) {
        if let Err(error) = kernel_cache::keep() {
            self.shown.note(&format!("the next process will choose its kernels anew: {error}"));
        }
    }

    pub(super) fn step(&mut self, row: &StepRow) -> Result<()> {
        let row = &StepRow { cost_usd: cost_usd(self.cost_per_hour, row.at), ..row.clone() };
        self.shown.step(row);
        Ok(self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.step(row))?)
    }

    fn phase(&mut self, row: &PhaseRow) -> Result<()> {
        self.shown.phase(row);
        Ok(self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.phase(row))?)
    }

    pub(super) fn epoch(&mut self, row: &EpochRow) -> Result<()> {
        let row = &EpochRow { cost_usd: cost_usd(self.cost_per_hour, row.at), ..row.clone() };
        self.shown.epoch(row);
        Ok(self.recorder.as_mut().map_or(Ok(()), |recorder| recorder.epoch(row))?)
    }

    fn end(self, row: &EndRow) -> Result<()> {
        let row = &EndRow { cost_usd: cost_usd(self.cost_per_hour, row.at), ..row.clone() };
        self.shown.finish(row);
        Ok(self.recorder.map_or(Ok(()), |recorder| recorder.end(row))?)
    }
}
