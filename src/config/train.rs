//! The configuration file, key by key. Serde's view: well-formed, not yet checked.

use std::{fmt, path::PathBuf};

use burn_dist::{BucketConfig, DataParallelConfig, NonFinite};
use burn_resnet::{Depth, Stem};
use serde::{Deserialize, Serialize};

use super::{ClusterConfig, StoreConfig};
use crate::{
    data::{OnBadFile, Shuffle, Tail},
    error::{Error, Result},
    recipe::Phase,
};

/// A run as `config.toml` writes it. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The run's name; its folder is called after it.
    pub name: String,
    /// The seed of everything random: initial weights, order, augmentation.
    #[serde(default)]
    pub seed: u64,
    /// The device, as `--device` takes it.
    #[serde(default = "default_device")]
    pub device: String,
    /// Ends the run once validation reaches an accuracy in percent, such as `top5=93`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at: Option<String>,
    /// The numbers that the network computes in: `f32`, `f16` or `bf16`. Weights are kept in f32.
    #[serde(default)]
    pub precision: Precision,
    /// What the loss is multiplied by before the backward pass: a number or `dynamic`. Dynamic for f16 and 1 otherwise,
    /// if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// Whether a step of every shape is tried before the clock starts, so that memory runs out then or never: `true`,
    /// `false`, or `auto`: on a GPU.
    #[serde(default)]
    pub rehearse: Rehearse,
    /// What a machine costs for an hour, so that the record tells what the run has cost: US dollars such as `"24.48"`, or
    /// the name of a price in `clusters/prices.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// The network.
    pub model: ModelConfig,
    /// The pictures.
    #[serde(default)]
    pub data: DataConfig,
    /// The optimizer and the loss.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// When the state is saved.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// How gradients travel between ranks.
    #[serde(default)]
    pub distributed: DistributedConfig,
    /// The cluster that the recipe was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterConfig>,
    /// The phases, in order. A `[[phase]]` table each.
    pub phase: Vec<Phase>,
}

const fn yes() -> bool {
    true
}

fn default_device() -> String {
    "flex".into()
}

/// The numbers that the network computes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// IEEE's 16 bits.
    F16,
    /// The upper half of 32 bits.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// What the loss is multiplied by, so that gradients are not lost below half precision's range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", expecting = "expected a number such as 1024, or \"dynamic\"")]
pub enum LossScale {
    /// Found while training.
    Dynamic,
    /// The same for the whole run.
    #[serde(untagged)]
    Static(f64),
}

/// Whether memory is rehearsed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", expecting = "true, false or \"auto\"")]
pub enum Rehearse {
    /// Where memory is scarce and the first step of a shape costs time anyway: on a GPU.
    #[default]
    Auto,
    /// As the user said.
    #[serde(untagged)]
    Fixed(bool),
}

impl Rehearse {
    /// The answer for a device of this kind.
    pub fn applies(self, is_gpu: bool) -> bool {
        match self {
            Self::Auto => is_gpu,
            Self::Fixed(wanted) => wanted,
        }
    }
}

/// The network. Classes and channels come from the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// 18, 34, 50, 101 or 152; or of the CIFAR family 8, 20, 32, 44, 56 or 110.
    pub depth: Depth,
    /// Channels of the first stage; the paper's (64, CIFAR family 16) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// `imagenet` (7x7, stride 2, pooled) or `small` (3x3, stride 1); the family's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<Stem>,
    /// Whether the last batch norm of every block starts with a gain of 0, so that the block starts as its shortcut.
    #[serde(default = "yes")]
    pub zero_gamma: bool,
    /// Whether strided convolutions see a blurred image (Zhang 2019).
    #[serde(default)]
    pub blur_pool: bool,
    /// The standard deviation with which the classifier's weights are drawn; PyTorch's uniform start if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fc_std: Option<f64>,
    /// Weights to start from: a `.safetensors`, `.pth` or checkpoint. A head of another size starts afresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<PathBuf>,
}

/// The pictures and how they are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A folder, a tar, IDX/CIFAR files or the address of shards in a store; the embedded Fashion-MNIST subset if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The share of every class that is held out for validation where the data has no split of its own.
    pub val_fraction: f64,
    /// Training images that the recipe was made for. A dry run counts with them where there are no pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_images: Option<usize>,
    /// Classes that the recipe was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_classes: Option<usize>,
    /// What becomes of the images left over at the end of an epoch: `drop` leaves them out, `short` makes a smaller
    /// batch of them.
    pub tail: Tail,
    /// How an epoch's order is drawn: `full`, or quasi-random, by `{ window = 64 }`: so many blocks (shards, or 64
    /// pictures that lie together) are mixed at a time.
    pub shuffle: Shuffle,
    /// Threads that decode; one a core if 0.
    pub num_workers: usize,
    /// Batches that are kept ready.
    pub batches_ahead: usize,
    /// What happens at a picture that cannot be read: `fail` or `skip`.
    pub on_bad_file: OnBadFile,
    /// Mean of each channel on a scale of 0 to 1; ImageNet's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
    /// Whether mean, standard deviation and images are rounded to half precision, as in the run of 2018: in training, in
    /// validation, and by whoever uses the network that is saved.
    pub half_normalization: bool,
    /// How pictures in a store are read.
    #[serde(skip_serializing_if = "StoreConfig::is_default")]
    pub store: StoreConfig,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: None,
            val_fraction: 0.2,
            planned_images: None,
            planned_classes: None,
            tail: Tail::Drop,
            shuffle: Shuffle::Full,
            num_workers: 0,
            batches_ahead: 3,
            on_bad_file: OnBadFile::Fail,
            mean: None,
            std: None,
            half_normalization: false,
            store: StoreConfig::default(),
        }
    }
}

