//! `report.html`: a run on one page that needs no network and no script. Made from the run's folder, so it can be made
//! again at any time, also of a run that was killed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::curve::{curve_png, curve_svg};
use super::metrics::{EndReason, EndRow, EpochRow, Row, read_rows};
use super::phases::{ExecutedPhase, executed_phases};
use super::text::{clock, count, escape_html, images_per_s, learning_rate};
use super::{RecordError, write_atomic};

/// A configuration or an environment is a few kilobytes.
const SIDE_FILE_BYTES_MAX: u64 = 1024 * 1024;

const STYLE: &str = include_str!("report.css");

/// Writes `report.html` and `curve.png` into the folder of a run.
///
/// # Errors
/// Those of [`report_html`] and [`curve_png`]; [`RecordError::DiskFull`], [`RecordError::Io`].
pub fn write_report(folder: &Path) -> Result<(), RecordError> {
    let rows = read_rows(&folder.join("metrics.jsonl"))?;
    write_atomic(&folder.join("curve.png"), &curve_png(&rows)?)?;
    write_atomic(&folder.join("report.html"), page(folder, &rows)?.as_bytes())
}

/// Makes the page of the run in `folder` from its `metrics.jsonl`, and from `config.toml` and `environment.json` where
/// they are there.
///
/// # Errors
/// Those of [`read_rows`]; [`RecordError::Io`]; [`RecordError::BadLine`] for a damaged `environment.json` or a side
/// file that is too long; [`RecordError::Drawing`].
pub fn report_html(folder: &Path) -> Result<String, RecordError> {
    page(folder, &read_rows(&folder.join("metrics.jsonl"))?)
}

fn page(folder: &Path, rows: &[Row]) -> Result<String, RecordError> {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let name = absolute.file_name().map_or("run".into(), |name| name.to_string_lossy());
    let title = escape_html(&name);
    let run = Run::new(rows);
    let mut html = String::new();
    html += "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    html += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    html += &format!("<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n");
    html += &format!("<h1>{title}</h1>\n<p class=\"state\">{}</p>\n", escape_html(&run.state()));
    html += &run.summary();
    html += &format!("<h2>Curves</h2>\n<figure>\n{}\n</figure>\n", curve_svg(rows)?);
    html += &phase_table(&executed_phases(rows));
    html += &epoch_table(&run.epochs);
    if let Some(config) = read_side_file(&folder.join("config.toml"))? {
        html += &format!("<h2>Configuration</h2>\n<pre>{}</pre>\n", escape_html(&config));
    }
    if let Some(environment) = read_side_file(&folder.join("environment.json"))? {
        html += &environment_table(&folder.join("environment.json"), &environment)?;
    }
    html += "</main>\n</body>\n</html>\n";
    Ok(html)
}

/// The rows of a run, sorted by kind.
struct Run<'a> {
    last: Option<&'a Row>,
    epochs: Vec<&'a EpochRow>,
    end: Option<&'a EndRow>,
    cost_usd: Option<f64>,
    skipped_images: Option<u64>,
}

impl<'a> Run<'a> {
    fn new(rows: &'a [Row]) -> Self {
        let mut run =
            Self { last: rows.last(), epochs: vec![], end: None, cost_usd: None, skipped_images: None };
        for row in rows {
            let (cost_usd, skipped_images) = match row {
                Row::Step(row) => (row.cost_usd, row.skipped_images),
                Row::Epoch(row) => (row.cost_usd, row.skipped_images),
                Row::Phase(_) => (None, None),
                Row::End(row) => (row.cost_usd, row.skipped_images),
            };
            run.cost_usd = cost_usd.or(run.cost_usd);
            run.skipped_images = skipped_images.or(run.skipped_images);
            match row {
                Row::Epoch(row) => run.epochs.push(row),
                Row::End(row) => run.end = Some(row),
                Row::Step(_) | Row::Phase(_) => {}
            }
        }
        run
    }

