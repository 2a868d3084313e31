//! Training on every GPU that is there, by one rank and by two: the losses of an epoch are those of flex, and gradients
//! that leave the device, are averaged and come back are those that stayed. f16 where the device has it.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use burn::tensor::FloatDType;
use common::{data, gpus, rows, sets, sprint, word};

/// An epoch of ten steps of one rank, or of five steps of two: both kinds of shortcut, three widths.
const RECIPE: [&str; 4] = [
    "seed=3",
    "model.depth=8",
    "model.width=4",
    "phase=[{epochs=1, size=20, batch_size=16, lr=[0.0, 0.1], augment='pad-and-crop', padding=1}]",
];

/// The training loss of each step, and the loss of the validation; through `sprint launch` if there are several ranks.
fn losses(data: &Path, device: &str, num_ranks: usize, set: &[&str]) -> (Vec<f64>, f64) {
    let out = data.join(format!("{device}-{num_ranks}-{}", set.concat()));
    let mut words: Vec<String> = Vec::new();
    if num_ranks > 1 {
        words.extend(["launch", "--nproc", &num_ranks.to_string(), "--"].map(String::from));
    }
    words.extend(["train", "--preset", "default", "--device", device].map(String::from));
    words.extend(["--data", &word(&data.join("data")), "--out", &word(&out)].map(String::from));
    words.extend(sets(&[&RECIPE, set].concat()));
    sprint(words).ok();
    let of = |event: &str, key: &str| -> Vec<f64> {
        let rows = rows(&out).into_iter().filter(|row| row["event"] == event);
        rows.map(|row| row[key].as_f64().unwrap()).collect()
    };
    (of("step", "train_loss"), of("epoch", "val_loss")[0])
}

#[track_caller]
fn assert_close(what: &str, got: &(Vec<f64>, f64), expected: &(Vec<f64>, f64), tolerance: f64) {
    println!("{what}: {got:?}, expected {expected:?}");
    assert_eq!(got.0.len(), expected.0.len(), "{what}");
    let pairs = got.0.iter().zip(&expected.0).chain([(&got.1, &expected.1)]);
    for (place, (got, expected)) in pairs.enumerate() {
        assert!(
            (got / expected - 1.0).abs() <= tolerance,
            "{what}, loss {place}: {got}, expected {expected}"
        );
    }
}

/// Ten small steps let rounding grow by no more than a factor of some tens.
#[test]
fn one_rank_and_two_train_on_a_gpu_as_on_a_cpu() {
    let gpus = gpus();
    if gpus.is_empty() {
        eprintln!("SKIP: this build has no backend for GPUs, or there is none");
        return;
    }
    let temp = data();
    for num_ranks in [1, 2] {
        let expected = losses(temp.path(), "flex", num_ranks, &[]);
        for (name, device) in &gpus {
            let got = losses(temp.path(), name, num_ranks, &[]);
            assert_close(&format!("{name}, {num_ranks} ranks"), &got, &expected, 1e-2);
            if device.supports_dtype(FloatDType::F16) {
                let got = losses(temp.path(), name, num_ranks, &["precision=f16"]);
                assert_close(&format!("{name}, {num_ranks} ranks, f16"), &got, &expected, 5e-2);
            } else {
                eprintln!("SKIP: {name} has no f16");
            }
        }
    }
}
