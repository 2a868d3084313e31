//! The results: what is written as JSON, and the table of it. benches/peers/torch_gpu.py writes the same.

use std::fmt::{self, Write as _};

use burn_resnet::ResNetConfig;
use serde::{Deserialize, Serialize};

use super::{case::Case, clock::Spread};
use crate::config::Precision;

/// Everything that was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Who computed: this program, or another library.
    pub program: String,
    /// The device, as `--device` takes it.
    pub device: String,
    /// What it is.
    pub card: String,
    /// What bounds the rest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ceilings: Option<Ceilings>,
    /// Steps.
    pub steps: Vec<StepRow>,
    /// What was asked for and is not here, and why.
    pub not_measured: Vec<String>,
}

/// The device's highest rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes read and written, of a copy within the device.
    pub copy_bytes_per_s: f64,
    /// Bytes from the device to the host.
    pub to_host_bytes_per_s: f64,
    /// Bytes from the host to the device.
    pub to_device_bytes_per_s: f64,
    /// Products of square matrices.
    pub products: Vec<Product>,
}

/// A product of two square matrices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// Of the numbers.
    pub precision: Precision,
    /// Of the matrices.
    pub side: usize,
    /// 2 side^3, a second.
    pub flop_per_s: f64,
}

/// A training step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// The network, such as `resnet50`.
    pub network: String,
    /// Of an image's side, in pixels.
    pub size: usize,
    /// Images a step.
    pub batch_size: usize,
    /// Of convolutions and classifier.
    pub precision: Precision,
    /// How the device computes, such as `fusion`.
    pub variant: String,
    /// Seconds of the first step: kernels are chosen and compiled in it.
    pub first_step_s: Option<f64>,
    /// Seconds until steps took equally long.
    pub warm_up_s: Option<f64>,
    /// A step after that.
    pub step: Option<Spread>,
    /// By the middle of the times.
    pub images_per_s: Option<f64>,
    /// Multiply-adds of forward and backward pass, twice, by the middle of the times.
    pub flop_per_s: Option<f64>,
    /// Memory that the device's allocator held after the steps, where the device tells.
    pub reserved_bytes: Option<u64>,
    /// Steps whose gradients overflowed, so that nothing was updated.
    pub skipped_steps: u64,
    /// Where the time goes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parts: Option<Parts>,
    /// The same step with a second rank.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exchange: Option<Exchange>,
    /// Why there is no more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl StepRow {
    pub(super) fn new(model: &ResNetConfig, case: Case, variant: &str) -> Self {
        Self {
            network: format!("resnet{}", model.depth()),
            size: case.size.size,
            batch_size: case.size.batch_size,
            precision: case.precision,
            variant: variant.to_owned(),
            first_step_s: None,
            warm_up_s: None,
            step: None,
            images_per_s: None,
            flop_per_s: None,
            reserved_bytes: None,
            skipped_steps: 0,
            parts: None,
            exchange: None,
            error: None,
        }
    }
}

/// Where a step's time goes, each operation timed by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// All convolutions forward.
    pub conv_forward_s: f64,
    /// Their gradients by the images.
    pub conv_input_grad_s: f64,
    /// Their gradients by the weights.
    pub conv_weight_grad_s: f64,
    /// Batch norms with ReLU and shortcut, forward and backward.
    pub norm_s: f64,
    /// The step less all that.
    pub rest_s: f64,
    /// The convolutions, each shape once.
    pub convs: Vec<ConvTimes>,
}

/// A convolution of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConvTimes {
    /// Channels of its input.
    pub input: usize,
    /// Channels of its output.
    pub output: usize,
    /// Side of its kernel.
    pub size: usize,
    /// Its stride.
    pub stride: usize,
    /// Of its input, in pixels.
    pub height: usize,
    /// Of its input, in pixels.
    pub width: usize,
    /// How often the network has it.
    pub count: usize,
    /// Operations of each of the three.
    pub flop: f64,
    /// Forward.
    pub forward_s: f64,
    /// Gradient by the images, if they need one.
    pub input_grad_s: Option<f64>,
    /// Gradient by the weights.
    pub weight_grad_s: f64,
}

