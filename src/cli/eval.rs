//! `sprint eval`: the accuracy of a network on pictures.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use super::device;
use crate::{
    config::DataConfig,
    data::{self, Loader, LoaderConfig, Location, OnBadFile, Pass, SharedSource, Split, sizes, user_caches},
    error::{Error, Result},
    train::{About, Classifier, Normalizer, comparable_crop, evaluate},
};

/// Evaluate a network: loss, top-1 and top-5 over every picture once.
///
/// By rectangles, or above 224 pixels, the accuracy does not compare with others' figures: that of a centre crop of 224
/// pixels of 256 (of the same size, if that is smaller) stands in a second line.
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
    /// Evaluate pictures of like shape together, in rectangles of their shape (fast.ai 2018)
    #[arg(long)]
    rect: bool,
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
    let About { size, resize, .. } = *about;
    if args.rect && size < 8 {
        return Err(Error::usage(format!(
            "--rect at {size} pixels: sides are multiples of 8, so expected 8 or more"
        )));
    }
    let source = pictures(args, &classifier)?;
    let normalizer = Normalizer::new(&classifier.about.normalization, &device);
    evaluate_by(args, &classifier, &normalizer, source.clone(), args.rect)?;
    if let Some((size, resize)) = comparable_crop(size, resize, args.rect) {
        (classifier.about.size, classifier.about.resize) = (size, resize);
        evaluate_by(args, &classifier, &normalizer, source, false)?;
    }
    Ok(())
}

/// Evaluates by the classifier's crop, or by rectangles of its size, and prints the result.
fn evaluate_by(
    args: &Args,
    classifier: &Classifier,
    normalizer: &Normalizer,
    source: SharedSource,
    rect: bool,
) -> Result<()> {
    let About { size, resize, .. } = &classifier.about;
    let on_bad_file = if args.skip_bad_files { OnBadFile::Skip } else { OnBadFile::Fail };
    let config = LoaderConfig {
        on_bad_file,
        ..LoaderConfig::new(
            classifier.about.transform(),
            classifier.channels(),
            args.batch_size,
            Pass::Evaluate,
        )
    };
    let mut num_skipped = 0;
    let loader = if rect {
        let caches = user_caches();
        let sizes = sizes::of(&*source, on_bad_file, caches.as_deref(), |note| eprintln!("{note}"))?;
        num_skipped = sizes.iter().filter(|&&size| size == (0, 0)).count() as u64;
        Loader::rectangular(source, config, &sizes)?
    } else {
        Loader::new(source, config)?
    };
    let bar = ProgressBar::new(loader.num_images() as u64).with_style(
        ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} images  {per_sec}  {eta} left")
            .expect("a fixed template"),
    );
    let accuracy = evaluate(&classifier.model, normalizer, loader, |n| bar.inc(n as u64), || false)?
        .expect("nothing asks it to stop");
    bar.finish_and_clear();
    let skipped = match accuracy.num_skipped + num_skipped {
        0 => String::new(),
        n => format!(", {n} bad pictures skipped"),
    };
    println!(
        "top-1 {:.2} %  top-5 {:.2} %  loss {:.4}  on {} images at {size} px (resize {resize}{}){skipped}",
        accuracy.top1,
        accuracy.top5,
        accuracy.loss,
        accuracy.num_images,
        if rect { ", rectangles" } else { "" },
    );
    Ok(())
}

/// The pictures, labelled by the network's classes.
fn pictures(args: &Args, classifier: &Classifier) -> Result<SharedSource> {
    let location = DataConfig { path: args.data.clone(), ..DataConfig::default() }.location()?;
    let location = location.unwrap_or(Location::Embedded);
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
