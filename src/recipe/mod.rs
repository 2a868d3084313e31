//! The recipe: phases of a run, the learning rate of every step, presets. Pure: no clock, no files, no tensors.

mod lr;
mod phase;
mod preset;
mod schedule;

pub use lr::{LrCurve, LrRule};
pub use phase::{Augment, Phase, ValCrop};
pub use preset::{preset_names, preset_toml};
pub use schedule::{Position, Schedule, ScheduleError};