/// A step whose gradients go to a second rank and come back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// The whole step.
    pub step: Spread,
    /// Of it, how long gradients were waited for.
    pub comm_wait_s: f64,
}

/// A number that may not be there.
fn cell(value: Option<f64>, scale: f64, decimals: usize) -> String {
    value.map_or("-".into(), |value| format!("{:.decimals$}", value * scale))
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}: {}", self.program, self.device, self.card)?;
        if let Some(ceilings) = &self.ceilings {
            let Ceilings { copy_bytes_per_s, to_host_bytes_per_s, to_device_bytes_per_s, products } =
                ceilings;
            writeln!(
                f,
                "GB/s: copy {:.1}, to the host {:.1}, from it {:.1}",
                copy_bytes_per_s / 1e9,
                to_host_bytes_per_s / 1e9,
                to_device_bytes_per_s / 1e9
            )?;
            for Product { precision, side, flop_per_s } in products {
                writeln!(f, "{precision} matrix product of side {side}: {:.3} TFLOP/s", flop_per_s / 1e12)?;
            }
        }
        writeln!(
            f,
            "\n{:<9} {:>4} {:>5} {:>4} {:<10} {:>9} {:>9} {:>9} {:>8} {:>7} {:>9} {:>9}",
            "network",
            "px",
            "batch",
            "type",
            "how",
            "warm-up s",
            "step ms",
            "images/s",
            "TFLOP/s",
            "GiB",
            "2 ranks",
            "waits ms"
        )?;
        for row in &self.steps {
            writeln!(
                f,
                "{:<9} {:>4} {:>5} {:>4} {:<10} {:>9} {:>9} {:>9} {:>8} {:>7} {:>9} {:>9}",
                row.network,
                row.size,
                row.batch_size,
                row.precision.to_string(),
                row.variant,
                cell(row.warm_up_s, 1.0, 1),
                cell(row.step.map(|step| step.median_s), 1e3, 1),
                cell(row.images_per_s, 1.0, 0),
                cell(row.flop_per_s, 1e-12, 3),
                cell(row.reserved_bytes.map(|bytes| bytes as f64), 1.0 / (1u64 << 30) as f64, 1),
                cell(row.exchange.as_ref().map(|exchange| exchange.step.median_s), 1e3, 1),
                cell(row.exchange.as_ref().map(|exchange| exchange.comm_wait_s), 1e3, 1),
            )?;
            if let Some(why) = &row.error {
                writeln!(f, "    {why}")?;
            }
        }
        let with_parts: Vec<_> =
            self.steps.iter().filter_map(|row| Some((row, row.parts.as_ref()?))).collect();
        if !with_parts.is_empty() {
            writeln!(
                f,
                "\nmilliseconds of a step, each operation by itself; the rest is the step less their sum"
            )?;
            writeln!(
                f,
                "{:>4} {:>5} {:>4} {:>12} {:>12} {:>12} {:>10} {:>8}",
                "px", "batch", "type", "conv forward", "input grad", "weight grad", "batch norm", "rest"
            )?;
        }
        for (row, parts) in with_parts {
            let mut line = format!("{:>4} {:>5} {:>4}", row.size, row.batch_size, row.precision.to_string());
            for (seconds, width) in [
                (parts.conv_forward_s, 12),
                (parts.conv_input_grad_s, 12),
                (parts.conv_weight_grad_s, 12),
                (parts.norm_s, 10),
                (parts.rest_s, 8),
            ] {
                write!(line, " {:>width$.1}", seconds * 1e3)?;
            }
            writeln!(f, "{line}")?;
        }
        for missing in &self.not_measured {
            writeln!(f, "not measured: {missing}")?;
        }
        Ok(())
    }
}
