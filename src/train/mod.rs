//! Training: from a checked plan to a trained network. One process is the case of world size 1.
//!
//! | file | job |
//! |---|---|
//! | `run` | the loop over epochs, readable from top to bottom |
//! | `session` | what changes during a run: network, optimizer, counters, clock |
//! | `epoch`, `step` | one pass over the data; one update of the weights |
//! | `precision`, `scaler` | the network's number type; what the loss is multiplied by for it |
//! | `rehearse` | every shape of the run tried before the clock starts |
//! | `progress` | how far a run has come |
//! | `trail` | the last steps' numbers on their way into the record |
//! | `input`, `mix` | bytes to tensors; pictures made of two |
//! | `loss`, `optimizer`, `ema` | logits to a number; gradients to weights; the weights' average |
//! | `evaluate` | exact accuracy over a whole data set |
//! | `validation` | which pictures a phase is validated on, and their sizes |
//! | `classifier` | a network with what it takes to use it: class names, normalisation, image size |
//! | `measure`, `money` | how long a step takes on a device; what a run has cost |
//! | `checkpoint` | the whole state, written whole or not at all |
//! | `statistics` | each rank's running statistics, for checkpoints inside an epoch |

mod checkpoint;
mod classifier;
mod ema;
mod epoch;
mod evaluate;
mod feed;
mod input;
mod loss;
mod lost;
mod measure;
mod mix;
mod money;
mod optimizer;
mod precision;
mod progress;
mod rehearse;
mod run;
mod scaler;
mod session;
mod statistics;
mod step;
mod trail;
mod validation;

pub use classifier::{About, Classifier};
pub use ema::Average;
pub use evaluate::{Accuracy, comparable_crop, evaluate};
pub use input::Normalizer;
pub(crate) use input::train_transform;
pub use loss::{Targets, binary_cross_entropy, cross_entropy, target_rank, training_loss};
pub use measure::measure_step;
pub use mix::Mix;
pub use money::{cost_per_hour, num_machines};
pub use optimizer::Optimizer;
pub(crate) use precision::dtype;
pub use progress::{EpochTotals, Progress};
pub use run::{CONFIG, Job, Outcome, Stop, run};
pub use scaler::Scaler;
pub use step::{StepConfig, StepResult, step};
