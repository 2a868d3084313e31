//! Keys that are read and checked, but that the trainer cannot carry out. A row a key; who builds it takes it away.

use super::{LossScale, OptimizerRule, Precision, TrainConfig};
use crate::{
    config::Loss,
    error::{Error, Result},
    recipe::ValCrop,
};

/// Refuses a configuration that asks for what is not there.
pub(super) fn not_built_yet(config: &TrainConfig) -> Result<()> {
    let TrainConfig { data, model, optimizer, phase, .. } = config;
    let asked = [
        ("precision", config.precision != Precision::F32),
        ("loss_scale", !matches!(config.loss_scale, None | Some(LossScale::Static(1.0)))),
        ("data.half_normalization", data.half_normalization),
        ("model.blur_pool", model.blur_pool),
        ("model.fc_std", model.fc_std.is_some()),
        ("optimizer.rule", optimizer.rule != OptimizerRule::Sgd),
        ("optimizer.loss", optimizer.loss != Loss::CrossEntropy),
        ("optimizer.mixup", optimizer.mixup != 0.0),
        ("optimizer.cutmix", optimizer.cutmix != 0.0),
        ("optimizer.ema", optimizer.ema.is_some()),
        ("phase.data", phase.iter().any(|phase| phase.data.is_some())),
        ("phase.val", phase.iter().any(|phase| phase.val != ValCrop::Center)),
        ("phase.momentum", phase.iter().any(|phase| phase.momentum.is_some())),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((key, _)) => Err(Error::usage(format!(
            "{key} asks for what this program cannot do yet: leave it at its default"
        ))),
        None => Ok(()),
    }
}
