//! `sprint bench`: what this machine does by itself. `data` times the way from picture files to batches; what a recipe's
//! devices take comes from `cluster::forecast`. `gpu` is a file of its own.

mod gpu;

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use super::plan;
use crate::{
    config::Sources,
    data::{CropRule, InputSpeed, Location, Split, Transform, decode::jpeg_decoder, open},
    error::{Error, Result},
    recipe::Phase,
    train::train_transform,
};

/// More would take hours and say nothing new.
const MAX_IMAGES: u64 = 10_000_000;
const MAX_THREADS: u64 = 4096;

/// Time what this machine does by itself.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Pictures to batches: images a second, by part, and whether a recipe will wait for them
    Data(Data),
    /// A training step on a device: its time, where it goes, and what bounds it
    Gpu(gpu::Args),
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct Data {
    /// A folder of class folders, a tar of one, or another path that `sprint train` takes
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// A recipe: times the images of its phases, and compares with what its devices take [default: random-resized crops
    /// of 224 px]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// How many images to time in each way; a smaller data set is repeated
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=MAX_IMAGES))]
    images: u64,
    /// Threads of all [default: one a processor]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u64).range(..=MAX_THREADS))]
    threads: u64,
    /// Everything as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  sprint bench data --data imagenet/ --preset imagenet18-16
  sprint bench data --data photos.tar --images 5000 --threads 4 --json";

pub(super) fn bench(args: &Args) -> Result<()> {
    match &args.command {
        Bench::Data(args) => data(args),
        Bench::Gpu(args) => gpu::gpu(args),
    }
}

/// What was timed for images of one kind.
#[derive(Debug, Serialize)]
struct Row {
    size: usize,
    read_ms: f64,
    decode_ms: f64,
    resize_ms: f64,
    one_thread_per_s: f64,
    threads: usize,
    all_threads_per_s: f64,
}

/// What a phase takes of a machine, in images a second.
#[derive(Debug, Serialize)]
struct Verdict {
    phase: usize,
    size: usize,
    /// As many cores as the recipe's machine has, each as fast as one here.
    input_per_s: f64,
    compute_per_s: f64,
    /// With waits for gradients.
    network_per_s: f64,
    bound: Bound,
}

/// What is waited for most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Bound {
    Input,
    Compute,
    Network,
}

/// What bounds a phase whose parts give so many images a second; `network` is compute and network together.
fn bound(input_per_s: f64, compute_per_s: f64, network_per_s: f64) -> Bound {
    // More waiting for gradients than computing.
    let waits = network_per_s < compute_per_s / 2.0;
    match input_per_s < network_per_s {
        true => Bound::Input,
        false if waits => Bound::Network,
        false => Bound::Compute,
    }
}

