//! Goal: optimizers, losses, mixes and averages are those of PyTorch, timm and torchvision, and a run with any of them
//! learns, and ends the same where it is resumed in the middle.
//!
//! Method: the library on a small network, against numbers that `fixtures/optim/make_optim.py` had computed in f64 from
//! the same weights, gradients and images; short runs on drawn pictures, resumed from a checkpoint of their own.

#![allow(clippy::unwrap_used)]
#![allow(clippy::duplicate_mod, reason = "both helpers' files take the devices from one")]

#[path = "common/by_library.rs"]
mod by_library;
#[path = "common/mod.rs"]
mod common;
#[path = "../burn-resnet/tests/common/mod.rs"]
mod resnet;

use std::path::Path;

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Device, Int, Tensor, TensorData},
};
use burn_dist::{Communicator, WorldSize};
use burn_resnet::{
    Depth, ResNet, ResNetConfig,
    weights::{HeadPolicy, NamedTensor, apply_named, to_named},
};
use burn_sprint::{
    config::{DataFacts, Ema, Loss, OptimizerConfig, OptimizerRule, Plan, Sources},
    record::EndReason,
    train::{Average, Classifier, Mix, Optimizer, Targets, training_loss},
};
use by_library::train_rank;
use common::{
    NUM_STEPS, assert_same_end, checkpoints, killed_after, rows, sprint, tolerance, word, write_idx,
};
use resnet::{Fixture, bits, for_each_device, hashed, images, relative, values};

const NUM_UPDATES: usize = 4;
/// A layer without weights and one without a gradient, which have no norm to scale by.
const NO_WEIGHT: &str = "layer1.0.conv2.weight";
const NO_GRADIENT: &str = "layer2.0.conv2.weight";

fn fixture() -> Fixture {
    Fixture::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optim/optim.safetensors"))
}

/// `make_optim.py`'s `noise`.
fn noise(name: &str, count: usize) -> Vec<f32> {
    bits(name, count).map(|bits| bits as f32 / (1u64 << 24) as f32 - 0.5).collect()
}

fn network(device: &Device) -> ResNet {
    let config = ResNetConfig::new(Depth::D8, 4).unwrap().with_width(2).unwrap().with_channels(1).unwrap();
    let mut model = config.init(0, &device.clone().autodiff());
    let tensors = model.params().into_iter().map(|info| NamedTensor {
        data: if info.name == NO_WEIGHT {
            vec![0.0; info.shape.iter().product()]
        } else {
            hashed(&info.name, &info.shape)
        },
        name: info.name,
        shape: info.shape,
    });
    apply_named(&mut model, tensors.collect(), HeadPolicy::Strict).unwrap();
    model
}

/// The gradients of `make_optim.py`'s step `step`.
fn gradients(model: &ResNet, device: &Device, step: usize) -> GradientsParams {
    struct Register<'a> {
        names: std::vec::IntoIter<String>,
        gradients: GradientsParams,
        device: &'a Device,
        step: usize,
    }
    impl ModuleVisitor for Register<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.names.next().unwrap();
            if !param.val().is_require_grad() {
                return;
            }
            let scale = [1.0, 1.0 / 128.0, 4.0, 0.5][self.step] * f32::from(name != NO_GRADIENT);
            let shape = param.val().shape();
            let values = noise(&format!("grad.{}.{name}", self.step), shape.num_elements());
            let values: Vec<f32> = values.into_iter().map(|value| scale * value).collect();
            let gradient = Tensor::<D>::from_data(TensorData::new(values, shape), self.device);
            self.gradients.register(param.id, gradient);
        }
    }
    let names: Vec<_> = model.params().into_iter().map(|info| info.name).collect();
    let names = names.into_iter();
    let mut register = Register { names, gradients: GradientsParams::new(), device, step };
    model.visit(&mut register);
    register.gradients
}

#[track_caller]
fn assert_close(backend: &str, name: &str, got: &[f64], expected: &[f64]) {
    let error = if expected.iter().all(|&x| x == 0.0) {
        got.iter().fold(0f64, |most, x| most.max(x.abs()))
    } else {
        relative(got, expected)
    };
    assert!(error <= tolerance(backend, 1e-6), "{backend} {name} differs by {error:.1e}");
}

