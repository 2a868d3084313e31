//! burn-sprint: train image classifiers on a cluster in minutes, in Rust, on Burn.
//!
//! # Layout
//!
//! Arrows run down only: `cli -> train -> {recipe, data, record} -> {burn-resnet, burn-dist} -> burn`.

pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod recipe;
pub mod record;
pub mod train;

pub use error::{Error, Result};
