//! Keys that are read and checked, but that the trainer cannot carry out. A row a key; who builds it takes it away.

use super::TrainConfig;
use crate::{
    error::{Error, Result},
    recipe::ValCrop,
};

/// Refuses a configuration that asks for what is not there.
pub(super) fn not_built_yet(config: &TrainConfig) -> Result<()> {
    let TrainConfig { data, phase, .. } = config;
    let asked = [
        ("data.half_normalization", data.half_normalization),
        ("phase.data", phase.iter().any(|phase| phase.data.is_some())),
        ("phase.val", phase.iter().any(|phase| phase.val != ValCrop::Center)),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((key, _)) => Err(Error::usage(format!(
            "{key} asks for what this program cannot do yet: leave it at its default"
        ))),
        None => Ok(()),
    }
}
