//! Convolution against Burn's own in f64, at odd shapes, by the a-priori bound of its rounding error.

#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, module};
use burn_kernels::{conv2d, conv2d_scale_shift, scale_shift};
use common::{Random, assert_within, channels_first, channels_last, rounded, run, values};

/// With channels where Burn has them.
fn convolve(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    channels_first(conv2d(channels_last(x), weight, stride, padding))
}

#[derive(Debug, Clone, Copy)]
struct Case {
    x: [usize; 4],
    weight: [usize; 4],
    stride: usize,
    padding: usize,
}

impl Case {
    fn out(self) -> [usize; 4] {
        let extent = |i: usize| (self.x[i] + 2 * self.padding - self.weight[i]) / self.stride + 1;
        [self.x[0], self.weight[0], extent(2), extent(3)]
    }

    fn plain(self, x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
        module::conv2d(x, weight, None, ConvOptions::new([self.stride; 2], [self.padding; 2], [1; 2], 1))
    }

    fn ours(self, x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
        convolve(x, weight, self.stride, self.padding)
    }
}

fn len(shape: [usize; 4]) -> usize {
    shape.iter().product()
}

fn abs(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

/// Every shape that has its own path, then random ones.
fn cases(random: &mut Random) -> Vec<Case> {
    let case = |x, weight, stride, padding| Case { x, weight, stride, padding };
    let mut cases = vec![
        case([1, 1, 1, 1], [1, 1, 1, 1], 1, 0),
        case([1, 3, 1, 1], [5, 3, 7, 7], 1, 3),
        case([5, 40, 1, 1], [33, 40, 1, 1], 1, 0),
        case([2, 3, 2, 2], [4, 3, 5, 5], 2, 3),
        case([3, 17, 9, 7], [19, 17, 1, 1], 1, 0),
        case([3, 17, 9, 7], [19, 17, 1, 1], 2, 0),
        case([2, 16, 28, 28], [16, 16, 3, 3], 1, 1),
        case([2, 5, 13, 11], [7, 5, 3, 3], 2, 1),
        case([2, 3, 31, 33], [9, 3, 7, 7], 2, 3),
        case([2, 4, 9, 9], [3, 4, 4, 4], 4, 0),
        case([2, 2, 3, 3], [2, 2, 1, 1], 1, 2),
        // Weights above the limit for sums by images, few pixels; then more than one tile an image.
        case([2, 40, 3, 3], [200, 40, 3, 3], 1, 1),
        case([40, 40, 5, 5], [200, 40, 3, 3], 1, 1),
        case([2, 32, 40, 40], [24, 32, 3, 3], 1, 1),
        case([1, 64, 48, 47], [8, 64, 3, 3], 2, 1),
        // By rows: one tile and several, whole and not, a band and several, blocks of channels and single ones, whole panels and not.
        case([2, 1, 28, 28], [16, 1, 3, 3], 1, 1),
        case([2, 3, 90, 41], [64, 3, 7, 7], 2, 3),
        case([17, 16, 30, 31], [32, 16, 3, 3], 2, 1),
        case([2, 32, 14, 14], [48, 32, 3, 3], 1, 1),
        case([2, 24, 7, 9], [10, 24, 3, 3], 1, 1),
        case([3, 64, 1, 1], [64, 64, 3, 3], 2, 1),
        case([2, 16, 9, 9], [16, 16, 2, 3], 2, 0),
        // By fewer products: sides that are whole tiles and are not, more than one block and chunk, a panel and several.
        case([2, 64, 40, 40], [64, 64, 3, 3], 1, 1),
        case([3, 64, 31, 33], [96, 64, 3, 3], 1, 1),
        case([40, 96, 7, 6], [64, 96, 3, 3], 1, 1),
    ];
    while cases.len() < 60 {
        let mut upto = |n| 1 + random.below(n);
        let x = [upto(4), upto(20), upto(14), upto(14)];
        let case = case(x, [upto(20), x[1], upto(5), upto(5)], upto(3), upto(4) - 1);
        if (2..4).all(|i| case.x[i] + 2 * case.padding >= case.weight[i]) {
            cases.push(case);
        }
    }
    cases
}

#[test]
fn agrees_with_burns_at_odd_shapes() {
    let (device, mut random) = (Device::flex(), Random(1));
    for case in cases(&mut random) {
        let (x, weight) = (random.values(len(case.x)), random.values(len(case.weight)));
        let grad = random.values(len(case.out()));
        let at =
            |f: &dyn Fn(Tensor<4>, Tensor<4>) -> Tensor<4>,
             x: &[f64],
             weight: &[f64],
             grad: &[f64],
             dtype| { run(f, (x, case.x), (weight, case.weight), grad, dtype, &device) };
        let plain = |x, weight| case.plain(x, weight);
        let truth = at(&plain, &x, &weight, &grad, DType::F64);
        // A sum of n products in any order errs by at most n * epsilon times the sum of their sizes (Higham 2002, 3.1).
        let sizes = at(&plain, &abs(&x), &abs(&weight), &abs(&grad), DType::F64);
        let out = case.out();
        let terms = [len(case.weight) / out[1], len(case.weight) / case.x[1], out[0] * out[2] * out[3]];
        let got = at(&|x, weight| case.ours(x, weight), &x, &weight, &grad, DType::F32);
        for i in 0..3 {
            let factor = (terms[i] + 2) as f64 * f64::from(f32::EPSILON) / 2.0;
            let bound: Vec<f64> = sizes[i].iter().map(|size| size * factor).collect();
            assert_within(&got[i], &truth[i], &bound, &format!("{case:?}, result {i}"));
        }
    }
}

#[test]
fn is_as_near_to_burns_f32_as_both_are_to_the_truth() {
    let (device, mut random) = (Device::flex(), Random(2));
    let case = Case { x: [3, 16, 15, 15], weight: [24, 16, 3, 3], stride: 2, padding: 1 };
    let (x, weight) = (random.values(len(case.x)), random.values(len(case.weight)));
    let grad = random.values(len(case.out()));
    let (x, weight) = ((&x[..], case.x), (&weight[..], case.weight));
    let ours = run(|x, w| case.ours(x, w), x, weight, &grad, DType::F32, &device);
    let plain = run(|x, w| case.plain(x, w), x, weight, &grad, DType::F32, &device);
    for (i, (ours, plain)) in ours.iter().zip(&plain).enumerate() {
        assert_within(ours, plain, &vec![2e-5; ours.len()], &format!("result {i}"));
    }
}

/// A convolution is linear in each argument, so a difference quotient with step 1 has no truncation error.
#[test]
fn gradients_are_difference_quotients() {
    let (device, mut random) = (Device::flex(), Random(3));
    let case = Case { x: [2, 3, 5, 4], weight: [2, 3, 3, 2], stride: 2, padding: 1 };
    let (x, weight) = (random.values(len(case.x)), random.values(len(case.weight)));
    let grad = random.values(len(case.out()));
    let f = |x: &[f64], weight: &[f64]| {
        let [y, ..] =
            run(|x, w| case.ours(x, w), (x, case.x), (weight, case.weight), &grad, DType::F32, &device);
        y.iter().zip(&grad).map(|(y, grad)| y * grad).sum::<f64>()
    };
    let [_, x_grad, weight_grad] =
        run(|x, w| case.ours(x, w), (&x, case.x), (&weight, case.weight), &grad, DType::F32, &device);
    let nudged = |values: &[f64], i: usize, by: f64| {
        let mut values = values.to_vec();
        values[i] += by;
        values
    };
    for (i, expected) in x_grad.iter().enumerate() {
        let quotient = (f(&nudged(&x, i, 1.0), &weight) - f(&nudged(&x, i, -1.0), &weight)) / 2.0;
        assert!((quotient - expected).abs() < 1e-5, "x[{i}]: {quotient} {expected}");
    }
    for (i, expected) in weight_grad.iter().enumerate() {
        let quotient = (f(&x, &nudged(&weight, i, 1.0)) - f(&x, &nudged(&weight, i, -1.0))) / 2.0;
        assert!((quotient - expected).abs() < 1e-5, "weight[{i}]: {quotient} {expected}");
    }
}

#[test]
fn bits_depend_neither_on_the_run_nor_on_the_threads() {
    let (device, mut random) = (Device::flex(), Random(4));
    for case in [
        Case { x: [37, 3, 16, 16], weight: [16, 3, 3, 3], stride: 1, padding: 1 },
        Case { x: [5, 70, 7, 7], weight: [130, 70, 3, 3], stride: 2, padding: 1 },
        Case { x: [9, 20, 8, 8], weight: [1, 20, 1, 1], stride: 1, padding: 0 },
        Case { x: [5, 64, 26, 25], weight: [96, 64, 3, 3], stride: 1, padding: 1 },
    ] {
        let (x, weight) = (random.values(len(case.x)), random.values(len(case.weight)));
        let grad = random.values(len(case.out()));
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                run(|x, w| case.ours(x, w), (&x, case.x), (&weight, case.weight), &grad, DType::F32, &device)
            })
        };
        let one = with(1);
        for threads in [1, 2, 2, 3, 7] {
            assert!(with(threads) == one, "{case:?} differs with {threads} threads");
        }
    }
}

