//! Parameters and multiply-adds of a configuration, by arithmetic alone: no tensor is made.

use crate::config::{ResNetConfig, Stem};

impl ResNetConfig {
    /// Trainable parameters: 25,557,032 for ResNet-50 with 1000 classes.
    #[must_use]
    pub fn num_params(&self) -> u64 {
        let mut sum = 0;
        self.for_each_conv(1, 1, |conv| {
            let norm = 2 * conv.output;
            sum += conv.num_weights() + norm;
        });
        sum + self.num_classes() as u64 * (self.num_features() as u64 + 1)
    }

    /// Multiply-adds of one image's forward pass: 4.09 G for ResNet-50 at 224 px.
    ///
    /// Counts the weights of convolutions and classifier, each as often as it is applied; norms, pools and additions are
    /// left out, as is usual.
    #[must_use]
    pub fn num_macs(&self, height: usize, width: usize) -> u64 {
        let mut sum = 0;
        self.for_each_conv(height, width, |conv| sum += conv.num_weights() * conv.num_pixels);
        sum + self.num_classes() as u64 * self.num_features() as u64
    }

    /// Every convolution with its norm, and the classifier, in forward order.
    ///
    /// ```
    /// use burn_resnet::{Depth, ResNetConfig};
    /// let config = ResNetConfig::new(Depth::D50, 1000)?;
    /// let layers = config.layers(224, 224);
    /// assert_eq!(layers.len(), 54);
    /// assert_eq!(layers.iter().map(|layer| layer.num_params).sum::<u64>(), config.num_params());
    /// assert_eq!(layers.iter().map(|layer| layer.num_macs).sum::<u64>(), config.num_macs(224, 224));
    /// # Ok::<(), burn_resnet::ConfigError>(())
    /// ```
    #[must_use]
    pub fn layers(&self, height: usize, width: usize) -> Vec<LayerCount> {
        let mut layers = Vec::new();
        self.for_each_conv(height, width, |conv| {
            let weights = conv.num_weights();
            let (num_params, num_macs) = (weights + 2 * conv.output, weights * conv.num_pixels);
            layers.push(LayerCount { num_params, num_macs });
        });
        let (classes, features) = (self.num_classes() as u64, self.num_features() as u64);
        layers.push(LayerCount { num_params: classes * (features + 1), num_macs: classes * features });
        layers
    }

    /// Every convolution with the number of pixels it writes.
    fn for_each_conv(&self, height: usize, width: usize, mut each: impl FnMut(ConvCount)) {
        let depth = self.depth();
        let mut image = Image { height: height as u64, width: width as u64 };
        let mut conv = |input: usize, output: usize, size: usize, image: Image| {
            let (input, output, size) = (input as u64, output as u64, size as u64);
            each(ConvCount { input, output, size, num_pixels: image.height * image.width });
        };

        let mut input = self.width();
        if self.stem() == Stem::ImageNet {
            image = image.halved();
        }
        conv(self.channels(), input, self.stem().kernel(), image);
        if self.stem() == Stem::ImageNet {
            image = image.halved();
        }
        for (stage, &num_blocks) in depth.stages().iter().enumerate() {
            let (inner, output) = (self.width() << stage, (self.width() << stage) * depth.expansion());
            for block in 0..num_blocks {
                let before = image;
                if stage > 0 && block == 0 {
                    image = image.halved();
                }
                if depth.is_bottleneck() {
                    conv(input, inner, 1, before);
                    conv(inner, inner, 3, image);
                    conv(inner, output, 1, image);
                } else {
                    conv(input, output, 3, image);
                    conv(output, output, 3, image);
                }
                if input != output && !depth.is_cifar() {
                    conv(input, output, 1, image);
                }
                input = output;
            }
        }
    }
}

/// A layer's part of the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerCount {
    /// Trainable parameters.
    pub num_params: u64,
    /// Multiply-adds of one image's forward pass.
    pub num_macs: u64,
}

#[derive(Clone, Copy)]
struct Image {
    height: u64,
    width: u64,
}

impl Image {
    fn halved(self) -> Self {
        Self { height: self.height.div_ceil(2), width: self.width.div_ceil(2) }
    }
}

struct ConvCount {
    input: u64,
    output: u64,
    size: u64,
    num_pixels: u64,
}

impl ConvCount {
    fn num_weights(&self) -> u64 {
        self.input * self.output * self.size * self.size
    }
}
