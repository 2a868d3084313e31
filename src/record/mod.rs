//! What a run leaves behind: metrics, progress, curves, TensorBoard events, DAWNBench files, the report.
//!
//! [`MetricsLog`] is the source; the rest is made from its rows. Nothing here knows a tensor, reads a clock or decides
//! anything about training. [`Recorder`] writes it all and exists on rank 0 alone; [`Progress`] is apart from it, as a
//! run may be recorded silently.

mod atomic;
mod curve;
mod dawn;
mod error;
mod events;
mod log;
mod metrics;
mod phases;
mod progress;
mod recorder;
mod report;
mod series;
mod tables;
mod tensorboard;
mod text;

pub use atomic::{write_atomic, write_dir_atomic};
pub use curve::{curve_png, curve_svg};
pub use dawn::{DawnInfo, DawnRow, dawn_json, dawn_rows, dawn_tsv, read_dawn_tsv, time_to_accuracy};
pub use error::RecordError;
pub use events::{Content, Event, read_events};
pub use log::{MetricsLog, read_rows};
pub use metrics::{EndReason, EndRow, EpochRow, Moment, PhaseRow, Row, StepRow};
pub use progress::{Progress, ProgressMode, Totals};
pub use recorder::{Recorder, RunInfo};
pub use report::{report_html, write_report};
pub use tensorboard::TensorBoard;
pub(crate) use text::{clock, learning_rate};
