//! A network with what it takes to use it on a picture: class names, normalisation, image size.
//!
//! It travels in the metadata of a `.safetensors` file, so that one file is enough to evaluate, predict and go on
//! training. Files from elsewhere say nothing of it and get ImageNet's customs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use burn_resnet::{
    ResNet, ResNetConfig, Stem,
    weights::{self, HeadPolicy, WeightsFile},
};
use serde::{Deserialize, Serialize};

use super::checkpoint;
use crate::{
    config::Normalization,
    data::{Channels, Transform},
    error::{Error, Result},
};

/// The key of the metadata that holds [`About`] as JSON.
const KEY: &str = "burn_sprint.about";

/// What a classifier's weights do not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The classes, if the file has their names.
    pub classes: Option<Vec<String>>,
    /// What is done to pixels.
    pub normalization: Normalization,
    /// Side of the images in pixels.
    pub size: u32,
    /// Short side that a picture is resized to before its centre is taken.
    pub resize: u32,
}

impl About {
    /// The customs of torchvision: ImageNet's normalisation; 224 pixels of 256, or 32 for small images.
    pub fn customary(config: &ResNetConfig) -> Self {
        let (size, resize) = match config.stem() {
            Stem::ImageNet => (224, 256),
            Stem::Small => (32, 32),
        };
        Self { classes: None, normalization: Normalization::imagenet(config.channels()), size, resize }
    }

    /// How a picture becomes an image.
    pub fn transform(&self) -> Transform {
        Transform::CenterCrop { size: self.size as usize, resize: self.resize as usize }
    }
}

/// A network and what is known about it.
#[derive(Debug)]
pub struct Classifier {
    /// The network, on a plain device: it evaluates.
    pub model: ResNet,
    /// How to use it.
    pub about: About,
}

impl Classifier {
    /// Reads weights of any known kind: a file, a checkpoint's folder, or a run's folder, whose newest checkpoint it
    /// then is.
    ///
    /// # Errors
    /// [`Error::Weights`] names what does not fit; [`Error::Run`] a folder without a checkpoint.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let file = WeightsFile::open(weights_path(path)?)?;
        let config = file.config()?;
        let about = about(&file, &config)?;
        let mut model = config.init(0, device);
        file.load_into(&mut model, HeadPolicy::Strict)?;
        Ok(Self { model, about })
    }

    /// Writes one `.safetensors` file with torchvision's names, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Weights`] if the file cannot be written.
    pub fn save(model: &ResNet, about: &About, path: &Path) -> Result<()> {
        let json = serde_json::to_string(about).map_err(Error::run)?;
        Ok(weights::save(path, model, &BTreeMap::from([(KEY.to_owned(), json)]))?)
    }

    /// The name of class `index`, or its number.
    pub fn class_name(&self, index: usize) -> String {
        let names = self.about.classes.as_ref();
        names.and_then(|names| names.get(index)).cloned().unwrap_or_else(|| format!("class {index}"))
    }

    /// The channels of the images.
    pub fn channels(&self) -> Channels {
        Channels::from_count(self.model.config().channels()).expect("a network has 1 or 3 channels")
    }
}

/// Starts `model` from the weights at `path`; a head for other classes starts afresh. Returns whether it did.
///
/// # Errors
/// [`Error::Weights`] if there are no weights; [`Error::Run`] names what does not fit.
pub(super) fn start_from(path: &Path, model: &mut ResNet) -> Result<bool> {
    let file = WeightsFile::open(weights_path(path)?)?;
    let num_classes = model.config().num_classes();
    file.load_into(model, HeadPolicy::Reinit)
        .map_err(|why| Error::run(format!("cannot start from {}: {why}", path.display())))?;
    Ok(file.config().is_ok_and(|config| config.num_classes() != num_classes))
}

/// The weights that a path stands for.
fn weights_path(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let checkpoint = path.join(checkpoint::MODEL);
    if checkpoint.is_file() {
        return Ok(checkpoint);
    }
    let newest = checkpoint::newest(path)?;
    newest.map(|folder| folder.join(checkpoint::MODEL)).ok_or_else(|| {
        Error::run(format!(
            "{} holds no checkpoint: give a weights file, a checkpoint's folder or a run's folder",
            path.display()
        ))
    })
}

fn about(file: &WeightsFile, config: &ResNetConfig) -> Result<About> {
    let Some(json) = file.metadata().get(KEY) else { return Ok(About::customary(config)) };
    let wrong = |why: String| Error::run(format!("the weights file's {KEY} is damaged: {why}"));
    let about: About = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
    let classes = about.classes.as_ref().map_or(config.num_classes(), Vec::len);
    let (mean, std) = (about.normalization.mean.len(), about.normalization.std.len());
    if classes != config.num_classes() || mean != config.channels() || std != config.channels() {
        return Err(wrong(format!(
            "{classes} classes, {mean} means and {std} deviations, for a network of {} classes and {} channels",
            config.num_classes(),
            config.channels()
        )));
    }
    about.transform().check()?;
    Ok(about)
}
