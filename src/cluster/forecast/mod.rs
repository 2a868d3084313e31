//! How long a recipe will take on a cluster, and where the time goes, before it is bought: a simulation of one rank's
//! steps, loader, all-reduce and evaluations.
//!
//! All ranks are alike in it, so one stands for all; what is between them is the time of an all-reduce. What a cluster
//! is comes from a [`Kind`], how fast its devices are from [`Throughput`], both measured by somebody: nothing is
//! guessed here. The model, its calibration on a recorded run and its misses are in `docs/plan.md`.
//!
//! Not here: the recipe (it becomes a [`Job`] above), and money (`cost`).

mod kind;
mod levers;
mod loader;
mod network;
mod simulate;
mod step;
mod throughput;

pub use kind::{Evaluation, Input, Kind, Machine, Pictures, Program, Unit};
pub use levers::{Lever, levers};
pub use network::{Algorithm, Network};
pub use simulate::{Forecast, PhaseForecast, Times, forecast};
pub use step::Layer;
pub use throughput::{FirstUse, Row, Throughput};

/// A run to be simulated: a recipe with a world size, in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Machines, 1 to [`MAX_MACHINES`].
    pub machines: u32,
    /// Training images.
    pub train_images: u64,
    /// Validation images.
    pub val_images: u64,
    /// The network's layers in forward order.
    pub layers: Vec<Layer>,
    /// The phases in order.
    pub phases: Vec<JobPhase>,
}

/// Epochs that are alike.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPhase {
    /// How many.
    pub epochs: u32,
    /// Side of the training images, in pixels.
    pub size: u32,
    /// Images that a rank takes in a step.
    pub batch_size: u64,
    /// Whether the rest of an epoch is a shorter last batch, or is left out.
    pub short_tail: bool,
    /// Which stored pictures they come from, as a [`Pictures`] is called.
    pub pictures: String,
    /// Side of the validation images, in pixels.
    pub val_size: u32,
    /// Whether validation images are rectangles, each batch of a shape of its own.
    pub val_rect: bool,
}

/// Most machines that a forecast is made for.
pub const MAX_MACHINES: u32 = 4096;

/// Why there is no forecast, in a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ForecastError(pub(super) String);

pub(super) fn wrong<T>(message: impl Into<String>) -> Result<T, ForecastError> {
    Err(ForecastError(message.into()))
}
