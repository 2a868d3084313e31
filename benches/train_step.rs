//! One process, one case: a training step (forward, backward, update) as the trainer takes it, a forward pass for evaluation,
//! and the most memory that the process held while training. A line of JSON.
//!
//! `benches/peers/train_step.sh` runs it in turns with PyTorch. Without words it is a try with a tiny network.

use std::{error::Error, fs, time::Instant};

use burn::{
    module::Module,
    tensor::{Device, Distribution, FloatDType, Int, Tensor, TensorData},
};
use burn_dist::{Communicator, DataParallel, DataParallelConfig, measure::Timing};
use burn_resnet::{Depth, ResNet, ResNetConfig};
use burn_sprint::{
    config::OptimizerConfig,
    train::{self, StepConfig},
};
use serde_json::json;

/// The allocator of the program `sprint`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Of this process so far, where the system tells.
fn peak_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    kib.trim().strip_suffix(" kB")?.parse().ok().map(|kib: f64| kib / 1024.0)
}

/// Runs once uncounted, then `repeats` times.
fn time(repeats: usize, mut work: impl FnMut() -> Result<()>) -> Result<Timing> {
    work()?;
    let mut seconds = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let started = Instant::now();
        work()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Timing { seconds, cores: 0.0 })
}

/// Words: layers, pictures, their side, number type (`f32`, `bf16`), repeats. cargo's own `--bench` is none.
fn main() -> Result<()> {
    burn_sprint::allocator::keep_freed_memory();
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let words = if words.is_empty() { vec!["8", "2", "32", "f32", "1"] } else { words };
    let [layers, batch_size, size, dtype, repeats] = words[..] else {
        return Err("give layers, pictures, side, f32 or bf16, and repeats".into());
    };
    let (batch_size, size, repeats) = (batch_size.parse()?, size.parse()?, repeats.parse()?);
    let float = match dtype {
        "f32" => FloatDType::F32,
        "bf16" => FloatDType::BF16,
        other => return Err(format!("f32 or bf16, not {other}").into()),
    };
    let device = Device::flex();
    let config = ResNetConfig::new(Depth::try_from(layers.parse::<u64>()?)?, 1000)?;
    let model: ResNet = config.init(0, &device.clone().autodiff());
    let images = Tensor::<4>::random([batch_size, 3, size, size], Distribution::Normal(0.0, 1.0), &device);
    let images = images.cast(float);
    let targets: Vec<i64> = (0..batch_size as i64).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::from(targets.as_slice()), &device);

    let optimizer = OptimizerConfig::default();
    let (mut ddp, mut model) =
        DataParallel::new(Communicator::single(), model, DataParallelConfig::default())?;
    let mut sgd = train::Optimizer::new(&optimizer, &model);
    // A rate at which nothing moves far: what is timed is the work.
    let (lr, config) = (1e-4, StepConfig::new(&optimizer, 1.0));
    let step = time(repeats, || {
        let batch = (images.clone(), targets.clone());
        let result = train::step(&mut model, &mut sgd, &mut ddp, batch, lr, config)?;
        result.loss.into_scalar::<f32>();
        Ok(())
    })?;
    let peak_mib = peak_mib();
    let valid = model.valid();
    let forward = time(repeats, || {
        valid.forward(images.clone()).into_data();
        Ok(())
    })?;
    let figure = |timing: &Timing| json!({ "median_s": timing.median(), "range_s": timing.range() });
    let case = json!({
        "layers": layers, "batch": batch_size, "size": size, "dtype": dtype,
        "step": figure(&step), "forward": figure(&forward), "peak_mib": peak_mib,
    });
    println!("{case}");
    Ok(())
}
