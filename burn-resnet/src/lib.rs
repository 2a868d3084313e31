//! ResNet for [Burn](burn), with torchvision's parameter names, initialisation, weights and numbers.
//!
//! Tensors in, tensors out: this crate holds the model and what belongs to it (its counts, its start, its files). Data,
//! optimizers and anything that crosses a network live elsewhere.
//!
//! Two families share one type, [`ResNet`], and one configuration, [`ResNetConfig`]; the [`Depth`] decides the family.
//!
//! | depth | family | block | stages | width | parameters | multiply-adds |
//! |---|---|---|---|---|---|---|
//! | 18 | ImageNet | basic | 2 2 2 2 | 64 | 11,689,512 | 1.81 G |
//! | 34 | ImageNet | basic | 3 4 6 3 | 64 | 21,797,672 | 3.66 G |
//! | 50 | ImageNet | bottleneck | 3 4 6 3 | 64 | 25,557,032 | 4.09 G |
//! | 101 | ImageNet | bottleneck | 3 4 23 3 | 64 | 44,549,160 | 7.80 G |
//! | 152 | ImageNet | bottleneck | 3 8 36 3 | 64 | 60,192,808 | 11.51 G |
//! | 8 | CIFAR | basic | 1 1 1 | 16 | 75,290 | 12.2 M |
//! | 20 | CIFAR | basic | 3 3 3 | 16 | 269,722 | 40.6 M |
//! | 32 | CIFAR | basic | 5 5 5 | 16 | 464,154 | 68.9 M |
//! | 44 | CIFAR | basic | 7 7 7 | 16 | 658,586 | 97.2 M |
//! | 56 | CIFAR | basic | 9 9 9 | 16 | 853,018 | 125.5 M |
//! | 110 | CIFAR | basic | 18 18 18 | 16 | 1,727,962 | 252.9 M |
//!
//! Counts are for 1000 classes at 224 px (ImageNet) and 10 classes at 32 px (CIFAR), three channels; a multiply-add is
//! one weight of a convolution or of the classifier, applied once. [`ResNetConfig::num_params`] and
//! [`ResNetConfig::num_macs`] give them for any configuration.
//!
//! The ImageNet family is "v1.5": a bottleneck strides in its 3x3 convolution, as torchvision does and He et al.
//! ([1512.03385](https://arxiv.org/abs/1512.03385)) did not. The CIFAR family is section 4.2 of that paper, with its
//! option-A shortcuts: where a stage halves the image, the shortcut takes every second pixel and pads new channels with
//! zeros, so it has no parameters.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use burn_resnet::{Depth, ResNetConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::flex();
//! let config = ResNetConfig::new(Depth::D20, 10)?;
//! let model = config.init(1, &device);
//! assert_eq!(config.num_params(), 269_722);
//!
//! let images = Tensor::random([2, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
//! assert_eq!(model.forward(images).dims(), [2, 10]);
//! # Ok(())
//! # }
//! ```
//!
//! # Training and evaluation
//!
//! Burn decides by device: a model made on `device.autodiff()` and fed from it uses batch statistics and is
//! differentiable; [`model.valid()`](burn::module::Module::valid) on the plain device uses running statistics.
//! [`backward_staged`] runs the backward pass block by block, so that gradients can leave while it still runs.
//!
//! # Number types
//!
//! Activations keep the type of the images. A convolution or the classifier casts its weight to it at use; batch norm and
//! the average before the classifier compute in the type of their parameters and cast back. So half-precision images
//! through a single-precision model is mixed precision: parameters, their gradients and the running statistics stay in
//! single precision.

mod block;
mod blur;
mod config;
mod count;
mod depth;
mod init;
mod layer;
mod norm;
mod resnet;
mod staged;
mod stem;
pub mod weights;

pub use block::Block;
pub use config::{ConfigError, ResNetConfig, Stem};
pub use count::{ConvShape, LayerCount, Then};
pub use depth::Depth;
pub use init::Start;
pub use layer::{Conv, Linear};
pub use norm::BatchNorm;
pub use resnet::{ParamInfo, ResNet};
pub use staged::{Staged, backward_staged};
