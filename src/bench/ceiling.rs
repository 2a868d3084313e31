//! What bounds everything else: how fast the device copies its own memory, exchanges it with the host, and multiplies
//! matrices. By Burn's own operations, one at a time with nothing to fuse, on as much as the device is fast enough for.

use burn::tensor::{Device, Distribution, Tensor, TensorData};

use super::{
    clock::{failed, repeated},
    page::{Ceilings, Product},
};
use crate::{config::Precision, error::Result, train::dtype};

const REPEATS: usize = 10;
/// Seconds under which an operation is tried on more: launching it and waiting for it would count.
const LEAST_S: f64 = 4e-3;
/// Numbers that are copied on a device: from 64 MiB, which no cache holds, to 1 GiB.
const COPIED: [usize; 3] = [1 << 24, 1 << 26, 1 << 28];
/// Numbers that are exchanged with the host: up to 256 MiB, which is more than a ResNet-50's gradients.
const EXCHANGED: [usize; 2] = [1 << 22, 1 << 26];
/// Sides of matrices.
const SIDES: [usize; 5] = [512, 1024, 2048, 4096, 8192];

/// # Errors
/// The device fails.
pub(super) fn measure(device: &Device) -> Result<Ceilings> {
    let copy = grown(&COPIED, |numbers| {
        let source = Tensor::<1>::ones([numbers], device);
        // Reads all and writes as much.
        seconds(device, || source.clone().add_scalar(1.0))
    })?;
    let to_host = grown(&EXCHANGED, |numbers| {
        let source = Tensor::<1>::ones([numbers], device);
        first_number(source.clone())?;
        let time = repeated(device, REPEATS, || {
            // Bytes come when they are looked at.
            let data = source.try_to_data().map_err(failed)?;
            std::hint::black_box(data.as_bytes().first().copied());
            Ok(())
        })?;
        Ok(time.median_s)
    })?;
    let to_device = grown(&EXCHANGED, |numbers| {
        let data = TensorData::ones::<f32, _>([numbers]);
        seconds(device, || Tensor::<1>::from_data(data.clone(), device))
    })?;
    let mut products = Vec::new();
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        let float = dtype(precision);
        if !device.supports_dtype(float) {
            continue;
        }
        let (side, time) = grown(&SIDES, |side| {
            let normal = Distribution::Normal(0.0, 1.0);
            let matrix = || Tensor::<2>::random([side, side], normal, device).cast(float);
            let (a, b) = (matrix(), matrix());
            seconds(device, || a.clone().matmul(b.clone()))
        })?;
        products.push(Product { precision, side, flop_per_s: 2.0 * (side as f64).powi(3) / time });
    }
    let rate = |(numbers, seconds): (usize, f64)| 4.0 * numbers as f64 / seconds;
    Ok(Ceilings {
        copy_bytes_per_s: 2.0 * rate(copy),
        to_host_bytes_per_s: rate(to_host),
        to_device_bytes_per_s: rate(to_device),
        products,
    })
}

/// Seconds of some work, the middle of several times.
fn seconds<const D: usize>(device: &Device, work: impl Fn() -> Tensor<D>) -> Result<f64> {
    first_number(work())?;
    let time = repeated(device, REPEATS, || {
        drop(work());
        Ok(())
    })?;
    Ok(time.median_s)
}

/// Reads one number of a result. A device that could not make it, as for want of memory, does not say so when it is waited
/// for.
fn first_number<const D: usize>(result: Tensor<D>) -> Result<()> {
    result.flatten::<1>(0, D - 1).narrow(0, 0, 1).try_into_data().map(drop).map_err(failed)
}

/// The first of `sizes` that takes long enough to be timed well, else the last that the device can do, with its seconds.
fn grown(sizes: &[usize], mut time: impl FnMut(usize) -> Result<f64>) -> Result<(usize, f64)> {
    let mut last = None;
    for &size in sizes {
        last = match (time(size), last) {
            (Ok(seconds), _) if seconds >= LEAST_S => return Ok((size, seconds)),
            (Ok(seconds), _) => Some((size, seconds)),
            // Too much for the device.
            (Err(_), Some(before)) => return Ok(before),
            (Err(error), None) => return Err(error),
        };
    }
    Ok(last.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_fast_device_gets_more_to_do() {
        assert_eq!(grown(&[1, 2, 4], |size| Ok(size as f64 * 3e-3)).unwrap(), (2, 6e-3));
        assert_eq!(grown(&[1, 2, 4], |_| Ok(1e-6)).unwrap(), (4, 1e-6));
        assert_eq!(grown(&[1, 2, 4], |_| Ok(1.0)).unwrap(), (1, 1.0));
        let small = |size| if size < 4 { Ok(1e-3) } else { Err(Error::run("out of memory")) };
        assert_eq!(grown(&[1, 2, 4], small).unwrap(), (2, 1e-3));
        assert!(grown(&[4, 8], small).is_err());
    }
}
