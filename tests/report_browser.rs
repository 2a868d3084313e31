//! Goal: the page shows what `metrics.jsonl` holds, in a real browser, in light, in dark and on a phone.
//!
//! Method: the report of the run of 2018. Its tables and curves are read back as numbers and held against the rows;
//! headless Chromium lays it out and photographs it. The pictures are kept in Cargo's folder for tests' files, to be
//! looked at; without Chromium that part says so.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/eight_machines.rs"]
mod eight_machines;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use burn_sprint::record::{EndReason, EndRow, EpochRow, MetricsLog, Row, read_rows, write_report};

/// The folder of the run of 2018, with its report, if that run's events are there.
fn run_of_2018(folder: &Path) -> Option<PathBuf> {
    let events = eight_machines::events()?;
    let run = folder.join("imagenet18, 8 machines");
    fs::create_dir(&run).unwrap();
    let mut log = MetricsLog::create(&run.join("metrics.jsonl")).unwrap();
    let mut rows = eight_machines::rows(&events);
    let at = *rows.last().unwrap().at();
    let reason = EndReason::Stopped;
    rows.push(Row::End(EndRow { at, reason, message: None, cost_usd: None, skipped_images: None }));
    rows.iter().for_each(|row| log.append(row).unwrap());
    fs::write(run.join("config.toml"), "name = \"imagenet18-8\"\n").unwrap();
    fs::write(run.join("environment.json"), r#"{"device": "64 V100", "program": "PyTorch 0.5"}"#).unwrap();
    write_report(&run).unwrap();
    Some(run)
}

fn html(run: &Path) -> String {
    fs::read_to_string(run.join("report.html")).unwrap()
}

/// What stands between the first `open` and the next `close`, and what comes after.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str)> {
    text.split_once(open)?.1.split_once(close)
}

fn all_between<'a>(mut text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    while let Some((inside, rest)) = between(text, open, close) {
        found.push(inside);
        text = rest;
    }
    found
}

/// A table by its title: lines of cells, the head's first.
fn table(html: &str, title: &str) -> Vec<Vec<String>> {
    let (table, _) = between(html, &format!("<h2>{title}</h2>"), "</table>").unwrap();
    let cells = |line: &str| {
        let cells = line.replace("th>", "td>").replace('\u{2011}', "-");
        all_between(&cells, "<td>", "</td>").into_iter().map(str::to_owned).collect()
    };
    all_between(table, "<tr>", "</tr>").into_iter().map(cells).collect()
}

/// All of a table's cells but its head's, as a reader sees them.
fn cells(html: &str, title: &str) -> Vec<String> {
    let (table, _) = between(html, &format!("<h2>{title}</h2>"), "</table>").unwrap();
    all_between(table, "<td>", "</td>").into_iter().map(|cell| cell.replace("&amp;", "&")).collect()
}

/// The numbers of a column.
fn column(table: &[Vec<String>], name: &str) -> Vec<f64> {
    let index = table[0].iter().position(|head| head == name).unwrap_or_else(|| panic!("no column {name}"));
    let number =
        |cell: &String| cell.trim_start_matches('$').trim_end_matches([' ', '%', 's', 'p', 'x']).to_owned();
    table[1..].iter().map(|line| number(&line[index]).parse().unwrap()).collect()
}

#[track_caller]
fn assert_close(got: &[f64], expected: impl IntoIterator<Item = f64>, half_a_digit: f64) {
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= half_a_digit * 1.000_001, "{got} {expected}");
    }
}