#[test]
fn other_number_types_and_backends_get_burns_own() {
    let mut random = Random(5);
    let case = Case { x: [2, 3, 6, 5], weight: [4, 3, 3, 3], stride: 2, padding: 1 };
    let (x, weight) = (random.values(len(case.x)), random.values(len(case.weight)));
    let grad = random.values(len(case.out()));
    #[cfg_attr(not(feature = "ndarray"), allow(unused_mut))]
    let mut kinds = vec![(Device::flex(), DType::F64)];
    #[cfg(feature = "ndarray")]
    #[allow(deprecated, reason = "a second opinion for tests")]
    kinds.extend([(Device::ndarray(), DType::F32), (Device::ndarray(), DType::F64)]);
    for (device, dtype) in kinds {
        let (x, weight) = ((&x[..], case.x), (&weight[..], case.weight));
        let ours = run(|x, w| case.ours(x, w), x, weight, &grad, dtype, &device);
        let plain = run(|x, w| case.plain(x, w), x, weight, &grad, dtype, &device);
        assert!(ours == plain, "{device:?} {dtype:?}");
        if dtype == DType::F64 {
            // Of two types, none of them of ours: that of the images counts.
            let mixed = run(|x, w| case.ours(x, w.cast(DType::F32)), x, weight, &grad, dtype, &device);
            let cast = |w: Tensor<4>| w.cast(DType::F32).cast(DType::F64);
            let plain = run(|x, w| case.plain(x, cast(w)), x, weight, &grad, dtype, &device);
            assert!(mixed == plain, "{device:?} {dtype:?}");
        }
    }
}

