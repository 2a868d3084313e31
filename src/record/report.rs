//! `report.html`: a run on one page that needs no network and no script. Made from the run's folder, so it can be made
//! again at any time, also of a run that was killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::curve::{curve_png, curve_svg, curve_svg_narrow};
use super::dawn::{TARGET_TOP5, time_to_target};
use super::log::read_rows;
use super::metrics::{EndReason, EndRow, EpochRow, Row};
use super::phases::{ExecutedPhase, Pace, executed_phases};
use super::tables::Epoch;
use super::text::{clock, count, escape_html, images_per_s};
use super::{RecordError, tables, write_atomic};

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
    let phases = executed_phases(rows);
    html += &run.summary(&phases);
    for (class, svg) in [("wide", curve_svg(rows)?), ("narrow", curve_svg_narrow(rows)?)] {
        html += &format!("<figure class=\"{class}\">\n{svg}\n</figure>\n");
    }
    html += &tables::phases(&phases);
    html += &tables::time(&phases, rows.last().map_or(0.0, |last| last.at().elapsed_s));
    html += &tables::epochs(&run.epochs);
    if let Some(config) = read_side_file(&folder.join("config.toml"))? {
        html += &format!("<h2>Configuration</h2>\n<pre>{}</pre>\n", escape_html(&config));
    }
    html += &tables::facts("Environment", &read_environment(&folder.join("environment.json"))?);
    html += "</main>\n</body>\n</html>\n";
    Ok(html)
}

/// The rows of a run, sorted by kind.
struct Run<'a> {
    rows: &'a [Row],
    epochs: Vec<Epoch<'a>>,
    end: Option<&'a EndRow>,
    cost_usd: Option<f64>,
    skipped_images: Option<u64>,
}

impl<'a> Run<'a> {
    fn new(rows: &'a [Row]) -> Self {
        let mut run = Self { rows, epochs: vec![], end: None, cost_usd: None, skipped_images: None };
        let mut loss_scale = None;
        for row in rows {
            let skipped_images = match row {
                Row::Step(row) => row.skipped_images,
                Row::Epoch(row) => row.skipped_images,
                Row::Phase(_) => None,
                Row::End(row) => row.skipped_images,
            };
            run.cost_usd = row.cost_usd().or(run.cost_usd);
            run.skipped_images = skipped_images.or(run.skipped_images);
            match row {
                Row::Epoch(row) => run.epochs.push(Epoch { row, loss_scale }),
                Row::End(row) => run.end = Some(row),
                Row::Step(row) => loss_scale = row.loss_scale,
                Row::Phase(_) => {}
            }
        }
        run
    }

    /// How far the run is, in a line.
    fn state(&self) -> String {
        let Some(last) = self.rows.last() else { return "Nothing has been recorded yet.".into() };
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

    fn summary(&self, phases: &[ExecutedPhase]) -> String {
        let mut cards = String::new();
        let mut card = |name: &str, value: String, note: String| {
            cards += &format!("<div><dt>{name}</dt><dd>{value}</dd><dd>{note}</dd></div>\n");
        };
        for (name, top_k) in [
            ("Validation top-1", (|row| row.val_top1) as fn(&EpochRow) -> Option<f64>),
            ("Validation top-5", |row| row.val_top5),
        ] {
            let evaluated =
                || self.epochs.iter().filter_map(|epoch| Some((epoch.row.at.epoch + 1, top_k(epoch.row)?)));
            let best = evaluated().filter(|(_, value)| value.is_finite()).max_by(|a, b| a.1.total_cmp(&b.1));
            if let (Some((_, last)), Some((epoch, best))) = (evaluated().next_back(), best) {
                card(name, format!("{last:.2} %"), format!("best {best:.2} % after epoch {epoch}"));
            }
        }
        if let Some(last) = self.rows.last() {
            card("Time", clock(last.at().elapsed_s), "evaluation included".into());
        }
        if let Some(epoch) = time_to_target(self.rows) {
            let accuracy = epoch.val_top5.map(|top5| format!(", top-5 {top5:.2} %")).unwrap_or_default();
            let note = format!("after epoch {}{accuracy}", epoch.at.epoch + 1);
            let wanted = match self.end.map(|end| end.reason) {
                Some(EndReason::Target) => "the target".to_owned(),
                _ => format!("{TARGET_TOP5} % top-5"),
            };
            card(&format!("Time to {wanted}"), clock(epoch.at.elapsed_s), note);
        }
        let pace: Pace = phases.iter().flat_map(|phase| [phase.cold, phase.warm]).sum();
        if let Some(speed) = pace.images_per_s() {
            card("Speed", images_per_s(speed).replace(" images/s", ""), "images/s in training".into());
        }
        if let Some(cost) = self.cost_usd {
            card("Cost", format!("${cost:.2}"), "US dollars".into());
        }
        if cards.is_empty() { cards } else { format!("<dl class=\"cards\">\n{cards}</dl>\n") }
    }
}

fn read_environment(path: &Path) -> Result<BTreeMap<String, String>, RecordError> {
    let Some(json) = read_side_file(path)? else { return Ok(BTreeMap::new()) };
    serde_json::from_str(&json).map_err(|error| {
        let reason = format!("not an object of strings: {error}");
        RecordError::BadLine { path: path.to_path_buf(), line: error.line() as u64, reason }
    })
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
