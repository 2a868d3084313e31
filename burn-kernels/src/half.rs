//! Half-precision values on a CPU: widened to f32, computed in f32, rounded once on the way out. The numbers are those of
//! a tensor core, half storage with f32 sums. Not the operations themselves.
//!
//! A 16-bit value is one of f32, so widening is exact; rounding is to the nearest, ties to even.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Element, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::memory::Buffer;

type Primitive = FloatTensor<Flex>;

/// Values that a thread converts at a time.
const GRAIN: usize = 1 << 15;

/// Contiguous and in f32.
pub(crate) fn widen<const N: usize>(tensors: [Primitive; N]) -> [Primitive; N] {
    tensors.map(|tensor| match tensor.dtype() {
        DType::F16 => widen_from::<f16>(tensor),
        DType::BF16 => widen_from::<bf16>(tensor),
        _ => contiguous::<f32>(tensor),
    })
}

/// A new tensor of `dtype`, one of those that [`widen`] takes.
pub(crate) fn narrow(values: Buffer, shape: &[usize], dtype: DType) -> Primitive {
    match dtype {
        DType::F16 | DType::BF16 => narrow_slice(&values, shape, dtype),
        _ => tensor(values, 4 * shape.iter().product::<usize>(), shape, DType::F32),
    }
}

/// A new tensor of `dtype`, which is one of 16 bits.
pub(crate) fn narrow_slice(values: &[f32], shape: &[usize], dtype: DType) -> Primitive {
    match dtype {
        DType::F16 => narrow_to::<f16>(values, shape),
        _ => narrow_to::<bf16>(values, shape),
    }
}

fn contiguous<E: Element + bytemuck::Pod>(tensor: Primitive) -> Primitive {
    if tensor.as_slice::<E>().is_some() { tensor } else { tensor.to_contiguous() }
}

fn widen_from<E: Element + bytemuck::Pod>(tensor: Primitive) -> Primitive
where
    [E]: HalfFloatSliceExt,
{
    let tensor = contiguous::<E>(tensor);
    let half = tensor.as_slice::<E>().expect("made contiguous, and its type was asked");
    let mut values = Buffer::of_any(half.len());
    let parts = values.par_chunks_mut(GRAIN).zip(half.par_chunks(GRAIN));
    parts.for_each(|(to, from)| from.convert_to_f32_slice(to));
    narrow(values, &tensor.shape(), DType::F32)
}

fn narrow_to<E: Element + bytemuck::Pod>(values: &[f32], shape: &[usize]) -> Primitive
where
    [E]: HalfFloatSliceExt,
{
    let mut half = Buffer::of_any(values.len().div_ceil(2));
    let to: &mut [E] = &mut bytemuck::cast_slice_mut(&mut half)[..values.len()];
    to.par_chunks_mut(GRAIN)
        .zip(values.par_chunks(GRAIN))
        .for_each(|(to, from)| to.convert_from_f32_slice(from));
    tensor(half, size_of_val(values) / 2, shape, E::dtype())
}

/// Of a buffer's first bytes.
fn tensor(values: Buffer, num_bytes: usize, shape: &[usize], dtype: DType) -> Primitive {
    Primitive::from_data(TensorData::from_bytes(values.into_bytes(num_bytes), shape.to_vec(), dtype))
}
