//! Timing on a device that works asynchronously: a clock is read when all that was queued before is done, and again when
//! the work is.

use std::{fmt::Debug, time::Instant};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Seconds of the same thing, done several times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The one in the middle.
    pub median_s: f64,
    /// The shortest.
    pub min_s: f64,
    /// The longest.
    pub max_s: f64,
}

impl Spread {
    /// Of at least one.
    pub(super) fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let [min_s, median_s, max_s] = [0, seconds.len() / 2, seconds.len() - 1].map(|place| seconds[place]);
        Self { median_s, min_s, max_s }
    }
}

/// Waits until the device has done everything.
pub(super) fn settle(device: &Device) -> Result<()> {
    device.sync().map_err(failed)
}

/// The first line of what a device says about its failure.
pub(super) fn failed(error: impl Debug) -> Error {
    let words = format!("{error:?}");
    Error::run(format!("the device failed: {}", words.lines().next().unwrap_or("no reason given")))
}

/// Seconds from an idle device to an idle device.
pub(super) fn once(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    settle(device)?;
    let started = Instant::now();
    work()?;
    settle(device)?;
    Ok(started.elapsed().as_secs_f64())
}

/// Of `repeats` times, after one that does not count: kernels are chosen and compiled in it.
pub(super) fn repeated(
    device: &Device,
    repeats: usize,
    mut work: impl FnMut() -> Result<()>,
) -> Result<Spread> {
    once(device, &mut work)?;
    let seconds = (0..repeats.max(1)).map(|_| once(device, &mut work)).collect::<Result<_>>()?;
    Ok(Spread::of(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_between_the_ends() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { median_s: 2.0, min_s: 1.0, max_s: 3.0 });
        assert_eq!(Spread::of(vec![5.0]), Spread { median_s: 5.0, min_s: 5.0, max_s: 5.0 });
    }
}
