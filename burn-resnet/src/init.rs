//! The weights a network starts from: a function of the seed and the parameter's name, the same on every device.
//!
//! Convolutions: Kaiming normal over the fan-out (He et al. 2015, [1502.01852](https://arxiv.org/abs/1502.01852)). Batch
//! norm: gain 1, but 0 in the last one of every block, so that a block starts as its shortcut (Goyal et al. 2017,
//! [1706.02677](https://arxiv.org/abs/1706.02677), section 5.1). Classifier: N(0, 0.01), bias uniform within
//! 1 / sqrt(in), PyTorch's default. [`Start`] changes the last two.
//!
//! Values are drawn on the host: Burn's own draws depend on the backend and on what else it has drawn.

use std::f64::consts::TAU;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use crate::block::Block;
use crate::config::ResNetConfig;
use crate::depth::Depth;
use crate::layer::{Conv, Linear};
use crate::norm::BatchNorm;
use crate::resnet::ResNet;

/// Blur pools go before convolutions with at least as many input channels (ffcv).
const BLUR_CHANNELS_MIN: usize = 16;

/// What of a start is open to choice. The default is that of imagenet18 (2018).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Start {
    /// The gain in the last batch norm of every block, 0 by default. With 1, a block takes part from the first step: a
    /// shallow network that trains for a few epochs only is better for it; the large ones that train long want 0.
    pub last_gain: f32,
    /// The standard deviation of the classifier's weights, 0.01 by default; `None` draws them as PyTorch does, uniform
    /// within 1 / sqrt(in).
    pub fc_std: Option<f64>,
    /// The classifier's bias; `None`, the default, draws it as PyTorch does, uniform within 1 / sqrt(in).
    pub fc_bias: Option<f32>,
}

impl Default for Start {
    fn default() -> Self {
        Self { last_gain: 0.0, fc_std: Some(0.01), fc_bias: None }
    }
}

impl ResNetConfig {
    /// A new network on `device`; on an autodiff device it can be trained.
    ///
    /// # Determinism
    /// Equal seeds give equal bits on every backend, and a parameter's values do not depend on the others'.
    ///
    /// # Cost
    /// One draw a weight on the host (25 million for ResNet-50), in one thread.
    #[must_use]
    pub fn init(&self, seed: u64, device: &Device) -> ResNet {
        self.init_with(seed, device, Start::default())
    }

    /// As [`init`](Self::init), with a start of one's own.
    #[must_use]
    pub fn init_with(&self, seed: u64, device: &Device, start: Start) -> ResNet {
        let init = Init { seed, device, start, blur_pool: self.blur_pool() };
        let mut stages = (0..4).map(|stage| init.stage(self, stage));
        let mut next = || stages.next().unwrap_or_default();
        ResNet {
            conv1: init.conv(
                "conv1",
                self.channels(),
                self.width(),
                self.stem().kernel(),
                self.stem().stride(),
            ),
            bn1: init.norm(self.width(), 1.0),
            layer1: next(),
            layer2: next(),
            layer3: next(),
            layer4: next(),
            fc: init.linear("fc", self.num_features(), self.num_classes()),
            config: self.clone(),
        }
    }
}

struct Init<'a> {
    seed: u64,
    device: &'a Device,
    start: Start,
    blur_pool: bool,
}

