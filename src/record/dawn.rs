//! DAWNBench's two files of a training run, `dawn.tsv` (an epoch a line) and `dawn.json` (who, on what, with which
//! schedule), and time to accuracy as that benchmark counts it: the first epoch that reaches the target, evaluation
//! and start included. Format: `stanford-futuredata/dawn-bench-entries`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::RecordError;
use super::metrics::{EndReason, EpochRow, Row};
use super::phases::{ExecutedPhase, executed_phases};

/// A line an epoch of some 60 bytes: room for a hundred thousand epochs.
const TSV_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Percent, of ImageNet's validation images.
pub(super) const TARGET_TOP5: f64 = 93.0;

const HEADER: &str = "epoch\thours\ttop1Accuracy\ttop5Accuracy";

/// One line of `dawn.tsv`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DawnRow {
    /// Epochs done. This crate counts from 1; entries that count from 0 are read as they are.
    pub epoch: u32,
    /// Hours since the start, evaluation included.
    pub hours: f64,
    /// Validation top-1, percent.
    pub top1: f64,
    /// Validation top-5, percent.
    pub top5: f64,
}

impl DawnRow {
    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.hours * 3600.0
    }

    /// What the run had cost by then.
    pub fn cost(&self, cost_per_hour: f64) -> f64 {
        self.hours * cost_per_hour
    }
}

/// What `dawn.json` says that a run cannot know by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DawnInfo {
    /// Who ran it.
    pub author: String,
    /// How to reach them.
    pub author_email: String,
    /// Framework and version.
    pub framework: String,
    /// Where the code is, at its commit.
    #[serde(rename = "codeURL")]
    pub code_url: String,
    /// Model, as `ResNet-50`.
    pub model: String,
    /// Machines, as `16 p3.16xlarge (AWS)`.
    pub hardware: String,
    /// Price of all machines for an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_per_hour: Option<f64>,
    /// Date of the run, as `2018-09-06`.
    pub timestamp: String,
    /// Whether the 1,762 validation images on ImageNet's blacklist were left out.
    pub used_blacklist: bool,
    /// More facts, as `optimizer`.
    pub misc: BTreeMap<String, Value>,
}

/// Makes the lines of `dawn.tsv` from a run's rows: each epoch that was evaluated to top-1 and top-5.
pub fn dawn_rows(rows: &[Row]) -> Vec<DawnRow> {
    let epochs = rows.iter().filter_map(|row| if let Row::Epoch(epoch) = row { Some(epoch) } else { None });
    let line = |epoch: &EpochRow| {
        let hours = epoch.at.elapsed_s / 3600.0;
        Some(DawnRow { epoch: epoch.at.epoch + 1, hours, top1: epoch.val_top1?, top5: epoch.val_top5? })
    };
    epochs.filter_map(line).collect()
}

/// Writes `dawn.tsv`'s text. Six decimals: 4 ms, and no accuracy short of the target rounds up to it.
pub fn dawn_tsv(rows: &[DawnRow]) -> String {
    let mut text = format!("{HEADER}\n");
    for DawnRow { epoch, hours, top1, top5 } in rows {
        text += &format!("{epoch}\t{hours:.6}\t{top1:.6}\t{top5:.6}\n");
    }
    text
}

/// Reads a `dawn.tsv`, ours or an entry of the benchmark.
///
/// # Errors
/// [`RecordError::Missing`], [`RecordError::Io`]; [`RecordError::BadLine`] naming the line that is not as the format
/// says, or for a file far too long to be one.
pub fn read_dawn_tsv(path: &Path) -> Result<Vec<DawnRow>, RecordError> {
    let fail = |source| RecordError::io("read", path, source);
    let bad = |line, reason: String| RecordError::BadLine { path: path.to_path_buf(), line, reason };
    let mut text = String::new();
    File::open(path).map_err(fail)?.take(TSV_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > TSV_BYTES_MAX {
        return Err(bad(1, format!("the file is longer than {TSV_BYTES_MAX} bytes")));
    }
    let mut lines = (1..).zip(text.lines());
    if lines.next().map(|(_, line)| line.trim_end()) != Some(HEADER) {
        return Err(bad(1, format!("expected the columns {:?}", HEADER.replace('\t', " "))));
    }
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(number, line)| parse_line(line).map_err(|reason| bad(number, reason))).collect()
}

