//! `sprint plan`: it gives back the three recorded runs of 2018 from the log of one of them, its page shows what it
//! prints, and what it cannot plan it says in a line. The runs' TSVs are DAWNBench's entries, where they are there.

#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use burn_sprint::{
    cluster::Price,
    record::{DawnRow, read_dawn_tsv, time_to_accuracy},
};
use serde_json::Value;

use common::{Output, checkpoints, halve, sets, shared, sprint, tiny, word, write_folder, write_idx};

const PAGE: &str = include_str!("../docs/plan.md");
const CLUSTER_2018: &str = include_str!("../clusters/p3.16xlarge-2018.toml");
/// A recipe for no pictures that are there.
const TINY: [&str; 3] = ["data.planned_images=5000", "model.depth=8", "model.width=4"];

fn fixture(name: &str) -> String {
    word(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/plan").join(name))
}

fn plan(words: &[&str]) -> Output {
    sprint(["plan"].iter().chain(words))
}

/// `sprint bench data` of a few pictures.
fn bench(words: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), 2);
    sprint(
        ["bench", "data", "--data", &word(folder.path()), "--images", "8", "--threads", "2"]
            .iter()
            .chain(words),
    )
}

#[test]
fn bench_data_times_every_image_size_and_says_what_bounds_every_phase() {
    let page: Value =
        serde_json::from_str(&bench(&["--preset", "imagenet18-16", "--json"]).ok().stdout).unwrap();
    let rows = |part: &str| page[part].as_array().unwrap().clone();
    let sizes = |rows: &[Value]| rows.iter().map(|row| row["size"].as_u64().unwrap()).collect::<Vec<_>>();
    let timed = sizes(&rows("speeds"));
    assert_eq!(timed, [128, 224, 288], "{page}");
    for row in rows("speeds") {
        for part in ["read_ms", "decode_ms", "resize_ms", "one_thread_per_s", "all_threads_per_s"] {
            assert!(row[part].as_f64().unwrap() > 0.0, "{part} of {row}");
        }
        assert_eq!(row["threads"], 2);
    }
    let phases = rows("phases");
    assert_eq!(BTreeSet::from_iter(sizes(&phases)), BTreeSet::from_iter(timed), "{page}");
    for phase in &phases {
        let [input, compute, network] =
            ["input_per_s", "compute_per_s", "network_per_s"].map(|part| phase[part].as_f64().unwrap());
        assert!(0.0 < network && network <= compute, "{phase}");
        assert_eq!(phase["bound"] == "input", input < network, "{phase}");
    }

    let table = bench(&["--preset", "imagenet18-16"]).ok().stdout;
    assert!(table.contains("decode") && table.contains("bound by"), "{table}");
    let table = bench(&[]).ok().stdout;
    assert!(table.contains("  224 ") && !table.contains("bound by"), "{table}");
    // A recipe that was made for no machine is timed all the same.
    let output = bench(&["--preset", "photos"]).ok();
    assert!(output.stderr.contains("no comparison with devices"), "{}", output.stderr);
    for (words, status) in [(&["--images", "0"][..], 2), (&["--preset", "nonsense"], 2)] {
        assert_eq!(bench(words).status, status, "{words:?}");
    }
}

/// What `--json` says of a recorded run on a cluster.
fn forecast(machines: u32, cluster: &str) -> Value {
    let recipe = fixture(&format!("recorded-{machines}.toml"));
    let output = plan(&["--config", &recipe, "--cluster", cluster, "--json"]).ok();
    let page: Value = serde_json::from_str(&output.stdout).unwrap();
    page["runs"][0].clone()
}

/// The entry of a recorded run, if it is there.
fn entry(machines: u32) -> Option<Vec<DawnRow>> {
    let path = shared(&format!("dawn/fastai_resnet50_p3_{machines}_machine_pytorch.tsv"))?;
    Some(read_dawn_tsv(&path).unwrap())
}

/// Seconds of a part of a forecast's times.
fn seconds(times: &Value) -> f64 {
    times.as_object().unwrap().values().map(|part| part.as_f64().unwrap()).sum()
}

/// One line of the comparison: what it is, recorded, forecast.
struct Compared {
    machines: u32,
    what: String,
    recorded_s: f64,
    forecast_s: f64,
}

impl Compared {
    fn error(&self) -> f64 {
        100.0 * (self.forecast_s / self.recorded_s - 1.0)
    }
}

