//! A running average of the weights, which is evaluated and exported in their place: `a = d a + (1 - d) w` after every
//! step, for parameters and running statistics alike, from the weights that the run starts with. Polyak and Juditsky
//! 1992, with the exponential weights of composer's `EMA` and torchvision's `ExponentialMovingAverage`.

use std::collections::VecDeque;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::Tensor,
};
use burn_resnet::ResNet;

use crate::config::Ema;

/// The average so far.
#[derive(Debug)]
pub struct Average {
    decay: f64,
    /// On the plain device: it evaluates.
    pub(super) model: ResNet,
}

impl Average {
    /// Of nothing but `model` itself.
    pub fn new(ema: Ema, model: &ResNet) -> Self {
        let decay = match ema {
            Ema::Decay(decay) => decay,
            Ema::HalfLife { half_life_steps } => 0.5f64.powf(half_life_steps.recip()),
        };
        Self { decay, model: model.valid() }
    }

    /// Moves it towards `model`.
    ///
    /// # Cost
    /// Two multiplications and an addition of every weight, on the device.
    pub fn update(&mut self, model: &ResNet) {
        struct Read(VecDeque<Tensor<1>>);
        impl ModuleVisitor for Read {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.push_back(param.val().without_autodiff().reshape([-1]));
            }
        }
        struct Move(VecDeque<Tensor<1>>, f64);
        impl ModuleMapper for Move {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let new = self.0.pop_front().expect("both networks have the same tensors in the same order");
                let decay = self.1;
                param.map(|old| {
                    let new = new.reshape(old.shape());
                    old.mul_scalar(decay) + new.mul_scalar(1.0 - decay)
                })
            }
        }
        let mut read = Read(VecDeque::new());
        model.visit(&mut read);
        self.model = self.model.clone().map(&mut Move(read.0, self.decay));
    }

    /// The averaged network, on the plain device.
    pub fn model(&self) -> &ResNet {
        &self.model
    }
}
