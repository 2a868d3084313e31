//! Many processes as one run: the ranks of a machine started, watched, ended and started again together.
//!
//! What ranks say to each other is `burn-dist`'s; nothing here opens a connection or knows what a rank computes.

mod cause;
mod cost;
pub mod forecast;
mod gpus;
mod launch;
mod layout;
mod leash;
mod output;
mod ranks;

pub use cost::{Cost, Price, PriceError};
pub use gpus::{gpu_of_rank, visible_gpus};
pub use launch::{End, Launch, LaunchError, Stopper, Stops, stopper};
pub use layout::Layout;
pub use leash::{end_with_launcher, has_launcher};
pub use output::{Sink, Streams};
