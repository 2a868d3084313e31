//! Goal: 16-bit runs train as 32-bit ones do, and what their range does not hold is skipped by all ranks alike, counted,
//! resumed and, where it does not end, said.
//!
//! Method: the trainer's own `step` and `run` on flex, ranks as threads; the loss scale in f32 on every CPU backend.
//! Golden check 11 is `a_power_of_two_changes_no_bit_of_f32` and `an_overflow_is_skipped_and_counted`.

#![allow(clippy::unwrap_used)]

#[path = "common/by_library.rs"]
mod by_library;
mod common;

use std::{fs, path::Path};

use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use burn_dist::{Communicator, DataParallel, DataParallelConfig, NonFinite};
use burn_resnet::{Depth, ResNet, ResNetConfig, Start, weights::to_named};
#[cfg(feature = "ndarray")]
use burn_sprint::Error;
use burn_sprint::{
    Result,
    config::{Loss, LossScale, OptimizerConfig},
    record::EndReason,
    train::{Job, Optimizer, Outcome, Scaler, StepConfig, StepResult, step},
};
use by_library::{on_ranks, train_rank};
use common::{NUM_STEPS, NUM_TRAIN, Random, assert_same_end, checkpoints, cpus, devices, rows, write_idx};

/// A network in training, and everything a step moves.
struct Training {
    device: Device,
    model: ResNet,
    optimizer: Optimizer,
    ddp: DataParallel,
    random: Random,
}

impl Training {
    fn new(device: &Device, non_finite: NonFinite) -> Self {
        let config =
            ResNetConfig::new(Depth::D8, 4).unwrap().with_width(2).unwrap().with_channels(1).unwrap();
        let model =
            config.init_with(1, &device.clone().autodiff(), Start { last_gain: 1.0, ..Start::default() });
        let optimizer = Optimizer::new(&OptimizerConfig::default(), &model);
        let config = DataParallelConfig { non_finite, ..DataParallelConfig::default() };
        let (ddp, model) = DataParallel::new(Communicator::single(), model, config).unwrap();
        Self { device: device.clone(), model, optimizer, ddp, random: Random(7) }
    }

    fn step(&mut self, dtype: FloatDType, loss_scale: f64) -> StepResult {
        let pixels: Vec<f32> = (0..8 * 144).map(|_| self.random.below(1000) as f32 / 500.0 - 1.0).collect();
        let targets: Vec<i32> = (0..8).map(|_| self.random.below(4) as i32).collect();
        let images = Tensor::<4>::from_data(TensorData::new(pixels, [8, 1, 12, 12]), &self.device);
        let targets = Tensor::<1, Int>::from_data(targets.as_slice(), &self.device);
        let config = StepConfig { loss: Loss::CrossEntropy, smoothing: 0.1, micro_batches: 2, loss_scale };
        let batch = (images.cast(dtype), targets);
        step(&mut self.model, &mut self.optimizer, &mut self.ddp, batch, 0.1, config).unwrap()
    }

    fn weights(&self) -> Vec<(String, Vec<u32>)> {
        let bits = |data: Vec<f32>| data.iter().map(|value| value.to_bits()).collect();
        to_named(&self.model).into_iter().map(|tensor| (tensor.name, bits(tensor.data))).collect()
    }

    fn velocities(&self) -> Vec<(String, TensorData)> {
        self.optimizer.state()
    }
}

#[test]
fn a_power_of_two_changes_no_bit_of_f32() {
    // A GPU promises no bits.
    for (name, device) in cpus() {
        let after = |loss_scale| {
            let mut training = Training::new(&device, NonFinite::SkipStep);
            let losses: Vec<u32> = (0..3)
                .map(|_| {
                    let result = training.step(FloatDType::F32, loss_scale);
                    assert_eq!(result.skipped, None, "{name}");
                    result.loss.into_scalar::<f32>().to_bits()
                })
                .collect();
            (losses, training.weights(), training.velocities())
        };
        let plain = after(1.0);
        for scale in [1024.0, 65536.0] {
            assert!(after(scale) == plain, "{name}: a loss scale of {scale} changes bits");
        }
        // Two thirds is no power of two: the comparison is able to fail.
        assert!(after(2.0 / 3.0) != plain, "{name}");
    }
}

#[test]
fn half_precision_moves_weights_as_f32_does() {
    let after = |dtype, loss_scale| {
        let mut training = Training::new(&Device::flex(), NonFinite::SkipStep);
        let results: Vec<StepResult> = (0..3).map(|_| training.step(dtype, loss_scale)).collect();
        assert!(results.iter().all(|result| result.skipped.is_none()));
        let losses: Vec<f32> = results.into_iter().map(|result| result.loss.into_scalar()).collect();
        let velocities =
            training.velocities().into_iter().flat_map(|(_, data)| data.try_to_vec::<f32>().unwrap());
        (losses, velocities.collect::<Vec<_>>())
    };
    let (losses, velocities) = after(FloatDType::F32, 1.0);
    for (dtype, scale) in [(FloatDType::F16, 1024.0), (FloatDType::BF16, 1.0)] {
        let (half_losses, half) = after(dtype, scale);
        for (half, single) in half_losses.iter().zip(&losses) {
            assert!((half / single - 1.0).abs() < 1e-2, "{dtype:?}: {half_losses:?} {losses:?}");
        }
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
        let distance = norm(&mut half.iter().zip(&velocities).map(|(a, b)| a - b));
        // Gradients: see burn-resnet's tests/model/precision.rs, where PyTorch's own differ by up to 0.16 in bf16.
        assert!(distance < 0.2 * norm(&mut velocities.iter().copied()), "{dtype:?}: {distance}");
        assert!(distance > 0.0, "{dtype:?} is f32");
    }
}

