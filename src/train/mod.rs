//! Training: from a checked plan to a trained network. One process is the case of world size 1.
//!
//! | file | job |
//! |---|---|
//! | `run` | the loop over epochs, readable from top to bottom |
//! | `session` | what changes during a run: network, optimizer, counters, clock |
//! | `epoch`, `step` | one pass over the data; one update of the weights |
//! | `progress` | how far a run has come |
//! | `trail` | the last steps' numbers on their way into the record |
//! | `input`, `loss`, `optimizer` | bytes to tensors; logits to a number; gradients to weights |
//! | `evaluate` | exact accuracy over a whole data set |
//! | `classifier` | a network with what it takes to use it: class names, normalisation, image size |
//! | `measure` | how long a step takes on a device |
//! | `checkpoint` | the whole state, written whole or not at all |
//! | `statistics` | each rank's running statistics, for checkpoints inside an epoch |

mod checkpoint;
mod classifier;
mod epoch;
mod evaluate;
mod input;
mod loss;
mod measure;
mod optimizer;
mod progress;
mod run;
mod session;
mod statistics;
mod step;
mod trail;

pub use classifier::{About, Classifier};
pub use evaluate::{Accuracy, evaluate};
pub use input::Normalizer;
pub use loss::{cross_entropy, target_rank};
pub use measure::measure_step;
pub use optimizer::Sgd;
pub use progress::{EpochTotals, Progress};
pub use run::{CONFIG, Job, Outcome, Stop, num_machines, run};
pub use step::{StepResult, step};
