//! `sprint train`: configuration, pictures and device brought together; the trainer does the rest.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn_dist::{Communicator, Rank, WorldSize, env, flight::FlightRecorder};
use signal_hook::{consts::SIGUSR1, iterator::Signals};

use super::{device, dry_run, run_folder};
use crate::{
    cluster::{Price, has_launcher},
    config::{
        ClusterConfig, DataFacts, Plan, Sources, TrainConfig, beside_plan, scale_epochs,
        set_global_batch_size,
    },
    data::{Address, Copies, Location, Pair},
    error::{Error, Result},
    record::{DawnInfo, EndReason, ProgressMode, RunInfo},
    train::{CONFIG, Job, Outcome, Stop, cost_per_hour, num_machines, run},
};

/// Seconds between two lines of progress where there is no terminal.
const HEARTBEAT_S: f64 = 10.0;
/// A recipe that travels from rank 0 to the others.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Train a network: the embedded default, a preset, or a configuration of your own.
///
/// A run writes its folder: config.toml (repeats the run), metrics.jsonl, checkpoints, curve.png, report.html,
/// TensorBoard events. Ctrl-C saves the state and says how to go on.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Args {
    /// A recipe inside the program, such as default, photos or imagenet18-16; a wrong name lists them all
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    preset: Option<String>,
    /// A recipe in a TOML file, such as a run's config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Pictures: a folder with a folder for each class (or with train/ and val/), a tar of such, MNIST's IDX files,
    /// CIFAR's binary files, shards; or where shards lie: s3://, gs://, az://, http://, https://
    #[arg(long, value_name = "PATH|URL")]
    data: Option<PathBuf>,
    /// flex (CPU), ndarray, cuda, cuda:N, wgpu, vulkan
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// The run's folder [default: runs/<name>-<time>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the newest checkpoint in the run's folder, or start if there is none
    #[arg(long, requires = "out")]
    resume: bool,
    /// End the run once validation is this good
    #[arg(long, value_name = "top5=93")]
    stop_at: Option<String>,
    /// What a machine costs for an hour, so that the record tells money: US dollars, or a name of clusters/prices.toml
    #[arg(long, value_name = "USD|NAME")]
    price: Option<String>,
    /// Save the state after so many steps, or whenever the last checkpoint is as old: 500, 90s, 5m, 1h
    #[arg(long, value_name = "STEPS|TIME")]
    checkpoint_every: Option<String>,
    /// Change one key of the recipe; may be given many times. The phases are phase.0, phase.1, ...
    #[arg(long, value_name = "key.path=value")]
    set: Vec<String>,
    /// Train for F times the epochs, phase by phase
    #[arg(long, value_name = "F")]
    scale_epochs: Option<f64>,
    /// Images in a step of the first phase, over all ranks; the other phases follow in proportion, learning rates by
    /// the linear rule
    #[arg(long, value_name = "N")]
    global_batch_size: Option<u32>,
    /// Print the recipe as it would be carried out and do nothing; without --data by the images and ranks that it was
    /// made for
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "table")]
    dry_run: Option<dry_run::Form>,
}

