//! `sprint eval`: the accuracy of a network on pictures.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use super::device;
use crate::{
    data::{self, Loader, LoaderConfig, Location, OnBadFile, Pass, SharedSource, Split},
    error::{Error, Result},
    train::{Classifier, Normalizer, evaluate},
};

/// Evaluate a network: loss, top-1 and top-5 over every picture once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run's folder, a checkpoint, or weights (.safetensors, .pth)
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// Pictures, as for train; a data set that has a validation part is evaluated on that
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Side of the images in pixels [default: as trained]
    #[arg(long, value_name = "PIXELS")]
    size: Option<u32>,
    /// Short side that pictures are resized to before the centre is taken [default: as trained]
    #[arg(long, value_name = "PIXELS")]
    resize: Option<u32>,
    /// Evaluate only the first so many pictures of every class
    #[arg(long, value_name = "N")]
    per_class: Option<usize>,
    /// Pictures at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Leave out pictures that cannot be read, and count them
    #[arg(long)]
    skip_bad_files: bool,
    /// flex (CPU), ndarray, cuda, cuda:N, wgpu, vulkan
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    device: String,
}

pub(super) fn eval(args: &Args) -> Result<()> {
    let device = device::find(&args.device)?;
    let mut classifier = Classifier::open(&args.checkpoint, &device)?;
    let about = &mut classifier.about;
    match (args.size, args.resize) {
        (Some(size), resize) => {
            // The ratio that the network was trained with, unless said otherwise.
            let ratio = f64::from(about.resize) / f64::from(about.size);
            about.size = size;
            about.resize = resize.unwrap_or((f64::from(size) * ratio).round() as u32);
        }
        (None, Some(resize)) => about.resize = resize,
        (None, None) => {}
    }
    let source = pictures(args, &classifier)?;
    let loader = Loader::new(
        source,
        LoaderConfig {
            on_bad_file: if args.skip_bad_files { OnBadFile::Skip } else { OnBadFile::Fail },
            ..LoaderConfig::new(
                classifier.about.transform(),
                classifier.channels(),
                args.batch_size,
                Pass::Evaluate,
            )
        },
    )?;
    let bar = ProgressBar::new(loader.num_images() as u64).with_style(
        ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} images  {per_sec}  {eta} left")
            .expect("a fixed template"),
    );
    let normalizer = Normalizer::new(&classifier.about.normalization, &device);
    let accuracy = evaluate(&classifier.model, &normalizer, loader, |n| bar.inc(n as u64), || false)?
        .expect("nothing asks it to stop");
    bar.finish_and_clear();
    let skipped = match accuracy.num_skipped {
        0 => String::new(),
        n => format!(", {n} bad pictures skipped"),
    };
    println!(
        "top-1 {:.2} %  top-5 {:.2} %  loss {:.4}  on {} images at {} px (resize {}){skipped}",
        accuracy.top1,
        accuracy.top5,
        accuracy.loss,
        accuracy.num_images,
        classifier.about.size,
        classifier.about.resize
    );
    Ok(())
}

/// The pictures, labelled by the network's classes.
fn pictures(args: &Args, classifier: &Classifier) -> Result<SharedSource> {
    let location = args.data.clone().map_or(Location::Embedded, Location::Path);
    let source = data::open(&location, Split::Val)?;
    let source = match &classifier.about.classes {
        Some(classes) => data::with_classes(source, classes, &args.data.clone().unwrap_or_default())?,
        None => source,
    };
    let (expected, got) = (classifier.model.config().num_classes(), source.class_names().len());
    if classifier.about.classes.is_none() && expected != got {
        return Err(Error::run(format!(
            "{location} has {got} classes, the network in {} has {expected} and does not say which: \
             give pictures of the same classes",
            args.checkpoint.display()
        )));
    }
    Ok(match args.per_class {
        Some(n) => data::first_of_each_class(source, n),
        None => source,
    })
}
