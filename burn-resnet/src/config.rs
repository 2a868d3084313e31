//! What a ResNet is made of: depth, classes, width, input channels, stem, blur pools. Not how it is trained.
//!
//! A [`ResNetConfig`] can only hold values that give a network; everything else is refused when it is built or read.
//! Widths: He et al. 2015, table 1 (ImageNet) and section 4.2 (CIFAR).

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::depth::Depth;

/// Most classes, and most channels of the first stage, a configuration may ask for: it comes from files, and a wrong
/// number must not take all memory.
const NUM_CLASSES_MAX: usize = 1 << 20;
const WIDTH_MAX: usize = 1024;

/// Why a configuration, or the use of one, was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The depth is none of the known ones.
    #[error(
        "no ResNet has depth {got:?}: give one of 18, 34, 50, 101, 152 (ImageNet family) or 8, 20, 32, 44, 56, 110 (CIFAR family)"
    )]
    UnknownDepth {
        /// What was given.
        got: String,
    },
    /// The stem is none of the known ones.
    #[error("no ResNet begins with stem {got:?}: give imagenet or small")]
    UnknownStem {
        /// What was given.
        got: String,
    },
    /// A number lies outside what makes a network.
    #[error("ResNet's {field} is {got}: give {expected}")]
    OutOfRange {
        /// The field of [`ResNetConfig`].
        field: &'static str,
        /// What was given.
        got: usize,
        /// What is possible.
        expected: &'static str,
    },
    /// A training batch would leave batch norm one value a channel, which has no variance.
    #[error(
        "a batch of {batch} at {height}x{width} px leaves ResNet-{depth}'s batch norm one value a channel: train with two images or more"
    )]
    SingleValue {
        /// The network.
        depth: Depth,
        /// Images in the batch.
        batch: usize,
        /// Image height in pixels.
        height: usize,
        /// Image width in pixels.
        width: usize,
    },
    /// The names and shapes of a weights file are not those of a ResNet known here.
    #[error("these weights are not of a ResNet known here: {reason}")]
    NotInferred {
        /// What did not fit.
        reason: String,
    },
}

/// How the network begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// A 7x7 convolution of stride 2 and a 3x3 max pool of stride 2: a quarter of the image's side.
    ImageNet,
    /// A 3x3 convolution of stride 1, no pool: for images of some 32 pixels.
    Small,
}

impl FromStr for Stem {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "imagenet" => Ok(Self::ImageNet),
            "small" => Ok(Self::Small),
            other => Err(ConfigError::UnknownStem { got: other.chars().take(40).collect() }),
        }
    }
}

/// The architecture of one [`ResNet`](crate::ResNet).
///
/// Built by [`new`](Self::new) and the `with_` methods, or read by serde from `{ depth, num_classes, width, channels,
/// stem, blur_pool }`, of which the last four may be left out; an unknown key is refused.
///
/// ```
/// use burn_resnet::{Depth, ResNetConfig, Stem};
/// # fn main() -> Result<(), burn_resnet::ConfigError> {
/// let config = ResNetConfig::new(Depth::D50, 200)?.with_width(32)?.with_channels(1)?.with_stem(Stem::Small);
/// assert_eq!((config.num_classes(), config.num_features()), (200, 1024));
/// assert!(ResNetConfig::new(Depth::D50, 0).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct ResNetConfig {
    depth: Depth,
    num_classes: usize,
    width: usize,
    channels: usize,
    stem: Stem,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    blur_pool: bool,
}

/// What a file may say, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    depth: Depth,
    num_classes: usize,
    width: Option<usize>,
    channels: Option<usize>,
    stem: Option<Stem>,
    #[serde(default)]
    blur_pool: bool,
}

impl TryFrom<Raw> for ResNetConfig {
    type Error = ConfigError;

    fn try_from(raw: Raw) -> Result<Self, ConfigError> {
        let config = Self::new(raw.depth, raw.num_classes)?;
        let (width, channels, stem) = (config.width, config.channels, config.stem);
        Ok(config
            .with_width(raw.width.unwrap_or(width))?
            .with_channels(raw.channels.unwrap_or(channels))?
            .with_stem(raw.stem.unwrap_or(stem))
            .with_blur_pool(raw.blur_pool))
    }
}

