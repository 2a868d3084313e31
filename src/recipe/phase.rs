//! A phase: a span of epochs with one image size, one batch size and one rule for the learning rate.
//!
//! The idea is that of fast.ai's imagenet18 (2018), whose phases were `{ep, sz, bs, lr, min_scale, trndir, keep_dl}`.

use serde::{Deserialize, Serialize};

/// A span of epochs, as a preset writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// How many epochs it lasts, at least 1.
    pub epochs: u32,
    /// Side of the training images in pixels.
    pub size: u32,
    /// Images a rank takes in one step.
    pub batch_size: usize,
    /// The learning rate, constant or moving linearly over the whole phase.
    pub lr: LrRange,
    /// How training images are made.
    #[serde(default)]
    pub augment: Augment,
    /// Whether training images are mirrored left to right half of the time.
    #[serde(default = "yes")]
    pub flip: bool,
    /// The smallest share of a picture's area that a random-resized crop may take.
    #[serde(default = "default_min_scale")]
    pub min_scale: f64,
    /// Pixels of black border around a pad-and-crop image.
    #[serde(default = "default_padding")]
    pub padding: u32,
    /// Side of the validation images; the phase's `size` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_size: Option<u32>,
    /// Short side that validation pictures are resized to before the centre crop; 8/7 of the side (256 for 224) if
    /// absent, and no more than the side itself for pad-and-crop data, which has that size already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_resize: Option<u32>,
}

const fn yes() -> bool {
    true
}

const fn default_min_scale() -> f64 {
    0.08
}

const fn default_padding() -> u32 {
    4
}

impl Phase {
    /// Side and resize of the validation images, in pixels.
    pub fn validation(&self) -> (u32, u32) {
        let size = self.val_size.unwrap_or(self.size);
        let resize = self.val_resize.unwrap_or(match self.augment {
            Augment::PadAndCrop => size,
            // 8/7 rather than 2018's 1.14: the ratio of 256 to 224, exact in integers.
            Augment::RandomResizedCrop | Augment::RandomResizedCrop2018 => size * 8 / 7,
        });
        (size, resize)
    }
}

/// How a training image is cut out of a picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// A random box of random area and shape, resized: today's torchvision.
    #[default]
    RandomResizedCrop,
    /// The same as torchvision drew it in 2018.
    RandomResizedCrop2018,
    /// A random crop out of the picture with a black border: CIFAR's recipe. Without `padding`, and of a picture
    /// that has the size, it is the picture itself.
    PadAndCrop,
}

/// A learning rate that stays, or moves linearly from the phase's start to its end. In TOML `0.1` or `[0.1, 0.4]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a learning rate such as 0.1, or a range such as [0.1, 0.4]")]
pub enum LrRange {
    /// The same for every step.
    Constant(f64),
    /// From the first value, which the step before the first would have, to the second, which the last step has.
    Linear(f64, f64),
}

impl LrRange {
    /// The two ends.
    pub const fn ends(self) -> (f64, f64) {
        match self {
            Self::Constant(lr) => (lr, lr),
            Self::Linear(from, to) => (from, to),
        }
    }

    /// The learning rate at `step` of `num_steps` steps of the phase, counted from 1.
    ///
    /// The order of operations is that of imagenet18's `Scheduler.linear_lr`, so that its logged rates come out to
    /// the last bit.
    pub fn at(self, step: u64, steps_per_epoch: u64, num_epochs: u32) -> f64 {
        match self {
            Self::Constant(lr) => lr,
            Self::Linear(from, to) => {
                let per_step = (to - from) / (u64::from(num_epochs) * steps_per_epoch) as f64;
                from + step as f64 * per_step
            }
        }
    }
}
