//! Forecasts as tables that a terminal and a Markdown page show alike.

use std::fmt::Write;

use super::{Gain, Outlook, Scene};
use crate::cluster::forecast::{PhaseForecast, Times};

/// One run, phase by phase.
pub(super) fn one(scene: &Scene, run: &Outlook) -> String {
    let Outlook { forecast, total_s, cost, levers } = run;
    let mut text = format!(
        "{} on {} x {}, {} ranks: {}{}\n",
        scene.recipe,
        forecast.machines,
        scene.cluster,
        forecast.world_size,
        clock(*total_s),
        cost.map(|cost| format!(", {cost}")).unwrap_or_default()
    );
    text += &sources(scene, &forecast.assumed);
    let mut rows = vec![cells(&[
        "epochs",
        "px",
        "batch",
        "global",
        "steps",
        "images/s",
        "s/epoch",
        "time",
        "compute",
        "fixed",
        "all-reduce",
        "input",
        "evaluation",
        "start",
    ])];
    let setup = Times { start_s: forecast.setup_s, ..Times::default() };
    if forecast.setup_s > 0.0 {
        rows.push(phase_row([""; 7], "set-up", &setup));
    }
    for phase in &forecast.phases {
        let PhaseForecast { epochs: [from, to], times, .. } = phase;
        let columns = [
            phase.size.to_string(),
            phase.batch_size.to_string(),
            phase.global_batch_size.to_string(),
            phase.steps_per_epoch.to_string(),
            format!("{:.0}", phase.images_per_s),
            format!("{:.2}", phase.epoch_s),
        ];
        let columns = columns.each_ref().map(String::as_str);
        let [a, b, c, d, e, f] = columns;
        rows.push(phase_row([a, b, c, d, e, f, ""], &format!("{from}-{to}"), times));
    }
    let mut whole = forecast.times;
    whole.start_s += forecast.setup_s;
    rows.push(phase_row([""; 7], "total", &whole));
    text += "\n";
    text += &table(&rows);
    text += "\nWhat would shorten it most, each alone, if it took no time:\n\n";
    for Gain { lever, saved_s } in levers.iter().filter(|gain| gain.saved_s >= 0.5) {
        let percent = 100.0 * saved_s / total_s;
        let _ = writeln!(text, "- {}: {} ({percent:.0} %)", lever.describe(), clock(*saved_s));
    }
    text
}

/// Several numbers of machines, and where more of them stop helping.
pub(super) fn scaling(scene: &Scene, runs: &[Outlook]) -> String {
    let assumed: Vec<String> =
        runs.iter().flat_map(|run| run.forecast.assumed.clone()).fold(Vec::new(), |mut all, note| {
            if !all.contains(&note) {
                all.push(note);
            }
            all
        });
    let text = format!("{} on {}\n{}\n", scene.recipe, scene.cluster, sources(scene, &assumed));
    let mut header = vec!["machines", "ranks", "time", "speed-up", "efficiency"];
    if scene.price.is_some() {
        header.push("on demand");
    }
    header.extend(["compute", "fixed", "all-reduce", "input", "evaluation", "start", "most to gain"]);
    let mut rows = vec![cells(&header)];
    let first = &runs[0];
    for run in runs {
        let speed_up = first.total_s / run.total_s;
        let more = f64::from(run.forecast.machines) / f64::from(first.forecast.machines);
        let mut row = vec![
            run.forecast.machines.to_string(),
            run.forecast.world_size.to_string(),
            clock(run.total_s),
            format!("{speed_up:.2}"),
            format!("{:.0} %", 100.0 * speed_up / more),
        ];
        row.extend(run.cost.map(|cost| format!("${:.2}", cost.on_demand_usd)));
        let mut times = run.forecast.times;
        times.start_s += run.forecast.setup_s;
        row.extend(shares(&times));
        row.push(run.levers.first().map_or_else(String::new, |gain| gain.lever.describe().into()));
        rows.push(row);
    }
    text + &table(&rows)
}

/// Where the numbers are from.
fn sources(scene: &Scene, assumed: &[String]) -> String {
    let mut text = format!("devices: {}\n", scene.throughput);
    if let Some(price) = &scene.price {
        let when = if price.date.is_empty() { String::new() } else { format!(", {}", price.date) };
        let _ = writeln!(
            text,
            "price: ${} for an hour of a {}{when} ({})",
            price.on_demand_usd, price.machine, price.source
        );
    }
    for note in assumed {
        let _ = writeln!(text, "assumed: {note}");
    }
    text
}

fn cells(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn phase_row(columns: [&str; 7], name: &str, times: &Times) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend(columns[..6].iter().map(ToString::to_string));
    row.push(clock(times.total_s()));
    row.extend(shares(times));
    row
}

/// Each part in percent.
fn shares(times: &Times) -> Vec<String> {
    let Times { compute_s, fixed_s, all_reduce_s, input_s, evaluation_s, start_s } = times;
    let total_s = times.total_s();
    let share = |part: &f64| format!("{:.0} %", 100.0 * part / total_s);
    [compute_s, fixed_s, all_reduce_s, input_s, evaluation_s, start_s].map(share).into()
}

/// Rows of as many cells each, the first of them the header; numbers to the right.
fn table(rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:>width$} ");
        }
        text += "|\n";
        if index == 0 {
            for width in &widths {
                let _ = write!(text, "|{}:", "-".repeat(width + 1));
            }
            text += "|\n";
        }
    }
    text
}

/// `18:05`, `1:02:03`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}
