//! A recipe made for one cluster and length, adapted to another, and in words how far one is from the other. Pure.

use burn_dist::WorldSize;

use super::{ClusterConfig, OptimizerRule, TrainConfig, check::check_phase};
use crate::{
    error::{Error, Result},
    recipe::{Schedule, scale_batch, stretch},
};

/// Global batches up to here are known to train as well as small ones with plain SGD (Goyal et al. 2017).
const MAX_SGD_BATCH: usize = 8192;
/// What the linear rule counts in: a learning rate is compared as that of so many images.
const LR_IMAGES: f64 = 256.0;

/// Multiplies the epochs by `factor`, and says what became of them.
///
/// # Errors
/// [`Error::Usage`] if `factor` is no number that can be.
pub(crate) fn scale_epochs(config: &mut TrainConfig, factor: f64) -> Result<String> {
    let wrong = |why: String| Error::usage(format!("--scale-epochs {factor}: {why}"));
    let epochs = |config: &TrainConfig| {
        let each = config.phase.iter().map(|phase| phase.epochs);
        (each.clone().map(u64::from).sum::<u64>(), each.map(|n| n.to_string()).collect::<Vec<_>>().join(" "))
    };
    let (old, old_each) = epochs(config);
    if let Some(index) = config.phase.iter().position(|phase| phase.epochs == 0) {
        return Err(wrong(format!("phase {} has no epoch to begin with", index + 1)));
    }
    stretch(&mut config.phase, factor).map_err(wrong)?;
    let (new, new_each) = epochs(config);
    Ok(format!("--scale-epochs {factor}: {old} epochs become {new} (by phase {old_each} -> {new_each})"))
}

/// Gives `world_size` ranks together batches of `global` images in the first phase, and the others in proportion, with
/// learning rates by the linear rule; says what was done, and warns where SGD is not known to hold.
///
/// # Errors
/// [`Error::Usage`] if `global` does not divide.
pub(crate) fn set_global_batch_size(
    config: &mut TrainConfig,
    global: usize,
    world_size: WorldSize,
) -> Result<Vec<String>> {
    for (index, phase) in config.phase.iter().enumerate() {
        check_phase(phase, config.optimizer.micro_batches)
            .map_err(|why| Error::usage(format!("phase {}: {why}", index + 1)))?;
    }
    let Some(first) = config.phase.first().map(|phase| phase.batch_size) else { return Ok(vec![]) };
    let planned = first * planned_ranks(config);
    scale_batch(&mut config.phase, global, world_size.count(), planned).map_err(|unit| {
        Error::usage(format!(
            "--global-batch-size {global}: expected a multiple of {unit}, so that {world_size} ranks get whole images \
             in every phase"
        ))
    })?;
    let ranks_per_machine = world_size.count() as u32;
    if config.cluster.as_ref().and_then(ClusterConfig::world_size) != Some(world_size) {
        config.cluster = Some(ClusterConfig { machines: 1, ranks_per_machine, kind: None });
    }
    let by = global as f64 / planned as f64;
    let mut said = vec![format!(
        "--global-batch-size {global}: {} images a rank in the first phase, learning rates times {by}",
        config.phase[0].batch_size
    )];
    if global > MAX_SGD_BATCH && config.optimizer.rule == OptimizerRule::Sgd {
        said.push(format!(
            "warning: a global batch of {global} is past the {MAX_SGD_BATCH} up to which plain SGD is known to hold; \
             optimizer.rule = \"lars\" or \"lamb\" is made for more"
        ));
    }
    Ok(said)
}

/// How a run by `world_size` ranks differs from the one that the recipe was made for, if it does.
pub(crate) fn beside_plan(
    config: &TrainConfig,
    schedule: &Schedule,
    world_size: WorldSize,
) -> Option<String> {
    let planned = planned_ranks(config);
    let here = world_size.count();
    if here == planned {
        return None;
    }
    let batch = schedule.phase(0).batch_size;
    let (from, to) = schedule.lr_ends(0);
    let per_256 = |ranks: usize| format!("{:.4}", from.max(to) * LR_IMAGES / (batch * ranks) as f64);
    Some(format!(
        "the recipe is made for {planned} ranks, here {}: a global batch of {} images instead of {}, in the first phase \
         a learning rate of up to {} for every 256 of them instead of {}; --global-batch-size {} would keep the plan's",
        if here == 1 { "is 1".to_owned() } else { format!("are {here}") },
        batch * here,
        batch * planned,
        per_256(here),
        per_256(planned),
        batch * planned,
    ))
}

fn planned_ranks(config: &TrainConfig) -> usize {
    config.cluster.as_ref().and_then(ClusterConfig::world_size).map_or(1, WorldSize::count)
}
