//! Goal: the parts of training keep their promises: SGD and the loss are PyTorch's, ranks are exact, workers and
//! micro-batches change nothing, a loss that is none stops the run.
//!
//! Method: the library on small networks and data, against numbers computed by PyTorch or by hand.

#![allow(clippy::unwrap_used)]

#[path = "common/by_library.rs"]
mod by_library;
mod common;

use std::path::Path;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Device, Int, Tensor, TensorData},
};
use burn_dist::{Communicator, DataParallel, DataParallelConfig};
use burn_resnet::{Depth, ResNet, ResNetConfig, Start, weights::to_named};
use burn_sprint::{
    config::{Loss, OptimizerConfig},
    record::EndReason,
    train::{EpochTotals, Optimizer, StepConfig, cross_entropy, step, target_rank},
};
use by_library::train_rank;
use common::{
    NUM_STEPS, Random, STEPS_PER_EPOCH, assert_same_end, checkpoints, rows, sets, sprint, tiny, word,
    write_idx,
};

fn flex() -> Device {
    Device::flex()
}

/// A small ResNet-8 that trains.
fn network() -> ResNet {
    let config = ResNetConfig::new(Depth::D8, 4).unwrap().with_width(2).unwrap().with_channels(1).unwrap();
    config.init_with(1, &flex().autodiff(), Start { last_gain: 1.0, ..Start::default() })
}

/// A run by one rank to its end.
fn train(data: &Path, out: &Path, set: &[&str]) {
    let outcome = train_rank(Communicator::single(), data, out, set, |_| {}).unwrap();
    assert_eq!((outcome.reason, outcome.progress.step), (EndReason::Done, NUM_STEPS));
}

#[test]
fn the_number_of_workers_changes_no_bit() {
    let temp = tempfile::tempdir().unwrap();
    write_idx(temp.path());
    let (one, three) = (temp.path().join("one"), temp.path().join("three"));
    train(temp.path(), &one, &["data.num_workers=1"]);
    train(temp.path(), &three, &["data.num_workers=3", "data.batches_ahead=5"]);
    assert_same_end(&three, &one);
}

/// `n` images of noise and their classes.
fn noise(n: usize) -> (Vec<f32>, Vec<i32>) {
    let mut random = Random(9);
    let pixels = (0..n * 12 * 12).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect();
    (pixels, (0..n).map(|_| random.below(4) as i32).collect())
}

fn batch(pixels: &[f32], classes: &[i32]) -> (Tensor<4>, Tensor<1, Int>) {
    let images = TensorData::new(pixels.to_vec(), [classes.len(), 1, 12, 12]);
    (Tensor::from_data(images, &flex()), Tensor::from_data(classes, &flex()))
}

/// Of halves that are the same, batch norm sees the same statistics as of the whole.
#[test]
fn two_micro_batches_update_as_the_whole_batch() {
    let (mut pixels, mut classes) = noise(8);
    pixels.extend_from_within(..);
    classes.extend_from_within(..);
    let after = |micro_batches| {
        let (mut ddp, mut model) =
            DataParallel::new(Communicator::single(), network(), DataParallelConfig::default()).unwrap();
        let mut optimizer = Optimizer::new(&OptimizerConfig::default(), &model);
        let (mut losses, mut ranks) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let batch = batch(&pixels, &classes);
            let config =
                StepConfig { loss: Loss::CrossEntropy, smoothing: 0.1, micro_batches, loss_scale: 1.0 };
            let result = step(&mut model, &mut optimizer, &mut ddp, batch, 0.1, config).unwrap();
            losses.push(result.loss.into_scalar::<f32>());
            ranks.extend(result.target_ranks.into_data().iter::<i64>());
        }
        (to_named(&model), losses, ranks)
    };
    let ((whole, losses, ranks), (halves, losses_of_halves, ranks_of_halves)) = (after(1), after(2));
    assert_eq!(ranks.len(), 3 * 16);
    assert_eq!(ranks, ranks_of_halves);
    for (a, b) in losses.iter().zip(&losses_of_halves) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    assert!(losses[2] < losses[0], "nothing is learnt: {losses:?}");
    for (whole, halves) in whole.iter().zip(&halves) {
        // Running statistics move once for each micro-batch.
        if whole.name.contains("running_") {
            continue;
        }
        for (a, b) in whole.data.iter().zip(&halves.data) {
            assert!((a - b).abs() < 1e-6, "{}: {a} {b}", whole.name);
        }
    }
}