#[test]
fn the_tables_hold_what_the_rows_say() {
    let temp = tempfile::tempdir().unwrap();
    let Some(run) = run_of_2018(temp.path()) else { return };
    let (html, rows) = (html(&run), read_rows(&run.join("metrics.jsonl")).unwrap());
    let epochs: Vec<&EpochRow> =
        rows.iter().filter_map(|row| if let Row::Epoch(row) = row { Some(row) } else { None }).collect();
    let shown = table(&html, "Epochs");
    for (name, value, half_a_digit) in [
        ("epoch", (|row| Some(f64::from(row.at.epoch + 1))) as fn(&EpochRow) -> Option<f64>, 0.0),
        ("learning rate", |row| row.lr, 5e-6),
        ("val top-1", |row| row.val_top1, 5e-3),
        ("val top-5", |row| row.val_top5, 5e-3),
        ("images/s", |row| row.images_per_s, 0.5),
        ("evaluation", |row| row.eval_s, 5e-2),
        ("cost", |row| row.cost_usd, 5e-3),
    ] {
        assert_close(&column(&shown, name), epochs.iter().map(|row| value(row).unwrap()), half_a_digit);
    }

    let phases = table(&html, "Phases");
    assert_eq!(column(&phases, "size"), [128.0, 128.0, 128.0, 224.0, 224.0, 224.0, 288.0]);
    assert_eq!(column(&phases, "batch, a rank"), [128.0, 256.0, 256.0, 128.0, 224.0, 224.0, 128.0]);
    // The phases' times and costs are those of their last epochs, one after the other.
    let cost: f64 = column(&phases, "cost").iter().sum();
    assert!((cost - epochs.last().unwrap().cost_usd.unwrap()).abs() < 0.04, "{cost}");
    // Published: 29.2 s an epoch after the first one's 44.7, of which evaluation took 1.4 and 6.1.
    let index = phases[0].iter().position(|head| head == "images/s, cold").unwrap();
    let cold = (phases[1][index].parse::<f64>().unwrap(), phases[1][index + 1].parse::<f64>().unwrap());
    assert!((cold.0 - 1_281_216.0 / (44.7 - 6.1)).abs() < 100.0, "{cold:?}");
    assert!((cold.1 - 1_281_216.0 / (29.2 - 1.4)).abs() < 500.0, "{cold:?}");
    assert_eq!(phases[3][index], "", "epochs 12 to 14 only turned the learning rate");
    for told in
        ["<dd>18:53</dd><dd>after epoch 30, top-5 93.01 %</dd>", "<td>64 V100</td>", "stopped by the user"]
    {
        assert!(html.contains(told), "{told}");
    }
}

/// A curve's points by its colour: the longest line of that colour in the first picture.
fn curve(html: &str, color: &str) -> Vec<(f64, f64)> {
    let (svg, _) = between(html, "<svg", "</svg>").unwrap();
    let lines = all_between(svg, "<polyline", "/>").into_iter().filter(|line| line.contains(color));
    let points = |line: &str| -> Vec<(f64, f64)> {
        let (points, _) = between(line, "points=\"", "\"").unwrap();
        let point = |point: &str| {
            let (x, y) = point.split_once(',').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        };
        points.split_whitespace().map(point).collect()
    };
    lines.map(points).max_by_key(Vec::len).unwrap()
}

/// On paper a curve is its values on two straight scales: whatever these are, the dots must lie on them.
#[track_caller]
fn assert_straight(got: &[f64], values: &[f64]) {
    let (low, high) =
        (values.iter().copied().reduce(f64::min).unwrap(), values.iter().copied().reduce(f64::max).unwrap());
    let at = |value: f64| got[values.iter().position(|other| *other == value).unwrap()];
    let scale = (at(high) - at(low)) / (high - low);
    assert!(scale.abs() > 0.0);
    for (got, value) in got.iter().zip(values) {
        let expected = at(low) + (value - low) * scale;
        assert!((got - expected).abs() <= 1.5, "{got} {expected}: off by more than rounding to dots");
    }
}

#[test]
fn the_curves_hold_what_the_rows_say() {
    let temp = tempfile::tempdir().unwrap();
    let Some(run) = run_of_2018(temp.path()) else { return };
    let (html, rows) = (html(&run), read_rows(&run.join("metrics.jsonl")).unwrap());
    let epochs = || rows.iter().filter_map(|row| if let Row::Epoch(row) = row { Some(row) } else { None });
    for (color, top_k) in
        [("#DE6A20", (|row| row.val_top1) as fn(&EpochRow) -> Option<f64>), ("#1E9262", |row| row.val_top5)]
    {
        let points = curve(&html, color);
        let images: Vec<f64> = epochs().map(|row| row.at.images as f64).collect();
        let values: Vec<f64> = epochs().map(|row| top_k(row).unwrap()).collect();
        assert_eq!(points.len(), values.len(), "{color}");
        let (x, y): (Vec<f64>, Vec<f64>) = points.into_iter().unzip();
        assert_straight(&x, &images);
        assert_straight(&y, &values);
    }
}

/// How a page comes out.
#[derive(Debug)]
struct Look {
    name: &'static str,
    width: u32,
    height: u32,
    is_dark: bool,
}

const LOOKS: [Look; 4] = [
    Look { name: "light", width: 1200, height: 3200, is_dark: false },
    Look { name: "dark", width: 1200, height: 3200, is_dark: true },
    Look { name: "phone-light", width: 390, height: 3600, is_dark: false },
    Look { name: "phone-dark", width: 390, height: 3600, is_dark: true },
];

