//! Batch norm's running statistics after three training passes, PyTorch's unbiased variance included (1e-6), and who
//! sees them when.

use burn::module::Module;
use burn::tensor::Tensor;
use burn_resnet::weights::{HeadPolicy, apply_named, to_named};
use burn_resnet::{Depth, ResNet, ResNetConfig};

use crate::common::*;

fn statistics(model: &ResNet) -> Vec<(String, Vec<f64>)> {
    let named = to_named(model).into_iter().filter(|tensor| tensor.name.contains("running_"));
    named.map(|tensor| (tensor.name, tensor.data.into_iter().map(f64::from).collect())).collect()
}

#[test]
fn three_passes_move_them_as_pytorch_does() {
    let fixture = Fixture::open("running.safetensors");
    for_each_device(|backend, device| {
        let device = device.autodiff();
        let model = hashed_model(&ResNetConfig::new(Depth::D8, 10).unwrap(), &device);
        for step in 0..3 {
            let _ = model.forward(images(&format!("train.{step}"), [4, 3, 32, 32], &device));
        }
        let got = statistics(&model);
        assert_eq!(got.len(), 2 * 7);
        let mut worst = 0f64;
        for (name, got) in got {
            let expected = fixture.get(&format!("f32.{name}"));
            worst =
                got.iter().zip(&expected).fold(worst, |m, (a, b)| m.max((a - b).abs() / b.abs().max(1.0)));
        }
        println!("{backend}: worst running statistic {worst:.1e}");
        assert!(worst <= tolerance(backend, 1e-6), "{backend}: {worst:.1e}");
    });
}

#[test]
fn an_update_is_seen_at_once_and_a_write_stays() {
    for_each_device(|backend, device| {
        let train = device.clone().autodiff();
        let mut model =
            hashed_model(&ResNetConfig::new(Depth::D8, 4).unwrap().with_width(2).unwrap(), &train);
        let x = |name: &str| images(name, [2, 3, 8, 8], &train);
        let before = to_named(&model);
        let frozen = model.valid();

        let _ = model.forward(x("a"));
        let after = statistics(&model);
        assert_ne!(after, statistics(&frozen), "{backend}: one pass moves them");
        assert_eq!(after, statistics(&model.valid()), "{backend}: what is read is what evaluation uses");

        apply_named(&mut model, before.clone(), HeadPolicy::Strict).unwrap();
        assert_eq!(to_named(&model), before, "{backend}: a write is not undone by the pass before it");
        let _ = model.forward(x("a"));
        for ((name, again), (_, once)) in statistics(&model).iter().zip(&after) {
            let error = relative(again, once);
            assert!(
                error <= tolerance(backend, 0.0),
                "{backend}: and the next pass starts from it, {name} {error:.1e}"
            );
        }
    });
}

#[test]
fn evaluation_and_frozen_norms_leave_them() {
    for_each_device(|backend, device| {
        let train = device.clone().autodiff();
        let model = hashed_model(&ResNetConfig::new(Depth::D8, 4).unwrap().with_width(2).unwrap(), &train);
        let before = statistics(&model);
        let valid = model.valid();
        let expected = values(valid.forward(images("a", [2, 3, 8, 8], &device)));
        assert_eq!(statistics(&valid), before, "{backend}");

        let frozen = model.freeze();
        let got = values(frozen.forward(images("a", [2, 3, 8, 8], &train)));
        let error = relative(&got, &expected);
        assert!(
            error <= tolerance(backend, 0.0),
            "{backend}: frozen on the training device is evaluation, {error:.1e}"
        );
        assert_eq!(statistics(&frozen), before, "{backend}");
    });
}

#[test]
#[should_panic(expected = "more than one value a channel")]
fn one_value_a_channel_is_refused() {
    for_each_device(|_, device| {
        let device = device.autodiff();
        let model = ResNetConfig::new(Depth::D8, 4).unwrap().with_width(2).unwrap().init(0, &device);
        let _ = model.forward(Tensor::ones([1, 3, 4, 4], &device));
    });
}