fn parse_line(line: &str) -> Result<DawnRow, String> {
    let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
    let [epoch, hours, top1, top5] = fields[..] else {
        return Err(format!("expected 4 columns, got {}", fields.len()));
    };
    let number = |name: &str, text: &str| {
        let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
        value.ok_or_else(|| format!("expected a number for {name}, got {text:?}"))
    };
    let epoch = epoch.parse().map_err(|_| format!("expected a whole number for epoch, got {epoch:?}"))?;
    Ok(DawnRow {
        epoch,
        hours: number("hours", hours)?,
        top1: number("top1Accuracy", top1)?,
        top5: number("top5Accuracy", top5)?,
    })
}

/// Finds the epoch whose end is the run's time to accuracy: the first with top-5 of at least `target_top5` percent.
pub fn time_to_accuracy(rows: &[DawnRow], target_top5: f64) -> Option<&DawnRow> {
    rows.iter().find(|row| row.top5 >= target_top5)
}

/// Finds the epoch whose end is the run's own time to accuracy: the one that reached what the run was to stop at, else
/// the first that reached DAWNBench's target for ImageNet.
pub(super) fn time_to_target(rows: &[Row]) -> Option<&EpochRow> {
    let mut epochs =
        rows.iter().filter_map(|row| if let Row::Epoch(epoch) = row { Some(epoch) } else { None });
    match rows.last() {
        Some(Row::End(end)) if end.reason == EndReason::Target => epochs.next_back(),
        _ => epochs.find(|epoch| epoch.val_top5.is_some_and(|top5| top5 >= TARGET_TOP5)),
    }
}

/// Writes `dawn.json`'s text; the schedule in it is the one that was executed, so its epochs add up to the TSV's. A
/// learning rate that did not move on a straight line is told as it was at the start and after each epoch.
pub fn dawn_json(rows: &[Row], info: &DawnInfo) -> String {
    let phases: Vec<_> = executed_phases(rows).into_iter().filter(|phase| phase.num_epochs > 0).collect();
    let mut misc = info.misc.clone();
    let schedule = phases.iter().filter_map(|phase| {
        let (begin, end) = phase.lr()?;
        let epochs = phase.num_epochs;
        Some(match phase.is_linear() {
            true if begin == end => json!({"learning_rate": [begin], "epochs": epochs}),
            true => json!({"learning_rate": [begin, end], "epochs": epochs, "linear": true}),
            false => {
                let rates: Vec<f64> = [begin].iter().chain(&phase.lr_by_epoch).copied().collect();
                json!({"learning_rate": rates, "epochs": epochs})
            }
        })
    });
    misc.insert("schedule".into(), schedule.collect());
    misc.insert("imageSize".into(), spans(&phases, "image_size", |phase| phase.plan.size));
    misc.insert("batchSize".into(), spans(&phases, "batch_size", |phase| phase.plan.global_batch_size));
    misc.insert("throughput".into(), phases.iter().map(throughput).collect());
    if let Some(epoch) = time_to_target(rows) {
        let hours = epoch.at.elapsed_s / 3600.0;
        let mut reached = json!({"epoch": epoch.at.epoch + 1, "hours": hours});
        let cost = epoch.cost_usd.or(info.cost_per_hour.map(|price| hours * price));
        for (name, value) in [("top1", epoch.val_top1), ("top5", epoch.val_top5), ("cost", cost)] {
            if let Some(value) = value {
                reached[name] = value.into();
            }
        }
        misc.insert("timeToAccuracy".into(), reached);
    }

    #[derive(Serialize)]
    struct Entry<'a> {
        version: &'static str,
        #[serde(flatten)]
        info: &'a DawnInfo,
    }
    let entry = Entry { version: "v1.0", info: &DawnInfo { misc, ..info.clone() } };
    let text =
        serde_json::to_string_pretty(&entry).expect("strings, numbers and maps with string keys are JSON");
    text + "\n"
}

/// Images a second of training in the phase's cold epoch and in the warm ones.
fn throughput(phase: &ExecutedPhase) -> Value {
    let mut throughput = json!({"epochs": phase.num_epochs});
    for (name, pace) in [("cold", phase.cold), ("warm", phase.warm)] {
        if let Some(speed) = pace.images_per_s() {
            throughput[name] = speed.into();
        }
    }
    throughput
}

/// Runs of epochs with the same value, as `[{name: value, "epochs": n}]`.
fn spans(phases: &[ExecutedPhase], name: &str, value: impl Fn(&ExecutedPhase) -> Option<u32>) -> Value {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for phase in phases {
        let Some(value) = value(phase) else { continue };
        match spans.last_mut() {
            Some((last, epochs)) if *last == value => *epochs += phase.num_epochs,
            _ => spans.push((value, phase.num_epochs)),
        }
    }
    spans.into_iter().map(|(value, epochs)| json!({name: value, "epochs": epochs})).collect()
}