impl ResNetConfig {
    /// The paper's network of this depth: width 64 and the ImageNet stem, or width 16 and the small stem for the CIFAR
    /// family; three channels.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for no class, or more than about a million.
    pub fn new(depth: Depth, num_classes: usize) -> Result<Self, ConfigError> {
        let num_classes = within("num_classes", num_classes, NUM_CLASSES_MAX, "1 to 1048576")?;
        let (width, stem) = if depth.is_cifar() { (16, Stem::Small) } else { (64, Stem::ImageNet) };
        Ok(Self { depth, num_classes, width, channels: 3, stem, blur_pool: false })
    }

    /// Sets the channels of the first stage; later stages double it.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for 0 or more than 1024.
    pub fn with_width(mut self, width: usize) -> Result<Self, ConfigError> {
        self.width = within("width", width, WIDTH_MAX, "1 to 1024")?;
        Ok(self)
    }

    /// Sets the channels of the images: 1 (grey) or 3 (colour).
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for any other number.
    pub fn with_channels(mut self, channels: usize) -> Result<Self, ConfigError> {
        if channels != 1 && channels != 3 {
            return Err(ConfigError::OutOfRange { field: "channels", got: channels, expected: "1 or 3" });
        }
        self.channels = channels;
        Ok(self)
    }

    /// Sets how the network begins.
    #[must_use]
    pub fn with_stem(mut self, stem: Stem) -> Self {
        self.stem = stem;
        self
    }

    /// Sets whether images are blurred before a convolution halves them, so that fine detail does not turn into coarse
    /// (Zhang 2019, [1904.11486](https://arxiv.org/abs/1904.11486)).
    ///
    /// Placed as ffcv's recipes do: a 3x3 binomial filter before every convolution of stride 2 that has 16 input channels
    /// or more. Max pool and option-A shortcuts stay as they are.
    #[must_use]
    pub fn with_blur_pool(mut self, blur_pool: bool) -> Self {
        self.blur_pool = blur_pool;
        self
    }

    /// Sets the number of classes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_num_classes(mut self, num_classes: usize) -> Result<Self, ConfigError> {
        self.num_classes = Self::new(self.depth, num_classes)?.num_classes;
        Ok(self)
    }

    /// Depth, and with it the family.
    #[must_use]
    pub fn depth(&self) -> Depth {
        self.depth
    }

    /// Number of classes: the length of a row of logits.
    #[must_use]
    pub fn num_classes(&self) -> usize {
        self.num_classes
    }

    /// Channels of the first stage.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Channels of the images.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// How the network begins.
    #[must_use]
    pub fn stem(&self) -> Stem {
        self.stem
    }

    /// Whether images are blurred before they are halved.
    #[must_use]
    pub fn blur_pool(&self) -> bool {
        self.blur_pool
    }

    /// Channels that reach the classifier: 2048 for ResNet-50.
    #[must_use]
    pub fn num_features(&self) -> usize {
        let stages = self.depth.stages().len();
        (self.width << (stages - 1)) * self.depth.expansion()
    }

    /// Refuses a training batch that batch norm cannot take.
    ///
    /// # Errors
    /// [`ConfigError::SingleValue`] if some batch norm would see one value a channel: one image, so small that it has
    /// shrunk to a pixel. PyTorch refuses the same.
    pub fn check_train_batch(&self, batch: usize, height: usize, width: usize) -> Result<(), ConfigError> {
        let (h, w) = self.feature_size(height, width);
        if batch * h * w <= 1 {
            return Err(ConfigError::SingleValue { depth: self.depth, batch, height, width });
        }
        Ok(())
    }

    /// Reads the configuration off the names and shapes of a state dict in torchvision's names.
    ///
    /// Only what decides is looked at: a complete check is loading the weights. Blur pools have no parameters, so these
    /// names do not tell of them.
    ///
    /// # Errors
    /// [`ConfigError::NotInferred`] if these are no ResNet's, [`ConfigError::OutOfRange`] if one of impossible sizes.
    pub fn infer<'a>(shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Result<Self, ConfigError> {
        let shapes: std::collections::HashMap<&str, &[usize]> = shapes.into_iter().collect();
        let not = |reason: String| ConfigError::NotInferred { reason };
        let need = |name: &str| shapes.get(name).copied().ok_or_else(|| not(format!("`{name}` is missing")));
        let (width, channels, stem) = match *need("conv1.weight")? {
            [width, channels, 7, 7] => (width, channels, Stem::ImageNet),
            [width, channels, 3, 3] => (width, channels, Stem::Small),
            ref shape => {
                return Err(not(format!(
                    "`conv1.weight` is {shape:?}, a stem is [_, _, 7, 7] or [_, _, 3, 3]"
                )));
            }
        };
        let [num_classes, _] = *need("fc.weight")? else {
            return Err(not("`fc.weight` is no matrix".into()));
        };
        let blocks = |stage: usize| {
            (0..)
                .take_while(|block| {
                    shapes.contains_key(format!("layer{stage}.{block}.conv1.weight").as_str())
                })
                .count()
        };
        let stages: Vec<usize> = (1..=4).map(blocks).filter(|&blocks| blocks > 0).collect();
        let bottleneck = shapes.contains_key("layer1.0.conv3.weight");
        let depth = Depth::ALL
            .iter()
            .copied()
            .find(|depth| depth.stages() == stages && depth.is_bottleneck() == bottleneck)
            .ok_or_else(|| {
                let kind = if bottleneck { "bottleneck" } else { "basic" };
                not(format!("no depth has stages of {stages:?} {kind} blocks"))
            })?;
        Ok(Self::new(depth, num_classes)?.with_width(width)?.with_channels(channels)?.with_stem(stem))
    }

    /// Height and width of what reaches the global pool.
    pub(crate) fn feature_size(&self, height: usize, width: usize) -> (usize, usize) {
        let halvings = self.depth.stages().len() - 1 + if self.stem == Stem::ImageNet { 2 } else { 0 };
        (0..halvings).fold((height, width), |(h, w), _| (h.div_ceil(2), w.div_ceil(2)))
    }
}

