//! The checked form of a configuration: every number in range, the network and the schedule fixed. Pure.

use burn_dist::rank::{Rank, WorldSize};
use burn_resnet::ResNetConfig;

use super::TrainConfig;
use crate::{
    data::{
        SharedSource, Tail,
        sampler::{self, Coverage},
    },
    error::{Error, Result},
    recipe::{Phase, Schedule},
};

/// What becomes of the images left over when an epoch is cut into batches: every step has the same size.
pub(crate) const TAIL: Tail = Tail::Drop;

/// What a plan has to know of the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFacts {
    /// Training images.
    pub num_train: usize,
    /// Classes.
    pub num_classes: usize,
    /// 1 for grey, 3 for colour.
    pub channels: usize,
}

impl DataFacts {
    /// Of the pictures to train on.
    pub fn of(train: &SharedSource) -> Self {
        Self {
            num_train: train.num_images(),
            num_classes: train.class_names().len(),
            channels: train.channels().count(),
        }
    }
}

/// A run that can be carried out.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The configuration it was made from.
    pub config: TrainConfig,
    /// The network.
    pub model: ResNetConfig,
    /// Every step's place.
    pub schedule: Schedule,
    /// What is subtracted from and divided out of pixels.
    pub normalization: Normalization,
    /// Where the run may end before its last step.
    pub target: Option<Target>,
}

/// Mean and standard deviation of each channel, on a scale of 0 to 1.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Normalization {
    /// One value a channel.
    pub mean: Vec<f32>,
    /// One value a channel.
    pub std: Vec<f32>,
}

impl Normalization {
    /// ImageNet's, which nearly every pretrained network was trained with; for grey images their average.
    pub fn imagenet(channels: usize) -> Self {
        if channels == 1 {
            Self { mean: vec![0.449], std: vec![0.226] }
        } else {
            Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
        }
    }
}

/// A validation accuracy that ends the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// 1 or 5.
    pub k: u8,
    /// In percent.
    pub percent: f64,
}

impl Target {
    /// Whether these accuracies, in percent, are enough.
    pub fn is_reached(self, top1: f64, top5: f64) -> bool {
        (if self.k == 1 { top1 } else { top5 }) >= self.percent
    }
}

impl std::str::FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("stop at `{text}`: expected top1=PERCENT or top5=PERCENT, such as top5=93"))
        };
        let (metric, percent) = text.split_once('=').ok_or_else(wrong)?;
        let k = match metric.trim() {
            "top1" => 1,
            "top5" => 5,
            _ => return Err(wrong()),
        };
        let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
        if (0.0..=100.0).contains(&percent) { Ok(Self { k, percent }) } else { Err(wrong()) }
    }
}

impl Plan {
    /// Checks `config` against the pictures it is for.
    ///
    /// # Errors
    /// [`Error::Usage`] names the key, what it was and what it may be.
    pub fn new(config: TrainConfig, data: DataFacts, world_size: WorldSize) -> Result<Self> {
        let model = model(&config, data)?;
        check_optimizer(&config)?;
        for (index, phase) in config.phase.iter().enumerate() {
            let wrong = |why: String| Error::usage(format!("phase {}: {why}", index + 1));
            let micro_batches = config.optimizer.micro_batches;
            check_phase(phase, micro_batches).map_err(wrong)?;
            let (batch, size) = (phase.batch_size / micro_batches, phase.size as usize);
            model.check_train_batch(batch, size, size).map_err(|error| wrong(error.to_string()))?;
        }
        let schedule = Schedule::new(&config.phase, |phase| {
            let Some(rank) = Rank::new(0, world_size).filter(|_| data.num_train > 0) else { return 0 };
            let epoch = sampler::Plan::new(data.num_train, phase.batch_size, rank, Coverage::Train(TAIL));
            epoch.num_batches() as u64
        })
        .map_err(Error::usage)?;
        let normalization = normalization(&config, data.channels)?;
        let target = config.stop_at.as_deref().map(str::parse).transpose()?;
        Ok(Self { config, model, schedule, normalization, target })
    }
}