/// Golden check 10: four steps, each with a learning rate and a momentum of its own; of batch norm without decay.
#[test]
fn every_rule_steps_as_pytorch_and_timm_do() {
    let (fixture, base) = (fixture(), OptimizerConfig { weight_decay: 0.05, ..OptimizerConfig::default() });
    let lars = OptimizerConfig { rule: OptimizerRule::Lars, trust_coefficient: 0.02, ..base.clone() };
    let lamb = OptimizerConfig { rule: OptimizerRule::Lamb, ..base.clone() };
    let cases = [
        ("sgd", OptimizerConfig { nesterov: true, ..base }),
        ("lars", lars.clone()),
        ("lars-nesterov", OptimizerConfig { trust_coefficient: 0.001, nesterov: true, ..lars }),
        ("lamb", OptimizerConfig { beta1: 0.8, beta2: 0.95, eps: 1e-3, max_grad_norm: 0.5, ..lamb.clone() }),
        ("lamb-defaults", lamb),
    ];
    for_each_device(|backend, device| {
        for (key, config) in &cases {
            let mut model = network(&device);
            let mut optimizer = Optimizer::new(config, &model);
            for step in 0..NUM_UPDATES {
                optimizer.set_momentum([0.9, 0.9, 0.95, 0.95][step]);
                let gradients = gradients(&model, &device, step);
                model = optimizer.step([0.1, 0.2, 0.05, 0.1][step], model, gradients);
                for (tensor, info) in to_named(&model).into_iter().zip(model.params()) {
                    let got: Vec<f64> = tensor.data.iter().map(|&x| x.into()).collect();
                    if info.is_buffer {
                        assert_eq!(tensor.data, hashed(&info.name, &info.shape));
                    } else {
                        let expected = fixture.get(&format!("{key}.{step}.{}", info.name));
                        assert_close(backend, &format!("{key} {step} {}", info.name), &got, &expected);
                    }
                }
            }
        }
    });
}

/// What came back from a file or another rank goes on as what was there, to the bit, and fits no other rule.
#[test]
fn a_rule_goes_on_from_its_bytes() {
    for_each_device(|backend, device| {
        for rule in [OptimizerRule::Sgd, OptimizerRule::Lars, OptimizerRule::Lamb] {
            let config = OptimizerConfig { rule, ..OptimizerConfig::default() };
            let mut model = network(&device);
            let mut optimizer = Optimizer::new(&config, &model);
            let at_rest = optimizer.to_bytes().unwrap();
            for step in 0..2 {
                let gradients = gradients(&model, &device, step);
                model = optimizer.step(0.1, model, gradients);
            }
            let bytes = optimizer.to_bytes().unwrap();
            let mut restored = Optimizer::new(&config, &model);
            restored.restore(&bytes, &model).unwrap();
            assert!(restored.to_bytes().unwrap() == bytes, "{backend} {rule:?}");
            // A step of either starts from the same weights.
            let other = model.clone();
            let next = |optimizer: &mut Optimizer, model: ResNet| {
                let gradients = gradients(&model, &device, 2);
                to_named(&optimizer.step(0.1, model, gradients))
            };
            let [got, expected] = [next(&mut restored, other), next(&mut optimizer, model.clone())];
            assert!(got == expected, "{backend} {rule:?}");
            restored.restore(&at_rest, &model).unwrap();
            assert!(restored.to_bytes().unwrap() == at_rest, "{backend} {rule:?}");

            let is_lamb = rule == OptimizerRule::Lamb;
            let other = if is_lamb { OptimizerRule::Sgd } else { OptimizerRule::Lamb };
            let mut other = Optimizer::new(&OptimizerConfig { rule: other, ..config }, &model);
            let error = other.restore(&bytes, &model).unwrap_err();
            assert!(
                error.contains(if is_lamb { "left over" } else { ".exp_avg is missing" })
                    || error.contains("conv1.weight is missing"),
                "{error}"
            );
            assert!(restored.restore(&bytes[..bytes.len() / 2], &model).is_err());
            let narrow = ResNetConfig::new(Depth::D8, 4).unwrap().with_width(3).unwrap().init(0, &device);
            let error = restored.restore(&bytes, &narrow).unwrap_err();
            assert!(error.contains("conv1.weight") && error.contains("values"), "{error}");
        }
    });
}

#[test]
fn the_average_is_that_of_torch() {
    let fixture = fixture();
    for_each_device(|backend, device| {
        for (key, ema) in [("decay", Ema::Decay(0.9)), ("half-life", Ema::HalfLife { half_life_steps: 3.0 })]
        {
            let mut model = network(&device);
            let mut average = Average::new(ema, &model);
            for step in 0..NUM_UPDATES {
                let moved = to_named(&model).into_iter().map(|mut tensor| {
                    let moves = noise(&format!("move.{step}.{}", tensor.name), tensor.data.len());
                    tensor.data.iter_mut().zip(moves).for_each(|(value, by)| *value += by);
                    tensor
                });
                apply_named(&mut model, moved.collect(), HeadPolicy::Strict).unwrap();
                average.update(&model);
            }
            for tensor in to_named(average.model()) {
                let got: Vec<f64> = tensor.data.iter().map(|&x| x.into()).collect();
                let expected = fixture.get(&format!("ema.{key}.{}", tensor.name));
                assert_close(backend, &format!("{key} {}", tensor.name), &got, &expected);
            }
        }
    });
}