fn data(args: &Data) -> Result<()> {
    let source = open(&Location::Path(args.data.clone()), Split::Train)?;
    let plan = match &args.preset {
        Some(_) => {
            let sources = Sources { preset: args.preset.clone(), ..Sources::default() };
            let mut recipe = sources.resolve()?;
            recipe.data.planned_images.get_or_insert(source.num_images());
            Some(plan::checked(recipe)?)
        }
        None => None,
    };
    // Numbered as in the recipe.
    let phases = (1..).zip(plan.iter().flat_map(|plan| &plan.config.phase));
    let phases: Vec<(usize, &Phase)> = phases.filter(|(_, phase)| phase.epochs > 0).collect();
    let mut transforms: Vec<Transform> = Vec::new();
    for transform in phases.iter().map(|(_, phase)| train_transform(phase)) {
        if !transforms.contains(&transform) {
            transforms.push(transform);
        }
    }
    if transforms.is_empty() {
        let (scale, rule) = ((0.08, 1.0), CropRule::Modern);
        transforms.push(Transform::RandomResizedCrop { size: 224, scale, rule, flip: true });
    }
    let mut speeds = Vec::new();
    for &transform in &transforms {
        let speed = InputSpeed::measure(
            &source,
            transform,
            source.channels(),
            args.images as usize,
            args.threads as usize,
        )?;
        speeds.push((transform, speed));
    }
    let demand = plan.as_ref().map(plan::demand).transpose();
    let (verdicts, reason) = match demand {
        Ok(None) => (Vec::new(), None),
        // A recipe for no known machine is timed all the same.
        Err(Error::Usage(reason)) => (Vec::new(), Some(reason)),
        Err(error) => return Err(error),
        Ok(Some((kind, rates))) => {
            let ranks = f64::from(kind.machine.ranks);
            let verdict = |(&(phase, made), [compute, network]): (&(usize, &Phase), [f64; 2])| {
                let transform = train_transform(made);
                let (_, speed) = speeds.iter().find(|(timed, _)| *timed == transform)?;
                let input_per_s = speed.one_thread_per_s * f64::from(kind.machine.cores);
                let [compute_per_s, network_per_s] = [compute * ranks, network * ranks];
                let bound = bound(input_per_s, compute_per_s, network_per_s);
                let size = made.size as usize;
                Some(Verdict { phase, size, input_per_s, compute_per_s, network_per_s, bound })
            };
            let verdicts = phases.iter().zip(rates).filter_map(verdict).collect();
            (verdicts, None)
        }
    };
    let rows: Vec<Row> = speeds.iter().map(|(transform, speed)| row(transform, speed)).collect();
    if args.json {
        #[derive(Serialize)]
        struct Page<'a> {
            images: u64,
            decoder: &'static str,
            speeds: &'a [Row],
            phases: &'a [Verdict],
        }
        let page = Page { images: args.images, decoder: jpeg_decoder(), speeds: &rows, phases: &verdicts };
        println!("{}", serde_json::to_string(&page).expect("numbers, strings and lists of them are JSON"));
    } else {
        print(args.images, &rows, &verdicts);
    }
    if let Some(reason) = reason {
        eprintln!("no comparison with devices: {reason}");
    }
    Ok(())
}

fn row(transform: &Transform, speed: &InputSpeed) -> Row {
    Row {
        size: transform.shape().0,
        read_ms: 1e3 * speed.read_s,
        decode_ms: 1e3 * speed.decode_s,
        resize_ms: 1e3 * speed.resize_s,
        one_thread_per_s: speed.one_thread_per_s,
        threads: speed.num_threads,
        all_threads_per_s: speed.all_threads_per_s,
    }
}

fn print(num_images: u64, rows: &[Row], verdicts: &[Verdict]) {
    println!(
        "{num_images} images, JPEGs by {}; milliseconds of a thread, images/s of a loader",
        jpeg_decoder()
    );
    println!(
        "{:>5} {:>8} {:>8} {:>8} {:>12} {:>16}",
        "px", "read", "decode", "resize", "1 thread", "threads"
    );
    for row in rows {
        let Row { size, read_ms, decode_ms, resize_ms, one_thread_per_s, threads, all_threads_per_s } = row;
        let all = format!("{threads}: {all_threads_per_s:.0}/s");
        println!(
            "{size:>5} {read_ms:>8.3} {decode_ms:>8.3} {resize_ms:>8.3} {one_thread_per_s:>10.0}/s {all:>16}"
        );
    }
    if verdicts.is_empty() {
        return;
    }
    println!("\nimages/s of one of the recipe's machines, its cores being as fast as one here");
    println!("{:>5} {:>5} {:>10} {:>10} {:>13}  bound by", "phase", "px", "input", "compute", "with network");
    for verdict in verdicts {
        let Verdict { phase, size, input_per_s, compute_per_s, network_per_s, bound } = verdict;
        let bound = format!("{bound:?}").to_lowercase();
        println!(
            "{phase:>5} {size:>5} {input_per_s:>10.0} {compute_per_s:>10.0} {network_per_s:>13.0}  {bound}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_part_bounds() {
        assert_eq!(bound(999.0, 2000.0, 1000.0), Bound::Input);
        assert_eq!(bound(1001.0, 1500.0, 1000.0), Bound::Compute);
        assert_eq!(bound(1001.0, 2500.0, 1000.0), Bound::Network);
    }
}
