//! The configuration file, key by key. Serde's view: well-formed, not yet checked.

use std::path::PathBuf;

use burn_dist::{BucketConfig, DataParallelConfig};
use burn_resnet::{Depth, Stem};
use serde::{Deserialize, Serialize};

use crate::{data::OnBadFile, recipe::Phase};

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
    /// The phases, in order. A `[[phase]]` table each.
    pub phase: Vec<Phase>,
}

const fn yes() -> bool {
    true
}

fn default_device() -> String {
    "flex".into()
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
    /// Weights to start from: a `.safetensors`, `.pth` or checkpoint. A head of another size starts afresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<PathBuf>,
}

/// The pictures and how they are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A folder, a tar or IDX/CIFAR files; the embedded Fashion-MNIST subset if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The share of every class that is held out for validation where the data has no split of its own.
    pub val_fraction: f64,
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
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: None,
            val_fraction: 0.2,
            num_workers: 0,
            batches_ahead: 3,
            on_bad_file: OnBadFile::Fail,
            mean: None,
            std: None,
        }
    }
}

/// SGD with momentum, and the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Momentum, undampened.
    pub momentum: f64,
    /// Nesterov's form of it.
    pub nesterov: bool,
    /// L2 penalty, added to the gradient; never on batch norm.
    pub weight_decay: f64,
    /// The share of the target spread evenly over all classes.
    pub label_smoothing: f64,
    /// Micro-batches that a rank's batch is cut into, to fit in memory. Batch norm sees one at a time.
    pub micro_batches: usize,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        // imagenet18's values (2018).
        Self { momentum: 0.9, nesterov: false, weight_decay: 1e-4, label_smoothing: 0.0, micro_batches: 1 }
    }
}

/// When the state is saved. It is also saved at the end and when the user stops the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// At the end of every so many epochs; never if 0.
    pub every_epochs: u32,
    /// After every so many steps; never if 0.
    pub every_steps: u64,
    /// How many are kept, the newest ones.
    pub keep: usize,
}

impl CheckpointConfig {
    /// Whether the end of an epoch is one at which the state is saved, when so many are done.
    pub(crate) const fn is_due_after_epoch(&self, epochs_done: u32) -> bool {
        self.every_epochs > 0 && epochs_done.is_multiple_of(self.every_epochs)
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every_epochs: 1, every_steps: 0, keep: 2 }
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
    pub(crate) fn data_parallel(&self) -> DataParallelConfig {
        let buckets = BucketConfig { first_bytes: self.first_bucket_bytes, cap_bytes: self.bucket_bytes };
        DataParallelConfig { buckets, ..DataParallelConfig::default() }
    }
}