impl Args {
    /// The folder that the user gave.
    pub(super) fn out(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    pub(super) fn resumes(&self) -> bool {
        self.resume
    }

    /// What the user said of the configuration.
    pub(super) fn sources(&self) -> Sources {
        let Self { preset, config, data, device, stop_at, checkpoint_every, mut set, price, .. } =
            self.clone();
        set.extend(price.map(|price| format!("price=\"{price}\"")));
        Sources { preset, config, set, data, device, stop_at, checkpoint_every }
    }

    /// Whether the user said anything of the configuration.
    fn configures(&self) -> bool {
        !self.sources().is_empty() || self.scale_epochs.is_some() || self.global_batch_size.is_some()
    }

    /// What the user said of the configuration, as it is for `world_size` ranks, or for those that the recipe was made
    /// for; and what is to be said of it.
    pub(super) fn configuration(&self, world_size: Option<WorldSize>) -> Result<(TrainConfig, Vec<String>)> {
        let mut config = self.sources().resolve()?;
        let mut said = Vec::new();
        if let Some(factor) = self.scale_epochs {
            said.push(scale_epochs(&mut config, factor)?);
        }
        if let Some(global) = self.global_batch_size {
            let world_size = world_size.unwrap_or_else(|| planned_world_size(&config));
            said.extend(set_global_batch_size(&mut config, global as usize, world_size)?);
        }
        Ok((config, said))
    }
}

/// The ranks that a recipe was made for.
pub(super) fn planned_world_size(config: &TrainConfig) -> WorldSize {
    config.cluster.as_ref().and_then(ClusterConfig::world_size).unwrap_or(WorldSize::ONE)
}

pub(super) fn train(args: Args) -> Result<()> {
    let launched = env::identity(&|name| std::env::var(name).ok())?.map(|identity| identity.rank);
    if let Some(form) = args.dry_run {
        return dry_run::print(&args, form, launched);
    }
    let world_size = launched.map_or(WorldSize::ONE, Rank::world_size);
    let (mut config, said) = match args.out.as_deref().filter(|_| args.resume).map(|out| out.join(CONFIG)) {
        Some(path) if path.exists() => (resumed(&args, world_size, path)?, vec![]),
        _ => args.configuration(Some(world_size))?,
    };
    if launched.is_none_or(Rank::is_main) {
        said.iter().for_each(|line| eprintln!("{line}"));
    }
    let Args { out, resume, .. } = args;
    make_absolute(&mut config)?;
    let mut builder = Communicator::builder().from_env()?;
    // What ranks did last is of use where the run's other files are.
    let flights = out.as_deref().map(|out| out.join("flight"));
    if let Some(folder) = &flights {
        builder = builder.or_flight_dir(folder.clone());
    }
    let comm = builder.connect()?;
    if let (Some(recorder), Some(folder)) = (comm.flight_recorder(), flights) {
        write_on_signal(recorder, comm.rank(), folder)?;
    }
    let done = train_together(&comm, config, out, resume);
    match &done {
        Ok(()) | Err(Error::Stopped(_)) => {}
        // The others are told why they wait in vain.
        Err(error) => comm.fail(&error.to_string()),
    }
    done
}

/// Trains as one rank of a job. Rank 0 writes and talks; the others are silent but for errors.
fn train_together(
    comm: &Communicator,
    config: TrainConfig,
    out: Option<PathBuf>,
    resume: bool,
) -> Result<()> {
    let rank = comm.rank();
    let config = of_rank_0(comm, config)?;
    let device = device::find(&config.device)?;
    let pictures = open_pictures(&config)?;
    let facts = DataFacts::of(&pictures.main().train);
    let plan = Plan::new(config, facts, rank.world_size())?;

    let now_s = run_folder::now_s();
    let out = out.unwrap_or_else(|| run_folder::named(&plan.config.name, now_s));
    if rank.is_main() {
        check_folder(&out, resume)?;
        eprintln!("{}", in_words(&plan, facts, pictures.main(), rank.world_size(), &out));
        let goes_on = out.join(CONFIG).exists();
        let differs = beside_plan(&plan.config, &plan.schedule, rank.world_size()).filter(|_| !goes_on);
        differs.into_iter().for_each(|line| eprintln!("{line}"));
    }
    let outcome = run(Job {
        plan: &plan,
        data: &pictures,
        device: &device,
        comm: comm.clone(),
        out: &out,
        resume,
        rehearse: plan.config.rehearse.applies(device::is_gpu(&plan.config.device)),
        stop: stop_on_signal(rank.is_main())?,
        progress: if rank.is_main() { ProgressMode::detect(HEARTBEAT_S) } else { ProgressMode::Silent },
        info: info(&plan, comm, now_s)?,
        now_s,
    })?;
    if rank.is_main() {
        return tell(&outcome, &out, plan.price.as_ref().map(|price| (price, num_machines(comm))));
    }
    // The status is rank 0's, the words are its alone.
    if outcome.reason == EndReason::Stopped { Err(Error::Stopped(String::new())) } else { Ok(()) }
}

/// Rank 0's recipe, so that a job is configured in one place; the device stays each rank's own.
fn of_rank_0(comm: &Communicator, mine: TrainConfig) -> Result<TrainConfig> {
    if comm.rank().world_size() == WorldSize::ONE {
        return Ok(mine);
    }
    let said = if comm.rank().is_main() { to_toml(&mine)? } else { String::new() };
    let first = comm.all_gather_bytes(said.as_bytes(), MAX_CONFIG_BYTES)?.swap_remove(0);
    let config: TrainConfig = toml::from_slice(&first).map_err(Error::run)?;
    Ok(TrainConfig { device: mine.device, ..config })
}

/// What is about to be trained, in a line.
fn in_words(plan: &Plan, facts: DataFacts, pictures: &Pair, world_size: WorldSize, out: &Path) -> String {
    let ranks =
        if world_size == WorldSize::ONE { String::new() } else { format!(" by {world_size} processes") };
    format!(
        "{}: ResNet-{} of {} parameters on {} training and {} validation images of {} classes{ranks}; run in {}",
        plan.config.name,
        plan.model.depth(),
        plan.model.num_params(),
        facts.num_train,
        pictures.val.num_images(),
        facts.num_classes,
        out.display()
    )
}

/// The configuration of the run in the folder; whatever else the user says must agree with it.
fn resumed(args: &Args, world_size: WorldSize, path: PathBuf) -> Result<TrainConfig> {
    let saved = Sources { config: Some(path.clone()), ..Sources::default() }.resolve()?;
    if args.configures() {
        let (mut wanted, _) = args.configuration(Some(world_size))?;
        make_absolute(&mut wanted)?;
        if wanted != saved {
            let (wanted, saved) = (to_toml(&wanted)?, to_toml(&saved)?);
            let differs = wanted.lines().zip(saved.lines()).find(|(wanted, saved)| wanted != saved);
            let (wanted, saved) = differs.unwrap_or(("more keys", "fewer keys"));
            return Err(Error::usage(format!(
                "{} differs from what is asked for: `{saved}` there, `{wanted}` here; resume with --out and --resume \
                 alone, or start another run with another --out",
                path.display()
            )));
        }
    }
    Ok(saved)
}

pub(super) fn open_pictures(config: &TrainConfig) -> Result<Copies> {
    let location = match (config.data.location()?, config.data.planned_images) {
        (Some(location), _) => location,
        (None, None) => Location::Embedded,
        (None, Some(images)) => {
            return Err(Error::usage(format!(
                "{} is made for {images} images that are not inside the program: give --data PATH",
                config.name
            )));
        }
    };
    let names = config.phase.iter().filter_map(|phase| phase.data.as_deref());
    Ok(Copies::open(&location, names, config.data.val_fraction)?)
}

/// Refuses a folder that another run has.
fn check_folder(out: &Path, resume: bool) -> Result<()> {
    if resume || !out.join(CONFIG).exists() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} holds a run already: give --resume to go on with it, or another --out",
        out.display()
    )))
}

