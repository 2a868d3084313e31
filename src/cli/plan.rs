//! `sprint plan`: how long a recipe takes on a cluster, and what it costs, before it is bought. The simulation is
//! `cluster::forecast`'s; here a configuration becomes its job, and its numbers become tables.

mod table;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use burn_dist::WorldSize;
use burn_resnet::ResNetConfig;
use serde::Serialize;

use super::{device, train::planned_world_size};
use crate::{
    cluster::{
        Cost, Price,
        forecast::{
            Forecast, ForecastError, Job, JobPhase, Kind, Layer, Lever, MAX_MACHINES, Row, Throughput,
            forecast, levers,
        },
    },
    config::{DataFacts, Plan, Sources, TrainConfig},
    data::Tail,
    error::{Error, Result},
    recipe::{Phase, ValCrop},
    train::measure_step,
};

/// ImageNet's split, which has no key of its own.
const IMAGENET: (u64, u64) = (1_281_167, 50_000);
const DEFAULT_CLASSES: usize = 1000;
/// A file larger than this describes no cluster.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Proportions of layers do not depend on the size of the images; this one is as good as any.
const LAYER_SIZE: usize = 224;

/// Time and money of a recipe on a cluster, before they are spent: by simulation, step by step.
///
/// What a cluster is and how fast its devices are comes from a file, docs/plan.md says which keys; some are inside the
/// program. With several numbers of machines it prints where scaling ends.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A recipe inside the program
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    preset: Option<String>,
    /// A recipe in a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change one key of the recipe; may be given many times
    #[arg(long, value_name = "key.path=value")]
    set: Vec<String>,
    /// A TOML file, or one inside the program: p3.16xlarge-2018, a100-400g, h100-400g, h100-3200g [default: that
    /// which the recipe was made for]
    #[arg(long, value_name = "FILE|NAME")]
    cluster: Option<String>,
    /// Machines, one number or several [default: those that the recipe was made for]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    machines: Vec<u32>,
    /// Keep each rank's batch, and let that of all ranks grow with them, which the recipe was not made for [default:
    /// keep that of all ranks]
    #[arg(long)]
    per_rank: bool,
    /// Only the first so many epochs, as where the target is expected
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// How fast a device is, in a TOML file, instead of the cluster's own rows
    #[arg(long, value_name = "FILE")]
    throughput: Option<PathBuf>,
    /// Measure it on the device at hand, first, and write it to that file: a few steps of every shape
    #[arg(long, value_name = "FILE", conflicts_with = "throughput")]
    measure: Option<PathBuf>,
    /// The device to measure, as `sprint train` takes it
    #[arg(long, value_name = "DEVICE", requires = "measure")]
    device: Option<String>,
    /// What a machine costs for an hour: US dollars, or the name of a known price [default: the cluster's]
    #[arg(long, value_name = "USD|NAME")]
    price: Option<String>,
    /// Everything as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  sprint plan --preset imagenet18-16 --cluster p3.16xlarge-2018 --epochs 38
  sprint plan --preset imagenet18-16 --cluster h100-400g --machines 16,32,64,128 --price 40
  sprint plan --preset imagenet18-8 --cluster mine.toml --measure here.toml --device cuda:0";

/// A run that was simulated, with its money and what would shorten it.
#[derive(Debug, Serialize)]
struct Outlook {
    #[serde(flatten)]
    forecast: Forecast,
    total_s: f64,
    cost: Option<Cost>,
    levers: Vec<Gain>,
}

/// What is saved where one thing takes no time.
#[derive(Debug, Clone, Copy, Serialize)]
struct Gain {
    lever: Lever,
    saved_s: f64,
}

/// What all runs of a command have in common.
#[derive(Debug, Serialize)]
struct Scene {
    recipe: String,
    cluster: String,
    throughput: String,
    price: Option<Price>,
}

