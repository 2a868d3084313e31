//! Time of a forward pass and of a training step (forward and backward): ResNet-8 of width 16 on 128 grey images of 28 px,
//! and ResNet-50 on 8 images of 64 and of 224 px. On the default device of what is compiled in.
//! PyTorch's figures at the same shapes: benches/peers/torch_step.py.

use std::hint::black_box;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor};
use burn_resnet::{Depth, ResNetConfig, backward_staged};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn forward(c: &mut Criterion) {
    for (depth, batch, channels, size) in
        [(Depth::D8, 128, 1, 28), (Depth::D50, 8, 3, 64), (Depth::D50, 8, 3, 224)]
    {
        let config = ResNetConfig::new(depth, 10).and_then(|config| config.with_channels(channels));
        let config = config.expect("ten classes and these channels are possible");
        let device = Device::default();
        let train = device.clone().autodiff();
        let model = config.init(1, &train);
        let valid = model.valid();
        let images = |device| {
            Tensor::<4>::random([batch, channels, size, size], Distribution::Normal(0.0, 1.0), device)
        };
        let (x, x_train) = (images(&device), images(&train));

        let mut group = c.benchmark_group(format!("resnet{depth}-{size}px"));
        group.sample_size(10).throughput(Throughput::Elements(batch as u64));
        // Reading the result waits for the device.
        group.bench_function("forward", |b| b.iter(|| black_box(valid.forward(x.clone()).into_data())));
        group.bench_function("step", |b| {
            b.iter(|| {
                let grads = model.forward(x_train.clone()).square().mean().backward();
                let grads = GradientsParams::from_grads(grads, &model);
                black_box(grads.get::<4>(model.params()[0].id).map(Tensor::into_data))
            });
        });
        group.bench_function("step, staged", |b| {
            b.iter(|| {
                let mut last = None;
                backward_staged(
                    &model,
                    x_train.clone(),
                    |y| y.square().mean(),
                    |_, grads| last = Some(grads),
                );
                black_box(last.and_then(|grads| grads.get::<4>(model.params()[0].id)).map(Tensor::into_data))
            });
        });
        group.finish();
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);
