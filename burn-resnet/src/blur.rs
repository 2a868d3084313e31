//! The blur pool's filter: a 3x3 binomial, applied to each channel by itself. Zhang 2019,
//! [1904.11486](https://arxiv.org/abs/1904.11486), as ffcv's ImageNet recipes have it: stride 1, zeros around the image,
//! and the strided convolution after it unchanged. Which convolutions have one is `init`'s.

use burn::tensor::ops::PadMode;
use burn::tensor::{Tensor, s};

/// The filter, `[1 2 1] / 4` along both sides of the image: what a state dict holds of every channel.
pub(crate) const FILTER: [f32; 9] = [0.0625, 0.125, 0.0625, 0.125, 0.25, 0.125, 0.0625, 0.125, 0.0625];

/// Blurs every channel.
///
/// # Shapes
/// `[batch, height, width, channels]`, kept.
///
/// # Cost
/// A dozen operations on elements: one pass along each side.
pub(crate) fn blur(x: Tensor<4>) -> Tensor<4> {
    let [_, height, width, _] = x.dims();
    let x = x.pad([(0, 0), (1, 1), (1, 1), (0, 0)], PadMode::Constant(0.0));
    let row = |from| x.clone().slice(s![.., from..from + height, .., ..]);
    let y = weigh(row(0), row(1), row(2));
    let column = |from| y.clone().slice(s![.., .., from..from + width, ..]);
    weigh(column(0), column(1), column(2))
}

/// `(a + 2 b + c) / 4`; the powers of two round nothing.
fn weigh(a: Tensor<4>, b: Tensor<4>, c: Tensor<4>) -> Tensor<4> {
    (a + c).mul_scalar(0.25) + b.mul_scalar(0.5)
}
