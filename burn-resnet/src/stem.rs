//! The max pool of the ImageNet stem. The stem's convolution and norm are the network's `conv1` and `bn1`, as in
//! torchvision, so that names agree.

use burn::tensor::Tensor;

use crate::config::Stem;

impl Stem {
    /// Side of the first convolution's kernel.
    pub(crate) fn kernel(self) -> usize {
        match self {
            Self::ImageNet => 7,
            Self::Small => 3,
        }
    }

    /// Stride of the first convolution.
    pub(crate) fn stride(self) -> usize {
        match self {
            Self::ImageNet => 2,
            Self::Small => 1,
        }
    }

    /// Pools what leaves the first norm: 3x3, stride 2, padding 1 for ImageNet; nothing for small images.
    pub(crate) fn pool(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::ImageNet => burn_kernels::max_pool2d(x, 3, 2, 1),
            Self::Small => x,
        }
    }
}
