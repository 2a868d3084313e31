//! `sprint bench gpu` with a network small enough for a test, on flex and on every GPU that is there: every part of the
//! page is filled in, what cannot be measured is listed, and what fails is told in a row.

#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, path::Path};

use burn_sprint::bench::Page;
use common::{Output, gpus, sprint, word};

/// A narrow network.
fn bench(device: &str, depth: &str, out: &Path) -> Output {
    let tiny = ["--width", "2", "--cases", "32x2", "--precision", "f32"];
    sprint([&["bench", "gpu", "--device", device, "--out", &word(out), "--depth", depth], &tiny[..]].concat())
}

fn read(file: &Path) -> Page {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn every_part_of_the_page_is_filled_in() {
    let temp = tempfile::tempdir().unwrap();
    // One of bottlenecks; for GPUs, which compile kernels for every shape, one of fewer shapes.
    let gpus = gpus().into_iter().map(|(name, _)| (name, "8", 7));
    for (device, depth, num_convs) in [("flex", "50", 53)].into_iter().chain(gpus) {
        let file = temp.path().join(format!("{device}.json"));
        let output = bench(device, depth, &file).ok();
        let page = read(&file);
        assert!(page.program.starts_with("burn-sprint ") && !page.card.is_empty(), "{page:?}");
        assert_eq!(page.device, device);
        assert!(page.not_measured.is_empty(), "{device}: {:?}", page.not_measured);
        let ceilings = page.ceilings.unwrap();
        for rate in [ceilings.copy_bytes_per_s, ceilings.to_host_bytes_per_s, ceilings.to_device_bytes_per_s]
        {
            assert!(rate > 0.0 && rate.is_finite(), "{device}: {rate}");
        }
        assert!(
            ceilings.products.iter().all(|product| product.flop_per_s > 0.0) && !ceilings.products.is_empty()
        );

        let is_gpu = device != "flex";
        let variants: Vec<&str> = page.steps.iter().map(|row| row.variant.as_str()).collect();
        assert_eq!(variants, if is_gpu { vec!["fusion", "no fusion", "Burn's norm"] } else { vec![""] });
        for row in &page.steps {
            assert_eq!(row.error, None, "{device}");
            assert_eq!((row.size, row.batch_size, row.skipped_steps), (32, 2, 0));
            let step = row.step.unwrap();
            assert!(step.min_s > 0.0 && step.min_s <= step.median_s && step.median_s <= step.max_s);
            assert!((row.images_per_s.unwrap() * step.median_s - 2.0).abs() < 1e-6);
            assert!(row.first_step_s.unwrap() <= row.warm_up_s.unwrap());
            assert_eq!(row.reserved_bytes.is_some(), is_gpu, "{device}");
        }
        let row = &page.steps[0];
        let parts = row.parts.as_ref().unwrap();
        assert_eq!(parts.convs.iter().map(|conv| conv.count).sum::<usize>(), num_convs);
        let sum = |of: fn(&burn_sprint::bench::ConvTimes) -> f64| -> f64 {
            parts.convs.iter().map(|conv| of(conv) * conv.count as f64).sum()
        };
        for (part, sum) in [
            (parts.conv_forward_s, sum(|conv| conv.forward_s)),
            (parts.conv_input_grad_s, sum(|conv| conv.input_grad_s.unwrap_or(0.0))),
            (parts.conv_weight_grad_s, sum(|conv| conv.weight_grad_s)),
        ] {
            assert!(part > 0.0 && (part / sum - 1.0).abs() < 1e-9, "{device}: {part} {sum}");
        }
        assert_eq!(parts.convs.iter().filter(|conv| conv.input_grad_s.is_none()).count(), 1, "the stem's");
        let known = parts.conv_forward_s + parts.conv_input_grad_s + parts.conv_weight_grad_s + parts.norm_s;
        assert!((known + parts.rest_s - row.step.unwrap().median_s).abs() < 1e-9);
        let exchange = row.exchange.as_ref().unwrap();
        assert!(exchange.step.median_s > 0.0 && exchange.comm_wait_s >= 0.0);
        assert!(output.stdout.contains(&format!("resnet{depth}")), "{}", output.stdout);
        assert!(output.stdout.contains("weight grad"), "{}", output.stdout);
    }
}

#[test]
fn what_is_not_measured_is_listed() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("page.json");
    // One image of one pixel at the end of the network has no variance.
    let words = ["--steps-only", "--cases", "32x1"];
    let all =
        ["bench", "gpu", "--device", "flex", "--depth", "50", "--width", "2", "--precision", "f32", "--out"];
    let output = sprint([&all[..], &[&word(&file)], &words].concat()).ok();
    let page = read(&file);
    assert!(page.ceilings.is_none());
    let why = page.steps[0].error.as_ref().unwrap();
    assert!(why.contains("one value a channel") || why.contains("1 image"), "{why}");
    assert!(page.steps[0].step.is_none() && output.stdout.contains(why.as_str()), "{}", output.stdout);
}

#[test]
fn wrong_words_start_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("page.json");
    for (words, status, expected) in [
        (["--device", "gpu"], 2, "there is no device `gpu`"),
        (["--cases", "128"], 2, "as in 128x256"),
        (["--precision", "f8"], 2, "expected f32, f16 or bf16"),
        (["--depth", "51"], 2, "51"),
    ] {
        let output = sprint(["bench", "gpu", "--out", &word(&file)].into_iter().chain(words));
        assert_eq!(output.status, status, "{output:#?}");
        assert!(output.stderr.contains(expected), "{expected}: {}", output.stderr);
        assert!(!file.exists());
    }
}
