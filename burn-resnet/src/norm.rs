//! Batch normalisation with PyTorch's running statistics. Not synchronised across processes.
//!
//! Ioffe and Szegedy 2015 ([1502.03167](https://arxiv.org/abs/1502.03167)). Burn's own layer differs in two ways that
//! matter here: it keeps the biased variance where PyTorch keeps the unbiased one (times n / (n - 1)), and its running
//! statistics are one update behind for whoever reads them.

use burn::module::{Flag, Module, Param, RunningState};
use burn::tensor::{Device, Tensor};

/// How much of a batch enters the running statistics: new = 0.9 old + 0.1 batch.
const MOMENTUM: f64 = 0.1;
/// Added to the variance before its root is taken.
const EPSILON: f64 = 1e-5;

/// Normalises each channel, by the batch while training and by running statistics otherwise.
///
/// Training means: the input is on an autodiff device and the module's training flag is on
/// ([`freeze`](Module::freeze) turns it off).
///
/// # Running statistics
/// An update is visible to whatever reads the module as soon as `forward` returns, and a write is not undone by an
/// earlier update. They are shared by clones, as Burn has it: to train two copies in one process, make each from its own
/// weights. [`valid`](Module::valid) takes a copy of its own.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Gain, `[channels]` (PyTorch's name for gamma).
    pub weight: Param<Tensor<1>>,
    /// Offset, `[channels]` (beta).
    pub bias: Param<Tensor<1>>,
    /// Running mean, `[channels]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// Running unbiased variance, `[channels]`.
    pub running_var: RunningState<Tensor<1>>,
    training: Param<Flag>,
}

impl BatchNorm {
    /// Gain `weight`, offset 0, running mean 0, running variance 1.
    pub(crate) fn new(weight: Param<Tensor<1>>, bias: Param<Tensor<1>>, device: &Device) -> Self {
        let [channels] = weight.dims();
        Self {
            weight,
            bias,
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            training: Param::from_bool(true),
        }
    }

    /// Normalises; while training it also moves the running statistics.
    ///
    /// Computes in the number type of the parameters and returns that of the input.
    ///
    /// # Shapes
    /// `[batch, height, width, channels]`, kept.
    ///
    /// # Panics
    /// While training, if there is one value a channel (one image of one pixel): it has no variance.
    /// [`ResNetConfig::check_train_batch`](crate::ResNetConfig::check_train_batch) asks beforehand.
    #[must_use]
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if self.trains(&x) {
            return self.train(x, None, false);
        }
        let [scale, shift] = self.line();
        burn_kernels::scale_shift(x, scale, shift, None, false)
    }

    /// What each channel is multiplied by, and what is added, by the running statistics.
    pub(crate) fn line(&self) -> [Tensor<1>; 2] {
        let (mean, var) = (self.running_mean.value(), self.running_var.value());
        let scale = self.weight.val() / (var + EPSILON).sqrt();
        let shift = self.bias.val() - mean * scale.clone();
        [scale, shift]
    }

    pub(crate) fn trains(&self, x: &Tensor<4>) -> bool {
        x.device().is_autodiff() && self.training.is_enabled()
    }

    /// Normalises by the batch, adds `residual` where there is one, applies ReLU if `relu`, and moves the running statistics
    /// towards the batch's.
    pub(crate) fn train(&self, x: Tensor<4>, residual: Option<Tensor<4>>, relu: bool) -> Tensor<4> {
        let [batch, height, width, _] = x.dims();
        let n = batch * height * width;
        assert!(n > 1, "batch norm needs more than one value a channel to train, got {:?}", x.dims());

        let (weight, bias) = (self.weight.val(), self.bias.val());
        let out = burn_kernels::batch_norm_train(x, weight, bias, residual, EPSILON, relu);
        let unbiased = n as f64 / (n - 1) as f64;
        update(&self.running_mean, out.mean);
        update(&self.running_var, out.variance.mul_scalar(unbiased));
        out.output
    }
}

/// Moves a running statistic towards a batch's, at once: `update` alone would leave it pending until the next read by
/// the same thread, where neither a checkpoint nor an evaluation sees it.
fn update(running: &RunningState<Tensor<1>>, batch: Tensor<1>) {
    let new = running.value_sync().mul_scalar(1.0 - MOMENTUM) + batch.detach().mul_scalar(MOMENTUM);
    running.update(new.detach());
    running.value_sync();
}