    /// How far the run is, in a line.
    fn state(&self) -> String {
        let Some(last) = self.last else { return "Nothing has been recorded yet.".into() };
        let at = last.at();
        let state = match self.end.map(|end| end.reason) {
            None => "no end on record: under way, or killed",
            Some(EndReason::Done) => "done",
            Some(EndReason::Stopped) => "stopped by the user",
            Some(EndReason::Failed) => "failed",
            Some(EndReason::Target) => "target reached",
        };
        let message = self.end.and_then(|end| end.message.as_deref()).map(|message| format!(": {message}"));
        let skipped = self.skipped_images.filter(|images| *images > 0);
        let skipped = skipped.map(|images| format!(" \u{b7} {images} bad images skipped"));
        format!(
            "{state}{} \u{b7} {} epochs \u{b7} {} steps \u{b7} {} images{}",
            message.unwrap_or_default(),
            self.epochs.len(),
            at.step,
            count(at.images as f64),
            skipped.unwrap_or_default(),
        )
    }

    fn summary(&self) -> String {
        let mut cards = String::new();
        let mut card = |name: &str, value: String, note: String| {
            cards += &format!("<div><dt>{name}</dt><dd>{value}</dd><p>{note}</p></div>\n");
        };
        for (name, top_k) in [
            ("Validation top-1", (|row| row.val_top1) as fn(&EpochRow) -> Option<f64>),
            ("Validation top-5", |row| row.val_top5),
        ] {
            let evaluated = || self.epochs.iter().filter_map(|row| Some((row.at.epoch + 1, top_k(row)?)));
            let best = evaluated().filter(|(_, value)| value.is_finite()).max_by(|a, b| a.1.total_cmp(&b.1));
            if let (Some((_, last)), Some((epoch, best))) = (evaluated().next_back(), best) {
                card(name, format!("{last:.2} %"), format!("best {best:.2} % after epoch {epoch}"));
            }
        }
        if let Some(last) = self.last {
            card("Time", clock(last.at().elapsed_s), "evaluation included".into());
        }
        let (images, seconds) = self.training();
        if seconds > 0.0 {
            let speed = images_per_s(images / seconds);
            card("Speed", speed.replace(" images/s", ""), "images/s in training".into());
        }
        if let Some(cost) = self.cost_usd {
            card("Cost", format!("${cost:.2}"), "US dollars".into());
        }
        if cards.is_empty() { cards } else { format!("<dl class=\"cards\">\n{cards}</dl>\n") }
    }

    /// Images and seconds of the epochs that have a speed.
    fn training(&self) -> (f64, f64) {
        let (mut images, mut seconds, mut before) = (0.0, 0.0, 0);
        for row in &self.epochs {
            let seen = row.at.images.saturating_sub(before) as f64;
            before = row.at.images;
            if let Some(speed) = row.images_per_s.filter(|speed| *speed > 0.0) {
                images += seen;
                seconds += seen / speed;
            }
        }
        (images, seconds)
    }
}

