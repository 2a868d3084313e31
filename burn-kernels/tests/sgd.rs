//! The update of SGD against its formula in f64, and that a velocity which somebody else holds is left as it is.

#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_kernels::{SgdStep, sgd_step};
use common::devices::own;
use common::{Random, assert_within, rounded, values};

fn tensor(values: &[f64], device: &Device) -> Tensor<1> {
    let data = TensorData::new(values.to_vec(), [values.len()]).convert_dtype(DType::F32);
    Tensor::from_data(data, (device, DType::F32))
}

#[test]
fn a_step_is_pytorchs() {
    let mut random = Random(8);
    for len in [1, 7, 16_384, 40_001] {
        for (momentum, weight_decay, nesterov) in [(0.0, 0.0, false), (0.9, 1e-4, false), (0.9, 5e-5, true)] {
            let step = SgdStep { lr: 0.25, momentum, weight_decay, nesterov };
            let mut numbers = || rounded(&random.values(len), DType::F32);
            let [weight, gradient, velocity] = [numbers(), numbers(), numbers()];
            let truth = weight.iter().zip(&gradient).zip(&velocity).map(|((weight, gradient), velocity)| {
                let gradient = gradient + weight_decay * weight;
                let velocity = momentum * velocity + gradient;
                let direction = if nesterov { gradient + momentum * velocity } else { velocity };
                (weight - 0.25 * direction, velocity)
            });
            let (weights, velocities): (Vec<f64>, Vec<f64>) = truth.unzip();
            // Six operations on numbers below 4, each rounded once.
            let bound = vec![6.0 * 4.0 * f64::from(f32::EPSILON); len];
            for (name, device) in own() {
                let tensor = |values: &[f64]| tensor(values, &device);
                let held = tensor(&velocity);
                let (new, moved) = sgd_step(tensor(&weight), tensor(&gradient), held.clone(), step);
                assert_eq!(values(held), velocity, "{name}: a velocity that is held was overwritten");
                assert_within(&values(new), &weights, &bound, &format!("{name}: weights {len} {step:?}"));
                assert_within(
                    &values(moved),
                    &velocities,
                    &bound,
                    &format!("{name}: velocities {len} {step:?}"),
                );
            }
        }
    }
}
