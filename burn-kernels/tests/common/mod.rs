//! Random tensors, and gradients of a function of tensors.
#![allow(clippy::unwrap_used)]
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod devices;

use burn::tensor::{DType, Device, Tensor, TensorData};

/// A generator with nothing to depend on: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From -1 to 1, exact in f32.
    pub fn values(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| (self.next() >> 40) as f64 / (1u64 << 23) as f64 - 1.0).collect()
    }
}

/// A tensor on flex, tracked.
pub fn leaf<const D: usize>(values: &[f64], shape: [usize; D], dtype: DType, device: &Device) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape).convert_dtype(dtype);
    Tensor::from_data(data, (&device.clone().autodiff(), dtype)).require_grad()
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert_dtype(DType::F64).try_into_vec().unwrap()
}

/// The values as `dtype` stores them.
pub fn rounded(values: &[f64], dtype: DType) -> Vec<f64> {
    let data = TensorData::new(values.to_vec(), [values.len()]).convert_dtype(dtype);
    data.convert_dtype(DType::F64).try_into_vec().unwrap()
}

/// The result of `f` at `a` and `b`, and the gradients of both when the result's is `grad`.
pub fn run<const D: usize, const E: usize>(
    f: impl Fn(Tensor<D>, Tensor<E>) -> Tensor<4>,
    (a, a_shape): (&[f64], [usize; D]),
    (b, b_shape): (&[f64], [usize; E]),
    grad: &[f64],
    dtype: DType,
    device: &Device,
) -> [Vec<f64>; 3] {
    let (a, b) = (leaf(a, a_shape, dtype, device), leaf(b, b_shape, dtype, device));
    let y = f(a.clone(), b.clone());
    let weights = TensorData::new(grad.to_vec(), y.dims()).convert_dtype(dtype);
    let weights: Tensor<4> = Tensor::from_data(weights, (&device.clone().autodiff(), dtype));
    let weights = weights.cast(y.dtype());
    let grads = (y.clone() * weights).backward();
    [values(y), values(a.grad(&grads).unwrap()), values(b.grad(&grads).unwrap())]
}

/// Asserts that each value is within its bound of the truth.
pub fn assert_within(got: &[f64], truth: &[f64], bound: &[f64], what: &str) {
    assert_eq!(got.len(), truth.len(), "{what}");
    for (i, ((got, truth), bound)) in got.iter().zip(truth).zip(bound).enumerate() {
        assert!((got - truth).abs() <= *bound, "{what}: [{i}] is {got}, should be {truth} within {bound}");
    }
}

/// From `[batch, channels, height, width]`, as Burn's own operations have it, to what this crate takes.
pub fn channels_last(images: Tensor<4>) -> Tensor<4> {
    images.permute([0, 2, 3, 1])
}

/// And back.
pub fn channels_first(images: Tensor<4>) -> Tensor<4> {
    images.permute([0, 3, 1, 2])
}
