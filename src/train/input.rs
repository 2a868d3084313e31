//! From a batch of bytes to a normalised tensor, on the device: a quarter of the traffic that floats would take.

use burn::tensor::{DType, Device, FloatDType, Int, IntDType, Tensor, TensorData, f16};

use crate::{
    config::Normalization,
    data::{Batch, CropRule, Transform},
    recipe::{Augment, Phase},
};

/// How a phase makes a training image of a picture.
pub(crate) fn train_transform(phase: &Phase) -> Transform {
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
    method: Method,
    /// Of the pixels on their way to the device: bytes, which WGSL does not know.
    pixels: DType,
    /// Of the images that it gives.
    dtype: FloatDType,
}

#[derive(Debug, Clone)]
enum Method {
    /// `pixel * scale - shift`.
    Line {
        /// `1 / (255 std)`, `[1, channels, 1, 1]`.
        scale: Tensor<4>,
        /// `mean / std`, `[1, channels, 1, 1]`.
        shift: Tensor<4>,
    },
    /// What half precision makes of each pixel, looked up: exact on devices that have no half precision too.
    Table {
        /// `[256 channels]`: all channels of pixel 0, then those of pixel 1.
        values: Tensor<1>,
        /// `0..channels`, `[1, 1, 1, channels]`.
        channels: Tensor<4, Int>,
    },
}

impl Method {
    fn device(&self) -> Device {
        match self {
            Self::Line { scale, .. } => scale.device(),
            Self::Table { values, .. } => values.device(),
        }
    }
}

impl Normalizer {
    /// For images on `device`, in 32 bits.
    pub fn new(normalization: &Normalization, device: &Device) -> Self {
        let Normalization { mean, std, half } = normalization;
        let channels = mean.len();
        if *half {
            let values = half_table(mean, std);
            let channels: Vec<i32> = (0..channels as i32).collect();
            return Self::of(Method::Table {
                values: Tensor::from_data(values.as_slice(), device),
                channels: Tensor::<1, Int>::from_data(channels.as_slice(), device).reshape([1, 1, 1, -1]),
            });
        }
        let per_channel = |value: &dyn Fn(f32, f32) -> f32| {
            let values: Vec<f32> = mean.iter().zip(std).map(|(&mean, &std)| value(mean, std)).collect();
            Tensor::from_data(TensorData::new(values, [1, channels, 1, 1]), device)
        };
        Self::of(Method::Line {
            scale: per_channel(&|_, std| 1.0 / (255.0 * std)),
            shift: per_channel(&|mean, std| mean / std),
        })
    }

    /// The same, computed in 32 bits and rounded to `dtype` at the end.
    pub fn rounded_to(self, dtype: FloatDType) -> Self {
        Self { dtype, ..self }
    }

    fn of(method: Method) -> Self {
        let pixels = if method.device().supports_dtype(DType::U8) { DType::U8 } else { DType::I32 };
        Self { method, pixels, dtype: FloatDType::F32 }
    }

    /// The images and labels of a batch.
    ///
    /// # Shapes
    /// `[n, height, width, channels]` bytes to `[n, channels, height, width]` and `[n]`.
    pub fn tensors(&self, batch: &Batch) -> (Tensor<4>, Tensor<1, Int>) {
        let labels = batch.labels.iter().map(|&label| label as i32).collect::<Vec<_>>();
        (self.images(&batch.images, batch.shape), Tensor::from_data(labels.as_slice(), &self.method.device()))
    }

    /// The images alone.
    pub fn images(&self, pixels: &[u8], shape: [usize; 4]) -> Tensor<4> {
        let bytes = TensorData::from_bytes_vec(pixels.to_vec(), shape, DType::U8);
        let bytes = Tensor::<4, Int>::from_data(bytes, (&self.method.device(), self.pixels));
        let images = match &self.method {
            Method::Line { scale, shift } => {
                bytes.float().permute([0, 3, 1, 2]) * scale.clone() - shift.clone()
            }
            Method::Table { values, channels } => {
                let places =
                    bytes.cast(IntDType::from(channels.dtype())) * shape[3] as i32 + channels.clone();
                values.clone().select(0, places.reshape([-1])).reshape(shape).permute([0, 3, 1, 2])
            }
        };
        if self.dtype == FloatDType::F32 { images } else { images.cast(self.dtype) }
    }
}

/// All channels of pixel 0 to 255 as the run of 2018 had them: mean and deviation of bytes in half precision, the
/// difference rounded to it, and the quotient. In f32, for two halves' difference and quotient, rounded once more, are
/// those of half precision.
fn half_table(mean: &[f32], std: &[f32]) -> Vec<f32> {
    let half = |value: f32| f16::from_f32(value).to_f32();
    let of_byte = |value: f32| half(255.0 * value);
    let channel = |pixel: f32| {
        mean.iter().zip(std).map(move |(&mean, &std)| half(half(pixel - of_byte(mean)) / of_byte(std)))
    };
    (0..=u8::MAX).flat_map(|pixel| channel(pixel.into())).collect()
}
