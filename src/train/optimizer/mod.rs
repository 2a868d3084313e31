//! From gradients to weights: one rule for all parameters, its state by parameter name. Which direction a rule takes is
//! its own file's; learning rates come from outside.
//!
//! Burn's own would do, but for three things: their state is keyed by identities that differ in every process, it is
//! restored onto the default device rather than the network's, and the numbers are not PyTorch's (dampening) or timm's
//! (LAMB) or not there (LARS). Weight decay leaves batch norm alone, which is told by the module's type.
//!
//! | file | job |
//! |---|---|
//! | `sgd`, `lars`, `lamb` | a parameter's step: tensors in, tensor out |
//! | `state` | the state as bytes, for checkpoints and for other ranks |

mod lamb;
mod lars;
mod sgd;
mod state;

use std::collections::{HashMap, HashSet};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::Tensor,
};
use burn_kernels::SgdStep;
use burn_resnet::ResNet;

use self::{lamb::Lamb, lars::Lars, sgd::Momentum};
use crate::config::{OptimizerConfig, OptimizerRule};

/// What a name is followed by in the state: nothing for a velocity, LAMB's two moments otherwise (PyTorch's names).
const VELOCITY: &str = "";
const MEAN: &str = ".exp_avg";
const MEAN_OF_SQUARES: &str = ".exp_avg_sq";

/// The optimizer's rule and state.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    momentum: Momentum,
    weight_decay: f64,
    /// Gains and offsets of batch norm: no decay.
    norm: HashSet<ParamId>,
    names: HashMap<ParamId, String>,
    /// By the parameter's name and what kind of state it is.
    tensors: HashMap<String, Tensor<1>>,
    /// Steps taken, if the rule counts them.
    num_steps: u64,
}

#[derive(Debug)]
enum Rule {
    Sgd,
    Lars(Lars),
    Lamb(Lamb),
}

impl Optimizer {
    /// For the parameters of `model`, at rest.
    pub fn new(config: &OptimizerConfig, model: &ResNet) -> Self {
        let OptimizerConfig {
            momentum, nesterov, trust_coefficient, beta1, beta2, eps, max_grad_norm, ..
        } = *config;
        let params = model.params();
        Self {
            rule: match config.rule {
                OptimizerRule::Sgd => Rule::Sgd,
                OptimizerRule::Lars => Rule::Lars(Lars { trust_coefficient }),
                OptimizerRule::Lamb => Rule::Lamb(Lamb { beta1, beta2, eps, max_grad_norm }),
            },
            momentum: Momentum { factor: momentum, nesterov },
            weight_decay: config.weight_decay,
            norm: params.iter().filter(|param| param.is_norm).map(|param| param.id).collect(),
            names: params.into_iter().map(|param| (param.id, param.name)).collect(),
            tensors: HashMap::new(),
            num_steps: 0,
        }
    }

    /// Sets the momentum of SGD and LARS from the next step on; velocities are kept.
    pub fn set_momentum(&mut self, factor: f64) {
        self.momentum.factor = factor;
    }

    /// Moves every parameter that has a gradient.
    pub fn step(&mut self, lr: f64, model: ResNet, gradients: GradientsParams) -> ResNet {
        let mut divisor = None;
        if let Rule::Lamb(lamb) = &self.rule {
            divisor = lamb.divisor(squares(&model, &gradients));
            self.num_steps += 1;
        }
        model.map(&mut Update { optimizer: self, lr, divisor, gradients })
    }

    /// What each parameter has in the state.
    fn kinds(&self) -> &'static [&'static str] {
        match self.rule {
            Rule::Sgd | Rule::Lars(_) => &[VELOCITY],
            Rule::Lamb(_) => &[MEAN, MEAN_OF_SQUARES],
        }
    }
}

/// The sum of the squares of each gradient, each `[1]`.
fn squares(model: &ResNet, gradients: &GradientsParams) -> Vec<Tensor<1>> {
    struct Walk<'a>(&'a GradientsParams, Vec<Tensor<1>>);
    impl ModuleVisitor for Walk<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.extend(self.0.get::<D>(param.id).map(sum_of_squares));
        }
    }
    let mut walk = Walk(gradients, Vec::new());
    model.visit(&mut walk);
    walk.1
}