/// Phase by phase, and the whole.
fn compare(machines: u32, cluster: &str) -> Option<Vec<Compared>> {
    let ends: Vec<f64> = entry(machines)?.iter().map(DawnRow::seconds).collect();
    let run = forecast(machines, cluster);
    // The TSV of 16 machines counts from the begin of the program, the others from the first epoch.
    let setup_s = if machines == 16 { run["setup_s"].as_f64().unwrap() } else { 0.0 };
    let mut lines = Vec::new();
    let (mut begin_s, mut sum_s) = (0.0, 0.0);
    for (index, phase) in run["phases"].as_array().unwrap().iter().enumerate() {
        let [from, to] = [0, 1].map(|end| phase["epochs"][end].as_u64().unwrap());
        let forecast_s = seconds(&phase["times"]) + if index == 0 { setup_s } else { 0.0 };
        let end_s = ends[to as usize - 1];
        let (size, batch) = (&phase["size"], &phase["batch_size"]);
        let what = format!("{from}-{to}: {size} px, {batch}");
        lines.push(Compared { machines, what, recorded_s: end_s - begin_s, forecast_s });
        begin_s = end_s;
        sum_s += forecast_s;
    }
    lines.push(Compared { machines, what: "whole".into(), recorded_s: begin_s, forecast_s: sum_s });
    Some(lines)
}

#[test]
fn the_recorded_runs_come_out_and_the_page_says_how_well() {
    let mut table = String::new();
    let compared = [4, 8, 16].map(|machines| compare(machines, "p3.16xlarge-2018"));
    let Some(lines) = compared.into_iter().collect::<Option<Vec<_>>>() else { return };
    let lines: Vec<Compared> = lines.into_iter().flatten().collect();
    for line in &lines {
        let Compared { machines, what, recorded_s, forecast_s } = line;
        writeln!(
            table,
            "| {machines} | {what} | {recorded_s:.1} | {forecast_s:.1} | {:+.1} % |",
            line.error()
        )
        .unwrap();
    }
    for line in &lines {
        let limit = if line.what == "whole" { 5.0 } else { 15.0 };
        assert!(line.error().abs() < limit, "{} machines, {}:\n{table}", line.machines, line.what);
    }
    assert!(PAGE.contains(&table), "docs/plan.md should have these rows:\n{table}");
}

/// As `clusters/p3.16xlarge-2018.toml` says of it.
#[test]
fn what_the_log_does_not_tell_of_the_network_makes_no_difference() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("half.toml");
    assert!(CLUSTER_2018.contains("\ngbit_per_s = 25.0\n"));
    fs::write(&file, CLUSTER_2018.replace("\ngbit_per_s = 25.0\n", "\ngbit_per_s = 12.5\n")).unwrap();
    for machines in [4, 16] {
        let whole = |cluster: &str| Some(compare(machines, cluster)?.pop().unwrap().forecast_s);
        let Some((full, half)) = whole("p3.16xlarge-2018").zip(whole(&word(&file))) else { return };
        assert!((half / full - 1.0).abs() < 0.01, "{machines} machines: {full} {half}");
    }
}

#[test]
fn the_record_cost_what_it_cost() {
    let Some(rows) = entry(16) else { return };
    let end = time_to_accuracy(&rows, 93.0).unwrap();
    assert_eq!((end.epoch, end.seconds().floor()), (38, 1085.0), "18:05");
    let cost = Price::find("p3.16xlarge-2018").unwrap().of(16, end.seconds());
    assert_eq!(format!("{:.2}", cost.on_demand_usd), "118.07");
    let [low, high] = cost.spot_usd.unwrap();
    assert_eq!((format!("{low:.1}"), format!("{high:.1}")), ("35.4".into(), "38.8".into()));
}

/// Every command on the page is followed by what it prints.
#[test]
fn the_page_shows_what_the_command_prints() {
    let mut num_commands = 0;
    for part in PAGE.split("```sh\nsprint plan ").skip(1) {
        let Some((command, after)) = part.split_once("\n```\n") else { panic!("{part}: no end") };
        let Some(shown) = after.strip_prefix("\n```text\n") else { continue };
        let shown = &shown[..shown.find("```").unwrap()];
        let printed = plan(&command.split_whitespace().collect::<Vec<_>>()).ok().stdout;
        assert_eq!(printed, shown, "docs/plan.md, sprint plan {command}");
        num_commands += 1;
    }
    assert!(num_commands >= 3, "{num_commands}");
}

