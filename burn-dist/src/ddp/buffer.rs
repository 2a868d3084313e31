//! A bucket's values on the host, between the copy from the device and the copy back. Not who reads them (`flight`).

use burn::tensor::{DType, Device, Element, Tensor, TensorData};
use half::{bf16, f16, slice::HalfFloatSliceExt};

use super::pack::in_f32;
use crate::config::Wire;

/// Values to be averaged in place, in 32 bits whatever they came in.
#[derive(Debug)]
pub(super) enum Buffer {
    /// Of the host's own memory.
    Host(Vec<f32>),
    /// As they were read. A GPU's are in pinned memory, from where they go back without another copy.
    Read(TensorData),
    /// Widened from 16 bits, in which they also go back: an average over such a wire fits into them.
    Widened(Vec<f32>, Wire),
}

impl Buffer {
    /// What was read from the device, in the wire's number type.
    ///
    /// # Errors
    /// It cannot be had, or is of another type.
    pub(super) fn read(mut data: TensorData, wire: Wire) -> Result<Self, String> {
        let values = match wire {
            // Looked at here, so that `as_mut` cannot fail.
            Wire::F32 => {
                return data.as_mut_slice::<f32>().map_err(words).map(drop).map(|()| Self::Read(data));
            }
            Wire::F16 => widened::<f16>(&data)?,
            Wire::Bf16 => widened::<bf16>(&data)?,
        };
        Ok(Self::Widened(values, wire))
    }

    /// The values on the device, in 32 bits.
    pub(super) fn into_tensor(self, device: &Device) -> Tensor<1> {
        let (data, dtype) = match self {
            Self::Host(values) => (line(values), DType::F32),
            Self::Read(data) => (data, DType::F32),
            Self::Widened(values, Wire::Bf16) => (line(narrowed::<bf16>(&values)), DType::BF16),
            Self::Widened(values, _) => (line(narrowed::<f16>(&values)), DType::F16),
        };
        in_f32(Tensor::from_data(data, (device, dtype)))
    }
}

impl AsMut<[f32]> for Buffer {
    fn as_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Host(values) | Self::Widened(values, _) => values,
            Self::Read(data) => data.as_mut_slice().unwrap_or_default(),
        }
    }
}

fn line<E: Element>(values: Vec<E>) -> TensorData {
    let len = values.len();
    TensorData::new(values, [len])
}

fn widened<H: Element>(data: &TensorData) -> Result<Vec<f32>, String>
where
    [H]: HalfFloatSliceExt,
{
    let halves = data.as_slice::<H>().map_err(words)?;
    let mut values = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut values);
    Ok(values)
}

fn narrowed<H: Element + bytemuck::Zeroable>(values: &[f32]) -> Vec<H>
where
    [H]: HalfFloatSliceExt,
{
    let mut halves = vec![H::zeroed(); values.len()];
    halves.convert_from_f32_slice(values);
    halves
}

/// A library's error in one line.
pub(super) fn words(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
