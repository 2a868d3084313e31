//! Every operation of this crate on every GPU that is there, against flex: 1e-3 in f32, 1e-2 in f16, relative, of the
//! largest value. The same functions, given to other code: what is compared is the rounding of other kernels, and that
//! they compute the same thing.

#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use burn_kernels::{SgdStep, batch_norm_train, conv2d, max_pool2d, option_a, scale_shift, sgd_step};
use common::{Random, devices, leaf, rounded, values};

/// Results by name.
type Results = Vec<(&'static str, Vec<f64>)>;

/// Draws the same numbers for every device, as its number type stores them.
struct Draw<'a> {
    random: Random,
    dtype: DType,
    device: &'a Device,
}

impl Draw<'_> {
    fn values(&mut self, len: usize, dtype: DType) -> Vec<f64> {
        rounded(&self.random.values(len), dtype)
    }

    /// Images, or weights: of the number type.
    fn images<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let values = self.values(shape.iter().product(), self.dtype);
        leaf(&values, shape, self.dtype, self.device)
    }

    /// A number a channel: always f32.
    fn channels(&mut self, len: usize) -> Tensor<1> {
        let values = self.values(len, DType::F32);
        leaf(&values, [len], DType::F32, self.device)
    }

    /// Runs backward from a random gradient of `y`.
    fn backward(&mut self, y: &Tensor<4>) -> Gradients {
        let gradient = self.gradient(y);
        burn_kernels::seed_gradient(y.clone(), gradient).backward()
    }

    fn gradient(&mut self, y: &Tensor<4>) -> Tensor<4> {
        let values = self.values(y.dims().iter().product(), self.dtype);
        let gradient = TensorData::new(values, y.dims()).convert_dtype(self.dtype);
        Tensor::from_data(gradient, (self.device, self.dtype))
    }
}

fn convolution(draw: &mut Draw<'_>, [size, stride, padding]: [usize; 3]) -> Results {
    let (x, weight) = (draw.images([2, 9, 7, 8]), draw.images([6, 8, size, size]));
    let y = conv2d(x.clone(), weight.clone(), stride, padding);
    let grads = draw.backward(&y);
    vec![
        ("output", values(y)),
        ("input gradient", values(x.grad(&grads).unwrap())),
        ("weight gradient", values(weight.grad(&grads).unwrap())),
    ]
}

fn norm(draw: &mut Draw<'_>, shape: [usize; 4], residual: bool, relu: bool) -> Results {
    let channels = shape[3];
    let (x, gamma, beta) = (draw.images(shape), draw.channels(channels), draw.channels(channels));
    let residual = residual.then(|| draw.images(shape));
    let out = batch_norm_train(x.clone(), gamma.clone(), beta.clone(), residual.clone(), 1e-5, relu);
    // Times what the ReLU saw: where one device rounds that to below zero and the other to above, there is no gradient.
    let added = residual.clone().map(Tensor::inner);
    let (plain_x, plain_gamma, plain_beta) = (x.clone().inner(), gamma.clone().inner(), beta.clone().inner());
    let sum = batch_norm_train(plain_x, plain_gamma, plain_beta, added, 1e-5, false).output;
    let gradient = draw.gradient(&out.output) * sum;
    let grads = burn_kernels::seed_gradient(out.output.clone(), gradient).backward();
    let mut results = vec![
        ("output", values(out.output)),
        ("mean", values(out.mean)),
        ("variance", values(out.variance)),
        ("input gradient", values(x.grad(&grads).unwrap())),
        ("gain's gradient", values(gamma.grad(&grads).unwrap())),
        ("offset's gradient", values(beta.grad(&grads).unwrap())),
    ];
    results.extend(residual.map(|residual| ("residual's gradient", values(residual.grad(&grads).unwrap()))));
    results
}

