//! The ranges of the configuration's numbers, key by key. What depends on the pictures is [`super::Plan`]'s.

use std::path::{Component, Path};

use super::{Ema, LossScale, TrainConfig};
use crate::{
    error::{Error, Result},
    recipe::{Phase, ValCrop},
};

/// Checks everything but the phases.
pub(super) fn check(config: &TrainConfig) -> Result<()> {
    let TrainConfig { data, optimizer, .. } = config;
    let from_0_below_1 = |value: f64| (0.0..1.0).contains(&value);
    let numbers = [
        ("optimizer.momentum", optimizer.momentum, from_0_below_1(optimizer.momentum), "0 or more, below 1"),
        (
            "optimizer.weight_decay",
            optimizer.weight_decay,
            finite_at_least_0(optimizer.weight_decay),
            "0 or more",
        ),
        (
            "optimizer.label_smoothing",
            optimizer.label_smoothing,
            from_0_below_1(optimizer.label_smoothing),
            "0 or more, below 1",
        ),
        (
            "optimizer.trust_coefficient",
            optimizer.trust_coefficient,
            finite_above_0(optimizer.trust_coefficient),
            "a number above 0",
        ),
        ("optimizer.beta1", optimizer.beta1, from_0_below_1(optimizer.beta1), "0 or more, below 1"),
        ("optimizer.beta2", optimizer.beta2, from_0_below_1(optimizer.beta2), "0 or more, below 1"),
        ("optimizer.eps", optimizer.eps, finite_at_least_0(optimizer.eps), "0 or more"),
        (
            "optimizer.max_grad_norm",
            optimizer.max_grad_norm,
            finite_above_0(optimizer.max_grad_norm),
            "a number above 0",
        ),
        ("optimizer.mixup", optimizer.mixup, finite_at_least_0(optimizer.mixup), "0 or more"),
        ("optimizer.cutmix", optimizer.cutmix, finite_at_least_0(optimizer.cutmix), "0 or more"),
        (
            "data.val_fraction",
            data.val_fraction,
            data.val_fraction > 0.0 && data.val_fraction < 1.0,
            "between 0 and 1",
        ),
    ];
    let mut numbers = numbers.to_vec();
    match optimizer.ema {
        Some(Ema::Decay(decay)) => {
            numbers.push(("optimizer.ema", decay, from_0_below_1(decay), "a decay of 0 or more, below 1"));
        }
        Some(Ema::HalfLife { half_life_steps: steps }) => {
            numbers.push(("optimizer.ema.half_life_steps", steps, finite_above_0(steps), "a number above 0"));
        }
        None => {}
    }
    if let Some(std) = config.model.fc_std {
        numbers.push(("model.fc_std", std, finite_at_least_0(std), "0 or more"));
    }
    if let Some(LossScale::Static(scale)) = config.loss_scale {
        numbers.push(("loss_scale", scale, finite_above_0(scale), "a number above 0"));
    }
    for (key, value, holds, expected) in numbers {
        if !holds {
            return Err(Error::usage(format!("{key} is {value}: expected {expected}")));
        }
    }
    data.store.check()?;
    check_counts(config)
}

fn check_counts(config: &TrainConfig) -> Result<()> {
    let TrainConfig { data, checkpoint, cluster, .. } = config;
    if !finite_at_least_0(checkpoint.every_s) {
        return Err(Error::usage(format!(
            "checkpoint.every_s is {}: expected 0 or more",
            checkpoint.every_s
        )));
    }
    if checkpoint.keep == 0 {
        return Err(Error::usage(
            "checkpoint.keep is 0: expected at least 1, or there is nothing to resume from",
        ));
    }
    if data.batches_ahead == 0 || data.batches_ahead > 64 {
        let got = data.batches_ahead;
        return Err(Error::usage(format!("data.batches_ahead is {got}: expected 1 to 64")));
    }
    for (key, value) in
        [("data.planned_images", data.planned_images), ("data.planned_classes", data.planned_classes)]
    {
        if value == Some(0) {
            return Err(Error::usage(format!("{key} is 0: expected at least 1")));
        }
    }
    if let Some(cluster) = cluster
        && cluster.world_size().is_none()
    {
        return Err(Error::usage(format!(
            "[cluster] has {} machines of {} ranks: expected at least one of each, and no billions",
            cluster.machines, cluster.ranks_per_machine
        )));
    }
    Ok(())
}

