//! Goal: real weights on real pictures give the accuracy that PyTorch gives, and both CPU backends the same logits.
//!
//! Method: `sprint eval` on CIFAR-10's test images as JPEGs, all of them; and a part of them through the library on
//! flex and on ndarray. The files are not in the repository: where they are not there, the test says so.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::{shared, sprint, word};

/// Weights and pictures.
fn files() -> Option<[PathBuf; 2]> {
    Some([shared("resnet20-12fca82f.th")?, shared("cifar10-test-jpeg.tar")?])
}

/// PyTorch: 81.03 % on these JPEGs.
#[test]
fn accuracy_is_that_of_pytorch() {
    let Some([weights, pictures]) = files() else { return };
    let output = sprint(["eval", "--checkpoint", &word(&weights), "--data", &word(&pictures)]).ok();
    assert!(output.stdout.contains(" on 10000 images "), "{}", output.stdout);
    let top1: f64 = output.stdout.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((top1 - 81.0).abs() <= 0.2, "{}", output.stdout);
}

#[test]
#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "upstream will remove it; until then it checks flex's numbers")]
fn both_backends_give_the_same_logits() {
    use burn::tensor::Device;
    use burn_sprint::{
        data::{self, Loader, LoaderConfig, Location, Pass, Split},
        train::{Classifier, Normalizer},
    };

    let Some([weights, pictures]) = files() else { return };
    let source = data::open(&Location::Path(pictures), Split::Val).unwrap();
    let source = data::first_of_each_class(source, 20);
    let logits = |device: Device| {
        let classifier = Classifier::open(&weights, &device).unwrap();
        let normalizer = Normalizer::new(&classifier.about.normalization, &device);
        let config =
            LoaderConfig::new(classifier.about.transform(), classifier.channels(), 50, Pass::Evaluate);
        let mut logits: Vec<f32> = Vec::new();
        for batch in Loader::new(source.clone(), config).unwrap() {
            let (images, _) = normalizer.tensors(&batch.unwrap());
            logits.extend(classifier.model.forward(images).into_data().iter::<f32>());
        }
        logits
    };
    let (flex, ndarray) = (logits(Device::flex()), logits(Device::ndarray()));
    assert_eq!(flex.len(), 200 * 10);
    let largest = flex.iter().zip(&ndarray).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= 1e-4, "logits differ by {largest}");
    // Logits that are all alike would agree too.
    assert!(flex.iter().any(|&logit| logit > 5.0), "these are no logits of a trained network");
}
