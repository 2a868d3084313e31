//! The checked form of a configuration: every number in range, the network and the schedule fixed. Pure.

use burn_dist::rank::{Rank, WorldSize};
use burn_resnet::{ResNetConfig, Start};

use super::{
    Loss, TrainConfig,
    check::{check, check_phase},
};
use crate::{
    cluster::Price,
    data::{
        SharedSource,
        sampler::{self, Coverage},
    },
    error::{Error, Result},
    recipe::{EpochShape, Schedule},
};

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
    /// The weights that it starts from, unless they come from a file.
    pub start: Start,
    /// Every step's place.
    pub schedule: Schedule,
    /// What is subtracted from and divided out of pixels.
    pub normalization: Normalization,
    /// Where the run may end before its last step.
    pub target: Option<Target>,
    /// What a machine costs.
    pub price: Option<Price>,
}

/// Mean and standard deviation of each channel, on a scale of 0 to 1.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Normalization {
    /// One value a channel.
    pub mean: Vec<f32>,
    /// One value a channel.
    pub std: Vec<f32>,
    /// Whether it is done in half precision, as in the run of 2018: each number is rounded to IEEE's 16 bits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub half: bool,
}

impl Normalization {
    /// ImageNet's, which nearly every pretrained network was trained with; for grey images their average.
    pub fn imagenet(channels: usize) -> Self {
        if channels == 1 {
            Self { mean: vec![0.449], std: vec![0.226], half: false }
        } else {
            Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225], half: false }
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
        check(&config)?;
        for (index, phase) in config.phase.iter().enumerate() {
            let wrong = |why: String| Error::usage(format!("phase {}: {why}", index + 1));
            let micro_batches = config.optimizer.micro_batches;
            check_phase(phase, micro_batches).map_err(wrong)?;
            let (batch, size) = (phase.batch_size / micro_batches, phase.size as usize);
            model.check_train_batch(batch, size, size).map_err(|error| wrong(error.to_string()))?;
        }
        let nothing = EpochShape { num_steps: 0, last_batch_size: 0 };
        let schedule = Schedule::new(&config.phase, |phase| {
            let Some(rank) = Rank::new(0, world_size).filter(|_| data.num_train > 0) else { return nothing };
            let coverage = Coverage::Train(config.data.tail);
            let epoch = sampler::Plan::new(data.num_train, phase.batch_size, rank, coverage);
            let num_batches = epoch.num_batches();
            EpochShape {
                num_steps: num_batches as u64,
                last_batch_size: epoch.positions(num_batches - 1).len(),
            }
        })
        .map_err(Error::usage)?;
        let normalization = normalization(&config, data.channels)?;
        let price = config.price.as_deref().map(Price::parse).transpose().map_err(Error::usage)?;
        let target = config.stop_at.as_deref().map(str::parse).transpose()?;
        let start = start(&config, data.num_classes);
        Ok(Self { config, model, start, schedule, normalization, target, price })
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
    Ok(model.with_blur_pool(config.model.blur_pool))
}

fn start(config: &TrainConfig, num_classes: usize) -> Start {
    Start {
        last_gain: if config.model.zero_gamma { 0.0 } else { 1.0 },
        fc_std: config.model.fc_std,
        fc_bias: match config.optimizer.loss {
            Loss::CrossEntropy => None,
            // Sigmoids that begin at 1 in K: else the first steps do nothing but find out that most classes are wrong.
            Loss::Bce => Some(-(num_classes as f32).ln()),
        },
    }
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
    Ok(Normalization { mean, std, half: config.data.half_normalization })
}
