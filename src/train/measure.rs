//! How long a training step takes on a device: random images, forward and backward. Not the update of the weights, the
//! data or other ranks.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_resnet::{ResNetConfig, backward_staged};

use super::loss;
use crate::error::{Error, Result};

/// Steps that are timed, after one that is not: kernels are compiled and chosen in it.
const STEPS: usize = 3;

/// Measures a step of `batch_size` images of `size` pixels a side: seconds, the median of three.
///
/// # Errors
/// The network cannot take such a batch, or the device reports a fault.
pub fn measure_step(model: &ResNetConfig, size: usize, batch_size: usize, device: &Device) -> Result<f64> {
    model.check_train_batch(batch_size, size, size).map_err(Error::usage)?;
    let device = device.clone().autodiff();
    let network = model.init(0, &device);
    let plain = device.clone().without_autodiff();
    let images = Tensor::<4>::random(
        [batch_size, model.channels(), size, size],
        Distribution::Normal(0.0, 1.0),
        &plain,
    );
    let targets = Tensor::<1, Int>::zeros([batch_size], &device);
    let mut times: Vec<f64> = Vec::with_capacity(STEPS);
    for step in 0..=STEPS {
        let start = Instant::now();
        let targets = targets.clone();
        let images = Tensor::from_inner(images.clone());
        backward_staged(&network, images, |logits| loss::cross_entropy(logits, targets, 0.0), |_, _| {});
        plain.sync().map_err(|error| {
            Error::run(format!("the device failed at {batch_size} images of {size} px: {error:?}"))
        })?;
        if step > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[STEPS / 2])
}