/// Paths that mean the same wherever the configuration is used from.
fn make_absolute(config: &mut TrainConfig) -> Result<()> {
    let TrainConfig { data, model, .. } = config;
    for path in [&mut data.path, &mut data.store.cache_dir, &mut model.pretrained].into_iter().flatten() {
        if path.to_str().is_some_and(Address::is_meant) {
            continue;
        }
        *path = std::path::absolute(&*path).map_err(Error::io("find", path))?;
    }
    Ok(())
}

pub(super) fn to_toml(config: &TrainConfig) -> Result<String> {
    toml::to_string(config).map_err(Error::run)
}

/// The flag that Ctrl-C and SIGTERM set; a second one ends the process at once.
///
/// A rank of `sprint launch` leaves that to its launcher: Slurm signals every process of a job, so such a rank hears of
/// one wish twice, from Slurm and from the launcher, and would end with nothing saved.
fn stop_on_signal(tells: bool) -> Result<&'static Stop> {
    static STOP: Stop = Stop::new();
    let is_alone = !has_launcher();
    ctrlc::set_handler(move || match STOP.request() {
        true if is_alone => std::process::exit(130),
        true => {}
        false if tells && is_alone => {
            eprintln!("stopping after this step; once more to stop at once, without saving");
        }
        false if tells => eprintln!("stopping after this step"),
        false => {}
    })
    .map_err(|error| Error::run(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(&STOP)
}

/// Writes what this rank did last whenever SIGUSR1 asks for it.
fn write_on_signal(recorder: Arc<FlightRecorder>, rank: Rank, folder: PathBuf) -> Result<()> {
    let listen = |error: std::io::Error| Error::run(format!("cannot listen for SIGUSR1: {error}"));
    let mut signals = Signals::new([SIGUSR1]).map_err(listen)?;
    let writer = std::thread::Builder::new().name("flight record".into()).spawn(move || {
        for _ in signals.forever() {
            if let Err(error) = recorder.write(&folder, rank.index() as u32, None) {
                eprintln!("cannot write a flight record to {}: {error}", folder.display());
            }
        }
    });
    writer.map(drop).map_err(listen)
}

/// What the report says of program and machine.
fn info(plan: &Plan, comm: &Communicator, now_s: f64) -> Result<RunInfo> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let environment = BTreeMap::from([
        ("program".to_owned(), format!("burn-sprint {}", env!("CARGO_PKG_VERSION"))),
        ("device".to_owned(), plan.config.device.clone()),
        ("cores".to_owned(), cores.to_string()),
        ("system".to_owned(), format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
    ]);
    let world_size = comm.rank().world_size();
    let dawn = DawnInfo { cost_per_hour: cost_per_hour(plan, comm), ..dawn_info(plan, world_size, now_s)? };
    Ok(RunInfo { world_size: world_size.count() as u32, environment, dawn })
}

/// What `dawn.json` says besides the run's rows; who ran it is left to be filled in.
fn dawn_info(plan: &Plan, world_size: WorldSize, now_s: f64) -> Result<DawnInfo> {
    let TrainConfig { name, precision, optimizer, device, .. } = &plan.config;
    let processes = if world_size == WorldSize::ONE { "process" } else { "processes" };
    Ok(DawnInfo {
        framework: format!("burn-sprint {}", env!("CARGO_PKG_VERSION")),
        model: format!("ResNet-{}", plan.model.depth()),
        hardware: format!("{world_size} {processes} on {device} ({})", std::env::consts::ARCH),
        timestamp: run_folder::date(now_s),
        misc: BTreeMap::from([
            ("recipe".to_owned(), name.as_str().into()),
            ("precision".to_owned(), serde_json::to_value(precision).map_err(Error::run)?),
            ("optimizer".to_owned(), serde_json::to_value(optimizer).map_err(Error::run)?),
        ]),
        ..DawnInfo::default()
    })
}

/// The result, on standard output; with what so many machines at a price cost.
fn tell(outcome: &Outcome, out: &Path, price: Option<(&Price, u32)>) -> Result<()> {
    let progress = &outcome.progress;
    let out = out.display();
    if outcome.reason == EndReason::Stopped {
        return Err(Error::Stopped(format!(
            "stopped after step {}, state saved; go on with: sprint train --out {out} --resume",
            progress.step
        )));
    }
    let (top1, top5) = progress.last_accuracy.unwrap_or_default();
    let seconds = progress.elapsed_s.round() as u64;
    let skipped = match progress.skipped_images {
        0 => String::new(),
        n => format!("; {n} bad pictures skipped"),
    };
    let cost = price.map(|(price, machines)| format!(", {}", price.of(machines, progress.elapsed_s)));
    let cost = cost.unwrap_or_default();
    println!(
        "top-1 {top1:.2} %, top-5 {top5:.2} % after {} epochs in {}:{:02}{cost}{skipped}; see {out}/report.html",
        progress.epochs_done,
        seconds / 60,
        seconds % 60
    );
    if let Some((size, center)) = outcome.center {
        println!("top-1 {:.2} %, top-5 {:.2} % by a centre crop of {size} px", center.top1, center.top5);
    }
    Ok(())
}
