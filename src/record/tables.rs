//! The tables of the report: what rows and phases say, as text in cells. A column without any value is left out.

use super::metrics::EpochRow;
use super::phases::{ExecutedPhase, Pace};
use super::text::{clock, duration, escape_html, images_per_s, learning_rate};

type Line = Vec<(&'static str, Option<String>)>;

/// The phases as they were run.
pub(super) fn phases(phases: &[ExecutedPhase]) -> String {
    table("Phases", "", &phases.iter().map(phase).collect::<Vec<_>>())
}

fn phase(phase: &ExecutedPhase) -> Line {
    let plan = &phase.plan;
    let first = plan.at.epoch;
    let epochs = match phase.num_epochs {
        0 => "\u{2013}".to_string(),
        1 => format!("{}", first + 1),
        more => format!("{}\u{2013}{}", first + 1, first + more),
    };
    let rate = phase.lr().map(|(begin, end)| match (learning_rate(begin), learning_rate(end)) {
        (begin, end) if begin == end => begin,
        (begin, end) => format!("{begin} \u{2192} {end}"),
    });
    let of_a_rank = plan.batch_size.filter(|size| plan.global_batch_size.is_some_and(|all| all != *size));
    let speed = |pace: Pace| pace.images_per_s().map(bare_speed);
    let share = |wait: f64| format!("{:.1} %", 100.0 * wait / phase.seconds);
    let share = |wait: Option<f64>| wait.filter(|_| phase.seconds > 0.0).map(share);
    vec![
        ("phase", Some((plan.at.phase + 1).to_string())),
        ("epochs", Some(epochs)),
        ("size", plan.size.map(|size| format!("{size} px"))),
        ("batch size", plan.global_batch_size.or(plan.batch_size).map(|size| size.to_string())),
        ("batch, a rank", of_a_rank.map(|size| size.to_string())),
        ("learning rate", rate),
        ("images/s, cold", speed(phase.cold)),
        ("images/s, warm", speed(phase.warm)),
        ("time", Some(clock(phase.seconds))),
        ("evaluation", phase.eval_s.map(duration)),
        ("waited for data", share(phase.data_wait_s)),
        ("waited for ranks", share(phase.comm_wait_s)),
        ("cost", phase.cost_usd.map(dollars)),
    ]
}

/// The epochs, number for number.
pub(super) fn epochs(epochs: &[Epoch<'_>]) -> String {
    table("Epochs", "", &epochs.iter().map(epoch).collect::<Vec<_>>())
}

/// An epoch, and what only the rows of its steps tell.
pub(super) struct Epoch<'a> {
    pub(super) row: &'a EpochRow,
    /// Of its last step.
    pub(super) loss_scale: Option<f64>,
}

fn epoch(Epoch { row, loss_scale }: &Epoch<'_>) -> Line {
    let loss = |value: Option<f64>| value.map(|value| format!("{value:.4}"));
    let percent = |value: Option<f64>| value.map(|value| format!("{value:.2} %"));
    vec![
        ("epoch", Some((row.at.epoch + 1).to_string())),
        ("learning rate", row.lr.map(learning_rate)),
        ("train loss", loss(row.train_loss)),
        ("train top-1", percent(row.train_top1)),
        ("train top-5", percent(row.train_top5)),
        ("val loss", loss(row.val_loss)),
        ("val top-1", percent(row.val_top1)),
        ("val top-5", percent(row.val_top5)),
        ("centre crop", row.val_center_size.map(|size| format!("{size} px"))),
        ("centre top-1", percent(row.val_center_top1)),
        ("centre top-5", percent(row.val_center_top5)),
        ("images/s", row.images_per_s.map(bare_speed)),
        ("evaluation", row.eval_s.map(duration)),
        ("waited for data", row.data_wait_s.map(duration)),
        ("waited for ranks", row.comm_wait_s.map(duration)),
        ("loss scale", loss_scale.map(|scale| scale.to_string())),
        ("steps skipped", row.skipped_steps.map(|steps| steps.to_string())),
        ("elapsed", Some(clock(row.at.elapsed_s))),
        ("cost", row.cost_usd.map(dollars)),
    ]
}

/// Where the run's time went; `elapsed_s` is all of it. Nothing without a phase.
pub(super) fn time(phases: &[ExecutedPhase], elapsed_s: f64) -> String {
    let sum = |value: fn(&ExecutedPhase) -> Option<f64>| phases.iter().filter_map(value).reduce(|a, b| a + b);
    let trained = phases.iter().flat_map(|phase| [phase.cold, phase.warm]).sum::<Pace>().seconds();
    let waits = [sum(|phase| phase.data_wait_s), sum(|phase| phase.comm_wait_s)];
    let eval_s = sum(|phase| phase.eval_s);
    let rest = elapsed_s - trained - eval_s.unwrap_or(0.0);
    let lines = [
        ("forward, backward, update", Some(trained - waits.iter().flatten().sum::<f64>())),
        ("waited for data", waits[0]),
        ("waited for ranks", waits[1]),
        ("evaluation", eval_s),
        ("the rest: start, checkpoints, an epoch under way", Some(rest.max(0.0))),
    ];
    let line = |(what, seconds): (&str, Option<f64>)| -> Option<Line> {
        let seconds = seconds?;
        let share = format!("{:.1} %", 100.0 * seconds / elapsed_s);
        Some(vec![("", Some(what.into())), ("time", Some(duration(seconds))), ("share", Some(share))])
    };
    if trained <= 0.0 || elapsed_s <= 0.0 {
        return String::new();
    }
    table("Time", " class=\"words\"", &lines.into_iter().filter_map(line).collect::<Vec<_>>())
}

/// Names and values, in order of the names.
pub(super) fn facts<'a>(title: &str, facts: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let line = |(name, value): (&String, &String)| {
        format!("<tr><th>{}</th><td>{}</td></tr>\n", escape_html(name), escape_html(value))
    };
    let lines: String = facts.into_iter().map(line).collect();
    if lines.is_empty() {
        return lines;
    }
    format!(
        "<h2>{title}</h2>\n<div class=\"scroll\"><table class=\"facts\">\n<tbody>\n{lines}</tbody>\n</table></div>\n"
    )
}

/// The columns are those of the first line; nothing without a line.
fn table(title: &str, class: &str, lines: &[Line]) -> String {
    let Some(first) = lines.first() else { return String::new() };
    let used: Vec<usize> =
        (0..first.len()).filter(|&column| lines.iter().any(|line| line[column].1.is_some())).collect();
    let row = |tag: &str, cells: Vec<&str>| {
        let cells: String =
            cells.into_iter().map(|cell| format!("<{tag}>{}</{tag}>", escape_html(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    // Heads may take two lines, but not `top-1`.
    let head = row("th", used.iter().map(|&column| first[column].0).collect()).replace('-', "\u{2011}");
    let mut html =
        format!("<h2>{title}</h2>\n<div class=\"scroll\"><table{class}>\n<thead>{head}</thead>\n<tbody>\n");
    for line in lines {
        html +=
            &row("td", used.iter().map(|&column| line[column].1.as_deref().unwrap_or_default()).collect());
        html += "\n";
    }
    html + "</tbody>\n</table></div>\n"
}

fn bare_speed(speed: f64) -> String {
    images_per_s(speed).replace(" images/s", "")
}

fn dollars(cost: f64) -> String {
    format!("${cost:.2}")
}
