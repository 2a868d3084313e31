//! Which numbers the network computes in, and what follows from it. Weights, their gradients, batch norm and the loss are
//! f32 always: the images' number type decides for convolutions and the classifier (see [`burn_resnet`]).

use burn::tensor::{Device, FloatDType};
use burn_dist::NonFinite;

use crate::{
    config::{LossScale, Precision, TrainConfig},
    error::{Error, Result},
};

/// The number type of images.
pub(crate) fn dtype(precision: Precision) -> FloatDType {
    match precision {
        Precision::F32 => FloatDType::F32,
        Precision::F16 => FloatDType::F16,
        Precision::Bf16 => FloatDType::BF16,
    }
}

/// The configuration's rule, or the precision's own: bf16 has the range of f32 and needs none.
pub(super) fn loss_scale(config: &TrainConfig) -> LossScale {
    config.loss_scale.unwrap_or(match config.precision {
        Precision::F16 => LossScale::Dynamic,
        Precision::F32 | Precision::Bf16 => LossScale::Static(1.0),
    })
}

/// What becomes of a gradient that is no number: in half precision, or where the scale is still to be found, that is
/// to be expected now and then; else it is the end of the run.
pub(super) fn non_finite(config: &TrainConfig) -> NonFinite {
    let may_overflow = config.precision != Precision::F32 || loss_scale(config) == LossScale::Dynamic;
    if may_overflow { NonFinite::SkipStep } else { NonFinite::Fail }
}

/// Refuses a device that lacks these numbers.
///
/// # Errors
/// [`Error::Usage`] names the device and what it can do.
pub(super) fn check_device(config: &TrainConfig, device: &Device) -> Result<()> {
    let able = |precision| device.supports_dtype(dtype(precision));
    if able(config.precision) {
        return Ok(());
    }
    let all = [Precision::F32, Precision::F16, Precision::Bf16];
    let others: Vec<_> =
        all.into_iter().filter(|&other| able(other)).map(|other| other.to_string()).collect();
    Err(Error::usage(format!(
        "precision = \"{}\": device {} does not compute in it; take precision = {}, or another device",
        config.precision,
        config.device,
        others.join(" or ")
    )))
}