/// A table whose columns without any value are left out.
fn table(title: &str, columns: &[&str], lines: &[Vec<Option<String>>]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let used: Vec<usize> =
        (0..columns.len()).filter(|&column| lines.iter().any(|l| l[column].is_some())).collect();
    let mut html = format!("<h2>{title}</h2>\n<div class=\"scroll\"><table>\n<thead><tr>");
    for &column in &used {
        html += &format!("<th>{}</th>", columns[column]);
    }
    html += "</tr></thead>\n<tbody>\n";
    for line in lines {
        html += "<tr>";
        for &column in &used {
            html += &format!("<td>{}</td>", line[column].as_deref().map(escape_html).unwrap_or_default());
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table></div>\n"
}

fn phase_table(phases: &[ExecutedPhase]) -> String {
    let columns = [
        "phase",
        "epochs",
        "size",
        "batch size",
        "a rank",
        "learning rate",
        "images/s",
        "time",
        "waited for data",
        "waited for ranks",
    ];
    let lines: Vec<_> = phases
        .iter()
        .map(|phase| {
            let plan = &phase.plan;
            let first = plan.at.epoch;
            let epochs = match phase.num_epochs {
                0 => "\u{2013}".to_string(),
                1 => format!("{}", first + 1),
                more => format!("{}\u{2013}{}", first + 1, first + more),
            };
            let rate = phase.lr().map(|(begin, end)| match begin == end {
                true => learning_rate(begin),
                false => format!("{} \u{2192} {}", learning_rate(begin), learning_rate(end)),
            });
            let speed =
                phase.train_s.filter(|seconds| *seconds > 0.0).map(|seconds| phase.images as f64 / seconds);
            let share = |wait: Option<f64>| {
                wait.filter(|_| phase.seconds > 0.0)
                    .map(|wait| format!("{:.1} %", 100.0 * wait / phase.seconds))
            };
            vec![
                Some((plan.at.phase + 1).to_string()),
                Some(epochs),
                plan.size.map(|size| format!("{size} px")),
                plan.global_batch_size.or(plan.batch_size).map(|size| size.to_string()),
                plan.batch_size
                    .filter(|size| plan.global_batch_size.is_some_and(|global| global != *size))
                    .map(|size| size.to_string()),
                rate,
                speed.map(|speed| images_per_s(speed).replace(" images/s", "")),
                Some(clock(phase.seconds)),
                share(phase.data_wait_s),
                share(phase.comm_wait_s),
            ]
        })
        .collect();
    table("Phases", &columns, &lines)
}

fn epoch_table(epochs: &[&EpochRow]) -> String {
    let columns = [
        "epoch",
        "learning rate",
        "train loss",
        "train top-1",
        "val loss",
        "val top-1",
        "val top-5",
        "images/s",
        "elapsed",
        "cost",
    ];
    let loss = |value: Option<f64>| value.map(|value| format!("{value:.4}"));
    let percent = |value: Option<f64>| value.map(|value| format!("{value:.2} %"));
    let lines: Vec<_> = epochs
        .iter()
        .map(|row| {
            vec![
                Some((row.at.epoch + 1).to_string()),
                row.lr.map(learning_rate),
                loss(row.train_loss),
                percent(row.train_top1),
                loss(row.val_loss),
                percent(row.val_top1),
                percent(row.val_top5),
                row.images_per_s.map(|speed| images_per_s(speed).replace(" images/s", "")),
                Some(clock(row.at.elapsed_s)),
                row.cost_usd.map(|cost| format!("${cost:.2}")),
            ]
        })
        .collect();
    table("Epochs", &columns, &lines)
}

fn environment_table(path: &Path, json: &str) -> Result<String, RecordError> {
    let environment: BTreeMap<String, String> = serde_json::from_str(json).map_err(|error| {
        let reason = format!("not an object of strings: {error}");
        RecordError::BadLine { path: path.to_path_buf(), line: error.line() as u64, reason }
    })?;
    if environment.is_empty() {
        return Ok(String::new());
    }
    let mut html =
        "<h2>Environment</h2>\n<div class=\"scroll\"><table class=\"facts\">\n<tbody>\n".to_string();
    for (name, value) in &environment {
        let _ = writeln!(html, "<tr><th>{}</th><td>{}</td></tr>", escape_html(name), escape_html(value));
    }
    Ok(html + "</tbody>\n</table></div>\n")
}

/// `None` if the file is not there: a page without it is better than none.
fn read_side_file(path: &Path) -> Result<Option<String>, RecordError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RecordError::io("read", path, source)),
    };
    let mut bytes = Vec::new();
    let read = file.take(SIDE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| RecordError::io("read", path, source))?;
    if bytes.len() as u64 > SIDE_FILE_BYTES_MAX {
        let reason = format!("the file is longer than {SIDE_FILE_BYTES_MAX} bytes");
        return Err(RecordError::BadLine { path: path.to_path_buf(), line: 1, reason });
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
