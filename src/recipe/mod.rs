//! The recipe: phases of a run, the learning rate of every step, presets. Pure: no clock, no files, no tensors.

mod phase;
mod preset;
mod ramp;
mod scale;
mod schedule;

pub use phase::{Augment, Phase, ValCrop};
pub use preset::{preset_names, preset_toml};
pub use ramp::{Ramp, RampRule};
pub(crate) use scale::{scale_batch, stretch};
pub use schedule::{EpochShape, Position, Schedule, ScheduleError};