#[test]
fn an_overflow_is_skipped_and_counted() {
    let rule = LossScale::Dynamic;
    for (name, device, dtype) in [("f16", Device::flex(), FloatDType::F16)]
        .into_iter()
        .chain(devices().into_iter().map(|(name, device)| (name, device, FloatDType::F32)))
    {
        let (mut training, mut scaler) = (Training::new(&device, NonFinite::SkipStep), Scaler::default());
        let mut skipped = 0;
        for number in 0..6 {
            // Beyond f32 in the second and fourth step, so that every gradient is infinite or none at all.
            let scale = if number % 2 == 1 { 1e39 } else { 64.0 };
            let (weights, velocities) = (training.weights(), training.velocities());
            let result = training.step(dtype, scale);
            scaler.update(rule, result.skipped.is_some());
            let moved = |weights: &[(String, Vec<u32>)]| {
                let now = training.weights();
                now.iter().zip(weights).any(|(now, before)| !now.0.contains("running_") && now != before)
            };
            match result.skipped {
                Some(why) => {
                    skipped += 1;
                    assert!(why.starts_with("rank 0") && why.contains("gradient of "), "{why}");
                    assert!(!moved(&weights) && training.velocities() == velocities, "{name}: {number}");
                }
                None => assert!(moved(&weights) && training.velocities() != velocities, "{name}: {number}"),
            }
            assert_eq!(skipped, (number + 1) / 2, "{name}: {number}");
        }
        assert_eq!((scaler.skipped_steps(), scaler.scale(rule)), (3, 8192.0));
    }
}

/// A run of the tiny recipe by `world_size` ranks, each in its folder.
fn train(
    data: &Path,
    out: &str,
    world_size: u32,
    set: &[&str],
    tell: impl Fn(&mut Job<'_>) + Sync,
) -> Vec<Result<Outcome>> {
    on_ranks(world_size, |comm| {
        let out = data.join(format!("{out}-{}", comm.rank().index()));
        train_rank(comm, data, &out, set, &tell)
    })
}

fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_idx(folder.path());
    folder
}