/// What one change of the cluster does to the time: why scaling ends where it does.
#[test]
fn the_page_says_what_ends_scaling() {
    let cluster = include_str!("../clusters/h100-400g.toml");
    let folder = tempfile::tempdir().unwrap();
    let file = word(&folder.path().join("changed.toml"));
    let mut table = String::new();
    for (what, changes) in [
        ("as it is", &[][..]),
        ("no latency between machines", &[("\nlatency_us = 50.0\n", "\nlatency_us = 0.0\n")][..]),
        ("100 GB/s inside a machine", &[("local_gb_per_s = 5.7", "local_gb_per_s = 100.0")]),
        ("gradients in 16 bits", &[("value_bytes = 4", "value_bytes = 2")]),
        ("5 ms of a step fixed", &[("fixed_ms = 10.0", "fixed_ms = 5.0")]),
        (
            "the first three at once",
            &[
                ("\nlatency_us = 50.0\n", "\nlatency_us = 0.0\n"),
                ("local_gb_per_s = 5.7", "local_gb_per_s = 100.0"),
                ("value_bytes = 4", "value_bytes = 2"),
            ],
        ),
    ] {
        let changed = changes.iter().fold(cluster.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        fs::write(&file, changed).unwrap();
        let words = ["--preset", "imagenet18-16", "--epochs", "38", "--cluster", &file, "--machines"];
        let words = [&words[..], &["8,16,32,64,128", "--json"]].concat();
        let page: Value = serde_json::from_str(&plan(&words).ok().stdout).unwrap();
        let times = page["runs"].as_array().unwrap().iter().map(|run| run["total_s"].as_f64().unwrap());
        let cells: Vec<_> = times.map(|s| format!("{s:.0}")).collect();
        writeln!(table, "| {what} | {} |", cells.join(" | ")).unwrap();
    }
    assert!(PAGE.contains(&table), "docs/plan.md should have these rows:\n{table}");
}

#[test]
fn thousands_of_machines_are_forecast() {
    let recipe = fixture("recorded-16.toml");
    let words =
        ["--config", &recipe, "--cluster", "h100-400g", "--machines", "16,4096", "--per-rank", "--json"];
    let page: Value = serde_json::from_str(&plan(&words).ok().stdout).unwrap();
    assert_eq!(page["runs"][1]["world_size"], 32_768);
    let total_s = |run: usize| page["runs"][run]["total_s"].as_f64().unwrap();
    assert!(total_s(1) > 0.0 && total_s(1) < total_s(0), "{} {}", total_s(0), total_s(1));
}

/// The parts add up, the savings are no more than the whole, and money is the price times the time.
#[test]
fn parts_add_up_to_the_whole() {
    let recipe = fixture("recorded-8.toml");
    let words = ["--config", &recipe, "--cluster", "p3.16xlarge-2018", "--price", "10", "--json"];
    let page: Value = serde_json::from_str(&plan(&words).ok().stdout).unwrap();
    let run = &page["runs"][0];
    let total_s = run["total_s"].as_f64().unwrap();
    let phases: f64 = run["phases"].as_array().unwrap().iter().map(|phase| seconds(&phase["times"])).sum();
    assert!((phases + run["setup_s"].as_f64().unwrap() - total_s).abs() < 1e-6);
    assert!((seconds(&run["times"]) - phases).abs() < 1e-6);
    let usd = run["cost"]["on_demand_usd"].as_f64().unwrap();
    assert!((usd - 80.0 * total_s / 3600.0).abs() < 1e-9, "{usd}");
    let saved: Vec<f64> =
        run["levers"].as_array().unwrap().iter().map(|gain| gain["saved_s"].as_f64().unwrap()).collect();
    assert!(saved.len() == 6 && saved.is_sorted_by(|a, b| a >= b), "{saved:?}");
    assert!(saved.iter().all(|&saved| (0.0..total_s).contains(&saved)), "{saved:?}");
}

#[test]
fn a_measurement_can_be_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = word(&folder.path().join("here.toml"));
    let mut words: Vec<String> =
        ["plan", "--preset", "default", "--cluster", "h100-400g", "--machines", "1", "--json"]
            .map(String::from)
            .into();
    words.extend(sets(&TINY));
    words.extend(sets(&[
        "phase=[{epochs=1, size=28, batch_size=2, lr=0.1}, {epochs=1, size=28, batch_size=64, lr=0.1}]",
    ]));
    let with = |more: &[&str]| sprint(words.iter().map(String::as_str).chain(more.iter().copied()));
    for device in ["flex", "ndarray"] {
        let measured = with(&["--measure", &file, "--device", device]).ok();
        assert_eq!(measured.stderr.lines().count(), 2, "{}", measured.stderr);
        let again = with(&["--throughput", &file]).ok();
        assert_eq!(measured.stdout, again.stdout);
        assert!(measured.stdout.contains(&format!("--measure on {device}")), "{}", measured.stdout);
    }
}