#[test]
fn losses_and_their_gradients_are_those_of_pytorch() {
    let fixture = fixture();
    let [first, second]: [Vec<i32>; 2] = serde_json::from_str(&fixture.metadata("classes")).unwrap();
    let logits: Vec<f32> = fixture.get("logits").iter().map(|&x| x as f32).collect();
    for_each_device(|backend, device| {
        let device = device.autodiff();
        let classes = |classes: &[i32]| Tensor::<1, Int>::from_data(classes, &device);
        for (kind, loss) in [("cross-entropy", Loss::CrossEntropy), ("bce", Loss::Bce)] {
            for (smoothing, share) in [("0.0", "1.0"), ("0.1", "1.0"), ("0.0", "0.3"), ("0.1", "0.3")] {
                let key = format!("{kind}.{smoothing}.{share}");
                let targets = match share.parse().unwrap() {
                    1.0 => Targets::from(classes(&first)),
                    share => Targets::mixed(classes(&first), classes(&second), share),
                };
                let leaf = Tensor::<2>::from_data(TensorData::new(logits.clone(), [6, 7]), &device);
                let leaf = leaf.require_grad();
                let value = training_loss(loss, leaf.clone(), targets, smoothing.parse().unwrap());
                let gradient = leaf.grad(&value.backward()).unwrap();
                let name = &key;
                assert_close(backend, name, &values(value.inner()), &fixture.get(&format!("{key}.loss")));
                assert_close(backend, name, &values(gradient), &fixture.get(&format!("{key}.grad")));
            }
        }
    });
}

#[test]
fn batches_are_mixed_as_torchvision_does() {
    let fixture = fixture();
    for_each_device(|backend, device| {
        let cases =
            [("mixup", Mix::Blend { share: 0.3 }), ("cutmix", Mix::Paste { rows: 1..4, columns: 2..7 })];
        for (key, mix) in cases {
            let classes = Tensor::<1, Int>::from_data([2, 0, 3, 1, 1], &device);
            let (mixed, targets) = mix.apply(images("mix", [5, 3, 6, 9], &device), classes);
            assert_close(backend, key, &values(mixed), &fixture.get(&format!("{key}.images")));
            // The cross-entropy of a logit of 1 for one class counts that class' share of the target.
            let expected = fixture.get(&format!("{key}.targets"));
            let share = |class: usize, targets: Targets| {
                let mut logits = [0.0; 4];
                logits[class] = 1.0;
                let of_all = (3.0 + 1f64.exp()).ln();
                let logits = Tensor::<2>::from_data(TensorData::new(logits.repeat(5), [5, 4]), &device);
                of_all - values(training_loss(Loss::CrossEntropy, logits, targets, 0.0))[0]
            };
            for class in 0..4 {
                let mean = expected.iter().skip(class).step_by(4).sum::<f64>() / 5.0;
                let got = share(class, targets.clone());
                assert!(
                    (got - mean).abs() < tolerance(backend, 1e-6),
                    "{backend} {key}: class {class} has {got}, not {mean}"
                );
            }
            let largest = |row: &[f64]| (0..4).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as f64;
            let expected: Vec<f64> = expected.chunks(4).map(largest).collect();
            let dominant: Vec<f64> = targets.dominant().into_data().iter::<f64>().collect();
            assert_eq!(dominant, expected, "{backend} {key}");
        }
    });
}

#[test]
fn boxes_are_those_of_torchvision() {
    let boxes: Vec<[f64; 9]> = serde_json::from_str(&fixture().metadata("boxes")).unwrap();
    assert!(boxes.len() > 30);
    for numbers in boxes {
        let [y, x, height, width, left, top, right, bottom] =
            <[f64; 8]>::try_from(&numbers[1..]).unwrap().map(|number| number as usize);
        let got = Mix::paste(numbers[0], [y, x], [height, width]);
        assert_eq!(got, Mix::Paste { rows: top..bottom, columns: left..right }, "{numbers:?}");
    }
}

/// A run by one rank to its end, all of whose checkpoints are kept.
fn train(data: &Path, out: &Path, set: &[&str], resume: bool) {
    let set = [&["checkpoint.keep=100"], set].concat();
    let outcome = train_rank(Communicator::single(), data, out, &set, |job| job.resume = resume).unwrap();
    assert_eq!((outcome.reason, outcome.progress.step), (EndReason::Done, NUM_STEPS));
}

