//! Progress on standard error: a bar on a terminal, plain lines elsewhere (a log file, a CI job).
//!
//! Rows of metrics go in, so time comes in with them and what is shown is what is on record. Write errors are passed
//! over: training must not die because nobody reads its progress any more.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::{EndReason, EndRow, EpochRow, Moment, PhaseRow, StepRow};
use super::text::{clock, images_per_s};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ProgressMode {
    /// A bar that is redrawn; epochs and notes scroll above it.
    Bar,
    /// A line an epoch, and one whenever this many seconds of the run's clock have passed.
    Lines {
        /// Seconds between two lines.
        heartbeat_s: f64,
    },
    /// Nothing.
    Silent,
}

impl ProgressMode {
    /// A bar if standard error is a terminal, else lines.
    pub fn detect(heartbeat_s: f64) -> Self {
        if io::stderr().is_terminal() { Self::Bar } else { Self::Lines { heartbeat_s } }
    }
}

/// What the run will have done at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Epochs.
    pub epochs: u32,
    /// Training images, over all ranks.
    pub images: u64,
}

/// Shows a run's progress.
pub struct Progress {
    totals: Totals,
    sink: Sink,
    /// Where the present pace began: time left is reckoned from here, as a phase's pace is not the next one's.
    paced_since: Option<Moment>,
    /// What the phase is, as `128 px, batch 64`.
    phase: String,
}

enum Sink {
    Bar(ProgressBar),
    Lines { out: Box<dyn Write + Send>, heartbeat_s: f64, last_s: Option<f64> },
    Silent,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("totals", &self.totals)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Progress {
    /// Starts showing progress on standard error.
    pub fn new(totals: Totals, mode: ProgressMode) -> Self {
        let sink = match mode {
            ProgressMode::Bar => Sink::Bar(bar(totals)),
            ProgressMode::Lines { heartbeat_s } => {
                Sink::Lines { out: Box::new(io::stderr()), heartbeat_s, last_s: None }
            }
            ProgressMode::Silent => Sink::Silent,
        };
        Self { totals, sink, paced_since: None, phase: String::new() }
    }

    /// Starts writing progress as lines to `out`.
    pub fn to_writer(totals: Totals, heartbeat_s: f64, out: impl Write + Send + 'static) -> Self {
        let sink = Sink::Lines { out: Box::new(out), heartbeat_s, last_s: None };
        Self { totals, sink, paced_since: None, phase: String::new() }
    }

    /// Shows a step: moves the bar, or writes a line if one is due.
    pub fn step(&mut self, row: &StepRow) {
        let since = *self.paced_since.get_or_insert(row.at);
        match &mut self.sink {
            Sink::Bar(bar) => {
                bar.set_position(row.at.images);
                bar.set_message(step_line(row, self.totals, since, &self.phase));
            }
            Sink::Lines { out, heartbeat_s, last_s } => {
                // An epoch's line counts as a sign of life too; the first step only starts the clock.
                let last = *last_s.get_or_insert(row.at.elapsed_s);
                if row.at.elapsed_s - last >= *heartbeat_s {
                    *last_s = Some(row.at.elapsed_s);
                    let _ = writeln!(out, "{}", step_line(row, self.totals, since, &self.phase));
                }
            }
            Sink::Silent => {}
        }
    }

    /// Shows an epoch's line of the table.
    pub fn epoch(&mut self, row: &EpochRow) {
        if let Sink::Lines { last_s, .. } = &mut self.sink {
            *last_s = Some(row.at.elapsed_s);
        }
        self.note(&epoch_line(row, self.totals));
    }

    /// Shows that a phase starts.
    pub fn phase(&mut self, row: &PhaseRow) {
        self.paced_since = Some(row.at);
        self.phase = phase_words(row);
        self.note(&phase_line(row));
    }

    /// Writes a line of its own.
    pub fn note(&mut self, message: &str) {
        match &mut self.sink {
            Sink::Bar(bar) => bar.println(message),
            Sink::Lines { out, .. } => {
                let _ = writeln!(out, "{message}");
            }
            Sink::Silent => {}
        }
    }

    /// Shows how the run ended and takes the bar away.
    pub fn finish(mut self, row: &EndRow) {
        self.note(&end_line(row));
        if let Sink::Bar(bar) = &self.sink {
            bar.finish_and_clear();
        }
    }
}

fn bar(totals: Totals) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(totals.images), ProgressDrawTarget::stderr_with_hz(8));
    let style = ProgressStyle::with_template("{bar:10.cyan/dim} {percent:>3} %  {wide_msg}")
        .expect("the template is a literal that the tests draw")
        .progress_chars("━╸─");
    bar.set_style(style);
    // Keeps drawing through a long step or evaluation, so that a bar that stands still is not taken for a hang.
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn join(parts: impl IntoIterator<Item = Option<String>>) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

