//! The residual block, basic and bottleneck, with its shortcut. He et al. 2015, figures 3 and 5; stride in the 3x3
//! convolution of the bottleneck ("v1.5"), as torchvision's `resnet.py`.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::layer::Conv;
use crate::norm::BatchNorm;

/// `relu(convolutions(x) + shortcut(x))`.
///
/// Basic blocks have two 3x3 convolutions; bottlenecks have 1x1, 3x3, 1x1 and so a third. The shortcut is a projection
/// where there is one, else the identity, else (the CIFAR family, where the shape changes) option A.
#[derive(Module, Debug)]
pub struct Block {
    pub(crate) conv1: Conv,
    pub(crate) bn1: BatchNorm,
    pub(crate) conv2: Conv,
    pub(crate) bn2: BatchNorm,
    pub(crate) conv3: Option<Conv>,
    pub(crate) bn3: Option<BatchNorm>,
    pub(crate) downsample: Option<(Conv, BatchNorm)>,
}

impl Block {
    /// Runs the block.
    ///
    /// # Shapes
    /// `[batch, height, width, in]` to `[batch, ceil(height / stride), ceil(width / stride), out]`.
    ///
    /// # Panics
    /// As [`BatchNorm::forward`].
    #[must_use]
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_from(x.clone(), x)
    }

    /// The same where convolutions and shortcut begin at tensors of their own, with the same values.
    pub(crate) fn forward_from(&self, x: Tensor<4>, shortcut: Tensor<4>) -> Tensor<4> {
        let y = self.conv1.forward_norm(x, &self.bn1, None, true);
        let (y, conv, bn) = match (&self.conv3, &self.bn3) {
            (Some(conv), Some(bn)) => (self.conv2.forward_norm(y, &self.bn2, None, true), conv, bn),
            _ => (y, &self.conv2, &self.bn2),
        };
        let shortcut = match &self.downsample {
            Some((conv, bn)) => conv.forward_norm(shortcut, bn, None, false),
            None if shortcut.dims()[3] < conv.channels() => burn_kernels::option_a(shortcut, conv.channels()),
            None => shortcut,
        };
        conv.forward_norm(y, bn, Some(shortcut), true)
    }
}