pub(super) fn plan(args: &Args) -> Result<()> {
    let Args { preset, config, set, device, .. } = args;
    let sources = Sources {
        preset: preset.clone(),
        config: config.clone(),
        set: set.clone(),
        device: device.clone(),
        ..Sources::default()
    };
    let plan = checked(sources.resolve()?)?;
    let recipe = &plan.config;
    let planned = recipe.cluster.as_ref().and_then(|planned| planned.kind.as_deref());
    let kind = cluster(args.cluster.as_deref().or(planned).ok_or_else(|| {
        Error::usage(
            "this recipe does not say what kind of machine it was made for: give --cluster NAME or FILE",
        )
    })?)?;
    let machines = match (args.machines.as_slice(), &recipe.cluster) {
        ([], Some(planned)) => vec![planned.machines],
        ([], None) => {
            return Err(Error::usage("this recipe was made for no cluster: give --machines N"));
        }
        (given, _) => given.to_vec(),
    };
    let jobs = machines
        .iter()
        .map(|&machines| job(&plan, &kind, machines, args.per_rank, args.epochs))
        .collect::<Result<Vec<_>>>()?;
    let throughput = match (&args.measure, &args.throughput) {
        (Some(to), _) => measure(&plan, &jobs, to)?,
        (None, Some(path)) => Throughput::parse(&path.display().to_string(), &read(path)?).map_err(usage)?,
        (None, None) => kind.throughput.clone().ok_or_else(|| {
            Error::usage(format!(
                "cluster {} does not say how fast its devices are: give --throughput FILE or --measure FILE",
                kind.name
            ))
        })?,
    };
    let price = price(args.price.as_deref().or(recipe.price.as_deref()), &kind)?;
    let outlook = |job: &Job| -> Result<Outlook> {
        let forecast = forecast(job, &kind, &throughput, None).map_err(usage)?;
        let total_s = forecast.total_s();
        let cost = price.as_ref().map(|price| price.of(job.machines, total_s));
        let levers = levers(job, &kind, &throughput).map_err(usage)?;
        let levers = levers.into_iter().map(|(lever, saved_s)| Gain { lever, saved_s }).collect();
        Ok(Outlook { forecast, total_s, cost, levers })
    };
    let runs = jobs.iter().map(outlook).collect::<Result<Vec<_>>>()?;
    let scene = Scene {
        recipe: recipe.name.clone(),
        cluster: kind.name.clone(),
        throughput: throughput.source.clone(),
        price,
    };
    if args.json {
        #[derive(Serialize)]
        struct Page<'a> {
            #[serde(flatten)]
            scene: &'a Scene,
            runs: &'a [Outlook],
        }
        let page = serde_json::to_string_pretty(&Page { scene: &scene, runs: &runs });
        println!("{}", page.expect("numbers, strings and lists of them are JSON"));
    } else if let [run] = runs.as_slice() {
        print!("{}", table::one(&scene, run));
    } else {
        print!("{}", table::scaling(&scene, &runs));
    }
    Ok(())
}

/// Seconds of each phase on the kind of machine that the recipe was made for; `None` where it names none, where
/// `world_size` ranks do not fill such machines, or where nobody knows how fast they are at it.
pub(super) fn phase_seconds(plan: &Plan, world_size: WorldSize) -> Result<Option<Vec<f64>>> {
    let Some(name) = plan.config.cluster.as_ref().and_then(|planned| planned.kind.as_deref()) else {
        return Ok(None);
    };
    let kind = cluster(name)?;
    let ranks = world_size.count() as u32;
    let Some(throughput) = kind.throughput.as_ref().filter(|_| ranks.is_multiple_of(kind.machine.ranks))
    else {
        return Ok(None);
    };
    let job = job(plan, &kind, ranks / kind.machine.ranks, true, None)?;
    let forecast = forecast(&job, &kind, throughput, None).ok();
    Ok(forecast.map(|forecast| forecast.phases.iter().map(|phase| phase.times.total_s()).collect()))
}

/// What devices take, by the phases of `plan` that have epochs: images a second of a rank, alone and with its waits for
/// other ranks' gradients, on the machines that the recipe was made for, all pictures being there in time; with the kind of
/// machine.
pub(super) fn demand(plan: &Plan) -> Result<(Kind, Vec<[f64; 2]>)> {
    let planned = plan.config.cluster.as_ref();
    let name = planned.and_then(|planned| planned.kind.as_deref());
    let (Some(name), Some(planned)) = (name, planned) else {
        return Err(Error::usage("this recipe does not say what kind of machine it was made for"));
    };
    let kind = cluster(name)?;
    let throughput = kind.throughput.as_ref().ok_or_else(|| {
        Error::usage(format!("cluster {} does not say how fast its devices are", kind.name))
    })?;
    let job = job(plan, &kind, planned.machines, false, None)?;
    let forecast = forecast(&job, &kind, throughput, Some(Lever::Input)).map_err(usage)?;
    let rates = forecast.phases.iter().map(|phase| {
        let steps = u64::from(phase.epochs[1] - phase.epochs[0]) * phase.steps_per_epoch;
        let images = (steps * phase.batch_size) as f64;
        let alone_s = phase.times.compute_s + phase.times.fixed_s;
        [images / alone_s, images / (alone_s + phase.times.all_reduce_s)]
    });
    let rates = rates.collect();
    Ok((kind, rates))
}

fn usage(error: ForecastError) -> Error {
    Error::usage(error)
}

/// A kind inside the program, or else a file.
fn cluster(words: &str) -> Result<Kind> {
    let path = Path::new(words);
    let known = Kind::names().any(|name| name == words);
    if known || !path.exists() {
        return Kind::find(words).map_err(usage);
    }
    Kind::parse(words, &read(path)?).map_err(usage)
}

/// The price that the user gives, or else the cluster's.
fn price(given: Option<&str>, kind: &Kind) -> Result<Option<Price>> {
    let words = given.or(kind.price.as_deref());
    words.map(Price::parse).transpose().map_err(Error::usage)
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = File::open(path).map_err(Error::io("read", path))?;
    let length = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(Error::io("read", path))?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(Error::usage(format!(
            "{} has more than {MAX_FILE_BYTES} bytes: is it a TOML file?",
            path.display()
        )));
    }
    Ok(text)
}

