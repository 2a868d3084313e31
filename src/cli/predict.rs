//! `sprint predict`: what a network sees in a picture.

use std::{path::PathBuf, sync::Arc};

use burn::tensor::activation::softmax;

use super::{device, pictures::Files};
use crate::{
    data::{Loader, LoaderConfig, OnBadFile, Pass},
    error::{Error, Result},
    train::{Classifier, Normalizer},
};

/// Pictures that go through the network together.
const BATCH_SIZE: usize = 32;

/// Classify pictures: the likeliest classes of each, with their probabilities.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run's folder, a checkpoint, or weights (.safetensors, .pth)
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// Pictures: JPEG, PNG, WebP
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// How many classes to show
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// flex (CPU), ndarray, cuda, cuda:N, wgpu, vulkan
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    device: String,
}

pub(super) fn predict(args: &Args) -> Result<()> {
    let device = device::find(&args.device)?;
    let classifier = Classifier::open(&args.checkpoint, &device)?;
    let normalizer = Normalizer::new(&classifier.about.normalization, &device);
    let num_ahead = args.images.len().min(BATCH_SIZE);
    let config = LoaderConfig {
        on_bad_file: OnBadFile::Skip,
        ..LoaderConfig::new(classifier.about.transform(), classifier.channels(), num_ahead, Pass::Evaluate)
    };
    let mut failed = Vec::new();
    for batch in Loader::new(Arc::new(Files(args.images.clone())), config)? {
        let mut batch = batch?;
        // One bad picture of many is told at the end; the others are still classified.
        failed.append(&mut batch.skipped);
        let probabilities =
            softmax(classifier.model.forward(normalizer.images(&batch.images, batch.shape)), 1);
        let probabilities: Vec<f32> = probabilities.into_data().iter().collect();
        for (of_image, &index) in
            probabilities.chunks_exact(probabilities.len() / batch.len()).zip(&batch.indices)
        {
            println!("{}", args.images[index].display());
            let mut classes: Vec<(usize, f32)> = of_image.iter().copied().enumerate().collect();
            classes.sort_by(|a, b| b.1.total_cmp(&a.1));
            for (class, probability) in classes.into_iter().take(args.top) {
                println!("  {:6.2} %  {}", 100.0 * probability, classifier.class_name(class));
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let messages: Vec<_> = failed.iter().map(ToString::to_string).collect();
    Err(Error::run(messages.join("; ")))
}
