//! The start: recipe of torchvision with zero gamma, the same bits on every backend.

use burn::module::Module;
use burn_resnet::weights::{NamedTensor, to_named};
use burn_resnet::{Depth, ResNetConfig};

use crate::common::*;

fn mean_and_std(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let var = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    (mean, var.sqrt())
}

/// A normal sample's mean and deviation, within five standard errors.
fn assert_normal(tensor: &NamedTensor, std: f64) {
    let n = tensor.data.len() as f64;
    let (mean, got) = mean_and_std(&tensor.data);
    assert!(mean.abs() <= 5.0 * std / n.sqrt(), "{}: mean {mean}", tensor.name);
    assert!((got - std).abs() <= 5.0 * std / (2.0 * n).sqrt(), "{}: std {got} for {std}", tensor.name);
    let tail = tensor.data.iter().filter(|&&x| f64::from(x).abs() > 2.0 * std).count() as f64;
    let expected = 0.0455 * n;
    assert!((tail - expected).abs() <= 5.0 * expected.sqrt(), "{}: {tail} beyond two sigma", tensor.name);
}

#[test]
fn resnet50_starts_by_the_recipe() {
    let model = ResNetConfig::new(Depth::D50, 1000).unwrap().init(7, &cpu());
    let mut zero_gammas = 0;
    for tensor in to_named(&model) {
        let all = |value: f32| tensor.data.iter().all(|&x| x == value);
        match (tensor.name.as_str(), &tensor.shape[..]) {
            ("fc.weight", _) => assert_normal(&tensor, 0.01),
            ("fc.bias", _) => {
                let bound = 1.0 / 2048f32.sqrt();
                assert!(tensor.data.iter().all(|x| x.abs() <= bound));
                let (mean, std) = mean_and_std(&tensor.data);
                assert!(
                    mean.abs() < 0.002 && (std - f64::from(bound) / 3f64.sqrt()).abs() < 0.001,
                    "{mean} {std}"
                );
            }
            (_, &[out, _, h, w]) => assert_normal(&tensor, (2.0 / (out * h * w) as f64).sqrt()),
            (name, _) if name.ends_with("bn3.weight") => {
                assert!(all(0.0), "{name}");
                zero_gammas += 1;
            }
            (name, _) if name.ends_with("running_var") || name.ends_with("weight") => {
                assert!(all(1.0), "{name}")
            }
            (name, _) => assert!(all(0.0), "{name}"),
        }
    }
    assert_eq!(zero_gammas, 16);
}

#[test]
fn the_first_loss_is_that_of_guessing() {
    let device = cpu().autodiff();
    for (depth, size) in [(Depth::D18, 32), (Depth::D8, 32)] {
        let config = ResNetConfig::new(depth, 1000).unwrap();
        let logits = config.init(3, &device).forward(images("a", [4, 3, size, size], &device));
        let loss = values(cross_entropy(logits, labels("a", 4, 1000, &device)))[0];
        assert!((loss - 1000f64.ln()).abs() < 0.3, "{loss}");
    }
}

#[test]
fn bits_depend_on_the_seed_and_on_nothing_else() {
    let config = ResNetConfig::new(Depth::D8, 10).unwrap();
    let first = to_named(&config.init(1, &cpu()));
    for_each_cpu_device(|backend, device| {
        assert_eq!(to_named(&config.init(1, &device)), first, "{backend}");
        assert_eq!(to_named(&config.init(1, &device.autodiff())), first, "{backend}, autodiff");
    });
    let other = to_named(&config.init(2, &cpu()));
    let conv = |tensors: &[NamedTensor], name: &str| {
        tensors.iter().find(|tensor| tensor.name == name).unwrap().data.clone()
    };
    assert_ne!(conv(&first, "conv1.weight"), conv(&other, "conv1.weight"));
    let (a, b) = (conv(&first, "layer1.0.conv1.weight"), conv(&first, "layer1.0.conv2.weight"));
    let dot: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).sum();
    let (_, std) = mean_and_std(&a);
    assert!(dot.abs() <= 5.0 * std * std * (a.len() as f64).sqrt(), "tensors of one shape are independent");
}

#[test]
fn a_network_of_the_plain_device_can_be_trained() {
    let config = ResNetConfig::new(Depth::D8, 4).unwrap().with_width(2).unwrap();
    for_each_cpu_device(|backend, device| {
        let model = config.init(1, &device).train();
        let x = images("a", [2, 3, 8, 8], &device.autodiff());
        let grads = model.forward(x).sum().backward();
        let grads = burn::optim::GradientsParams::from_grads(grads, &model);
        assert_eq!(grads.len(), model.params().iter().filter(|p| !p.is_buffer).count(), "{backend}");
    });
}
