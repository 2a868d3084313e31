//! The residual block, basic and bottleneck, with its shortcut. He et al. 2015, figures 3 and 5; stride in the 3x3
//! convolution of the bottleneck ("v1.5"), as torchvision's `resnet.py`.

use burn::module::Module;
use burn::tensor::{Tensor, s};

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
            None => option_a(shortcut, conv.channels()),
        };
        conv.forward_norm(y, bn, Some(shortcut), true)
    }
}

/// The shortcut without parameters: `x` itself, or, where channels grow, every second pixel and as many zero channels
/// before as after.
fn option_a(x: Tensor<4>, channels: usize) -> Tensor<4> {
    let new = channels - x.dims()[3];
    if new == 0 {
        return x;
    }
    let x = x.slice(s![.., ..;2, ..;2, ..]);
    let [batch, height, width, _] = x.dims();
    let zeros = |channels| Tensor::zeros([batch, height, width, channels], (&x.device(), x.dtype()));
    let before = new / 2;
    let parts = [zeros(before), x.clone(), zeros(new - before)];
    Tensor::cat(parts.into_iter().filter(|part| part.dims()[3] > 0).collect(), 3)
}
