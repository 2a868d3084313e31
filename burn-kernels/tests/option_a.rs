//! Option A: every second pixel among zero channels, and its gradient, by the definition; by our own code and, in
//! f64 and on ndarray, by Burn's operations.

#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_kernels::option_a;
use common::{Random, leaf, rounded, values};

#[test]
fn takes_every_second_pixel_and_adds_zero_channels() {
    let mut random = Random(7);
    #[cfg_attr(not(feature = "ndarray"), allow(unused_mut))]
    let mut kinds = [DType::F32, DType::BF16, DType::F64].map(|dtype| (Device::flex(), dtype)).to_vec();
    #[cfg(feature = "ndarray")]
    #[allow(deprecated, reason = "a second opinion for tests")]
    kinds.push((Device::ndarray(), DType::F32));
    for (device, dtype) in kinds {
        for (shape, channels) in
            [([3, 4, 6, 2], 4usize), ([2, 5, 7, 3], 8), ([1, 1, 1, 5], 5), ([2, 2, 3, 4], 5)]
        {
            let [batch, height, width, own]: [usize; 4] = shape;
            let out = [batch, height.div_ceil(2), width.div_ceil(2), channels];
            let given = rounded(&random.values(shape.iter().product()), dtype);
            let gradient = rounded(&random.values(out.iter().product()), dtype);
            let (mut expected, mut expected_gradient) = (vec![0.0; gradient.len()], vec![0.0; given.len()]);
            for place in 0..given.len() {
                let (pixel, channel) = (place / own, place % own);
                let (row, column) = (pixel / width % height, pixel % width);
                if row % 2 == 0 && column % 2 == 0 {
                    let row = pixel / width / height * out[1] + row / 2;
                    let to = (row * out[2] + column / 2) * channels + (channels - own) / 2 + channel;
                    expected[to] = given[place];
                    expected_gradient[place] = gradient[to];
                }
            }
            let x = leaf(&given, shape, dtype, &device);
            let y = option_a(x.clone(), channels);
            assert_eq!((y.dims(), values(y.clone())), (out, expected), "{shape:?} {device:?}");
            let gradient = TensorData::new(gradient, out).convert_dtype(dtype);
            let gradient = Tensor::from_data(gradient, (&device, dtype));
            let grads = burn_kernels::seed_gradient(y, gradient).backward();
            assert_eq!(values(x.grad(&grads).unwrap()), expected_gradient, "{shape:?} {device:?}");
        }
    }
}

#[test]
#[should_panic(expected = "option A: 4 channels do not fit into 3")]
fn refuses_fewer_channels() {
    let _ = option_a(Tensor::zeros([1, 2, 2, 4], &Device::flex()), 3);
}
