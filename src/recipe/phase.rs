//! A phase: a span of epochs with one image size, one batch size and one rule for the learning rate.
//!
//! The idea is that of fast.ai's imagenet18 (2018), whose phases were `{ep, sz, bs, lr, min_scale, trndir, keep_dl}`.

use serde::{Deserialize, Serialize};

use super::Ramp;

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
    /// The learning rate: a number, a straight line such as `[0.1, 0.4]`, or a rule such as
    /// `{ rule = "cosine", from = 0.4 }`.
    pub lr: Ramp,
    /// Momentum in the place of the optimizer's, written as the learning rate is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<Ramp>,
    /// A folder below the data's path with the same pictures in another size; the path itself if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
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
    /// How validation images are cut: `center` or `rect`.
    #[serde(default)]
    pub val: ValCrop,
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
    #[serde(rename = "random-resized-crop-2018", alias = "random-resized-crop2018")]
    RandomResizedCrop2018,
    /// A random crop out of the picture with a black border: CIFAR's recipe. Without `padding`, and of a picture
    /// that has the size, it is the picture itself.
    PadAndCrop,
}

/// How a validation image is cut out of a picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValCrop {
    /// The square in the middle.
    #[default]
    Center,
    /// The rectangle in the middle that is shaped like the picture: nearly all of it. Batches are of pictures of
    /// similar shapes (fast.ai 2018). At the end of the phase the square's accuracy is recorded beside.
    Rect,
}