/// Put at the end of a copy of the page: says of its layout what a picture cannot.
const PROBE: &str = r#"<script>
addEventListener("load", () => {
  const seen = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.getBoundingClientRect().width);
  const cut = seen("main > *, .cards > *").filter((e) => e.getBoundingClientRect().right > innerWidth);
  parent.postMessage(JSON.stringify({
    inner: innerWidth, scroll: document.documentElement.scrollWidth, cut: cut.length,
    figures: seen("figure").length, text: Math.min(...seen("figure text").map((e) => e.getBoundingClientRect().height)),
    page: getComputedStyle(document.body).backgroundColor,
    cells: seen("td").map((e) => e.textContent),
  }), "*");
});
</script>
"#;

/// Chromium has no window as narrow as a phone; a frame can be.
fn framed(folder: &Path, page: &str, look: &Look) -> PathBuf {
    let Look { name, width, height, .. } = look;
    let path = folder.join(format!("{name}-{page}"));
    let style = format!("border: 0; color-scheme: light dark; width: {width}px; height: {height}px");
    let html = format!(
        r#"<!DOCTYPE html><html style="color-scheme: light dark"><body style="margin: 0">
        <script>addEventListener("message", (e) => document.body.dataset.probe = e.data)</script>
        <iframe src="{page}" style="{style}"></iframe></body></html>"#
    );
    fs::write(&path, html).unwrap();
    path
}

fn chromium() -> Option<&'static str> {
    let there =
        |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|it| it.status.success());
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(there);
    if found.is_none() {
        eprintln!("SKIP: no Chromium");
    }
    found
}

/// Opens `page` as `look` says; `wanted` is what to make of it. Returns what it wrote, and fails at a script's error.
fn open(browser: &str, profile: &Path, page: &Path, look: &Look, wanted: &str) -> String {
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("--virtual-time-budget=3000")
        .arg(format!("--window-size={},{}", look.width.max(500), look.height))
        .arg(format!("--blink-settings=preferredColorScheme={}", if look.is_dark { 0 } else { 1 }))
        .arg(wanted)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("CONSOLE"), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_browser_shows_it_in_light_in_dark_and_on_a_phone() {
    let Some(browser) = chromium() else { return };
    let temp = tempfile::tempdir().unwrap();
    let Some(run) = run_of_2018(temp.path()) else { return };
    fs::write(run.join("probed.html"), html(&run).replace("</body>", &format!("{PROBE}</body>"))).unwrap();
    let profile = temp.path().join("profile");
    let cells: Vec<String> = ["Phases", "Time", "Epochs", "Environment"]
        .iter()
        .flat_map(|title| cells(&html(&run), title))
        .collect();
    for look in &LOOKS {
        let dom = open(browser, &profile, &framed(&run, "probed.html", look), look, "--dump-dom");
        let (probe, _) = between(&dom, "data-probe=\"", "\"").unwrap_or_else(|| panic!("no probe in {dom}"));
        let probe: serde_json::Value = serde_json::from_str(&probe.replace("&quot;", "\"")).unwrap();
        assert_eq!(probe["inner"], look.width, "{look:?}");
        assert!(probe["scroll"].as_u64().unwrap() <= u64::from(look.width), "scrolls sideways: {probe}");
        assert_eq!(probe["cut"], 0, "{look:?}");
        assert_eq!(probe["figures"], 1, "{look:?}: the wide curves or the narrow ones");
        assert!(probe["text"].as_f64().unwrap() >= 11.0, "letters too small to read: {probe}");
        assert_eq!(probe["page"] == "rgb(20, 23, 28)", look.is_dark, "{probe}");
        assert_eq!(probe["cells"], serde_json::json!(cells), "{look:?}");

        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{}.png", look.name));
        let wanted = format!("--screenshot={}", path.display());
        open(browser, &profile, &framed(&run, "report.html", look), look, &wanted);
        let picture = image::open(&path).unwrap().crop_imm(0, 0, look.width, look.height);
        picture.save(&path).unwrap();
        let picture = picture.to_luma8();
        let mean = picture.pixels().map(|pixel| u64::from(pixel.0[0])).sum::<u64>() / picture.len() as u64;
        assert!(
            if look.is_dark { (15..60).contains(&mean) } else { mean > 225 },
            "{look:?}: brightness {mean}"
        );
    }
}
