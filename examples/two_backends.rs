//! The same code on two backends: in Burn 0.22 a function takes a [`Device`] and no type parameter.
//!
//! Flex is there by default; the second one, ndarray, with `--features ndarray`.

use std::error::Error;

use burn::tensor::{Device, Tensor, TensorData};
use burn_resnet::{Depth, ResNetConfig};

/// The logits of two fixed pictures, by a network of fixed weights. No backend is named.
fn logits(device: &Device) -> Result<Vec<f32>, Box<dyn Error>> {
    // Weights are drawn on the host, so equal seeds are equal bits on every backend.
    let model = ResNetConfig::new(Depth::D20, 10)?.init(7, device);
    let shape = [2, 3, 32, 32];
    let pixels: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.1).sin()).collect();
    let images = Tensor::<4>::from_data(TensorData::new(pixels, shape), device);
    Ok(model.forward(images).into_data().iter().collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let flex = logits(&Device::flex())?;
    println!("flex    {:?}", &flex[..4]);

    #[cfg(not(feature = "ndarray"))]
    println!("ndarray is not compiled in: run with --features ndarray to compare");

    #[cfg(feature = "ndarray")]
    {
        #[expect(deprecated, reason = "a second opinion, as in the tests")]
        let ndarray = logits(&Device::ndarray())?;
        println!("ndarray {:?}", &ndarray[..4]);
        let differences = flex.iter().zip(&ndarray).map(|(a, b)| (a - b).abs());
        let largest = differences.fold(0.0, f32::max);
        println!("largest difference of a logit: {largest:e}");
        if largest > 1e-4 {
            return Err(format!("the backends disagree by {largest:e}, more than 1e-4").into());
        }
    }
    Ok(())
}
