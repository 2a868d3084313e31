//! Batch norm with its addition and ReLU against Burn's own in f64, at odd shapes.

#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{DType, Device, Tensor, activation, module};
use burn_kernels::{BatchNormOutput, batch_norm_train, scale_shift};
use common::devices::{is_gpu, own};
use common::{Random, assert_within, channels_first, channels_last, leaf, rounded, values};

const EPSILON: f64 = 1e-5;

#[derive(Debug, Clone, Copy)]
struct Case {
    shape: [usize; 4],
    residual: bool,
    relu: bool,
    mean: f64,
}

type Op = fn(Tensor<4>, Tensor<1>, Tensor<1>, Option<Tensor<4>>, bool) -> BatchNormOutput;

fn ours(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> BatchNormOutput {
    let out = batch_norm_train(channels_last(x), gamma, beta, residual.map(channels_last), EPSILON, relu);
    BatchNormOutput { output: channels_first(out.output), ..out }
}

fn plain(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> BatchNormOutput {
    let norm = module::batch_norm_train(x, gamma, beta, EPSILON);
    let sum = residual.into_iter().fold(norm.output, |sum, residual| sum + residual);
    let output = if relu { activation::relu(sum) } else { sum };
    BatchNormOutput { output, mean: norm.mean, variance: norm.variance }
}

struct Inputs {
    x: Vec<f64>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    residual: Vec<f64>,
    grad: Vec<f64>,
}

impl Inputs {
    fn random(case: Case, random: &mut Random) -> Self {
        let [_, channels, ..] = case.shape;
        let len = case.shape.iter().product();
        // Rounded to f32, so that both number types start from the same values.
        let x = random.values(len).iter().map(|x| f64::from((x + case.mean) as f32)).collect();
        let [gamma, beta] = [random.values(channels), random.values(channels)];
        let [residual, grad] = [random.values(len), random.values(len)];
        Self { x, gamma, beta, residual, grad }
    }

    /// Takes the gradient away where one rounding may leave a ReLU on this side of 0 and another on that.
    fn off_the_kink(mut self, case: Case, device: &Device) -> Self {
        let sums = self.run(plain, Case { relu: false, ..case }, DType::F64, device).remove(0);
        for (grad, sum) in self.grad.iter_mut().zip(sums) {
            if sum.abs() < 1e-5 {
                *grad = 0.0;
            }
        }
        self
    }

    /// Output, mean, variance; gradients of x, gamma, beta and, if there is one, the residual.
    fn run(&self, op: Op, case: Case, dtype: DType, device: &Device) -> Vec<Vec<f64>> {
        self.run_mixed(op, case, (dtype, dtype), device)
    }

    /// With images of one number type and the channels' values of another.
    fn run_mixed(
        &self,
        op: Op,
        case: Case,
        (dtype, inner): (DType, DType),
        device: &Device,
    ) -> Vec<Vec<f64>> {
        let channels = [case.shape[1]];
        let x = leaf(&self.x, case.shape, dtype, device);
        let gamma = leaf(&self.gamma, channels, inner, device);
        let beta = leaf(&self.beta, channels, inner, device);
        let residual = case.residual.then(|| leaf(&self.residual, case.shape, dtype, device));
        let out = op(x.clone(), gamma.clone(), beta.clone(), residual.clone(), case.relu);
        let grads = (out.output.clone() * leaf(&self.grad, case.shape, dtype, device)).backward();
        let mut results = vec![values(out.output), values(out.mean), values(out.variance)];
        results.push(values(x.grad(&grads).unwrap()));
        results.push(values(gamma.grad(&grads).unwrap()));
        results.push(values(beta.grad(&grads).unwrap()));
        results.extend(residual.map(|residual| values(residual.grad(&grads).unwrap())));
        results
    }

    /// Bounds of the rounding error of each result: a modest multiple of epsilon times the sizes that enter it, and for
    /// sums the number of values a lane adds up (128) on top. A mean is as good as its size, where f64 sums it up, or as
    /// the values that f32 sums up.
    fn bounds(&self, case: Case, truth: &[Vec<f64>], sums_in: DType) -> Vec<Vec<f64>> {
        let [batch, channels, height, width] = case.shape;
        let (area, n) = (height * width, (batch * height * width) as f64);
        let epsilon = f64::from(f32::EPSILON);
        let channel = |i: usize| i / area % channels;
        let inverse: Vec<f64> = truth[2].iter().map(|variance| (variance + EPSILON).sqrt().recip()).collect();
        let mut sizes = vec![0.0; channels];
        for i in 0..self.x.len() {
            sizes[channel(i)] += self.x[i].abs() / n;
        }
        // How large a normal value is, with what the rounding of mean and input adds.
        let normal = |i: usize| {
            let c = channel(i);
            let mean = if sums_in == DType::F32 { sizes[c] } else { truth[1][c].abs() };
            ((self.x[i] - truth[1][c]).abs() + mean) * inverse[c]
        };
        let mut sums = vec![[0.0; 2]; channels];
        for i in 0..self.x.len() {
            sums[channel(i)][0] += self.grad[i].abs();
            sums[channel(i)][1] += self.grad[i].abs() * normal(i);
        }
        let each =
            |f: &dyn Fn(usize) -> f64, len: usize| (0..len).map(|i| f(i) * epsilon).collect::<Vec<_>>();
        let len = self.x.len();
        vec![
            each(
                &|i| {
                    let c = channel(i);
                    8.0 * (normal(i) * self.gamma[c].abs() + self.beta[c].abs() + self.residual[i].abs())
                },
                len,
            ),
            each(&|c| 160.0 * sizes[c], channels),
            each(&|c| 160.0 * truth[2][c], channels),
            each(
                &|i| {
                    let c = channel(i);
                    let parts = self.grad[i].abs() + sums[c][0] / n + normal(i) * sums[c][1] / n;
                    160.0 * self.gamma[c].abs() * inverse[c] * parts
                },
                len,
            ),
            each(&|c| 160.0 * sums[c][1], channels),
            each(&|c| 160.0 * sums[c][0], channels),
            vec![0.0; len],
        ]
    }
}

fn cases(random: &mut Random) -> Vec<Case> {
    let mut shapes =
        vec![[1, 1, 1, 2], [2, 3, 1, 1], [4, 16, 28, 28], [2, 2, 65, 67], [3, 33, 7, 7], [1, 5, 9, 2]];
    while shapes.len() < 24 {
        let mut upto = |n| 1 + random.below(n);
        shapes.push([1 + upto(5), upto(40), upto(20), upto(20)]);
    }
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    let mut cases = Vec::new();
    for shape in shapes {
        cases.extend(kinds.map(|(residual, relu)| Case { shape, residual, relu, mean: 0.0 }));
        cases.push(Case { shape, residual: true, relu: true, mean: 3.0 });
    }
    cases
}

#[test]
fn agrees_with_burns_at_odd_shapes() {
    let (flex, devices, mut random) = (Device::flex(), own(), Random(11));
    for case in cases(&mut random) {
        let inputs = Inputs::random(case, &mut random).off_the_kink(case, &flex);
        let truth = inputs.run(plain, case, DType::F64, &flex);
        for (name, device) in &devices {
            let sums_in = if is_gpu(name) { DType::F32 } else { DType::F64 };
            let bounds = inputs.bounds(case, &truth, sums_in);
            let got = inputs.run(ours, case, DType::F32, device);
            assert_eq!(got.len(), if case.residual { 7 } else { 6 });
            for (i, (got, truth)) in got.iter().zip(&truth).enumerate() {
                assert_within(got, truth, &bounds[i], &format!("{name} {case:?}, result {i}"));
            }
        }
    }
}

#[test]
fn a_large_mean_does_not_cancel_the_variance() {
    let mut random = Random(12);
    let case = Case { shape: [3, 2, 50, 50], residual: false, relu: false, mean: 1000.0 };
    let inputs = Inputs::random(case, &mut random);
    let truth = inputs.run(plain, case, DType::F64, &Device::flex());
    for (name, device) in own() {
        let got = inputs.run(ours, case, DType::F32, &device);
        for (got, truth) in got[2].iter().zip(&truth[2]) {
            assert!((got / truth - 1.0).abs() < 1e-5, "{name}: {got} {truth}");
        }
    }
}

#[test]
fn gradients_are_difference_quotients() {
    let (device, mut random) = (Device::flex(), Random(13));
    let case = Case { shape: [3, 2, 2, 3], residual: false, relu: false, mean: 0.0 };
    let inputs = Inputs::random(case, &mut random);
    let f = |x: Vec<f64>| {
        let nudged = Inputs { x, ..Inputs::random(case, &mut Random(13)) };
        let y = &nudged.run(ours, case, DType::F32, &device)[0];
        y.iter().zip(&inputs.grad).map(|(y, grad)| y * grad).sum::<f64>()
    };
    let x_grad = &Inputs::random(case, &mut Random(13)).run(ours, case, DType::F32, &device)[3];
    for (i, expected) in x_grad.iter().enumerate() {
        let step = f64::from(1.0_f32 / 64.0);
        let nudged = |by: f64| {
            let mut x = inputs.x.clone();
            x[i] += by;
            f(x)
        };
        let quotient = (nudged(step) - nudged(-step)) / (2.0 * step);
        assert!((quotient - expected).abs() < 2e-3, "x[{i}]: {quotient} {expected}");
    }
}

#[test]
fn bits_depend_neither_on_the_run_nor_on_the_threads() {
    let (device, mut random) = (Device::flex(), Random(14));
    let case = Case { shape: [6, 5, 30, 31], residual: true, relu: true, mean: 0.5 };
    let inputs = Inputs::random(case, &mut random);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| inputs.run(ours, case, DType::F32, &device))
    };
    let one = with(1);
    for threads in [1, 2, 2, 3, 7] {
        assert!(with(threads) == one, "differs with {threads} threads");
    }
}

