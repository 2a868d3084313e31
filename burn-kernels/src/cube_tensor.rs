//! Tensors of Burn's GPU backends, as our kernels take them: room for new ones, and how wide a thread reads.

use burn::cubecl::prelude::VectorSize;
use burn::tensor::DType;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_std::Shape;

/// Room on the device of `like`.
pub(crate) fn room(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// Room for a tensor like this one.
pub(crate) fn room_like(tensor: &CubeTensor) -> CubeTensor {
    room(tensor, tensor.meta.shape().clone(), tensor.dtype)
}

/// The most numbers that a thread reads at once and that rows of `len` are made of.
pub(crate) fn vector_size(tensor: &CubeTensor, len: usize) -> VectorSize {
    let mut sizes = tensor.client.io_optimized_vector_sizes(tensor.dtype.size());
    sizes.find(|size| len.is_multiple_of(*size)).unwrap_or(1)
}
