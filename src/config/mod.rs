//! The configuration of a run: what a TOML file says ([`TrainConfig`]), where it comes from ([`Sources`]), and the
//! checked form that the trainer takes ([`Plan`]). Nothing here opens a picture or makes a tensor.

mod adapt;
mod check;
mod cluster;
mod keys;
mod layers;
mod plan;
mod store;
mod train;

pub(crate) use adapt::{beside_plan, scale_epochs, set_global_batch_size};
pub use cluster::ClusterConfig;
pub use layers::Sources;
pub use plan::{DataFacts, Normalization, Plan, Target};
pub use store::StoreConfig;
pub use train::{
    CheckpointConfig, DataConfig, DistributedConfig, Ema, Loss, LossScale, ModelConfig, OptimizerConfig,
    OptimizerRule, Precision, Rehearse, TrainConfig,
};
