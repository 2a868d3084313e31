//! A training step as the trainer takes it: forward, staged backward, update by SGD, the loss read a step late. Images
//! are random and stay on the device, so no data is waited for.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_dist::{Communicator, DataParallel, DataParallelConfig, NonFinite};
use burn_resnet::{ResNet, ResNetConfig};

use super::{
    case::{Case, Size},
    clock::{Spread, once, settle},
    page::StepRow,
};
use crate::{
    config::{OptimizerConfig, Precision},
    error::{Error, Result},
    train::{self, Optimizer, StepConfig, StepResult},
};

/// Rounds that are timed.
const ROUNDS: usize = 3;
/// Seconds that a round should take.
const ROUND_S: f64 = 2.0;
const MAX_STEPS: usize = 40;
/// Steps before the clock starts, at most: kernels are chosen and compiled in them.
const MAX_WARM_UP: usize = 6;
/// What f16 multiplies its loss by, so that no gradient is lost and none overflows: the recipe's of 2018.
const LOSS_SCALE: f64 = 1024.0;
/// At which nothing moves far: what is timed is the work.
const LR: f64 = 1e-4;

/// A network in training, and a batch for it.
pub(super) struct Training {
    model: ResNet,
    optimizer: Optimizer,
    ddp: DataParallel,
    images: Tensor<4>,
    targets: Tensor<1, Int>,
    config: StepConfig,
    /// Of the step before, which is read while the next one runs.
    last: Option<StepResult>,
    /// Steps that updated nothing.
    num_skipped: u64,
}

impl Training {
    /// # Errors
    /// The network cannot take such a batch; the other ranks' faults.
    pub(super) fn new(
        config: &ResNetConfig,
        case: Case,
        device: &Device,
        comm: Communicator,
    ) -> Result<Self> {
        let Case { size: Size { size, batch_size }, precision } = case;
        config.check_train_batch(batch_size, size, size).map_err(Error::usage)?;
        let model = config.init(0, &device.clone().autodiff());
        let segments = model.segments();
        let (ddp, model) = DataParallel::staged(comm, model, &segments, data_parallel(precision))?;
        let optimizer = OptimizerConfig::default();
        let loss_scale = if precision == Precision::F16 { LOSS_SCALE } else { 1.0 };
        let normal = Distribution::Normal(0.0, 1.0);
        let images = Tensor::<4>::random([batch_size, config.channels(), size, size], normal, device);
        let classes = config.num_classes() as f64;
        let targets = Tensor::<1>::random([batch_size], Distribution::Uniform(0.0, classes), device);
        Ok(Self {
            optimizer: Optimizer::new(&optimizer, &model),
            model,
            ddp,
            images: images.cast(train::dtype(precision)),
            targets: targets.int().clamp(0, config.num_classes() as i64 - 1),
            config: StepConfig::new(&optimizer, loss_scale),
            last: None,
            num_skipped: 0,
        })
    }

    /// Takes a step, and reads the loss of the one before. Returns the seconds that gradients were waited for.
    pub(super) fn step(&mut self) -> Result<f64> {
        let batch = (self.images.clone(), self.targets.clone());
        let result =
            train::step(&mut self.model, &mut self.optimizer, &mut self.ddp, batch, LR, self.config)?;
        let comm_wait_s = result.comm_wait_s;
        self.num_skipped += u64::from(result.skipped.is_some());
        if let Some(before) = self.last.replace(result) {
            before.loss.try_into_scalar::<f32>().map_err(|error| Error::run(format!("{error:?}")))?;
        }
        Ok(comm_wait_s)
    }
}

/// As the trainer treats gradients of that precision: a step of half precision may be skipped, for which it is looked
/// at.
pub(super) fn data_parallel(precision: Precision) -> DataParallelConfig {
    let non_finite = if precision == Precision::F32 { NonFinite::Fail } else { NonFinite::SkipStep };
    DataParallelConfig { non_finite, ..DataParallelConfig::default() }
}

/// Steps until they take equally long; the seconds of each.
pub(super) fn warm_up(device: &Device, mut step: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    while seconds.len() < MAX_WARM_UP && !is_warm(&seconds) {
        seconds.push(once(device, &mut step)?);
    }
    Ok(seconds)
}

/// Whether the last step took about as long as the one before it.
fn is_warm(seconds: &[f64]) -> bool {
    matches!(seconds, [_, .., before, last] if *last > 0.8 * before && *last < 1.25 * before)
}

/// Steps that make a round.
fn num_steps(step_s: f64) -> usize {
    ((ROUND_S / step_s.max(1e-6)) as usize).clamp(1, MAX_STEPS)
}

/// Seconds a step, of rounds that the device may work ahead in.
pub(super) fn rounds(device: &Device, step_s: f64, mut step: impl FnMut() -> Result<()>) -> Result<Spread> {
    let num_steps = num_steps(step_s);
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        settle(device)?;
        let started = Instant::now();
        for _ in 0..num_steps {
            step()?;
        }
        settle(device)?;
        seconds.push(started.elapsed().as_secs_f64() / num_steps as f64);
    }
    Ok(Spread::of(seconds))
}

/// Fills in what the steps of a case take.
///
/// # Errors
/// The network cannot take such a batch, or the device fails.
pub(super) fn measure(config: &ResNetConfig, case: Case, device: &Device, row: &mut StepRow) -> Result<()> {
    let mut training = Training::new(config, case, device, Communicator::single())?;
    let mut step = || training.step().map(drop);
    let warm_up = warm_up(device, &mut step)?;
    row.first_step_s = warm_up.first().copied();
    row.warm_up_s = Some(warm_up.iter().sum());
    let time = rounds(device, warm_up.last().copied().unwrap_or_default(), &mut step)?;
    row.step = Some(time);
    let Size { size, batch_size } = case.size;
    row.images_per_s = Some(batch_size as f64 / time.median_s);
    // Forward, and two gradients of as many; a multiplication and an addition each.
    row.flop_per_s = Some((6 * config.num_macs(size, size)) as f64 * batch_size as f64 / time.median_s);
    row.skipped_steps = training.num_skipped;
    row.reserved_bytes = device.memory_pool_usage().map(|usage| usage.bytes_reserved);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_is_when_two_steps_take_equally_long() {
        assert!(!is_warm(&[]));
        assert!(!is_warm(&[9.0]));
        assert!(!is_warm(&[1.0, 1.0]), "one of them may have compiled");
        assert!(!is_warm(&[9.0, 1.0, 0.5]));
        assert!(is_warm(&[9.0, 1.0, 1.1]));
    }

    #[test]
    fn a_round_takes_some_seconds() {
        assert_eq!(num_steps(0.1), 20);
        assert_eq!(num_steps(0.001), MAX_STEPS);
        assert_eq!(num_steps(100.0), 1);
        assert_eq!(num_steps(0.0), MAX_STEPS);
    }
}