#[test]
fn other_number_types_and_backends_get_burns_own() {
    let mut random = Random(15);
    #[cfg_attr(not(feature = "ndarray"), allow(unused_mut))]
    let mut kinds = vec![(Device::flex(), DType::F64)];
    #[cfg(feature = "ndarray")]
    #[allow(deprecated, reason = "a second opinion for tests")]
    kinds.extend([(Device::ndarray(), DType::F32), (Device::ndarray(), DType::F64)]);
    for (device, dtype) in kinds {
        for residual in [false, true] {
            let case = Case { shape: [3, 4, 5, 6], residual, relu: true, mean: 0.0 };
            let inputs = Inputs::random(case, &mut random);
            assert!(
                inputs.run(ours, case, dtype, &device) == inputs.run(plain, case, dtype, &device),
                "{device:?} {dtype:?} {residual}"
            );
        }
    }
}

/// What another backend does with 16-bit images: Burn's own operations between two casts.
fn cast_around(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> BatchNormOutput {
    let (outer, inner) = (x.dtype(), gamma.dtype());
    let out = ours(x.cast(inner), gamma, beta, residual.map(|residual| residual.cast(inner)), relu);
    BatchNormOutput { output: out.output.cast(outer), ..out }
}

#[test]
fn images_in_half_precision_are_computed_in_that_of_the_gains() {
    let (device, mut random) = (Device::flex(), Random(16));
    for dtype in [DType::F16, DType::BF16] {
        for (residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            let case = Case { shape: [3, 4, 17, 9], residual, relu, mean: 0.25 };
            let drawn = Inputs::random(case, &mut random);
            let round = |values: &[f64]| rounded(values, dtype);
            let inputs = Inputs {
                x: round(&drawn.x),
                residual: round(&drawn.residual),
                grad: round(&drawn.grad),
                ..drawn
            };
            for inner in [DType::F32, DType::F64] {
                let got = inputs.run_mixed(ours, case, (dtype, inner), &device);
                let expected = inputs.run_mixed(cast_around, case, (dtype, inner), &device);
                assert_eq!(got, expected, "{case:?} {dtype:?} {inner:?}");
            }
        }
    }
}

#[test]
fn lets_a_diverged_training_show() {
    for (name, device) in own() {
        let x = Tensor::<4>::full([1, 1, 2, 2], f32::NAN, &device);
        let [gamma, beta] = [Tensor::<1>::ones([1], &device), Tensor::zeros([1], &device)];
        let y = batch_norm_train(channels_last(x), gamma, beta, None, EPSILON, true).output;
        assert!(values(y).iter().all(|y| y.is_nan()), "{name}");
    }
}

#[test]
#[should_panic(expected = "the residual must have the images' shape")]
fn refuses_a_residual_of_another_shape() {
    let device = Device::flex();
    let [gamma, beta] = [Tensor::<1>::ones([1], &device), Tensor::zeros([1], &device)];
    let residual = Some(Tensor::ones([1, 1, 1, 2], &device));
    let _ = batch_norm_train(Tensor::ones([1, 1, 2, 2], &device), gamma, beta, residual, EPSILON, false);
}

/// By statistics that are known: a line, an addition, a ReLU.
fn line(
    [x, residual]: [Tensor<4>; 2],
    [scale, shift]: [Tensor<1>; 2],
    with_residual: bool,
    relu: bool,
) -> Tensor<4> {
    let [scale, shift] = [scale, shift].map(|values| values.reshape([1, 1, 1, -1]));
    let y = x * scale + shift;
    let y = if with_residual { y + residual } else { y };
    if relu { activation::relu(y) } else { y }
}

#[test]
fn known_statistics_make_it_a_line() {
    let (device, mut random) = (Device::flex(), Random(17));
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 9, 11, 64], [2, 70, 33, 19]] {
        for (residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            let (len, channels) = (shape.iter().product(), [shape[3]]);
            let mut numbers = |len| rounded(&random.values(len), DType::F32);
            let images = [numbers(len), numbers(len)];
            let lines = [numbers(shape[3]), numbers(shape[3])];
            let run = |op: fn([Tensor<4>; 2], [Tensor<1>; 2], bool, bool) -> Tensor<4>, dtype| {
                let images = images.each_ref().map(|values| leaf(values, shape, dtype, &device));
                let lines = lines.each_ref().map(|values| leaf(values, channels, dtype, &device));
                let y = op(images.clone(), lines.clone(), residual, relu);
                let grads = y.backward();
                let [x, _] = images;
                // What is held is not overwritten.
                let mut all = vec![values(y), values(x.clone()), values(x.grad(&grads).unwrap())];
                all.extend(lines.iter().map(|line| values(line.grad(&grads).unwrap())));
                all
            };
            let ours = |[x, added]: [Tensor<4>; 2], [scale, shift]: [Tensor<1>; 2], residual, relu| {
                scale_shift(x, scale, shift, if residual { Some(added) } else { None }, relu)
            };
            let (got, truth) = (run(ours, DType::F32), run(line, DType::F64));
            let values_a_channel = (len / shape[3]) as f64;
            for (index, (got, truth)) in got.iter().zip(&truth).enumerate() {
                // Sums of at most so many numbers up to 3.
                let bound = vec![3.0 * values_a_channel * f64::from(f32::EPSILON); truth.len()];
                assert_within(got, truth, &bound, &format!("{shape:?} {residual} {relu}: {index}"));
            }

            // Without gradients: in place where nobody else holds the images.
            let plain = |values: &[f64]| leaf(values, shape, DType::F32, &device).inner();
            let lines = lines.each_ref().map(|values| leaf(values, channels, DType::F32, &device).inner());
            let ([x, added], [scale, shift]) = (images.each_ref().map(|values| plain(values)), lines);
            let added = residual.then_some(added);
            let held = scale_shift(x.clone(), scale.clone(), shift.clone(), added.clone(), relu);
            assert_eq!(values(x.clone()), images[0]);
            assert_eq!(values(held), values(scale_shift(x, scale, shift, added, relu)));
        }
    }
}