/// The recipe as it is for the images and ranks that it was made for, every number of it in range.
pub(super) fn checked(recipe: TrainConfig) -> Result<Plan> {
    let num_train = recipe.data.planned_images.ok_or_else(|| {
        Error::usage("this recipe was made for no number of images: give --set data.planned_images=N")
    })?;
    let num_classes = recipe.data.planned_classes.unwrap_or(DEFAULT_CLASSES);
    let world_size = planned_world_size(&recipe);
    // There is no key for it, but a mean for each channel.
    let channels = recipe.data.mean.as_ref().map_or(3, Vec::len);
    Plan::new(recipe, DataFacts { num_train, num_classes, channels }, world_size)
}

/// The recipe on so many machines.
fn job(plan: &Plan, kind: &Kind, machines: u32, per_rank: bool, epochs: Option<u32>) -> Result<Job> {
    let recipe = &plan.config;
    if !(1..=MAX_MACHINES).contains(&machines) {
        return Err(Error::usage(format!("--machines {machines}: expected 1 to {MAX_MACHINES}")));
    }
    let world_size = u64::from(machines) * u64::from(kind.machine.ranks);
    let planned = recipe.cluster.as_ref().filter(|_| !per_rank);
    let planned = planned
        .map_or(world_size, |planned| u64::from(planned.machines) * u64::from(planned.ranks_per_machine));
    let mut left = epochs.unwrap_or(u32::MAX);
    let mut phases = Vec::new();
    for (index, phase) in recipe.phase.iter().enumerate().filter(|(_, phase)| phase.epochs > 0) {
        let epochs = phase.epochs.min(left);
        left -= epochs;
        let global = phase.batch_size as u64 * planned;
        if !global.is_multiple_of(world_size) {
            return Err(Error::usage(format!(
                "phase {}: {global} images a step cannot be shared by {world_size} ranks alike: choose --machines that \
                 divides it, or --per-rank",
                index + 1
            )));
        }
        if epochs > 0 {
            phases.push(job_phase(phase, epochs, global / world_size, recipe.data.tail));
        }
    }
    let train_images = recipe.data.planned_images.unwrap_or_default() as u64;
    let (imagenet, val) = IMAGENET;
    let held_out = (train_images as f64 * recipe.data.val_fraction).round() as u64;
    Ok(Job {
        machines,
        train_images,
        val_images: if train_images == imagenet { val } else { held_out },
        layers: layers(&plan.model),
        phases,
    })
}

fn job_phase(phase: &Phase, epochs: u32, batch_size: u64, tail: Tail) -> JobPhase {
    let (val_size, _) = phase.validation();
    JobPhase {
        epochs,
        size: phase.size,
        batch_size,
        short_tail: tail == Tail::Short,
        pictures: phase.data.clone().unwrap_or_else(|| "full".into()),
        val_size,
        val_rect: phase.val == ValCrop::Rect,
    }
}

fn layers(network: &ResNetConfig) -> Vec<Layer> {
    let layers = network.layers(LAYER_SIZE, LAYER_SIZE);
    layers.into_iter().map(|layer| Layer { num_params: layer.num_params, num_macs: layer.num_macs }).collect()
}

/// Times a few steps of every shape of the jobs, and of half its batch where a size has only one, on the device of the
/// recipe; writes them as a throughput.
fn measure(plan: &Plan, jobs: &[Job], to: &Path) -> Result<Throughput> {
    let recipe = &plan.config;
    let device = device::find(&recipe.device)?;
    let mut shapes: Vec<(u32, u64)> =
        jobs.iter().flat_map(|job| job.phases.iter().map(|phase| (phase.size, phase.batch_size))).collect();
    shapes.sort_unstable();
    shapes.dedup();
    let alone = shapes.chunk_by(|a, b| a.0 == b.0).filter(|shapes| shapes.len() == 1).map(|shapes| shapes[0]);
    let halves: Vec<_> = alone.filter(|shape| shape.1 > 1).map(|(size, batch)| (size, batch / 2)).collect();
    shapes.extend(halves);
    shapes.sort_unstable();
    let mut row = Vec::new();
    for (size, batch_size) in shapes {
        let step_s = measure_step(&plan.model, size as usize, batch_size as usize, &device)?;
        eprintln!("{batch_size} images of {size} px: {:.1} ms", 1e3 * step_s);
        row.push(Row { size, batch_size, images_per_s: batch_size as f64 / step_s });
    }
    let source = format!("sprint plan --measure on {}, 32 bits, forward and backward", recipe.device);
    let throughput = Throughput::of_one_rank(source, row);
    let text = toml::to_string(&throughput).map_err(Error::run)?;
    std::fs::write(to, text).map_err(Error::io("write", to))?;
    Ok(throughput)
}
