//! Training pass: loss and gradients against PyTorch's in f64. Tolerance: relative L2 of 1e-4 a tensor in f32, and 1e-10
//! in f64 (flex), where no rounding hides an error.

use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType};
use burn_resnet::{Depth, ResNet, ResNetConfig};

use crate::common::*;

/// Loss and named gradients of the fixture's batch.
fn pass(
    model: &ResNet,
    shape: [usize; 4],
    device: &Device,
    dtype: FloatDType,
) -> (f64, Vec<(String, Vec<f64>)>) {
    let x = images("train.0", shape, device).cast(dtype);
    let y = labels("labels.0", shape[0], model.config().num_classes(), device);
    let loss = cross_entropy(model.forward(x), y);
    let grads = GradientsParams::from_grads(loss.backward(), model);
    let named = named_gradients(model, &grads).into_iter().filter(|(name, _)| !name.contains("running_"));
    (values(loss)[0], named.collect())
}

fn assert_loss(name: &str, got: f64, expected: f64, tolerance: f64) {
    let error = (got - expected).abs() / expected;
    println!("{name}: loss {got:.6}, relative error {error:.1e}");
    assert!(error <= tolerance, "{name}: loss {got}, PyTorch {expected}");
}

fn resnet8(device: &Device, dtype: FloatDType, name: &str, tolerance: f64) {
    let fixture = Fixture::open("gradients.safetensors");
    let device = device.clone().autodiff();
    let model = hashed_model(&ResNetConfig::new(Depth::D8, 10).unwrap(), &device);
    let model = if dtype == FloatDType::F64 { to_f64(model) } else { model };
    let (loss, grads) = pass(&model, [4, 3, 32, 32], &device, dtype);
    assert_loss(name, loss, fixture.get("resnet8.loss")[0], tolerance.min(1e-5));
    assert_eq!(grads.len(), fixture.names().iter().filter(|name| name.starts_with("resnet8.grad.")).count());
    let mut worst = (0.0, String::new());
    for (param, grad) in grads {
        let error = relative(&grad, &fixture.get(&format!("resnet8.grad.{param}")));
        assert!(error <= tolerance, "{name}: {param} differs by {error:.1e}");
        if error > worst.0 {
            worst = (error, param);
        }
    }
    println!("{name}: worst gradient {} {:.1e}", worst.1, worst.0);
}

#[test]
fn every_gradient_of_resnet8() {
    for_each_cpu_device(|backend, device| {
        resnet8(&device, FloatDType::F32, &format!("{backend} resnet8 f32"), 1e-4);
        if backend == "flex" {
            resnet8(&device, FloatDType::F64, "flex resnet8 f64", 1e-10);
        }
    });
}

#[cfg(feature = "flex")]
#[test]
fn every_gradient_tensor_of_resnet50() {
    let fixture = Fixture::open("gradients.safetensors");
    let device = Device::flex().autodiff();
    for (dtype, tolerance) in [(FloatDType::F32, 1e-4f64), (FloatDType::F64, 1e-10)] {
        let model = hashed_model(&ResNetConfig::new(Depth::D50, 1000).unwrap(), &device);
        let model = if dtype == FloatDType::F64 { to_f64(model) } else { model };
        let name = format!("flex resnet50 {dtype:?}");
        let (loss, grads) = pass(&model, [8, 3, 64, 64], &device, dtype);
        assert_loss(&name, loss, fixture.get("resnet50.loss")[0], tolerance.min(1e-5));
        assert_eq!(grads.len(), 161);
        let mut worst = (0.0, String::new());
        for (param, grad) in grads {
            let norm = grad.iter().map(|x| x * x).sum::<f64>().sqrt();
            let expected = fixture.get(&format!("resnet50.norm.{param}"))[0];
            let picked: Vec<f64> = bits(&format!("pick.{param}"), 8)
                .map(|bits| grad[(bits % grad.len() as u64) as usize])
                .collect();
            // Elements are compared on the scale of the tensor: a single one may be near zero.
            let scale = expected / (grad.len() as f64).sqrt();
            let elements = picked.iter().zip(fixture.get(&format!("resnet50.pick.{param}")));
            let elements = elements.fold(0f64, |m, (a, b)| m.max((a - b).abs() / scale.max(b.abs())));
            let error = elements.max((norm - expected).abs() / expected);
            assert!(error <= tolerance, "{name}: {param} differs by {error:.1e}");
            if error > worst.0 {
                worst = (error, param);
            }
        }
        println!("{name}: worst gradient {} {:.1e}", worst.1, worst.0);
    }
}
