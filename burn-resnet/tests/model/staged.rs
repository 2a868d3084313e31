//! The staged backward gives the whole backward's gradients, bit for bit on a CPU, the classifier's first.

use burn::module::{Module, ParamGroup};
use burn::optim::GradientsParams;
use burn::tensor::Device;
use burn_resnet::{Depth, ResNet, ResNetConfig, backward_staged};

use crate::common::*;

fn compare(backend: &str, name: &str, config: &ResNetConfig, shape: [usize; 4], device: Device) {
    let device = device.autodiff();
    let x = || images("a", shape, &device);
    let loss = |logits| cross_entropy(logits, labels("a", shape[0], config.num_classes(), &device)) * 128.0;

    let whole = hashed_model(config, &device);
    let logits = whole.forward(x());
    let expected_logits = values(logits.clone());
    let expected_loss = loss(logits);
    let grads = GradientsParams::from_grads(expected_loss.backward(), &whole);
    let expected = named_gradients(&whole, &grads);

    let model = hashed_model(config, &device);
    let mut order = Vec::new();
    let mut got = Vec::new();
    let segments = model.segments();
    let staged = backward_staged(&model, x(), loss, |segment, grads| {
        assert_eq!(grads.len(), segments[segment].len(), "{name}: segment {segment} is complete");
        order.push(segment);
        got.extend(named_gradients(&model, &grads).into_iter().filter(|(_, grad)| !grad.is_empty()));
    });
    assert_eq!(order, (0..segments.len()).rev().collect::<Vec<_>>(), "{name}");
    let within =
        |got: &[f64], expected: &[f64]| got == expected || relative(got, expected) <= tolerance(backend, 0.0);
    assert!(within(&values(staged.logits), &expected_logits), "{name}: logits");
    assert!(within(&values(staged.loss), &values(expected_loss)), "{name}: loss");
    let mut expected: Vec<_> = expected.into_iter().filter(|(_, grad)| !grad.is_empty()).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    got.sort_by(|a, b| a.0.cmp(&b.0));
    for ((name_a, a), (name_b, b)) in got.iter().zip(&expected) {
        assert_eq!(name_a, name_b);
        assert!(within(a, b), "{name}: {name_a} differs by {:.1e}", relative(a, b));
    }
    assert_eq!(got.len(), expected.len(), "{name}");
    let trainable = model.params().iter().filter(|p| !p.is_buffer).count();
    assert_eq!(got.len(), trainable, "{name}: every parameter is in one segment");
}

#[test]
fn same_bits_as_the_whole_backward() {
    for_each_device(|backend, device| {
        let cifar = ResNetConfig::new(Depth::D8, 5).unwrap().with_width(4).unwrap();
        compare(backend, &format!("{backend} resnet8"), &cifar, [2, 3, 12, 12], device.clone());
        if backend == "flex" {
            let bottleneck = ResNetConfig::new(Depth::D50, 5).unwrap().with_width(8).unwrap();
            compare(backend, "flex resnet50", &bottleneck, [2, 3, 64, 64], device);
        }
    });
}

#[test]
fn frozen_segments_are_empty() {
    let device = cpu().autodiff();
    let model = ResNetConfig::new(Depth::D8, 5).unwrap().with_width(4).unwrap().init(1, &device);
    let segments = model.segments();
    let lengths = |model: &ResNet| {
        let mut lengths = vec![None; segments.len()];
        let x = images("a", [2, 3, 12, 12], &device);
        backward_staged(
            model,
            x,
            |logits| logits.sum(),
            |segment, grads| lengths[segment] = Some(grads.len()),
        );
        lengths
    };
    let frozen = [&segments[0][..], &segments[1][..]].concat();
    let model = model.freeze_group(ParamGroup::from_ids(frozen));
    assert_eq!(lengths(&model), [Some(0), Some(0), Some(6), Some(6), Some(2)]);
}
