//! A bucket put together on the device: one concatenation, the scale, the cast to what travels, and one sum that tells
//! whether all of it is finite. Not its reading, nor its journey (`flight`).

use burn::tensor::{DType, Device, FloatDType, Tensor};

use crate::config::Wire;

/// Where a step's gradients become buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// On the device if it is an accelerator, on the host if tensors lie in its memory anyway.
    #[default]
    ByDevice,
    /// On the host: every gradient is read by itself; copied, scaled and looked at in one pass.
    Host,
    /// On the device: a bucket is read at once, with the sum that tells whether it is finite. With 16 bits on the wire it
    /// leaves and enters the device in 16 bits, so each gradient is rounded once more, before ranks are added up.
    Device,
}

/// Puts buckets together on a device.
#[derive(Debug, Clone)]
pub(super) struct Packer {
    pub(super) device: Device,
    /// What values are on their way between device and host, or from device to device.
    pub(super) wire: Wire,
}

/// A bucket on the device.
pub(super) struct Packed {
    /// Its values as they leave the device.
    pub(super) values: Tensor<1>,
    /// What they add up to in 32 bits: no number if one of them is none, for nothing brings a sum back from there. It may
    /// also overflow, which only means that they have to be looked at.
    pub(super) sum: Tensor<1>,
}

impl Packer {
    /// The packer for a model on `device`; `None` if its buckets are put together on the host. The one place that decides:
    /// on a CPU, reading tensors one by one costs no more than all at once, and one pass over them less than three.
    pub(super) fn new(packing: Packing, device: &Device, wire: Wire) -> Option<Self> {
        let on_device = match packing {
            // Only backends of accelerators keep a pool of memory and report it. Asking waits for the device: once.
            Packing::ByDevice => device.memory_pool_usage().is_some(),
            Packing::Host => false,
            Packing::Device => true,
        };
        let wire = match narrow(wire) {
            Some(dtype) if device.supports_dtype(dtype) => wire,
            _ => Wire::F32,
        };
        on_device.then(|| Self { device: device.clone(), wire })
    }

    /// Puts gradients together in order, zeros of that length for one that is not there.
    ///
    /// # Cost
    /// On the device: a copy, a sum; one more pass each to scale and to cast. Nothing is waited for.
    pub(super) fn pack(&self, gradients: Vec<Result<Tensor<1>, usize>>, scale: f32) -> Packed {
        let zeros = |len| Tensor::zeros([len], (&self.device, DType::F32));
        let parts = gradients.into_iter().map(|gradient| gradient.unwrap_or_else(zeros)).collect();
        let mut values = Tensor::cat(parts, 0);
        if scale != 1.0 {
            values = values.mul_scalar(scale);
        }
        if let Some(dtype) = narrow(self.wire) {
            values = values.cast(dtype);
        }
        // Of what leaves: what a half cannot hold is infinite from here on.
        let sum = in_f32(values.clone()).sum();
        Packed { values, sum }
    }

    /// Room on the device for as many values as leave it.
    pub(super) fn room(&self, len: usize) -> Tensor<1> {
        let dtype = narrow(self.wire).map_or(DType::F32, DType::from);
        Tensor::zeros([len], (&self.device, dtype))
    }
}

/// A number type of 16 bits, if that is what travels.
fn narrow(wire: Wire) -> Option<FloatDType> {
    match wire {
        Wire::F32 => None,
        Wire::F16 => Some(FloatDType::F16),
        Wire::Bf16 => Some(FloatDType::BF16),
    }
}

/// The values in 32 bits.
pub(super) fn in_f32(values: Tensor<1>) -> Tensor<1> {
    if values.dtype() == DType::F32 { values } else { values.cast(FloatDType::F32) }
}
