//! Mixed precision: half-precision images through a single-precision network. Parameters, gradients and running
//! statistics stay in single precision. flex only: ndarray has no half.
//!
//! Half precision moves activations across relu's kink, so gradients differ by percents: PyTorch's own, done the same way
//! on the same numbers, differ from its single-precision ones by up to 6.4e-2. The bound here is 1e-1.
#![cfg(feature = "flex")]

use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, FloatDType};
use burn_resnet::weights::to_named;
use burn_resnet::{Depth, ResNetConfig};

use crate::common::*;

#[test]
fn half_precision_activations_leave_parameters_alone() {
    let device = Device::flex().autodiff();
    let config = ResNetConfig::new(Depth::D8, 10).unwrap();
    let model = hashed_model(&config, &device);
    let single = hashed_model(&config, &device);
    let x = || images("train.0", [4, 3, 32, 32], &device);

    let logits = model.forward(x().cast(FloatDType::F16));
    assert_eq!(logits.dtype(), DType::F16);
    let y = labels("labels.0", 4, 10, &device);
    let loss = cross_entropy(logits.cast(FloatDType::F32), y.clone());
    // Scaled, as the recipe does, so that small gradients survive in half.
    let scaled = GradientsParams::from_grads((loss.clone() * 1024.0).backward(), &model);
    let expected_loss = cross_entropy(single.forward(x()), y);
    let expected = GradientsParams::from_grads(expected_loss.backward(), &single);

    let error = (values(loss)[0] - values(expected_loss)[0]).abs();
    assert!(error < 1e-2, "loss differs by {error}");
    let expected = named_gradients(&single, &expected);
    for ((name, got), (_, expected)) in named_gradients(&model, &scaled).into_iter().zip(expected) {
        let got: Vec<f64> = got.iter().map(|x| x / 1024.0).collect();
        if !expected.is_empty() {
            assert!(relative(&got, &expected) < 0.1, "{name}: {}", relative(&got, &expected));
        }
    }
    for (a, b) in to_named(&model).iter().zip(to_named(&single)) {
        let (a, b): (Vec<f64>, Vec<f64>) =
            (a.data.iter().map(|&x| x.into()).collect(), b.data.iter().map(|&x| x.into()).collect());
        assert!(relative(&a, &b) < 1e-2 || a == b, "running statistics");
    }
}
