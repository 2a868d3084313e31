//! Evaluation: the same weights give torchvision's logits, at every depth, stem and size. Tolerance: 1e-4 of the largest
//! logit, and the same five best classes in the same order.

use burn::module::Module;
use burn_resnet::{Depth, ResNetConfig, Stem};

use crate::common::*;

fn config(depth: Depth, classes: usize) -> ResNetConfig {
    ResNetConfig::new(depth, classes).unwrap()
}

/// Compares on every device, or on flex and a true GPU where the others would take minutes.
fn agrees(key: &str, config: &ResNetConfig, sizes: &[[usize; 3]], everywhere: bool) {
    let fixture = Fixture::open("logits.safetensors");
    for_each_device(|backend, device| {
        if !matches!(backend, "flex" | "cuda") && !everywhere {
            return;
        }
        let model = hashed_model(config, &device).valid();
        assert_eq!(
            checksum(&model),
            fixture.metadata(&format!("{key}.checksum")),
            "{key}: other weights than PyTorch's"
        );
        for &[n, h, w] in sizes {
            let x = images(&format!("images.{h}x{w}"), [n, config.channels(), h, w], &device);
            let got = values(model.forward(x));
            let expected = fixture.get(&format!("{key}.{n}x{h}x{w}"));
            let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
            let error = got.iter().zip(&expected).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
            println!("{backend} {key} {n}x{h}x{w}: max abs {:.1e} of the largest logit", error / largest);
            assert!(
                error <= tolerance(backend, 1e-4) * largest,
                "{backend} {key} {n}x{h}x{w}: {error} of {largest}"
            );
            let classes = config.num_classes();
            for (got, expected) in got.chunks(classes).zip(expected.chunks(classes)) {
                assert_eq!(best_five(got), best_five(expected), "{backend} {key} {n}x{h}x{w}");
            }
        }
    });
}

fn best_five(logits: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.truncate(5);
    order
}

#[test]
fn resnet50_at_every_size_of_the_recipe() {
    let sizes = [[2, 128, 128], [1, 160, 160], [1, 224, 224], [1, 288, 288], [1, 288, 384]];
    agrees("resnet50", &config(Depth::D50, 1000), &sizes, false);
}

#[test]
fn other_depths_of_the_imagenet_family() {
    agrees("resnet18", &config(Depth::D18, 1000), &[[2, 65, 97]], false);
    agrees("resnet34", &config(Depth::D34, 1000), &[[1, 64, 64]], false);
    agrees("resnet101", &config(Depth::D101, 1000), &[[1, 64, 64]], false);
    agrees("resnet152", &config(Depth::D152, 1000), &[[1, 64, 64]], false);
}

#[test]
fn small_stem_and_grey_images() {
    let config = config(Depth::D18, 7).with_stem(Stem::Small).with_channels(1).unwrap();
    agrees("resnet18-small-grey", &config, &[[2, 20, 16]], false);
}

#[test]
fn cifar_family_with_even_and_odd_widths() {
    agrees("resnet20", &config(Depth::D20, 10), &[[2, 32, 32]], true);
    agrees("resnet8-odd", &config(Depth::D8, 10).with_width(5).unwrap(), &[[2, 19, 15]], true);
}