/// Half precision is f32's result, rounded once: of the same 16-bit values, to the bit.
#[test]
fn half_precision_rounds_what_f32_computes() {
    let (device, mut random) = (Device::flex(), Random(6));
    for dtype in [DType::F16, DType::BF16] {
        for case in cases(&mut random) {
            let (x, weight) = (random.values(len(case.x)), random.values(len(case.weight)));
            let [x, weight] = [x, weight].map(|values| rounded(&values, dtype));
            let grad = rounded(&random.values(len(case.out())), dtype);
            let (x, weight) = ((&x[..], case.x), (&weight[..], case.weight));
            let half = run(|x, w| case.ours(x, w), x, weight, &grad, dtype, &device);
            let single = run(|x, w| case.ours(x, w), x, weight, &grad, DType::F32, &device);
            for (i, (half, single)) in half.iter().zip(&single).enumerate() {
                assert_eq!(half, &rounded(single, dtype), "{case:?} {dtype:?}, result {i}");
            }
            // Weights in f32 are taken as they are.
            let weight = random.values(len(case.weight));
            let weight = (&weight[..], case.weight);
            let mixed = run(|x, w| case.ours(x.cast(dtype), w), x, weight, &grad, DType::F32, &device);
            let single = run(|x, w| case.ours(x, w), x, weight, &grad, DType::F32, &device);
            assert_eq!(mixed[..2], [0, 1].map(|i| rounded(&single[i], dtype)), "{case:?} {dtype:?}");
            assert_eq!(mixed[2], single[2], "{case:?} {dtype:?}");
        }
    }
}

