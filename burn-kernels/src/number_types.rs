//! The number types that operations of this crate's own take, on whatever backend; all others get the plain ones.

use burn::backend::TensorMetadata;
use burn::tensor::DType;

/// Whether these are the types that go through f32: f32 itself or 16 bits, all the same.
pub(crate) fn all_alike<T: TensorMetadata, const N: usize>(tensors: [&T; N]) -> bool {
    let dtype = tensors[0].dtype();
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        && tensors.iter().all(|tensor| tensor.dtype() == dtype)
}

/// Whether a norm goes through f32: images that are alike, and the channels' values in f32.
pub(crate) fn norm_goes<T: TensorMetadata, const N: usize, const M: usize>(
    images: [&T; N],
    channels: [&T; M],
) -> bool {
    all_alike(images) && channels.iter().all(|tensor| tensor.dtype() == DType::F32)
}
