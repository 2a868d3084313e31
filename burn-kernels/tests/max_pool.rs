//! Max pooling against Burn's own in f64, at odd shapes; where values are equal or no numbers, against PyTorch's rule.

#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{DType, Device, Tensor, module};
use burn_kernels::max_pool2d;
use common::{Random, channels_first, channels_last, leaf, rounded, values};

/// Side of the window, stride, padding.
type Window = [usize; 3];

fn plain(x: Tensor<4>, [size, stride, padding]: Window) -> Tensor<4> {
    let options = MaxPoolOptions {
        stride: [stride; 2],
        padding: [(padding, padding); 2],
        ..MaxPoolOptions::new([size; 2])
    };
    module::max_pool2d(x, options)
}

/// The result, and the gradient of `x` where that of result `i` is `i + 1`.
fn run(
    pool: impl Fn(Tensor<4>) -> Tensor<4>,
    (x, shape): (&[f64], [usize; 4]),
    dtype: DType,
    device: &Device,
) -> [Vec<f64>; 2] {
    let x = leaf(x, shape, dtype, device);
    let y = pool(x.clone());
    let dims = y.dims();
    let len = dims.iter().product::<usize>();
    let weights: Vec<f64> = (1..=len).map(|value| value as f64).collect();
    let weights = leaf(&weights, dims, dtype, device);
    [values(y.clone()), values(x.grad(&(y * weights).backward()).unwrap())]
}

#[test]
fn random_shapes_are_burns() {
    let (device, mut random) = (Device::flex(), Random(6));
    // ResNet's, then windows that touch, leave gaps, and cover more than the image.
    let mut cases: Vec<([usize; 4], Window)> = vec![
        ([2, 64, 16, 16], [3, 2, 1]),
        ([1, 1, 1, 1], [1, 1, 0]),
        ([1, 5, 1, 1], [3, 2, 1]),
        ([2, 3, 9, 7], [2, 2, 0]),
        ([2, 3, 9, 7], [2, 3, 1]),
    ];
    for _ in 0..40 {
        let size = 1 + random.below(4);
        let shape =
            [1 + random.below(3), 1 + random.below(40), size + random.below(9), size + random.below(9)];
        cases.push((shape, [size, 1 + random.below(3), random.below(size / 2 + 1)]));
    }
    for (shape, window) in cases {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let x = rounded(&random.values(shape.iter().product()), dtype);
            let pool = |x| channels_first(max_pool2d(channels_last(x), window[0], window[1], window[2]));
            let ours = run(pool, (&x, shape), dtype, &device);
            // 16 bits make equal values of different ones: only where there are none is the gradient one question.
            let truth = run(|x| plain(x, window), (&x, shape), DType::F64, &device);
            assert_eq!(ours[0], truth[0], "{shape:?} {window:?} {dtype:?}");
            if dtype == DType::F32 {
                assert_eq!(ours[1], truth[1], "{shape:?} {window:?}: gradient");
            }
        }
    }
}

#[test]
fn the_first_of_equal_values_gets_the_gradient_and_no_number_is_lost() {
    let device = Device::flex();
    let x = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];
    let [y, grad] = run(|x| max_pool2d(x, 2, 1, 0), (&x, [1, 3, 3, 1]), DType::F32, &device);
    assert_eq!(y, [1.0, 1.0, 1.0, 1.0]);
    assert_eq!(grad, [1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]);

    let x = [f64::NAN, 5.0, 0.0, 1.0];
    let [y, grad] = run(|x| max_pool2d(x, 2, 1, 0), (&x, [1, 2, 2, 1]), DType::F32, &device);
    assert!(y[0].is_nan());
    assert_eq!(grad, [1.0, 0.0, 0.0, 0.0]);

    // Less than every number that a padding could be filled with.
    let x = [f64::NEG_INFINITY];
    let [y, _] = run(|x| max_pool2d(x, 3, 2, 1), (&x, [1, 1, 1, 1]), DType::F32, &device);
    assert_eq!(y, x);
}

#[test]
#[should_panic(expected = "a padding of 2 leaves windows of 3 empty")]
fn windows_of_padding_alone_are_refused() {
    let _ = max_pool2d(Tensor::zeros([1, 4, 4, 1], &Device::flex()), 3, 1, 2);
}