#[test]
fn takes_views_and_untracked_tensors() {
    let device = Device::flex();
    let x = Tensor::<4>::random([2, 4, 6, 5], burn::tensor::Distribution::Default, &device);
    let weight = Tensor::<4>::random([3, 4, 3, 3], burn::tensor::Distribution::Default, &device);
    let expected = convolve(x.clone(), weight.clone(), 1, 1);
    let view = x.permute([0, 1, 3, 2]).mul_scalar(1.0).permute([0, 1, 3, 2]);
    let turned = weight.swap_dims(0, 1).mul_scalar(1.0).swap_dims(0, 1);
    convolve(view.clone(), turned.clone(), 1, 1).into_data().assert_eq(&expected.clone().into_data(), true);
    let [view, turned] = [view, turned].map(|tensor| tensor.cast(DType::F16));
    let half = values(convolve(view, turned, 1, 1));
    // Sums of 36 products below 1, each factor rounded to 11 bits.
    assert_within(&half, &values(expected), &vec![36.0 * 1.5 / 1024.0; half.len()], "f16");
}

#[test]
#[should_panic(expected = "differ in input channels")]
fn refuses_other_channels() {
    let device = Device::flex();
    let _ = convolve(Tensor::ones([1, 2, 3, 3], &device), Tensor::ones([1, 3, 3, 3], &device), 1, 1);
}

#[test]
fn with_its_norm_it_is_the_two_one_after_the_other() {
    let (device, mut random) = (Device::flex(), Random(18));
    let mut all = cases(&mut random);
    // Weights that outnumber the pixels: another way through them.
    all.push(Case { x: [1, 64, 3, 3], weight: [70, 64, 3, 3], stride: 1, padding: 1 });
    for case in all {
        let channels = case.weight[0];
        let mut tensor =
            |shape: [usize; 4]| common::leaf(&random.values(len(shape)), shape, DType::F32, &device).inner();
        let (x, weight) = (channels_last(tensor(case.x)), tensor(case.weight));
        let [scale, shift] = [[channels, 1, 1, 1]; 2].map(|shape| tensor(shape).reshape([channels]));
        let residual = channels_last(tensor(case.out()));
        for (added, relu) in [(None, false), (None, true), (Some(residual), true)] {
            let moves = [case.stride, case.padding];
            let line = [scale.clone(), shift.clone()];
            let one = conv2d_scale_shift(x.clone(), weight.clone(), moves, line, added.clone(), relu);
            let two = conv2d(x.clone(), weight.clone(), case.stride, case.padding);
            let two = scale_shift(two, scale.clone(), shift.clone(), added, relu);
            assert_eq!(values(one), values(two), "{case:?} relu {relu}");
        }

        // And where gradients are asked for.
        let tracked = [x, weight].map(|tensor| Tensor::from_inner(tensor).require_grad());
        let line = [scale, shift].map(|tensor| Tensor::from_inner(tensor).require_grad());
        let gradients = |y: Tensor<4>| {
            let grads = (y.clone() * y).sum().backward();
            let images = tracked.iter().map(|tensor| values(tensor.grad(&grads).unwrap()));
            let line = line.iter().map(|tensor| values(tensor.grad(&grads).unwrap()));
            images.chain(line).collect::<Vec<_>>()
        };
        let ([x, weight], [scale, shift]) = (tracked.clone(), line.clone());
        let moves = [case.stride, case.padding];
        let one = conv2d_scale_shift(x.clone(), weight.clone(), moves, line.clone(), None, true);
        let two = scale_shift(conv2d(x, weight, case.stride, case.padding), scale, shift, None, true);
        assert_eq!(gradients(one), gradients(two), "{case:?}");
    }
}

#[test]
#[should_panic(expected = "the residual must have the result's shape")]
fn a_residual_of_another_shape_is_refused() {
    let device = Device::flex();
    let (x, weight) = (Tensor::ones([1, 4, 4, 2], &device), Tensor::ones([3, 2, 3, 3], &device));
    let line = [Tensor::ones([3], &device), Tensor::ones([3], &device)];
    let _ = conv2d_scale_shift(x, weight, [1, 1], line, Some(Tensor::ones([1, 4, 3, 3], &device)), true);
}