/// Sets every value of a network.
struct Fill(f32);

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = self.0;
        param.map(|tensor| {
            let filled = Tensor::from_inner(Tensor::full(tensor.shape(), value, &flex()));
            if tensor.is_require_grad() { filled.require_grad() } else { filled }
        })
    }
}

/// A gradient of the same value for every weight that takes one.
fn gradients(model: &ResNet, value: f32) -> GradientsParams {
    struct Register(GradientsParams, f32);
    impl ModuleVisitor for Register {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.val().is_require_grad() {
                let gradient = Tensor::<D>::full(param.val().shape(), self.1, &flex());
                self.0.register(param.id, gradient);
            }
        }
    }
    let mut register = Register(GradientsParams::new(), value);
    model.visit(&mut register);
    register.0
}

/// A first step, one more, one with another learning rate, one with a large one. The weights are PyTorch 2.15's:
///
/// ```python
/// w = torch.nn.Parameter(torch.tensor([0.7]))
/// o = torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=wd, nesterov=nesterov)
/// for lr, g in [(0.1, 0.25), (0.1, -0.5), (0.02, 1.5), (3.0, 0.125)]:
///     o.param_groups[0]["lr"] = lr; w.grad = torch.tensor([g]); o.step(); print(np.float32(w.item()))
/// ```
#[test]
fn sgd_steps_as_pytorch_does() {
    for (nesterov, decayed, plain) in [
        (
            false,
            [0.671_499_97_f32, 0.692_492_5, 0.665_578_66, -3.442_626_5],
            [0.675_f32, 0.702_5, 0.677_45, -3.079_300_2],
        ),
        (
            true,
            [0.645_85, 0.711_629_45, 0.656_698_94, -3.512_512_2],
            [0.652_5, 0.727_25, 0.674_704_97, -3.081_37],
        ),
    ] {
        let mut model = network().map(&mut Fill(0.7));
        let config =
            OptimizerConfig { momentum: 0.9, nesterov, weight_decay: 0.05, ..OptimizerConfig::default() };
        let mut optimizer = Optimizer::new(&config, &model);
        for (at, (lr, gradient)) in
            [(0.1, 0.25), (0.1, -0.5), (0.02, 1.5), (3.0, 0.125)].into_iter().enumerate()
        {
            let gradients = gradients(&model, gradient);
            model = optimizer.step(lr, model, gradients);
            let mut num_norm = 0;
            for (tensor, info) in to_named(&model).into_iter().zip(model.params()) {
                assert_eq!(tensor.name, info.name);
                num_norm += usize::from(info.is_norm && !info.is_buffer);
                let expected = match (info.is_buffer, info.is_norm) {
                    (true, _) => 0.7,
                    (false, true) => plain[at],
                    (false, false) => decayed[at],
                };
                for got in tensor.data {
                    let error = ((got - expected) / expected).abs();
                    assert!(error <= 1e-7, "step {at}, {}: {got}, expected {expected}", info.name);
                }
            }
            assert_eq!(num_norm, 14, "7 batch norms of a gain and an offset");
        }
    }
}