fn model(config: &TrainConfig, data: DataFacts) -> Result<ResNetConfig> {
    let mut model = ResNetConfig::new(config.model.depth, data.num_classes)
        .and_then(|model| model.with_channels(data.channels))
        .map_err(Error::usage)?;
    if let Some(width) = config.model.width {
        model = model.with_width(width).map_err(Error::usage)?;
    }
    if let Some(stem) = config.model.stem {
        model = model.with_stem(stem);
    }
    Ok(model)
}

fn check_optimizer(config: &TrainConfig) -> Result<()> {
    let optimizer = &config.optimizer;
    let checks = [
        (
            "optimizer.momentum",
            optimizer.momentum,
            (0.0..1.0).contains(&optimizer.momentum),
            "0 or more, below 1",
        ),
        (
            "optimizer.weight_decay",
            optimizer.weight_decay,
            finite_at_least_0(optimizer.weight_decay),
            "0 or more",
        ),
        (
            "optimizer.label_smoothing",
            optimizer.label_smoothing,
            (0.0..1.0).contains(&optimizer.label_smoothing),
            "0 or more, below 1",
        ),
        (
            "data.val_fraction",
            config.data.val_fraction,
            config.data.val_fraction > 0.0 && config.data.val_fraction < 1.0,
            "between 0 and 1",
        ),
    ];
    for (key, value, holds, expected) in checks {
        if !holds {
            return Err(Error::usage(format!("{key} is {value}: expected {expected}")));
        }
    }
    if config.checkpoint.keep == 0 {
        return Err(Error::usage(
            "checkpoint.keep is 0: expected at least 1, or there is nothing to resume from",
        ));
    }
    if config.data.batches_ahead == 0 || config.data.batches_ahead > 64 {
        let got = config.data.batches_ahead;
        return Err(Error::usage(format!("data.batches_ahead is {got}: expected 1 to 64")));
    }
    Ok(())
}

fn check_phase(phase: &Phase, micro_batches: usize) -> Result<(), String> {
    let (from, to) = phase.lr.ends();
    if !finite_at_least_0(from) || !finite_at_least_0(to) {
        return Err(format!("`lr` goes from {from} to {to}: expected finite numbers, 0 or more"));
    }
    let (val_size, val_resize) = phase.validation();
    for (key, value) in [("size", phase.size), ("val_size", val_size), ("val_resize", val_resize)] {
        if !(4..=4096).contains(&value) {
            return Err(format!("`{key}` is {value} pixels: expected 4 to 4096"));
        }
    }
    if !(1..=1 << 20).contains(&phase.batch_size) {
        return Err(format!("`batch_size` is {}: expected 1 to 1048576", phase.batch_size));
    }
    if micro_batches == 0 || !phase.batch_size.is_multiple_of(micro_batches) {
        return Err(format!(
            "`batch_size` {} cannot be cut into optimizer.micro_batches = {micro_batches} equal parts",
            phase.batch_size
        ));
    }
    if !(phase.min_scale > 0.0 && phase.min_scale <= 1.0) {
        return Err(format!("`min_scale` is {}: expected above 0, at most 1", phase.min_scale));
    }
    if phase.padding > phase.size {
        return Err(format!("`padding` is {}: expected at most the size, {}", phase.padding, phase.size));
    }
    Ok(())
}

fn normalization(config: &TrainConfig, channels: usize) -> Result<Normalization> {
    let fallback = Normalization::imagenet(channels);
    let mean = config.data.mean.clone().unwrap_or(fallback.mean);
    let std = config.data.std.clone().unwrap_or(fallback.std);
    for (key, values) in [("mean", &mean), ("std", &std)] {
        if values.len() != channels || !values.iter().all(|value| value.is_finite()) {
            return Err(Error::usage(format!(
                "data.{key} is {values:?}: expected {channels} finite numbers, one a channel"
            )));
        }
    }
    if std.iter().any(|&value| value <= 0.0) {
        return Err(Error::usage(format!("data.std is {std:?}: expected numbers above 0")));
    }
    Ok(Normalization { mean, std })
}

fn finite_at_least_0(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}