/// Checks a phase by itself.
pub(super) fn check_phase(phase: &Phase, micro_batches: usize) -> Result<(), String> {
    let (val_size, val_resize) = phase.validation();
    for (key, value) in [("size", phase.size), ("val_size", val_size), ("val_resize", val_resize)] {
        if !(4..=4096).contains(&value) {
            return Err(format!("`{key}` is {value} pixels: expected 4 to 4096"));
        }
    }
    if phase.val == ValCrop::Rect && val_size < 8 {
        return Err(format!(
            "`val` is rect at {val_size} pixels: sides are multiples of 8, so expected 8 or more"
        ));
    }
    if !(1..=1 << 20).contains(&phase.batch_size) {
        return Err(format!("`batch_size` is {}: expected 1 to 1048576", phase.batch_size));
    }
    if micro_batches == 0 || !phase.batch_size.is_multiple_of(micro_batches) {
        return Err(format!(
            "`batch_size` {} cannot be cut into optimizer.micro_batches = {micro_batches} equal parts",
            phase.batch_size
        ));
    }
    if !(phase.min_scale > 0.0 && phase.min_scale <= 1.0) {
        return Err(format!("`min_scale` is {}: expected above 0, at most 1", phase.min_scale));
    }
    if phase.padding > phase.size {
        return Err(format!("`padding` is {}: expected at most the size, {}", phase.padding, phase.size));
    }
    match &phase.data {
        Some(folder) if !is_below(folder) => {
            Err(format!("`data` is `{folder}`: expected the name of a folder below the data's path"))
        }
        _ => Ok(()),
    }
}

