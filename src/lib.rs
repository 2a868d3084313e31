//! Train image classifiers on a cluster in minutes, in Rust, on [Burn](burn).
//!
//! The command `sprint` is a thin layer over this library: a [configuration](config) is checked into a
//! [`Plan`](config::Plan), and [`train::run`] carries the plan out.
//!
//! # Layout
//!
//! | module | job |
//! |---|---|
//! | [`bench`](mod@bench) | what a device does with a training step, measured |
//! | [`cli`] | words to typed values; the only place that names a backend |
//! | [`cluster`] | many processes as one run: started, watched, ended together |
//! | [`config`] | TOML, `--set` and flags to a checked plan |
//! | [`recipe`] | phases, learning rates, presets: pure arithmetic |
//! | [`data`] | pictures on disk to batches of bytes |
//! | [`prepare`] | data made ready for training: sized copies and shards |
//! | [`train`] | the loop, the step, the optimizer, evaluation, checkpoints |
//! | [`record`] | what a run leaves behind |
//!
//! Arrows run down only: `cli -> train -> {recipe, data, record, cluster} -> {burn-resnet, burn-dist} -> burn`.
//!
//! # Example
//!
//! One epoch of a small network on the embedded pictures:
//!
//! ```no_run
//! use burn::tensor::Device;
//! use burn_dist::{Communicator, WorldSize};
//! use burn_sprint::config::{DataFacts, Plan, Sources};
//! use burn_sprint::data::{Copies, Location};
//! use burn_sprint::record::{ProgressMode, RunInfo};
//! use burn_sprint::train::{Job, Stop, run};
//!
//! let set = ["phase.0.epochs=1", "phase.1.epochs=1", "model.width=8"].map(String::from).to_vec();
//! let config = Sources { set, ..Sources::default() }.resolve()?;
//! let data = Copies::open(&Location::Embedded, None, config.data.val_fraction)?;
//! let plan = Plan::new(config, DataFacts::of(&data.main().train), WorldSize::ONE)?;
//! let outcome = run(Job {
//!     plan: &plan,
//!     data: &data,
//!     device: &Device::flex(),
//!     comm: Communicator::single(),
//!     out: "runs/example".as_ref(),
//!     resume: false,
//!     rehearse: false,
//!     stop: &Stop::new(),
//!     progress: ProgressMode::detect(10.0),
//!     info: RunInfo::default(),
//!     now_s: 0.0,
//! })?;
//! println!("{:?}", outcome.accuracy);
//! # Ok::<(), burn_sprint::Error>(())
//! ```

pub mod allocator;
pub mod bench;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod data;
pub mod error;
pub mod prepare;
pub mod recipe;
pub mod record;
pub mod train;

pub use burn_kernels::kernel_cache;
pub use error::{Error, Result};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