fn within(
    field: &'static str,
    got: usize,
    most: usize,
    expected: &'static str,
) -> Result<usize, ConfigError> {
    if got == 0 || got > most {
        return Err(ConfigError::OutOfRange { field, got, expected });
    }
    Ok(got)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn serde_fills_the_familys_defaults_and_refuses_the_rest() {
        let read = |text: &str| serde_json::from_str::<ResNetConfig>(text).map_err(|e| e.to_string());
        assert_eq!(
            read(r#"{"depth": 50, "num_classes": 1000}"#),
            Ok(ResNetConfig::new(Depth::D50, 1000).unwrap())
        );
        assert_eq!(read(r#"{"depth": "resnet20", "num_classes": 10}"#).unwrap().width(), 16);
        for (text, expected) in [
            (r#"{"depth": 51, "num_classes": 10}"#, "no ResNet has depth"),
            (r#"{"depth": -8, "num_classes": 10}"#, "no ResNet has depth"),
            (r#"{"depth": "vgg", "num_classes": 10}"#, "no ResNet has depth"),
            (r#"{"depth": 50, "num_classes": 0}"#, "num_classes is 0"),
            (r#"{"depth": 50, "num_classes": 10, "width": 0}"#, "width is 0"),
            (r#"{"depth": 50, "num_classes": 10, "channels": 4}"#, "channels is 4"),
            (r#"{"depth": 50, "num_classes": 10, "stem": "large"}"#, "unknown variant"),
            (r#"{"depth": 50, "num_classes": 10, "dept": 3}"#, "unknown field"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn serde_round_trips_every_depth() {
        for &depth in Depth::ALL {
            let config = ResNetConfig::new(depth, 7).unwrap().with_width(5).unwrap().with_stem(Stem::Small);
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<ResNetConfig>(&text).unwrap(), config);
            assert_eq!(format!("resnet{depth}").parse::<Depth>(), Ok(depth));
        }
    }

    #[test]
    fn one_value_a_channel_is_refused_before_training() {
        let config = ResNetConfig::new(Depth::D18, 10).unwrap();
        assert!(config.check_train_batch(1, 32, 32).is_err());
        assert!(config.check_train_batch(1, 32, 33).is_ok());
        assert!(config.check_train_batch(2, 32, 32).is_ok());
    }
}