fn shortcut(draw: &mut Draw<'_>) -> Results {
    let x = draw.images([2, 5, 4, 3]);
    let y = option_a(x.clone(), 8);
    let grads = draw.backward(&y);
    vec![("output", values(y)), ("input gradient", values(x.grad(&grads).unwrap()))]
}

fn pool(draw: &mut Draw<'_>) -> Results {
    let x = draw.images([2, 8, 7, 3]);
    let y = max_pool2d(x.clone(), 3, 2, 1);
    let grads = draw.backward(&y);
    vec![("output", values(y)), ("input gradient", values(x.grad(&grads).unwrap()))]
}

fn evaluation(draw: &mut Draw<'_>) -> Results {
    let (x, residual) = (draw.images([2, 3, 4, 5]).inner(), draw.images([2, 3, 4, 5]).inner());
    let (scale, shift) = (draw.channels(5).inner(), draw.channels(5).inner());
    let plain = scale_shift(x.clone(), scale.clone(), shift.clone(), None, false);
    let whole = scale_shift(x, scale, shift, Some(residual), true);
    vec![("scaled", values(plain)), ("scaled, added, rectified", values(whole))]
}

fn update(draw: &mut Draw<'_>) -> Results {
    let [weight, gradient, velocity] = [0; 3].map(|_| draw.channels(1000).inner());
    let step = SgdStep { lr: 0.1, momentum: 0.9, weight_decay: 0.05, nesterov: true };
    let (weight, velocity) = sgd_step(weight, gradient, velocity, step);
    vec![("weight", values(weight)), ("velocity", values(velocity))]
}

fn all(dtype: DType, device: &Device) -> Vec<(String, Results)> {
    let mut draw = Draw { random: Random(77), dtype, device };
    let mut all = Vec::new();
    for shape in [[1, 1, 0], [3, 1, 1], [3, 2, 1], [1, 2, 0], [7, 2, 3]] {
        all.push((format!("convolution {shape:?}"), convolution(&mut draw, shape)));
    }
    // Channels that are no vector, one block of them and several; fewer pixels than threads, and many parts.
    for shape in [[3, 5, 4, 6], [1, 1, 4, 3], [2, 45, 41, 5], [3, 30, 32, 64], [2, 2, 3, 520]] {
        for (residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            let results = norm(&mut draw, shape, residual, relu);
            all.push((format!("norm {shape:?}, residual {residual}, relu {relu}"), results));
        }
    }
    all.push(("max pool".into(), pool(&mut draw)));
    all.push(("shortcut".into(), shortcut(&mut draw)));
    all.push(("evaluation".into(), evaluation(&mut draw)));
    all.push(("update".into(), update(&mut draw)));
    all
}

#[test]
fn every_operation_is_that_of_flex() {
    let (_, flex) = devices::cpus().remove(0);
    for (dtype, tolerance) in [(DType::F32, 1e-3), (DType::F16, 1e-2)] {
        let expected = all(dtype, &flex);
        for (name, device) in devices::gpus() {
            if !device.supports_dtype(dtype) {
                eprintln!("SKIP: {name} has no {dtype:?}");
                continue;
            }
            for ((operation, got), (_, expected)) in all(dtype, &device).iter().zip(&expected) {
                assert_eq!(got.len(), expected.len());
                for ((result, got), (_, expected)) in got.iter().zip(expected) {
                    assert_eq!(got.len(), expected.len(), "{name} {dtype:?} {operation}: {result}");
                    let largest = expected.iter().fold(0f64, |most, value| most.max(value.abs()));
                    let pairs = got.iter().zip(expected);
                    let error =
                        pairs.fold(0f64, |most, (got, expected)| most.max((got - expected).abs())) / largest;
                    println!("{name} {dtype:?} {operation}: {result} {error:.1e}");
                    assert!(
                        error <= tolerance,
                        "{name} {dtype:?} {operation}: {result} differs by {error:.1e}"
                    );
                }
            }
        }
    }
    // To choose them takes minutes, the next time seconds.
    burn_kernels::kernel_cache::keep().unwrap();
}