fn loss(name: &str, value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{name} {value:.3}"))
}

fn percent(name: &str, value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{name} {value:4.1} %"))
}

/// `epoch  3/12`; the width is that of the total, so that lines stand below each other.
fn epoch_of(epoch: u32, totals: Totals) -> String {
    let width = totals.epochs.to_string().len();
    format!("epoch {:>width$}/{}", epoch + 1, totals.epochs)
}

fn step_line(row: &StepRow, totals: Totals, since: Moment, phase: &str) -> String {
    join([
        Some(epoch_of(row.at.epoch, totals)),
        loss("loss", Some(row.train_loss)),
        percent("top1", row.train_top1),
        row.images_per_s.map(images_per_s),
        time_left(row, totals, since).map(|seconds| format!("{} left", clock(seconds))),
        skipped(row.skipped_images),
        skipped_steps(row.skipped_steps),
        // Last, where a narrow terminal may cut it off.
        (!phase.is_empty()).then(|| phase.to_string()),
    ])
}

fn epoch_line(row: &EpochRow, totals: Totals) -> String {
    join([
        Some(epoch_of(row.at.epoch, totals)),
        loss("loss", row.train_loss),
        percent("top1", row.train_top1),
        loss("val loss", row.val_loss),
        percent("val top1", row.val_top1),
        percent("top5", row.val_top5),
        row.images_per_s.map(images_per_s),
        Some(clock(row.at.elapsed_s)),
        row.cost_usd.map(|cost| format!("${cost:.2}")),
        skipped(row.skipped_images),
        skipped_steps(row.skipped_steps),
    ])
}

fn phase_words(row: &PhaseRow) -> String {
    let batch_size = row.global_batch_size.or(row.batch_size);
    let parts = [row.size.map(|size| format!("{size} px")), batch_size.map(|size| format!("batch {size}"))];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn phase_line(row: &PhaseRow) -> String {
    let epochs = row.epochs.map(|(first, end)| match end.saturating_sub(first) {
        0 | 1 => format!("epoch {}", first + 1),
        _ => format!("epochs {}-{end}", first + 1),
    });
    join([Some(format!("phase {}", row.at.phase + 1)), epochs, Some(phase_words(row))])
}

fn end_line(row: &EndRow) -> String {
    let what = match row.reason {
        EndReason::Done => "done",
        EndReason::Stopped => "stopped",
        EndReason::Failed => "failed",
        EndReason::Target => "target reached",
    };
    join([
        Some(what.to_string()),
        row.message.clone(),
        Some(format!("{} steps", row.at.step)),
        Some(clock(row.at.elapsed_s)),
        row.cost_usd.map(|cost| format!("${cost:.2}")),
        skipped(row.skipped_images),
    ])
}

fn skipped(images: Option<u64>) -> Option<String> {
    images.filter(|images| *images > 0).map(|images| format!("{images} bad images skipped"))
}

fn skipped_steps(steps: Option<u64>) -> Option<String> {
    steps.filter(|steps| *steps > 0).map(|steps| format!("{steps} steps skipped"))
}

/// Seconds until all images are seen at the pace since `since`, evaluation included; at the speed of the row as long
/// as there is no pace.
fn time_left(row: &StepRow, totals: Totals, since: Moment) -> Option<f64> {
    let left = totals.images.saturating_sub(row.at.images) as f64;
    let seen = row.at.images.saturating_sub(since.images) as f64;
    let seconds = row.at.elapsed_s - since.elapsed_s;
    let speed = if seen > 0.0 && seconds > 0.0 { seen / seconds } else { row.images_per_s? };
    Some(left / speed).filter(|seconds| seconds.is_finite())
}
