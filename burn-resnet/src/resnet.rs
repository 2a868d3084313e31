//! The network: stem, stages of blocks, classifier, and the walks over its parameters that others need.
//!
//! Fields are named and nested so that Burn's path of a parameter *is* torchvision's name in a state dict
//! (`layer1.0.downsample.1.running_mean`); nothing is renamed anywhere.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::tensor::Tensor;

use crate::block::Block;
use crate::config::ResNetConfig;
use crate::layer::{Conv, Linear, as_type_of};
use crate::norm::BatchNorm;

/// A residual network for images. Made by [`ResNetConfig::init`].
#[derive(Module, Debug)]
pub struct ResNet {
    pub(crate) conv1: Conv,
    pub(crate) bn1: BatchNorm,
    pub(crate) layer1: Vec<Block>,
    pub(crate) layer2: Vec<Block>,
    pub(crate) layer3: Vec<Block>,
    /// Empty in the CIFAR family.
    pub(crate) layer4: Vec<Block>,
    pub(crate) fc: Linear,
    #[module(skip)]
    pub(crate) config: ResNetConfig,
}

impl ResNet {
    /// The logits of a batch of images of any size.
    ///
    /// # Shapes
    /// `[batch, channels, height, width]` to `[batch, num_classes]`.
    ///
    /// # Panics
    /// If the images have another number of channels, or as [`BatchNorm::forward`] while training.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.blocks().fold(self.stem(images), |x, block| block.forward(x));
        self.head(x)
    }

    /// The architecture.
    #[must_use]
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    /// The blocks of all stages, first to last.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        [&self.layer1, &self.layer2, &self.layer3, &self.layer4].into_iter().flatten()
    }

    /// Images to the input of the first block.
    #[must_use]
    pub fn stem(&self, images: Tensor<4>) -> Tensor<4> {
        let images = images.permute([0, 2, 3, 1]);
        self.config.stem().pool(self.conv1.forward_norm(images, &self.bn1, None, true))
    }

    /// Output of the last block to logits: global average, classifier.
    #[must_use]
    pub fn head(&self, x: Tensor<4>) -> Tensor<2> {
        // A sum over an image in 16 bits would lose its last pixels; the classifier gets the images' type again.
        let [batch, height, width, channels] = x.dims();
        let pixels = as_type_of(x.clone(), &self.fc.weight.val()).reshape([batch, height * width, channels]);
        self.fc.forward(as_type_of(pixels.mean_dim(1).squeeze_dim(1), &x))
    }

    /// The gains and offsets of every batch norm, chosen by the module's type and not by its name: what weight decay
    /// should leave alone. 106 tensors in ResNet-50.
    #[must_use]
    pub fn norm_params(&self) -> ParamGroup {
        let params = self.params();
        ParamGroup::from_ids(params.into_iter().filter(|p| p.is_norm && !p.is_buffer).map(|p| p.id).collect())
    }

    /// Every tensor of the network, parameters and running statistics, in order.
    #[must_use]
    pub fn params(&self) -> Vec<ParamInfo> {
        #[derive(Default)]
        struct Walk {
            path: Vec<String>,
            owner: String,
            params: Vec<ParamInfo>,
        }
        impl ModuleVisitor for Walk {
            fn enter_module(&mut self, name: &str, container: &str) {
                self.path.push(name.into());
                self.owner = container.into();
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let is_buffer = self.path.last().is_some_and(|name| name.starts_with("running_"));
                self.params.push(ParamInfo {
                    name: self.path.join("."),
                    id: param.id,
                    shape: param.lazy_shape().to_vec(),
                    is_norm: self.owner == "Struct:BatchNorm",
                    is_buffer,
                });
            }
        }
        let mut walk = Walk::default();
        self.visit(&mut walk);
        walk.params
    }
}

/// One tensor of a network, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamInfo {
    /// torchvision's name.
    pub name: String,
    /// Burn's identity of it, different in every process.
    pub id: ParamId,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Whether it belongs to a batch norm.
    pub is_norm: bool,
    /// Whether it is a running statistic, which no optimizer touches.
    pub is_buffer: bool,
}
