//! This crate's operations and Burn's own, forward and backward, at the shapes of a ResNet-8 of width 16 on 28 px images
//! and of ResNet-50: `cargo bench -p burn-kernels -- conv2d`.

#![allow(clippy::unwrap_used, missing_docs)]

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Distribution, Tensor, activation, module};
use criterion::{Criterion, criterion_group, criterion_main};

type Conv = fn(Tensor<4>, Tensor<4>, usize, usize) -> Tensor<4>;
type Norm = fn(Tensor<4>, Tensor<1>, Tensor<1>, Tensor<4>) -> Tensor<4>;

fn plain_conv(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    module::conv2d(x, weight, None, ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1))
}

fn plain_norm(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, residual: Tensor<4>) -> Tensor<4> {
    activation::relu(module::batch_norm_train(x, gamma, beta, 1e-5).output + residual)
}

fn fused_norm(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, residual: Tensor<4>) -> Tensor<4> {
    burn_kernels::batch_norm_train(x, gamma, beta, Some(residual), 1e-5, true).output
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Images with their channels last, as this crate takes them.
fn channels_last([batch, channels, height, width]: [usize; 4]) -> [usize; 4] {
    [batch, height, width, channels]
}

/// Images (channels first, as Burn takes them), weights, stride, padding.
const CONVOLUTIONS: [([usize; 4], [usize; 4], usize, usize); 12] = [
    ([128, 1, 28, 28], [16, 1, 3, 3], 1, 1),
    ([128, 16, 28, 28], [16, 16, 3, 3], 1, 1),
    ([128, 16, 28, 28], [32, 16, 3, 3], 2, 1),
    ([128, 32, 14, 14], [32, 32, 3, 3], 1, 1),
    ([128, 64, 7, 7], [64, 64, 3, 3], 1, 1),
    ([8, 3, 224, 224], [64, 3, 7, 7], 2, 3),
    ([8, 64, 56, 56], [64, 64, 3, 3], 1, 1),
    ([8, 64, 56, 56], [256, 64, 1, 1], 1, 0),
    ([8, 256, 56, 56], [512, 256, 1, 1], 2, 0),
    ([8, 256, 14, 14], [256, 256, 3, 3], 1, 1),
    ([8, 512, 7, 7], [512, 512, 3, 3], 1, 1),
    ([8, 2048, 7, 7], [512, 2048, 1, 1], 1, 0),
];

fn convolutions(c: &mut Criterion) {
    let device = Device::flex().autodiff();
    for (x_shape, weight_shape, stride, padding) in CONVOLUTIONS {
        let mut group = c.benchmark_group(format!("conv2d {x_shape:?} {weight_shape:?} /{stride}"));
        let weight: Tensor<4> = random(weight_shape, &device);
        let ours = (burn_kernels::conv2d as Conv, random(channels_last(x_shape), &device));
        let burns = (plain_conv as Conv, random(x_shape, &device));
        let all = [
            ("ours", &ours, DType::F32),
            ("burn", &burns, DType::F32),
            ("ours f16", &ours, DType::F16),
            ("burn f16", &burns, DType::F16),
            ("ours bf16", &ours, DType::BF16),
        ];
        for (name, (conv, x), dtype) in all {
            let (x, weight) = (x.clone().cast(dtype), weight.clone().cast(dtype));
            let run = |x: &Tensor<4>, weight: &Tensor<4>| conv(x.clone(), weight.clone(), stride, padding);
            group.bench_function(format!("forward {name}"), |b| b.iter(|| run(&x, &weight)));
            let tracked = x.clone().require_grad();
            group.bench_function(format!("forward, input gradient {name}"), |b| {
                b.iter(|| run(&tracked, &weight).backward());
            });
            let tracked = weight.clone().require_grad();
            group.bench_function(format!("forward, weight gradient {name}"), |b| {
                b.iter(|| run(&x, &tracked).backward());
            });
        }
    }
}

fn norms(c: &mut Criterion) {
    let device = Device::flex().autodiff();
    for shape in [[128, 16, 28, 28], [128, 64, 7, 7], [8, 256, 56, 56], [8, 2048, 7, 7]] {
        let mut group = c.benchmark_group(format!("norm, add, relu {shape:?}"));
        let (gamma, beta) = (random([shape[1]], &device), random([shape[1]], &device));
        let both = [("ours", fused_norm as Norm, channels_last(shape)), ("burn", plain_norm, shape)];
        for (name, norm, shape) in both {
            let (x, residual) = (random(shape, &device), random(shape, &device));
            group.bench_function(format!("forward {name}"), |b| {
                b.iter(|| norm(x.clone(), gamma.clone(), beta.clone(), residual.clone()));
            });
            let leaves = [x.clone().require_grad(), residual.clone().require_grad()];
            let (gamma, beta) = (gamma.clone().require_grad(), beta.clone().require_grad());
            group.bench_function(format!("both {name}"), |b| {
                b.iter(|| {
                    let [x, residual] = leaves.clone();
                    norm(x, gamma.clone(), beta.clone(), residual).backward()
                });
            });
        }
    }
}

criterion_group!(benches, convolutions, norms);
criterion_main!(benches);
