//! SGD with momentum, as PyTorch computes it: `v = m v + (g + wd w)`, `w -= lr v`, with no dampening and the first
//! velocity equal to the first gradient (Goyal et al. 2017, equation 9: no correction is due when `lr` changes).
//!
//! Burn's own would do, but for three things: its state is keyed by identities that differ in every process, it is
//! restored onto the default device rather than the network's, and its dampening is not PyTorch's. Here a velocity
//! belongs to a parameter's name.

use std::collections::{HashMap, HashSet};

use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    optim::GradientsParams,
    tensor::{Tensor, TensorData},
};
use burn_resnet::ResNet;

use crate::config::OptimizerConfig;

/// The optimizer's rule and state.
#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    /// Gains and offsets of batch norm: no decay.
    norm: HashSet<ParamId>,
    names: HashMap<ParamId, String>,
    velocity: HashMap<String, Tensor<1>>,
}

impl Sgd {
    /// For the parameters of `model`, at rest.
    pub fn new(config: &OptimizerConfig, model: &ResNet) -> Self {
        let params = model.params();
        Self {
            momentum: config.momentum,
            nesterov: config.nesterov,
            weight_decay: config.weight_decay,
            norm: params.iter().filter(|param| param.is_norm).map(|param| param.id).collect(),
            names: params.into_iter().map(|param| (param.id, param.name)).collect(),
            velocity: HashMap::new(),
        }
    }

    /// Moves every parameter that has a gradient.
    pub fn step(&mut self, lr: f64, model: ResNet, gradients: GradientsParams) -> ResNet {
        model.map(&mut Update { sgd: self, lr, gradients })
    }

    /// The velocities by parameter name, sorted, in 32 bits.
    pub fn state(&self) -> Vec<(String, TensorData)> {
        let mut state: Vec<_> =
            self.velocity.iter().map(|(name, v)| (name.clone(), v.clone().into_data())).collect();
        state.sort_by(|a, b| a.0.cmp(&b.0));
        state
    }

    /// Puts back velocities that [`state`](Self::state) gave, onto the device of `model`.
    pub fn restore(&mut self, state: Vec<(String, TensorData)>, model: &ResNet) {
        let device = model.devices().into_iter().next().unwrap_or_default().without_autodiff();
        self.velocity =
            state.into_iter().map(|(name, data)| (name, Tensor::from_data(data, &device))).collect();
    }
}

struct Update<'a> {
    sgd: &'a mut Sgd,
    lr: f64,
    gradients: GradientsParams,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let weight = tensor.inner();
        let shape = weight.shape();
        let decay = if self.sgd.norm.contains(&id) { 0.0 } else { self.sgd.weight_decay };
        let gradient = if decay == 0.0 { gradient } else { gradient + weight.clone().mul_scalar(decay) };
        let direction = if self.sgd.momentum == 0.0 {
            gradient
        } else {
            let name = &self.sgd.names[&id];
            let velocity = match self.sgd.velocity.remove(name) {
                Some(old) => old.reshape(shape).mul_scalar(self.sgd.momentum) + gradient.clone(),
                None => gradient.clone(),
            };
            self.sgd.velocity.insert(name.clone(), velocity.clone().reshape([-1]));
            if self.sgd.nesterov { gradient + velocity.mul_scalar(self.sgd.momentum) } else { velocity }
        };
        let weight = weight - direction.mul_scalar(self.lr);
        Param::from_mapped_value(id, Tensor::from_inner(weight).require_grad(), mapper)
    }
}