/// Trains, and once more from the middle of the second phase; returns the folder of the run in one go.
fn learns_and_resumes(data: &Path, name: &str, set: &[&str]) -> std::path::PathBuf {
    let (whole, resumed) = (data.join(name), data.join(format!("{name}-resumed")));
    train(data, &whole, set, false);
    let losses: Vec<f64> = rows(&whole)
        .into_iter()
        .filter(|row| row["event"] == "epoch")
        .map(|row| row["train_loss"].as_f64().unwrap())
        .collect();
    println!("{name}: {losses:?}");
    assert!(losses[2] < 0.97 * losses[0], "{name}: nothing is learnt: {losses:?}");

    killed_after(&whole, 15, &resumed);
    train(data, &resumed, set, true);
    assert_same_end(&resumed, &whole);
    whole
}

#[test]
fn a_run_by_any_rule_learns_and_can_be_resumed() {
    let temp = tempfile::tempdir().unwrap();
    write_idx(temp.path());
    let lr = |lr: f64| [format!("phase.0.lr=[0.0, {lr}]"), format!("phase.1.lr=[{lr}, 0.0]")];
    let runs: [(&str, f64, &[&str]); 4] = [
        ("momentum", 0.1, &["phase.1.momentum=0.7", "optimizer.mixup=0.2"]),
        ("lars", 4.0, &["optimizer.rule=lars", "optimizer.trust_coefficient=0.02"]),
        ("lamb", 0.2, &["optimizer.rule=lamb", "optimizer.loss=bce"]),
        ("blur", 0.1, &["model.width=16", "model.blur_pool=true", "model.fc_std=0.05"]),
    ];
    for (name, top, set) in runs {
        let lr = lr(top);
        let set: Vec<_> = lr.iter().map(String::as_str).chain(set.iter().copied()).collect();
        learns_and_resumes(temp.path(), name, &set);
    }
}

/// What is evaluated is what is exported, and not what is trained.
#[test]
fn a_run_is_judged_by_its_average() {
    let temp = tempfile::tempdir().unwrap();
    write_idx(temp.path());
    let set = ["optimizer.ema={ half_life_steps = 4 }", "optimizer.mixup=0.2", "optimizer.cutmix=1.0"];
    let whole = learns_and_resumes(temp.path(), "average", &set);
    let (_, last) = checkpoints(&whole).pop().unwrap();
    let weights = |path: &Path| to_named(&Classifier::open(path, &Device::flex()).unwrap().model);
    let average = weights(&last.join("model.safetensors"));
    assert!(average != weights(&last.join("trained.safetensors")));
    assert!(average == weights(&whole));

    let exported = temp.path().join("exported.safetensors");
    sprint(["export", "--checkpoint", &word(&whole), "--out", &word(&exported)]).ok();
    assert!(weights(&exported) == average);
    let recorded = rows(&whole).into_iter().rfind(|row| row["event"] == "epoch").unwrap();
    let [top1, top5, loss] = ["val_top1", "val_top5", "val_loss"].map(|key| recorded[key].as_f64().unwrap());
    let output = sprint(["eval", "--checkpoint", &word(&exported), "--data", &word(temp.path())]).ok();
    let expected = format!("top-1 {top1:.2} %  top-5 {top5:.2} %  loss {loss:.4} ");
    assert!(output.stdout.starts_with(&expected), "{expected}, not {}", output.stdout);
}

#[test]
fn classes_begin_at_their_own_odds() {
    let set = ["model.depth=8", "optimizer.loss=bce"].map(str::to_owned).to_vec();
    let sources = Sources { preset: Some("default".into()), set, ..Sources::default() };
    let facts = DataFacts { num_train: 1000, num_classes: 1000, channels: 1 };
    let plan = Plan::new(sources.resolve().unwrap(), facts, WorldSize::ONE).unwrap();
    for_each_device(|backend, device| {
        let model = plan.model.init_with(1, &device, plan.start);
        let bias = to_named(&model).into_iter().find(|tensor| tensor.name == "fc.bias").unwrap();
        let error = bias.data.iter().fold(0f32, |most, value| most.max((value + 1000f32.ln()).abs()));
        assert!(f64::from(error) <= tolerance(backend, 0.0), "{backend}: {error}");
        let logits = model.forward(images("a", [2, 1, 28, 28], &device));
        let targets = Targets::from(Tensor::<1, Int>::from_data([3, 7], &device));
        let loss = values(training_loss(Loss::Bce, logits, targets, 0.0))[0];
        // One class of 1000 is wrong by ln 1000, and 999 by 1/1000 each.
        assert!((loss - (1.0 + 1000f64.ln())).abs() < 0.1, "{backend}: {loss}");
    });
}
