//! The start: recipe of torchvision with zero gamma, the same bits on every backend.

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn_resnet::weights::{NamedTensor, to_named};
use burn_resnet::{Depth, ResNetConfig, Start};

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
fn the_classifier_starts_as_it_is_told() {
    let config = ResNetConfig::new(Depth::D18, 1000).unwrap();
    let head = |start: Start| {
        let tensors = to_named(&config.init_with(7, &cpu(), start));
        ["fc.weight", "fc.bias"].map(|name| tensors.iter().find(|t| t.name == name).unwrap().clone())
    };
    let [weight, bias] = head(Start { fc_std: Some(0.03), fc_bias: Some(-6.9), ..Start::default() });
    assert_normal(&weight, 0.03);
    assert!(bias.data.iter().all(|&x| x == -6.9));
    // PyTorch's own: uniform within 1 / sqrt(512), whose deviation is that over the root of 3.
    let bound = 1.0 / 512f64.sqrt();
    for tensor in head(Start { fc_std: None, ..Start::default() }) {
        let n = tensor.data.len() as f64;
        let (mean, std) = mean_and_std(&tensor.data);
        let largest = tensor.data.iter().fold(0f64, |m, &x| m.max(f64::from(x).abs()));
        assert!(largest <= bound && largest > bound * (1.0 - 10.0 / n), "{}: {largest}", tensor.name);
        let expected = bound / 3f64.sqrt();
        assert!(mean.abs() <= 5.0 * expected / n.sqrt(), "{}: mean {mean}", tensor.name);
        assert!((std - expected).abs() <= 5.0 * expected / (2.0 * n).sqrt(), "{}: std {std}", tensor.name);
    }
}

/// Golden check 4: ln 1000 within 0.05. The mean over every class as the label, as over endless images: with eight of
/// them, the loss would mostly tell which labels they have.
#[test]
fn the_first_loss_is_that_of_guessing() {
    let device = cpu().autodiff();
    for (depth, batch, size) in [(Depth::D50, 8, 64), (Depth::D18, 8, 32), (Depth::D8, 16, 32)] {
        let config = ResNetConfig::new(depth, 1000).unwrap();
        let model = config.init(3, &device);
        let logits = model.forward(images("a", [batch, 3, size, size], &device));
        let loss = values(log_softmax(logits, 1).mean().neg())[0];
        println!("ResNet-{depth}: first loss {loss:.4}, ln 1000 is {:.4}", 1000f64.ln());
        assert!((loss - 1000f64.ln()).abs() < 0.05, "ResNet-{depth}: {loss}");
    }
}

#[test]
fn bits_depend_on_the_seed_and_on_nothing_else() {
    let config = ResNetConfig::new(Depth::D8, 10).unwrap();
    let first = to_named(&config.init(1, &cpu()));
    for_each_device(|backend, device| {
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
    for_each_device(|backend, device| {
        let model = config.init(1, &device).train();
        let x = images("a", [2, 3, 8, 8], &device.autodiff());
        let grads = model.forward(x).sum().backward();
        let grads = burn::optim::GradientsParams::from_grads(grads, &model);
        assert_eq!(grads.len(), model.params().iter().filter(|p| !p.is_buffer).count(), "{backend}");
    });
}