/// Whether a path leads further down from where it starts.
fn is_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn finite_at_least_0(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn finite_above_0(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

#[cfg(test)]
mod tests {
    use burn_dist::WorldSize;

    use crate::config::{DataFacts, Plan, Sources, TrainConfig};

    fn plan(set: &[&str]) -> crate::error::Result<TrainConfig> {
        let set = set.iter().map(ToString::to_string).collect();
        let config = Sources { set, ..Sources::default() }.resolve()?;
        let facts = DataFacts { num_train: 1000, num_classes: 10, channels: 1 };
        Plan::new(config, facts, WorldSize::ONE).map(|plan| plan.config)
    }

    /// Every key once, with a value that is in range, and the same value after a round trip through TOML.
    #[test]
    fn every_key_of_the_recipe_is_read_and_kept() {
        for set in [
            "precision=f16",
            "precision=bf16",
            "loss_scale=1024",
            "loss_scale=dynamic",
            "rehearse=true",
            "rehearse=false",
            "data.half_normalization=true",
            "model.blur_pool=true",
            "model.fc_std=0.02",
            "optimizer.rule=lars",
            "optimizer.rule=lamb",
            "optimizer.loss=bce",
            "optimizer.mixup=0.2",
            "optimizer.cutmix=1",
            "optimizer.ema=0.999",
            "optimizer.ema={half_life_steps=100}",
            "phase.1.data=160",
            "phase.1.val=rect",
            "phase.1.momentum=0.8",
            "phase.1.momentum=[0.98,0.9]",
            "loss_scale=1",
            "data.planned_images=1281167",
            "data.planned_classes=1000",
            "data.tail=short",
            "optimizer.trust_coefficient=0.02",
            "optimizer.beta1=0.8",
            "optimizer.beta2=0.99",
            "optimizer.eps=0",
            "optimizer.max_grad_norm=2",
            "cluster={machines=16,ranks_per_machine=8}",
            "cluster={machines=16,ranks_per_machine=8,kind='h100-400g'}",
            "phase.1.lr={rule='constant',value=3.76}",
            "phase.1.lr={rule='linear',from=2}",
            "phase.1.lr={rule='cosine',from=2,to=1,over=[0,14]}",
            "phase.1.lr={rule='poly',from=2,power=1.5}",
            "phase.1.lr={rule='step',from=2,every=4}",
        ] {
            let quoted = set.replace("data=160", "data='160'");
            let config = Sources { set: vec![quoted.clone()], ..Sources::default() }.resolve().unwrap();
            assert_ne!(config, Sources::default().resolve().unwrap(), "{set} changes nothing");
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), config, "{text}");
            assert!(plan(&[&quoted]).is_ok(), "{set}: {:?}", plan(&[&quoted]));
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_key() {
        for (set, expected) in [
            ("loss_scale=0", "loss_scale is 0: expected a number above 0"),
            ("model.fc_std=-1", "model.fc_std is -1: expected 0 or more"),
            ("optimizer.trust_coefficient=0", "optimizer.trust_coefficient is 0"),
            ("optimizer.beta1=1", "optimizer.beta1 is 1"),
            ("optimizer.beta2=-0.1", "optimizer.beta2 is -0.1"),
            ("optimizer.eps=nan", "optimizer.eps is NaN"),
            ("optimizer.max_grad_norm=0", "optimizer.max_grad_norm is 0"),
            ("optimizer.mixup=inf", "optimizer.mixup is inf"),
            ("optimizer.cutmix=-1", "optimizer.cutmix is -1"),
            ("optimizer.ema=1", "optimizer.ema is 1: expected a decay of 0 or more, below 1"),
            ("optimizer.ema={half_life_steps=0}", "optimizer.ema.half_life_steps is 0"),
            ("data.store.patience_s=nan", "data.store.patience_s is NaN: expected above 0, at most 86400"),
            ("data.planned_images=0", "data.planned_images is 0"),
            ("data.planned_classes=0", "data.planned_classes is 0"),
            ("cluster={machines=0,ranks_per_machine=8}", "[cluster] has 0 machines of 8 ranks"),
            ("cluster={machines=65536,ranks_per_machine=65536}", "[cluster] has 65536 machines"),
            (
                "phase.1.momentum=1",
                "phase 2: `momentum` goes from 1 to 1: expected numbers of 0 or more, below 1",
            ),
            (
                "phase=[{epochs=1,size=28,batch_size=16,lr=0.1,val='rect',val_size=7}]",
                "phase 1: `val` is rect at 7 pixels",
            ),
            ("phase.1.data=''", "phase 2: `data` is ``: expected the name of a folder below"),
            ("phase.1.data='../elsewhere'", "phase 2: `data` is `../elsewhere`"),
            ("phase.1.data='/etc'", "phase 2: `data` is `/etc`"),
            ("phase.1.lr=-1", "phase 2: `lr` goes from -1 to -1: expected numbers of 0 or more, finite"),
            ("phase.1.lr={rule='poly',from=2,power=0}", "phase 2: `lr` has a `power` of 0"),
            ("phase.1.lr={rule='step',from=2,every=0}", "phase 2: `lr` steps every 0 epochs"),
            ("phase.1.lr={rule='step',from=2,every=1,factor=0}", "phase 2: `lr` has a `factor` of 0"),
            (
                "phase.1.lr={rule='poly',from=2,over=[-inf,inf]}",
                "phase 2: `lr` goes over the epochs -inf to inf",
            ),
            (
                "phase.1.lr={rule='cosine',from=2,over=[4,14]}",
                "phase 2: `lr` goes over the epochs 4 to 14 of the run: expected the phase's, 3 to 14, among them",
            ),
        ] {
            let error = plan(&[set]).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{set}: {error}");
            assert_eq!(error.exit_status(), 2);
        }
    }
}
