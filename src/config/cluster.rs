//! The cluster that a recipe was made for: its batch sizes are a rank's, its learning rates those of all ranks together.

use burn_dist::WorldSize;
use serde::{Deserialize, Serialize};

/// The machines that a recipe was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Machines.
    pub machines: u32,
    /// Processes on each, one a GPU.
    pub ranks_per_machine: u32,
    /// What kind of machine, as `sprint plan --cluster` takes it: a dry run then forecasts each phase's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

impl ClusterConfig {
    /// The ranks of all machines, if that is a number of ranks.
    pub fn world_size(&self) -> Option<WorldSize> {
        self.machines.checked_mul(self.ranks_per_machine).and_then(WorldSize::new)
    }
}
