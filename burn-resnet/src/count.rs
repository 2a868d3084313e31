//! Parameters and multiply-adds of a configuration, by arithmetic alone: no tensor is made.

use crate::config::{ResNetConfig, Stem};

impl ResNetConfig {
    /// Trainable parameters: 25,557,032 for ResNet-50 with 1000 classes.
    #[must_use]
    pub fn num_params(&self) -> u64 {
        let mut sum = 0;
        self.for_each_conv(1, 1, |conv| {
            let norm = 2 * conv.output as u64;
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
        self.for_each_conv(height, width, |conv| sum += conv.num_macs());
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
            let num_params = conv.num_weights() + 2 * conv.output as u64;
            layers.push(LayerCount { num_params, num_macs: conv.num_macs() });
        });
        let (classes, features) = (self.num_classes() as u64, self.num_features() as u64);
        layers.push(LayerCount { num_params: classes * (features + 1), num_macs: classes * features });
        layers
    }

    /// Every convolution in forward order, with what follows it.
    ///
    /// ```
    /// use burn_resnet::{ConvShape, Depth, ResNetConfig, Then};
    /// let convs = ResNetConfig::new(Depth::D50, 1000)?.convs(224, 224);
    /// let last = ConvShape { input: 512, output: 2048, size: 1, stride: 1, height: 7, width: 7, then: Then::AddNormRelu };
    /// assert_eq!((convs.len(), convs[52]), (53, last));
    /// # Ok::<(), burn_resnet::ConfigError>(())
    /// ```
    #[must_use]
    pub fn convs(&self, height: usize, width: usize) -> Vec<ConvShape> {
        let mut convs = Vec::new();
        self.for_each_conv(height, width, |conv| convs.push(conv));
        convs
    }

    fn for_each_conv(&self, height: usize, width: usize, mut each: impl FnMut(ConvShape)) {
        let depth = self.depth();
        let mut image = Image { height, width };
        let mut conv = |[input, output]: [usize; 2], [size, stride]: [usize; 2], image: Image, then| {
            let Image { height, width } = image;
            each(ConvShape { input, output, size, stride, height, width, then });
        };

        let mut input = self.width();
        conv([self.channels(), input], [self.stem().kernel(), self.stem().stride()], image, Then::NormRelu);
        if self.stem() == Stem::ImageNet {
            image = image.divided_by(2).divided_by(2);
        }
        for (stage, &num_blocks) in depth.stages().iter().enumerate() {
            let (inner, output) = (self.width() << stage, (self.width() << stage) * depth.expansion());
            for block in 0..num_blocks {
                let before = image;
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                image = image.divided_by(stride);
                if depth.is_bottleneck() {
                    conv([input, inner], [1, 1], before, Then::NormRelu);
                    conv([inner, inner], [3, stride], before, Then::NormRelu);
                    conv([inner, output], [1, 1], image, Then::AddNormRelu);
                } else {
                    conv([input, output], [3, stride], before, Then::NormRelu);
                    conv([output, output], [3, 1], image, Then::AddNormRelu);
                }
                if input != output && !depth.is_cifar() {
                    conv([input, output], [1, stride], before, Then::Norm);
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

/// A convolution as it is applied to an image of the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Channels of its input.
    pub input: usize,
    /// Channels of its output.
    pub output: usize,
    /// Side of its kernel.
    pub size: usize,
    /// Its stride.
    pub stride: usize,
    /// Of its input, in pixels.
    pub height: usize,
    /// Of its input, in pixels.
    pub width: usize,
    /// What its output goes through.
    pub then: Then,
}

/// What follows a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Then {
    /// Batch norm alone: a projection on the shortcut.
    Norm,
    /// Batch norm and ReLU.
    NormRelu,
    /// Batch norm, the shortcut added, ReLU: the end of a block.
    AddNormRelu,
}

impl ConvShape {
    /// Height and width of its output, in pixels.
    #[must_use]
    pub fn output_image(&self) -> (usize, usize) {
        let Image { height, width } =
            Image { height: self.height, width: self.width }.divided_by(self.stride);
        (height, width)
    }

    /// Weights of its kernels.
    #[must_use]
    pub fn num_weights(&self) -> u64 {
        (self.input * self.output * self.size * self.size) as u64
    }

    /// Multiply-adds of one image's forward pass; each of the two gradients has as many.
    #[must_use]
    pub fn num_macs(&self) -> u64 {
        let (height, width) = self.output_image();
        self.num_weights() * (height * width) as u64
    }
}

#[derive(Clone, Copy)]
struct Image {
    height: usize,
    width: usize,
}

impl Image {
    fn divided_by(self, stride: usize) -> Self {
        Self { height: self.height.div_ceil(stride), width: self.width.div_ceil(stride) }
    }
}