impl Init<'_> {
    /// The blocks of stage `stage` (from 0); none where the family has no such stage.
    fn stage(&self, config: &ResNetConfig, stage: usize) -> Vec<Block> {
        let depth = config.depth();
        let num_blocks = depth.stages().get(stage).copied().unwrap_or(0);
        let width = config.width() << stage;
        let stage_input = if stage == 0 { config.width() } else { width / 2 * depth.expansion() };
        (0..num_blocks)
            .map(|block| {
                let path = format!("layer{}.{block}", stage + 1);
                let (input, stride) = match block {
                    0 => (stage_input, if stage == 0 { 1 } else { 2 }),
                    _ => (width * depth.expansion(), 1),
                };
                self.block(depth, &path, input, width, stride)
            })
            .collect()
    }

    fn block(&self, depth: Depth, path: &str, input: usize, width: usize, stride: usize) -> Block {
        let output = width * depth.expansion();
        let conv = |name: &str, input, output, size, stride| {
            self.conv(&format!("{path}.{name}"), input, output, size, stride)
        };
        let projected = !depth.is_cifar() && (stride != 1 || input != output);
        let downsample =
            projected.then(|| (conv("downsample.0", input, output, 1, stride), self.norm(output, 1.0)));
        if depth.is_bottleneck() {
            Block {
                conv1: conv("conv1", input, width, 1, 1),
                bn1: self.norm(width, 1.0),
                conv2: conv("conv2", width, width, 3, stride),
                bn2: self.norm(width, 1.0),
                conv3: Some(conv("conv3", width, output, 1, 1)),
                bn3: Some(self.norm(output, self.start.last_gain)),
                downsample,
            }
        } else {
            Block {
                conv1: conv("conv1", input, output, 3, stride),
                bn1: self.norm(output, 1.0),
                conv2: conv("conv2", output, output, 3, 1),
                bn2: self.norm(output, self.start.last_gain),
                conv3: None,
                bn3: None,
                downsample,
            }
        }
    }

    fn conv(&self, path: &str, input: usize, output: usize, size: usize, stride: usize) -> Conv {
        let std = (2.0 / (output * size * size) as f64).sqrt();
        let weight = self.normal(&format!("{path}.weight"), [output, input, size, size], std);
        Conv::new(weight, stride, self.blur_pool && stride > 1 && input >= BLUR_CHANNELS_MIN)
    }

    fn norm(&self, channels: usize, weight: f32) -> BatchNorm {
        let constant = |value| self.param([channels], vec![value; channels]);
        BatchNorm::new(constant(weight), constant(0.0), self.device)
    }

    fn linear(&self, path: &str, input: usize, output: usize) -> Linear {
        let bound = 1.0 / (input as f64).sqrt();
        let (weight, bias) = (format!("{path}.weight"), format!("{path}.bias"));
        Linear {
            weight: match self.start.fc_std {
                Some(std) => self.normal(&weight, [output, input], std),
                None => self.uniform(&weight, [output, input], bound),
            },
            bias: match self.start.fc_bias {
                Some(value) => self.param([output], vec![value; output]),
                None => self.uniform(&bias, [output], bound),
            },
        }
    }

    fn uniform<const D: usize>(&self, path: &str, shape: [usize; D], bound: f64) -> Param<Tensor<D>> {
        let mut draws = Draws::new(self.seed, path);
        let count = shape.iter().product();
        self.param(shape, (0..count).map(|_| ((2.0 * draws.uniform() - 1.0) * bound) as f32).collect())
    }

    fn normal<const D: usize>(&self, path: &str, shape: [usize; D], std: f64) -> Param<Tensor<D>> {
        let mut draws = Draws::new(self.seed, path);
        let count: usize = shape.iter().product();
        let pairs = (0..count.div_ceil(2)).flat_map(|_| draws.normal_pair());
        self.param(shape, pairs.take(count).map(|x| (x * std) as f32).collect())
    }

    fn param<const D: usize>(&self, shape: [usize; D], values: Vec<f32>) -> Param<Tensor<D>> {
        Param::from_data(TensorData::new(values, shape), self.device)
    }
}

/// A stream of random numbers, one for each seed and name: SplitMix64 (Steele, Lea, Flood 2014).
struct Draws(u64);

impl Draws {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a of the name; the seed is mixed first, so that neighbouring seeds share nothing.
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
        Self(Self(seed).next() ^ name)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), of 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Two independent standard normals (Box and Muller 1958).
    fn normal_pair(&mut self) -> [f64; 2] {
        // 1 - u is in (0, 1]: its logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (TAU * self.uniform()).sin_cos();
        [radius * cos, radius * sin]
    }
}
