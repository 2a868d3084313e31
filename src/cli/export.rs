//! `sprint export`: a run's network as one file that PyTorch reads.

use std::path::PathBuf;

use super::device;
use crate::{error::Result, train::Classifier};

/// Write a network as .safetensors with torchvision's names; loads in torchvision and timm.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run's folder, a checkpoint, or weights (.safetensors, .pth)
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn export(args: &Args) -> Result<()> {
    let classifier = Classifier::open(&args.checkpoint, &device::find("flex")?)?;
    Classifier::save(&classifier.model, &classifier.about, &args.out)?;
    println!(
        "{}: ResNet-{}, {} parameters, {} classes",
        args.out.display(),
        classifier.model.config().depth(),
        classifier.model.config().num_params(),
        classifier.model.config().num_classes()
    );
    Ok(())
}