/// `torch.nn.functional.cross_entropy(logits, targets, label_smoothing=..)` of PyTorch 2.15, and its gradient at 0.1.
#[test]
fn cross_entropy_is_that_of_pytorch() {
    let logits = [[2.0_f32, -1.0, 0.5, 3.0], [0.0, 0.0, 0.0, 0.0], [-4.0, 8.0, 1.5, -0.25]];
    let device = flex().autodiff();
    let targets = Tensor::<1, Int>::from_data([3, 1, 2], &device);
    for (smoothing, expected) in
        [(0.0, 2.757_385_253_906_25), (0.1, 2.826_135_158_538_818_4), (0.5, 3.101_135_253_906_25)]
    {
        let logits = Tensor::<2>::from_data(logits, &device).require_grad();
        let loss = cross_entropy(logits.clone(), targets.clone(), smoothing);
        let got = f64::from(loss.clone().into_scalar::<f32>());
        assert!((got - expected).abs() < 1e-6, "{smoothing}: {got}, expected {expected}");
        if smoothing == 0.1 {
            let gradient: Vec<f32> = logits.grad(&loss.backward()).unwrap().into_data().iter().collect();
            let expected = [
                0.075_183_75_f32,
                -0.004_175_264,
                0.010_301_849,
                -0.081_310_33,
                0.074_999_99,
                -0.225,
                0.074_999_99,
                0.074_999_99,
                -0.008_331_289_5,
                0.324_410_7,
                -0.307_833_05,
                -0.008_246_401,
            ];
            for (got, expected) in gradient.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-7, "{gradient:?}");
            }
        }
    }
}

#[test]
fn ranks_count_ties_to_the_lower_class_and_no_numbers_against_the_network() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for (logits, target, expected) in [
        ([1.0, 4.0, 2.0, 3.0], 1, 0),
        ([1.0, 4.0, 2.0, 3.0], 0, 3),
        ([2.0, 2.0, 2.0, 2.0], 0, 0),
        ([2.0, 2.0, 2.0, 2.0], 2, 2),
        ([2.0, 3.0, 3.0, 1.0], 2, 1),
        ([nan, 1.0, 2.0, 3.0], 3, 1),
        ([0.0, 1.0, 2.0, nan], 2, 1),
        ([0.0, 1.0, nan, 3.0], 2, 4),
        ([nan, nan, nan, nan], 0, 4),
        ([inf, 0.0, -inf, 1.0], 0, 0),
        ([inf, 0.0, -inf, 1.0], 2, 3),
    ] {
        let rank = target_rank(
            Tensor::<2>::from_data([logits], &flex()),
            Tensor::<1, Int>::from_data([target], &flex()),
        );
        // A target that is no number comes behind everything: 4 stands for 3 or more.
        let got = rank.into_scalar::<i64>();
        assert!(got == expected || (expected == 4 && got >= 3), "{logits:?} {target}: {got}");
    }
}

/// Decimals read by `serde_json` may be off by the last bit; an epoch's mean would then differ after a resume.
#[test]
fn the_sum_of_losses_survives_a_checkpoint_to_the_bit() {
    let mut random = Random(11);
    let mut totals = EpochTotals::default();
    for _ in 0..1000 {
        totals.loss += f64::from(random.below(1 << 31) as f32 / 1e9) * 16.0;
        let json = serde_json::to_string(&totals).unwrap();
        assert_eq!(serde_json::from_str::<EpochTotals>(&json).unwrap(), totals);
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    write_idx(temp.path());
    let out = temp.path().join("run");
    let words = tiny(temp.path(), &out).into_iter();
    let output = sprint(words.chain(sets(&["phase.1.lr=1e30", "checkpoint.every_steps=0"])));
    let error = output.error(1);
    // The phase's first step computes its loss before the weights are thrown off.
    let step = STEPS_PER_EPOCH + 2;
    assert!(error.contains(&format!(" at step {step} (epoch 1, phase 2): ")), "{error}");
    assert!(error.ends_with(&format!("the checkpoint of step {STEPS_PER_EPOCH} is kept")), "{error}");
    let end = rows(&out).pop().unwrap();
    assert_eq!((&end["event"], &end["reason"]), (&"end".into(), &"failed".into()));
    let kept = checkpoints(&out);
    assert_eq!(kept.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [STEPS_PER_EPOCH]);
    let output = sprint(["eval", "--checkpoint", &word(&out), "--data", &word(temp.path())]).ok();
    assert!(output.stdout.contains("on 40 images"), "{}", output.stdout);
}
