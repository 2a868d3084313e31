//! Compiles every kernel of burn-kernels for CUDA, in every number type and width of vectors that it has, and starts it: to
//! see without a card that NVRTC takes them (`run.sh`). What they compute is the matter of burn-kernels' tests.

use std::{error::Error, process::ExitCode};

use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_kernels::{SgdStep, batch_norm_train, seed_gradient, sgd_step};

/// Channels of one block and of several, and for vectors of 8, 4, 2 and 1.
const CHANNELS: [usize; 5] = [64, 520, 12, 6, 5];

fn main() -> ExitCode {
    match all(&Device::cuda(0)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The kernel's source follows what the compiler says.
            let words = error.to_string();
            eprintln!("error: {}", words.split("[Source]").next().unwrap_or(&words).trim());
            ExitCode::FAILURE
        }
    }
}

fn all(device: &Device) -> Result<(), Box<dyn Error>> {
    for number in [FloatDType::F32, FloatDType::F16, FloatDType::BF16] {
        for channels in CHANNELS {
            for (add, relu) in [(false, false), (false, true), (true, false), (true, true)] {
                norm(device, number.into(), channels, add, relu)?;
            }
        }
    }
    for len in [64, 7] {
        for nesterov in [false, true] {
            let flat = || Tensor::<1>::zeros([len], device);
            let step = SgdStep { lr: 0.1, momentum: 0.9, weight_decay: 1e-4, nesterov };
            read(sgd_step(flat(), flat(), flat(), step).0)?;
        }
    }
    Ok(())
}

/// Forward and back.
fn norm(
    device: &Device,
    number: DType,
    channels: usize,
    add: bool,
    relu: bool,
) -> Result<(), Box<dyn Error>> {
    let shape = [2, 16, 16, channels];
    let tracked = device.clone().autodiff();
    let images = || Tensor::<4>::zeros(shape, (&tracked, number)).require_grad();
    let line = || Tensor::<1>::ones([channels], (&tracked, DType::F32)).require_grad();
    let x = images();
    let y = batch_norm_train(x.clone(), line(), line(), add.then(images), 1e-5, relu).output;
    let gradients = seed_gradient(y, Tensor::zeros(shape, (device, number))).backward();
    read(x.grad(&gradients).ok_or("no gradient")?)
}

/// Waits for a result: what could not be compiled is told there.
fn read<const D: usize>(tensor: Tensor<D>) -> Result<(), Box<dyn Error>> {
    tensor.try_into_data().map(drop).map_err(|error| format!("{error:?}").into())
}