/// Begins a run in f16, stops it, and resumes it with a loss scale of 2^24, beyond what f16 holds of these gradients.
fn overflowing(data: &Path, out: &str, world_size: u32, tell: impl Fn(&mut Job<'_>) + Sync) -> Vec<Outcome> {
    let set = ["precision=f16"];
    let go = |tell: &(dyn Fn(&mut Job<'_>) + Sync)| -> Vec<Outcome> {
        train(data, out, world_size, &set, tell).into_iter().map(Result::unwrap).collect()
    };
    let begun = go(&|job| {
        job.stop.request();
    });
    assert!(begun.iter().all(|outcome| outcome.progress.scaler.skipped_steps() == 0));
    let (_, folder) = checkpoints(&data.join(format!("{out}-0"))).pop().unwrap();
    let replace = |file: &str, old: &str, new: &str| {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        assert!(text.contains(old), "{text}");
        fs::write(folder.join(file), text.replace(old, new)).unwrap();
        [text.as_bytes(), text.replace(old, new).as_bytes()].map(|bytes| crc32c::crc32c(bytes).to_string())
    };
    let [old, new] = replace("state.json", "\"exponent\": 16", "\"exponent\": 24");
    replace("checksums.json", &old, &new);
    go(&|job| {
        job.resume = true;
        tell(job);
    })
}

#[test]
fn runs_learn_and_skip_alike_on_all_ranks() {
    let data = data();
    for world_size in [1, 2] {
        let outcomes = overflowing(data.path(), &format!("f16-{world_size}"), world_size, |_| {});
        let first = &outcomes[0];
        let steps = 3 * (NUM_TRAIN / (16 * world_size as usize)) as u64;
        assert_eq!((first.reason, first.progress.step), (EndReason::Done, steps));
        let skipped = first.progress.scaler.skipped_steps();
        assert!((1..=8).contains(&skipped), "{skipped} steps skipped");
        assert!(outcomes.iter().all(|outcome| outcome.progress.scaler == first.progress.scaler));

        let rows = rows(&data.path().join(format!("f16-{world_size}-0")));
        let of = |event: &str| rows.iter().filter(|row| row["event"] == event).collect::<Vec<_>>();
        let steps: Vec<(f64, u64)> = of("step")
            .iter()
            .map(|row| (row["loss_scale"].as_f64().unwrap(), row["skipped_steps"].as_u64().unwrap_or(0)))
            .collect();
        assert_eq!(steps[0], (65536.0, 0));
        assert_eq!(steps.last(), Some(&(16_777_216.0 / f64::from(1 << skipped), skipped)));
        for pair in steps.windows(2).skip_while(|pair| pair[1].0 == 65536.0).skip(1) {
            // A step that raised the count halved the scale of the next.
            let halvings = pair[0].0 / pair[1].0;
            assert!(halvings == 1.0 || halvings == 2.0, "{steps:?}");
        }
        let counted = steps.windows(2).filter(|pair| pair[1].1 > pair[0].1).count() as u64;
        assert_eq!(counted, skipped, "{steps:?}");
        assert_eq!(of("epoch").last().unwrap()["skipped_steps"].as_u64(), Some(skipped));
        let losses: Vec<f64> = of("epoch").iter().map(|row| row["train_loss"].as_f64().unwrap()).collect();
        assert!(losses[2] < losses[0], "{losses:?}");
    }
}

#[test]
fn bf16_needs_no_scale() {
    let data = data();
    let outcome = train(data.path(), "run", 1, &["precision=bf16"], |_| {}).remove(0).unwrap();
    assert_eq!((outcome.progress.step, outcome.progress.scaler.skipped_steps()), (NUM_STEPS, 0));
    assert!(rows(&data.path().join("run-0")).iter().all(|row| row.get("loss_scale").is_none()));
}

/// Stopped again between two overflows.
#[test]
fn a_resumed_run_has_the_scale_it_had() {
    let data = data();
    let whole = overflowing(data.path(), "whole", 2, |_| {});
    let stopped = overflowing(data.path(), "run", 2, |job| {
        job.stop.request();
    });
    let so_far = stopped[0].progress.scaler.skipped_steps();
    assert!((1..whole[0].progress.scaler.skipped_steps()).contains(&so_far), "{so_far}");
    let resumed = train(data.path(), "run", 2, &["precision=f16"], |job| job.resume = true);
    for outcome in resumed {
        assert_eq!(outcome.unwrap().progress.scaler, whole[0].progress.scaler);
    }
    assert_same_end(&data.path().join("run-0"), &data.path().join("whole-0"));
}

#[test]
fn overflow_without_end_is_the_end() {
    let data = data();
    for world_size in [1, 2] {
        let set = ["precision=f16", "loss_scale=1e12", "phase.0.epochs=3"];
        let outcomes = train(data.path(), &format!("run-{world_size}"), world_size, &set, |_| {});
        let errors: Vec<String> =
            outcomes.into_iter().map(|outcome| outcome.unwrap_err().to_string()).collect();
        assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
        assert!(errors[0].contains("gradient of "), "{errors:?}");
        let end = ", as in the steps before, at a loss scale of 1000000000000 that goes no lower, at step 20 (epoch ";
        assert!(errors[0].contains(end), "{errors:?}");
    }
}

/// In f32 nothing may overflow: among ranks the first gradient that is none ends the run.
#[test]
fn f32_skips_nothing() {
    let data = data();
    let outcomes = train(data.path(), "run", 2, &["loss_scale=1e39"], |_| {});
    for error in outcomes.into_iter().map(|outcome| outcome.unwrap_err().to_string()) {
        assert!(
            error.contains("gradient of ") && error.contains(" at step 1 (epoch 0, phase 1): "),
            "{error}"
        );
    }
}

#[cfg(feature = "ndarray")]
#[test]
fn ndarray_refuses_half_precision_before_anything_is_written() {
    let data = data();
    #[allow(deprecated, reason = "a second opinion for tests")]
    let ndarray = Device::ndarray();
    let set = ["precision=f16", "device=ndarray"];
    let error = train(data.path(), "run", 1, &set, |job| job.device = Box::leak(Box::new(ndarray.clone())));
    let error = error.into_iter().next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Usage(_)), "{error:?}");
    let expected =
        "precision = \"f16\": device ndarray does not compute in it; take precision = f32, or another device";
    assert_eq!(error.to_string(), expected);
    assert!(!data.path().join("run-0").exists());
}

#[test]
fn a_rehearsal_leaves_no_trace() {
    let data = data();
    for (precision, crop, world_size) in
        [("precision=f32", "phase.1.val=rect", 1), ("precision=bf16", "phase.1.val=center", 2)]
    {
        let names = ["plain", "rehearsed"].map(|name| format!("{precision}-{name}"));
        for (name, rehearse) in names.iter().zip([false, true]) {
            let set = [precision, crop];
            let outcomes = train(data.path(), name, world_size, &set, |job| job.rehearse = rehearse);
            assert!(outcomes.into_iter().all(|outcome| outcome.unwrap().reason == EndReason::Done));
        }
        let [plain, rehearsed] = names.map(|name| data.path().join(format!("{name}-0")));
        assert_same_end(&rehearsed, &plain);
    }
}