/// `[1]`, on the tensor's device: nobody waits for it.
fn sum_of_squares<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    (tensor.clone() * tensor).sum()
}

/// `ratio` where both norms are above 0, and 1 elsewhere, in a form that multiplies a tensor of `D` dimensions.
fn trust<const D: usize>(ratio: Tensor<1>, weight_norm: Tensor<1>, step_norm: Tensor<1>) -> Tensor<D> {
    let both = weight_norm.greater_elem(0.0).bool_and(step_norm.greater_elem(0.0));
    ratio.mask_fill(both.bool_not(), 1.0).reshape([1; D])
}

struct Update<'a> {
    optimizer: &'a mut Optimizer,
    lr: f64,
    divisor: Option<Tensor<1>>,
    gradients: GradientsParams,
}

impl Update<'_> {
    fn take<const D: usize>(&mut self, id: ParamId, kind: &str, shape: [usize; D]) -> Option<Tensor<D>> {
        let key = format!("{}{kind}", self.optimizer.names[&id]);
        self.optimizer.tensors.remove(&key).map(|state| state.reshape(shape))
    }

    fn put<const D: usize>(&mut self, id: ParamId, kind: &str, state: Tensor<D>) {
        let key = format!("{}{kind}", self.optimizer.names[&id]);
        self.optimizer.tensors.insert(key, state.reshape([-1]));
    }

    /// A weight after its step, in one pass over memory.
    fn sgd<const D: usize>(
        &mut self,
        id: ParamId,
        weight: Tensor<D>,
        gradient: Tensor<D>,
        weight_decay: f64,
    ) -> Tensor<D> {
        let (shape, Momentum { factor: momentum, nesterov }) = (weight.dims(), self.optimizer.momentum);
        let [weight, gradient] = [weight, gradient].map(|tensor| tensor.reshape([-1]));
        // Without momentum nothing is carried over, and what was stays.
        let is_moved = momentum != 0.0;
        let velocity = if is_moved { self.take(id, VELOCITY, weight.dims()) } else { None };
        let velocity = velocity.unwrap_or_else(|| weight.zeros_like());
        let step = SgdStep { lr: self.lr, momentum, weight_decay, nesterov };
        let (weight, velocity) = burn_kernels::sgd_step(weight, gradient, velocity, step);
        if is_moved {
            self.put(id, VELOCITY, velocity);
        }
        weight.reshape(shape)
    }

    /// The step along `gradient` with the velocity of earlier ones.
    fn with_momentum<const D: usize>(&mut self, id: ParamId, gradient: Tensor<D>) -> Tensor<D> {
        let momentum = self.optimizer.momentum;
        if momentum.factor == 0.0 {
            return gradient;
        }
        let velocity = self.take(id, VELOCITY, gradient.dims());
        let (direction, velocity) = momentum.direction(gradient, velocity);
        self.put(id, VELOCITY, velocity);
        direction
    }
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let weight = tensor.inner();
        let is_norm = self.optimizer.norm.contains(&id);
        let decay = if is_norm { 0.0 } else { self.optimizer.weight_decay };
        let direction = match &self.optimizer.rule {
            Rule::Sgd => {
                let weight = self.sgd(id, weight, gradient, decay);
                return Param::from_mapped_value(id, Tensor::from_inner(weight).require_grad(), mapper);
            }
            Rule::Lars(lars) => {
                let gradient = lars.scaled(gradient, &weight, decay);
                self.with_momentum(id, gradient)
            }
            Rule::Lamb(lamb) => {
                let (lamb, num_steps) = (*lamb, self.optimizer.num_steps);
                let gradient = match &self.divisor {
                    Some(divisor) => gradient / divisor.clone().reshape([1; D]),
                    None => gradient,
                };
                let moments = [MEAN, MEAN_OF_SQUARES].map(|kind| self.take(id, kind, gradient.dims()));
                let (direction, moments) = lamb.direction(gradient, &weight, decay, moments, num_steps);
                for (kind, moment) in [MEAN, MEAN_OF_SQUARES].into_iter().zip(moments) {
                    self.put(id, kind, moment);
                }
                direction
            }
        };
        let weight = weight - direction.mul_scalar(self.lr);
        Param::from_mapped_value(id, Tensor::from_inner(weight).require_grad(), mapper)
    }
}