/// At 3,600 dollars an hour a run costs its seconds.
#[test]
fn a_run_counts_its_money_and_goes_on_counting_after_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    write_idx(folder.path());
    let mut words = tiny(folder.path(), &out);
    words.extend(["--price", "3600"].map(String::from));
    let told = sprint(&words).ok().stdout;
    assert!(told.contains(" on demand") && !told.contains("spot"), "{told}");
    let rows = || -> Vec<Value> {
        let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let before = rows().pop().unwrap()["cost_usd"].as_f64().unwrap();
    // The state before the last steps, so that some are left to be made again.
    let (_, newest) = checkpoints(&out).pop().unwrap();
    halve(&newest.join("model.safetensors"));
    sprint(["train", "--resume", "--out", &word(&out)]).ok();
    let mut last = 0.0;
    for row in rows().iter().filter(|row| row["event"] != "phase") {
        let [cost, elapsed] = ["cost_usd", "elapsed_s"].map(|key| row[key].as_f64().unwrap());
        assert!((cost - elapsed).abs() < 1e-9 && cost >= last, "{row}");
        last = cost;
    }
    assert!(last > 0.5 * before, "the clock began anew: {before} and then {last}");
    let dawn: Value = serde_json::from_slice(&fs::read(out.join("dawn.json")).unwrap()).unwrap();
    assert_eq!(dawn["costPerHour"], 3600.0);
}

#[test]
fn what_cannot_be_planned_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        word(&path)
    };
    let recipe = fixture("recorded-16.toml");
    let here = ["--config", &recipe, "--cluster", "h100-400g"];
    let with = |more: &[&str]| here.iter().chain(more).map(ToString::to_string).collect::<Vec<_>>();
    let on = |cluster: &str| ["--config", &recipe, "--cluster", cluster].map(String::from).to_vec();
    let no_rows = file("no-rows.toml", "source = \"nobody\"");
    let far = file("far.toml", "source = \"me\"\nrow = [{ size = 640, batch_size = 8, images_per_s = 9.0 }]");
    let slow = file("slow.toml", &CLUSTER_2018.replace("cores = 32", "cores = 0"));
    let large = file("large.toml", &"#".repeat((1 << 20) + 1));
    let bare = file("bare.toml", CLUSTER_2018.split("[throughput]").next().unwrap());
    let no_price = file("price.toml", &CLUSTER_2018.replace("price = \"p3.16xlarge-2018\"", "price = \"x\""));
    for (words, status, expected) in [
        (on("h100"), 2, "there is no cluster `h100`; there are: p3.16xlarge-2018, "),
        (on(&slow), 2, "`machine.cores` is 0: expected 1 to 4096"),
        (on(&large), 2, "has more than 1048576 bytes"),
        (on(&bare), 2, "does not say how fast its devices are: give --throughput FILE"),
        (
            on(&no_price),
            2,
            "price x: expected US dollars for an hour of a machine, 0 or more, or one of: p3.16",
        ),
        (with(&["--machines", "0"]), 2, "--machines 0: expected 1 to 4096"),
        (with(&["--machines", "5000"]), 2, "--machines 5000: expected 1 to 4096"),
        (with(&["--machines", "3"]), 2, "phase 1: 8192 images a step cannot be shared by 24 ranks alike"),
        (with(&["--throughput", &no_rows]), 2, "the throughput has no row: add [[row]]"),
        (with(&["--throughput", &far]), 2, "phase 1: the throughput has rows for 640 px, none near 128 px"),
        (with(&["--throughput", "nowhere.toml"]), 1, "cannot read nowhere.toml"),
        (with(&["--price=-1"]), 2, "price -1: expected US dollars"),
        (
            with(&["--set", "phase.0.data='96'"]),
            2,
            "phase 1: cluster h100-400g: a phase reads the pictures `96`",
        ),
        (with(&["--set", "phase.0.batch_size=0"]), 2, "phase 1: `batch_size` is 0"),
        (with(&["--set", "data.planned_images=0"]), 2, "data.planned_images is 0: expected at least 1"),
    ] {
        let output = plan(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let error = output.error(status);
        assert!(error.contains(expected), "{words:?}: {error}");
        assert_eq!(output.stdout, "", "{words:?}");
    }
    let preset = ["--preset", "default", "--cluster", "h100-400g"];
    assert!(plan(&preset).error(2).contains("give --set data.planned_images=N"));
    let images = [&preset[..], &["--set", "data.planned_images=5000"]].concat();
    assert!(plan(&images).error(2).contains("made for no cluster: give --machines N"));
}
