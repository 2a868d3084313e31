//! Convolution without bias, and the linear classifier: a weight and what to do with it. Not how it is drawn (`init`).
//!
//! Burn's own layers would do, but for two things: PyTorch's layout of the linear weight, and weights in f32 for images in
//! 16 bits.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::blur::blur;
use crate::norm::BatchNorm;

/// A square convolution without bias, zero-padded so that stride 1 keeps the image's size.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[out, in, size, size]`.
    pub weight: Param<Tensor<4>>,
    stride: usize,
    /// Whether its input is blurred first.
    pub(crate) blurs: bool,
}

impl Conv {
    pub(crate) fn new(weight: Param<Tensor<4>>, stride: usize, blurs: bool) -> Self {
        Self { weight, stride, blurs }
    }

    /// Channels of the result.
    pub(crate) fn channels(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Convolves, in the input's number type.
    ///
    /// # Shapes
    /// `[batch, height, width, in]` to `[batch, ceil(height / stride), ceil(width / stride), out]`.
    ///
    /// # Panics
    /// If the input's channels are not the weight's.
    #[must_use]
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (x, weight, [stride, padding]) = self.operands(x);
        burn_kernels::conv2d(x, weight, stride, padding)
    }

    /// `norm(forward(x)) + residual`, then ReLU if `relu`: one operation once training is over.
    pub(crate) fn forward_norm(
        &self,
        x: Tensor<4>,
        norm: &BatchNorm,
        residual: Option<Tensor<4>>,
        relu: bool,
    ) -> Tensor<4> {
        if norm.trains(&x) {
            return norm.train(self.forward(x), residual, relu);
        }
        let (x, weight, moves) = self.operands(x);
        burn_kernels::conv2d_scale_shift(x, weight, moves, norm.line(), residual, relu)
    }

    /// What is convolved with what, stride and padding.
    fn operands(&self, x: Tensor<4>) -> (Tensor<4>, Tensor<4>, [usize; 2]) {
        let weight = self.weight.val();
        let padding = weight.dims()[2] / 2;
        (if self.blurs { blur(x) } else { x }, weight, [self.stride, padding])
    }
}

/// `x W' + b`, with PyTorch's layout of the weight.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// Multiplies and adds, in the input's number type.
    ///
    /// # Shapes
    /// `[batch, in]` to `[batch, out]`.
    ///
    /// # Panics
    /// If the input's features are not the weight's.
    #[must_use]
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let ([batch, inputs], [outputs, _]) = (x.dims(), self.weight.dims());
        let weight = self.weight.val().reshape([outputs, inputs, 1, 1]);
        let bias = as_type_of(self.bias.val(), &x);
        // Images of one pixel: as fast as other convolutions, with weights in f32 as theirs.
        let y = burn_kernels::conv2d(x.reshape([batch, 1, 1, inputs]), weight, 1, 0);
        y.reshape([batch, outputs]) + bias.unsqueeze()
    }
}

/// `tensor` in the number type of `other`; itself where they agree already, so that no node enters the graph.
pub(crate) fn as_type_of<const D: usize, const E: usize>(tensor: Tensor<D>, other: &Tensor<E>) -> Tensor<D> {
    let dtype = other.dtype();
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}
