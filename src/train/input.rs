//! From a batch of bytes to a normalised tensor, on the device: a quarter of the traffic that floats would take.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use crate::{
    config::Normalization,
    data::{Batch, CropRule, Transform},
    recipe::{Augment, Phase},
};

/// How a phase makes a training image of a picture.
pub(super) fn train_transform(phase: &Phase) -> Transform {
    let size = phase.size as usize;
    let flip = phase.flip;
    let random_resized =
        |rule| Transform::RandomResizedCrop { size, scale: (phase.min_scale, 1.0), rule, flip };
    match phase.augment {
        Augment::RandomResizedCrop => random_resized(CropRule::Modern),
        Augment::RandomResizedCrop2018 => random_resized(CropRule::Torchvision2018),
        Augment::PadAndCrop => Transform::PadAndCrop { size, padding: phase.padding as usize, flip },
    }
}

/// Turns pixels into `(pixel / 255 - mean) / std`, channel by channel.
#[derive(Debug, Clone)]
pub struct Normalizer {
    /// `1 / (255 std)`, `[1, channels, 1, 1]`.
    scale: Tensor<4>,
    /// `mean / std`, `[1, channels, 1, 1]`.
    shift: Tensor<4>,
    /// Of the images that it gives.
    dtype: FloatDType,
}

impl Normalizer {
    /// For images on `device`, in 32 bits.
    pub fn new(normalization: &Normalization, device: &Device) -> Self {
        let per_channel = |value: &dyn Fn(f32, f32) -> f32| {
            let pairs = normalization.mean.iter().zip(&normalization.std);
            let values: Vec<f32> = pairs.map(|(&mean, &std)| value(mean, std)).collect();
            let channels = values.len();
            Tensor::from_data(TensorData::new(values, [1, channels, 1, 1]), device)
        };
        Self {
            scale: per_channel(&|_, std| 1.0 / (255.0 * std)),
            shift: per_channel(&|mean, std| mean / std),
            dtype: FloatDType::F32,
        }
    }

    /// The same, computed in 32 bits and rounded to `dtype` at the end.
    pub fn rounded_to(self, dtype: FloatDType) -> Self {
        Self { dtype, ..self }
    }

    /// The images and labels of a batch.
    ///
    /// # Shapes
    /// `[n, height, width, channels]` bytes to `[n, channels, height, width]` and `[n]`.
    pub fn tensors(&self, batch: &Batch) -> (Tensor<4>, Tensor<1, Int>) {
        let labels = batch.labels.iter().map(|&label| label as i32).collect::<Vec<_>>();
        (self.images(&batch.images, batch.shape), Tensor::from_data(labels.as_slice(), &self.scale.device()))
    }

    /// The images alone.
    pub fn images(&self, pixels: &[u8], shape: [usize; 4]) -> Tensor<4> {
        let device = self.scale.device();
        let bytes = TensorData::from_bytes_vec(pixels.to_vec(), shape, DType::U8);
        let images = Tensor::<4, Int>::from_data(bytes, (&device, DType::U8)).float().permute([0, 3, 1, 2]);
        let images = images * self.scale.clone() - self.shift.clone();
        if self.dtype == FloatDType::F32 { images } else { images.cast(self.dtype) }
    }
}