/// The optimizer, the loss, and what is mixed into either.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// `sgd`, `lars` or `lamb`.
    pub rule: OptimizerRule,
    /// Momentum, undampened.
    pub momentum: f64,
    /// Nesterov's form of it.
    pub nesterov: bool,
    /// L2 penalty, added to the gradient; never on batch norm.
    pub weight_decay: f64,
    /// LARS: the share of a layer's norm that a step of learning rate 1 may move it by.
    pub trust_coefficient: f64,
    /// LAMB: decay of the mean of gradients.
    pub beta1: f64,
    /// LAMB: decay of the mean of their squares.
    pub beta2: f64,
    /// LAMB: added to the root of that mean.
    pub eps: f64,
    /// LAMB: the norm that all gradients together are cut back to.
    pub max_grad_norm: f64,
    /// `cross-entropy`, or `bce`: a sigmoid for each class.
    pub loss: Loss,
    /// The share of the target spread evenly over all classes.
    pub label_smoothing: f64,
    /// Images are blended with others in a ratio from Beta(mixup, mixup); never if 0.
    pub mixup: f64,
    /// A box of another image is pasted in, its area from Beta(cutmix, cutmix); never if 0. With mixup, a coin decides
    /// for each batch.
    pub cutmix: f64,
    /// Micro-batches that a rank's batch is cut into, to fit in memory. Batch norm sees one at a time.
    pub micro_batches: usize,
    /// A running average of the weights, which is evaluated and exported in their place: a decay a step such as 0.999,
    /// or `{ half_life_steps = 100 }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<Ema>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            rule: OptimizerRule::Sgd,
            // imagenet18's values (2018).
            momentum: 0.9,
            nesterov: false,
            weight_decay: 1e-4,
            // timm's.
            trust_coefficient: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-6,
            max_grad_norm: 1.0,
            loss: Loss::CrossEntropy,
            label_smoothing: 0.0,
            mixup: 0.0,
            cutmix: 0.0,
            micro_batches: 1,
            ema: None,
        }
    }
}

/// The rule that makes a step of a gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerRule {
    /// Momentum.
    #[default]
    Sgd,
    /// Momentum, with a learning rate for every layer (You et al. 2017).
    Lars,
    /// Adam, with a learning rate for every layer (You et al. 2020).
    Lamb,
}

/// What training makes small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Softmax over the classes.
    #[default]
    CrossEntropy,
    /// Binary cross-entropy of every class by itself.
    Bce,
}

/// How fast a running average of the weights forgets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a decay such as 0.999, or { half_life_steps = 100 }")]
pub enum Ema {
    /// The share that is kept at each step.
    Decay(f64),
    /// By the steps after which half is forgotten.
    HalfLife {
        /// Steps.
        half_life_steps: f64,
    },
}

/// When the state is saved. It is also saved at the end and when the user stops the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// At the end of every so many epochs; never if 0.
    pub every_epochs: u32,
    /// After every so many steps; never if 0.
    pub every_steps: u64,
    /// Whenever the last one is so many seconds old; never if 0.
    pub every_s: f64,
    /// How many are kept, the newest ones.
    pub keep: usize,
}

impl CheckpointConfig {
    /// Takes `500` as steps, `90s`, `5m` and `1h` as a time.
    ///
    /// # Errors
    /// [`Error::Usage`] for anything else.
    pub(crate) fn set_every(&mut self, text: &str) -> Result<()> {
        let wrong = || {
            Error::usage(format!(
                "checkpoint every `{text}`: expected steps, such as 500, or a time: 90s, 5m, 1h"
            ))
        };
        let unit = text.find(|c: char| !c.is_ascii_digit()).map_or("", |at| &text[at..]);
        let number: u32 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
        match unit {
            "" => self.every_steps = number.into(),
            "s" => self.every_s = number.into(),
            "m" => self.every_s = 60.0 * f64::from(number),
            "h" => self.every_s = 3600.0 * f64::from(number),
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Whether the end of an epoch is one at which the state is saved, when so many are done.
    pub(crate) const fn is_due_after_epoch(&self, epochs_done: u32) -> bool {
        self.every_epochs > 0 && epochs_done.is_multiple_of(self.every_epochs)
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every_epochs: 1, every_steps: 0, every_s: 0.0, keep: 2 }
    }
}

/// How gradients travel between ranks. One process has no use for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistributedConfig {
    /// Bytes of gradients that the first bucket gathers before it leaves: small, so that the network starts early.
    pub first_bucket_bytes: usize,
    /// Bytes of every other bucket. Small networks overlap better with less.
    pub bucket_bytes: usize,
}

impl Default for DistributedConfig {
    fn default() -> Self {
        let BucketConfig { first_bytes, cap_bytes } = BucketConfig::default();
        Self { first_bucket_bytes: first_bytes, bucket_bytes: cap_bytes }
    }
}

impl DistributedConfig {
    /// As burn-dist takes it.
    pub(crate) fn data_parallel(&self, non_finite: NonFinite) -> DataParallelConfig {
        let buckets = BucketConfig { first_bytes: self.first_bucket_bytes, cap_bytes: self.bucket_bytes };
        DataParallelConfig { buckets, non_finite, ..DataParallelConfig::default() }
    }
}
