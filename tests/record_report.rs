//! The recorder as the trainer uses it, and the page and pictures of runs long, short, empty and broken.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use burn_sprint::record::{
    EndReason, EndRow, EpochRow, MetricsLog, Moment, PhaseRow, RecordError, Recorder, Row, RunInfo, StepRow,
    curve_png, curve_svg, read_events, read_rows, report_html, write_report,
};

const STEPS_PER_EPOCH: u64 = 5;

fn at(epoch: u32, step: u64) -> Moment {
    Moment { epoch, step, phase: u32::from(epoch > 0), images: 20 * step, elapsed_s: 0.3 * step as f64 }
}

fn step_row(epoch: u32, step: u64) -> StepRow {
    let train_loss = 3.0 / step as f64;
    StepRow { at: at(epoch, step), lr: 0.1, train_loss, train_top1: Some(50.0), ..StepRow::default() }
}

fn epoch_row(epoch: u32) -> EpochRow {
    EpochRow {
        at: at(epoch, STEPS_PER_EPOCH * u64::from(epoch + 1)),
        train_loss: Some(0.5),
        val_loss: Some(0.75),
        val_top1: Some(60.0 + f64::from(epoch)),
        val_top5: Some(90.0),
        images_per_s: Some(80.0),
        eval_s: Some(0.25),
        data_wait_s: Some(0.15),
        ..EpochRow::default()
    }
}

fn phase_row(epoch: u32) -> PhaseRow {
    PhaseRow {
        at: Moment { phase: u32::from(epoch > 0), ..at(epoch, STEPS_PER_EPOCH * u64::from(epoch)) },
        size: Some(32),
        global_batch_size: Some(20),
        epochs: Some(if epoch == 0 { (0, 1) } else { (1, 3) }),
        lr: Some(0.1),
        ..PhaseRow::default()
    }
}

fn end_row() -> EndRow {
    EndRow {
        at: at(2, 15),
        reason: EndReason::Done,
        message: None,
        cost_usd: Some(1.25),
        skipped_images: Some(2),
    }
}

fn info() -> RunInfo {
    let environment = [("device".to_string(), "<H100> & co".to_string())].into();
    RunInfo { world_size: 1, environment, ..RunInfo::default() }
}

/// Runs steps `from..=to` of three epochs of five; returns the position after step `checkpoint_at`.
fn run(recorder: &mut Recorder, from: u64, to: u64, checkpoint_at: u64) -> u64 {
    let mut position = 0;
    for step in from..=to {
        one_step(recorder, step).unwrap();
        if step == checkpoint_at {
            position = recorder.position().unwrap();
        }
    }
    position
}

/// A step, and what of its phase and epoch is recorded with it.
fn one_step(recorder: &mut Recorder, step: u64) -> Result<(), RecordError> {
    let epoch = ((step - 1) / STEPS_PER_EPOCH) as u32;
    if step == 1 || step == 6 {
        recorder.phase(&phase_row(epoch))?;
    }
    recorder.step(&step_row(epoch, step))?;
    if step.is_multiple_of(STEPS_PER_EPOCH) {
        recorder.epoch(&epoch_row(epoch))?;
    }
    Ok(())
}

fn whole_run(dir: &Path) {
    let mut recorder = Recorder::create(dir, info(), 1e9).unwrap();
    run(&mut recorder, 1, 15, 0);
    recorder.end(&end_row()).unwrap();
}

#[test]
fn a_run_killed_at_any_step_and_resumed_leaves_the_files_of_one_never_stopped() {
    let unbroken = tempfile::tempdir().unwrap();
    whole_run(unbroken.path());
    for checkpoint_at in 1..=14 {
        for killed_after in [checkpoint_at, (checkpoint_at + 3).min(15), 15] {
            let dir = tempfile::tempdir().unwrap();
            let mut recorder = Recorder::create(dir.path(), info(), 1e9).unwrap();
            let position = run(&mut recorder, 1, killed_after, checkpoint_at);
            drop(recorder);
            let mut recorder = Recorder::resume(dir.path(), position, info(), 2e9).unwrap();
            run(&mut recorder, checkpoint_at + 1, 15, 0);
            recorder.end(&end_row()).unwrap();
            for file in ["metrics.jsonl", "dawn.tsv", "dawn.json", "curve.png"] {
                let [ours, theirs] =
                    [dir.path(), unbroken.path()].map(|dir| fs::read(dir.join(file)).unwrap());
                assert!(
                    ours == theirs,
                    "{file}, checkpoint at step {checkpoint_at}, killed after {killed_after}"
                );
            }
            assert_eq!(fs::read_dir(dir.path().join("tb")).unwrap().count(), 2);
        }
    }
}

#[test]
fn a_run_leaves_all_its_files_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    whole_run(dir.path());
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected =
        ["curve.png", "dawn.json", "dawn.tsv", "environment.json", "metrics.jsonl", "report.html", "tb"];
    assert_eq!(names, expected);
    assert_eq!(fs::read_to_string(dir.path().join("dawn.tsv")).unwrap().lines().count(), 4);
    let events = fs::read_dir(dir.path().join("tb")).unwrap().next().unwrap().unwrap().path();
    // Version, start, two phases, fifteen steps, three epochs.
    assert_eq!(read_events(&events).unwrap().len(), 2 + 2 + 15 + 3);
    assert_eq!(read_rows(&dir.path().join("metrics.jsonl")).unwrap().len(), 2 + 15 + 3 + 1);
    let again = Recorder::create(dir.path(), info(), 1e9).unwrap_err();
    assert!(matches!(again, RecordError::Exists { .. }), "{again}");
}

#[test]
fn the_page_tells_the_run_and_needs_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a <b> & c");
    whole_run(&run);
    fs::write(run.join("config.toml"), "# <script>alert(\"1\")</script>\nepochs = 3\n").unwrap();
    let html = report_html(&run).unwrap();
    for told in [
        "<h1>a &lt;b&gt; &amp; c</h1>",
        "done · 3 epochs · 15 steps · 300 images · 2 bad images skipped",
        "62.00 %",
        "best 90.00 % after epoch",
        "$1.25",
        "# &lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;",
        "<td>&lt;H100&gt; &amp; co</td>",
        // The second phase: epochs 2 and 3, 32 pixels, batch 20, learning rate, no cold epoch as the sizes stayed, speed,
        // time, evaluation, 0.3 s of 3 s without data.
        "<tr><td>2</td><td>2–3</td><td>32 px</td><td>20</td><td>0.1</td><td></td><td>80</td><td>0:03</td>\
         <td>0.50 s</td><td>10.0 %</td><td>$1.25</td></tr>",
        "<tr><td>3</td><td>0.5000</td><td>0.7500</td><td>62.00 %</td><td>90.00 %</td><td>80</td><td>0.25 s</td>\
         <td>0.15 s</td><td>0:05</td></tr>",
        // Of 4.5 s: three epochs of 1.25 s, 0.15 s of each without a batch, and 0.25 s of evaluation.
        "<tr><td>waited for data</td><td>0.45 s</td><td>10.0 %</td></tr>",
        "<tr><td>evaluation</td><td>0.75 s</td><td>16.7 %</td></tr>",
    ] {
        assert!(html.contains(told), "{told} is not in {html}");
    }
    for outside in ["<script", "src=", "href=", "url(", "@import", "https://"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert_eq!(html.matches("http://").count(), 2, "only the name of SVG");
    assert_eq!(html.matches("<svg").count(), 2, "a wide one and a narrow one");
}

/// What only some runs have: a centre crop beside another validation, a loss scale, skipped steps, a wait at each step.
#[test]
fn the_page_has_columns_for_what_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    whole_run(&dir.path().join("plain"));
    let plain = report_html(&dir.path().join("plain")).unwrap();
    let (val, scaling) =
        (["centre crop", "centre top\u{2011}1"], ["loss scale", "steps skipped", "data wait a step"]);
    for word in val.iter().chain(&scaling) {
        assert!(!plain.contains(word), "{word}");
    }

    let mut log = MetricsLog::create(&dir.path().join("metrics.jsonl")).unwrap();
    let mut append = |row| log.append(&row).unwrap();
    for epoch in 0..2 {
        for step in 5 * u64::from(epoch) + 1..=5 * u64::from(epoch) + 5 {
            let loss_scale = Some(if step < 8 { 65_536.0 } else { 32_768.0 });
            let data_wait_s = Some(if step == 6 { 0.75 } else { 0.001 });
            append(Row::Step(StepRow { loss_scale, data_wait_s, ..step_row(epoch, step) }));
        }
        let center = (epoch == 1).then_some(58.25);
        append(Row::Epoch(EpochRow {
            val_center_size: center.map(|_| 224),
            val_center_top1: center,
            val_center_top5: center.map(|top1| top1 + 20.0),
            skipped_steps: center.map(|_| 1),
            ..epoch_row(epoch)
        }));
    }
    let html = report_html(dir.path()).unwrap();
    for told in [
        "<tr><td>1</td><td>0.5000</td><td>0.7500</td><td>60.00 %</td><td>90.00 %</td><td></td><td></td><td></td>\
         <td>80</td><td>0.25 s</td><td>0.15 s</td><td>65536</td><td></td><td>0:02</td></tr>",
        "<tr><td>2</td><td>0.5000</td><td>0.7500</td><td>61.00 %</td><td>90.00 %</td><td>224 px</td><td>58.25 %</td>\
         <td>78.25 %</td><td>80</td><td>0.25 s</td><td>0.15 s</td><td>32768</td><td>1</td><td>0:03</td></tr>",
        "data wait a step",
        "0.5 s",
    ] {
        assert!(html.contains(told), "{told} is not in {html}");
    }
}

#[test]
fn a_failed_run_s_page_says_why_and_escapes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), info(), 1e9).unwrap();
    recorder.step(&StepRow { train_loss: f64::NAN, ..step_row(0, 1) }).unwrap();
    let message = Some("cannot read <x>.jpg".to_string());
    recorder.end(&EndRow { reason: EndReason::Failed, message, ..end_row() }).unwrap();
    let html = report_html(dir.path()).unwrap();
    assert!(html.contains("failed: cannot read &lt;x&gt;.jpg"), "{html}");
}

#[test]
fn damaged_side_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = write_report(dir.path()).unwrap_err();
    assert!(matches!(missing, RecordError::Missing { .. }), "{missing}");
    whole_run(dir.path());
    fs::write(dir.path().join("config.toml"), [b'#'; 1024 * 1024 + 1]).unwrap();
    let long = write_report(dir.path()).unwrap_err();
    assert!(long.to_string().contains("config.toml"), "{long}");
    fs::remove_file(dir.path().join("config.toml")).unwrap();
    fs::write(dir.path().join("environment.json"), "[1]").unwrap();
    let bad = write_report(dir.path()).unwrap_err();
    assert!(matches!(&bad, RecordError::BadLine { path, .. } if path.ends_with("environment.json")), "{bad}");
}

/// Whatever file meets the end of the disk: one clear error, all that was written before is whole, and with some room
/// the run goes on to the files of one that never met it.
#[test]
fn a_disk_that_fills_up_is_one_clear_error() {
    let unbroken = tempfile::tempdir().unwrap();
    whole_run(unbroken.path());
    let mut met = BTreeSet::new();
    // Of files that grow, the one that first needs a page more meets it, and with a page free the other.
    let growing = [(0, true), (1, true)];
    for (num_free_pages, only_steps) in
        [0, 1, 2, 4, 8, 12].map(|pages| (pages, false)).into_iter().chain(growing)
    {
        let Some(disk) = SmallDisk::mount(400) else { return };
        let folder = disk.path().join("run");
        let mut recorder = Recorder::create(&folder, info(), 1e9).unwrap();
        let position = run(&mut recorder, 1, 2, 2);
        disk.fill_up(num_free_pages);
        let ended = match only_steps {
            true => (3..1000).try_for_each(|step| recorder.step(&step_row(0, step))),
            false => (3..=15).try_for_each(|step| one_step(&mut recorder, step)),
        };
        let error = ended.and_then(|()| recorder.end(&end_row())).expect_err("so little is not enough");
        let RecordError::DiskFull { path } = &error else { panic!("{error}") };
        let said = format!("{}: the disk is full; free some space there and resume the run", path.display());
        assert_eq!(error.to_string(), said);
        met.insert(path.strip_prefix(&folder).unwrap().components().next().unwrap().as_os_str().to_owned());

        let rows = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        let all = fs::read_to_string(unbroken.path().join("metrics.jsonl")).unwrap();
        assert!((only_steps || all.starts_with(&rows)) && rows.ends_with('\n'), "{rows}");
        read_rows(&folder.join("metrics.jsonl")).unwrap();
        let tsv = fs::read_to_string(folder.join("dawn.tsv")).unwrap();
        let all = fs::read_to_string(unbroken.path().join("dawn.tsv")).unwrap();
        assert!(all.starts_with(&tsv) && tsv.ends_with('\n'), "{tsv}");
        for entry in fs::read_dir(folder.join("tb")).unwrap() {
            read_events(&entry.unwrap().path()).unwrap();
        }
        let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        assert!(
            !fs::read_dir(&folder).unwrap().any(|entry| hidden(&entry.unwrap().file_name())),
            "left over"
        );

        disk.make_room();
        let mut recorder = Recorder::resume(&folder, position, info(), 2e9).unwrap();
        run(&mut recorder, 3, 15, 0);
        recorder.end(&end_row()).unwrap();
        for file in ["metrics.jsonl", "dawn.tsv", "dawn.json", "curve.png"] {
            let [ours, theirs] = [&folder, unbroken.path()].map(|dir| fs::read(dir.join(file)).unwrap());
            assert!(ours == theirs, "{file}, {num_free_pages} pages were free");
        }
    }
    for file in ["metrics.jsonl", "tb", "dawn.tsv", "curve.png"] {
        assert!(met.contains(std::ffi::OsStr::new(file)), "{file} never met the end of the disk: {met:?}");
    }
}

/// What only a run itself knows is in its files.
#[test]
fn the_files_of_a_run_tell_of_it() {
    let temp = tempfile::tempdir().unwrap();
    common::write_idx(temp.path());
    let out = temp.path().join("run");
    common::sprint(common::tiny(temp.path(), &out)).ok();
    let rows = read_rows(&out.join("metrics.jsonl")).unwrap();
    let (mut spent_s, mut num_phases) = (0.0, 0);
    for row in &rows {
        match row {
            Row::Epoch(row) => {
                let (eval_s, images) = (row.eval_s.unwrap(), 160.0);
                assert!(eval_s > 0.0, "{row:?}");
                spent_s += eval_s + images / row.images_per_s.unwrap();
                assert!(spent_s <= row.at.elapsed_s, "{spent_s} s are more than there were: {row:?}");
            }
            Row::Phase(row) => {
                assert_eq!(row.momentum, Some(0.9));
                num_phases += 1;
            }
            Row::Step(_) | Row::End(_) => {}
        }
    }
    assert_eq!(num_phases, 2);
    let dawn: Value = serde_json::from_slice(&fs::read(out.join("dawn.json")).unwrap()).unwrap();
    assert_eq!(dawn["framework"], concat!("burn-sprint ", env!("CARGO_PKG_VERSION")));
    assert_eq!((&dawn["model"], &dawn["misc"]["optimizer"]["momentum"]), (&json!("ResNet-8"), &json!(0.9)));
    assert!(dawn["hardware"].as_str().unwrap().starts_with("1 process on flex"), "{dawn}");
    assert_eq!(dawn["timestamp"].as_str().unwrap().len(), "2018-09-06".len());
    assert_eq!(dawn["misc"]["imageSize"][0], json!({"image_size": 28, "epochs": 1}));
    for phase in dawn["misc"]["throughput"].as_array().unwrap() {
        assert!(phase["cold"].as_f64().unwrap() > 0.0, "{phase}");
    }
}

/// The command on such a disk: one line that says so, and a resume ends as a run that never met it.
#[test]
fn a_run_on_a_disk_that_fills_up_can_be_resumed() {
    let temp = tempfile::tempdir().unwrap();
    common::write_idx(temp.path());
    let unbroken = temp.path().join("unbroken");
    common::sprint(common::tiny(temp.path(), &unbroken)).ok();
    for kib in [40, 120, 200] {
        let Some(disk) = SmallDisk::mount(kib) else { return };
        let out = disk.path().join("run");
        let output = common::sprint(common::tiny(temp.path(), &out));
        let error = output.error(1);
        assert!(error.contains("disk is full") && error.contains("free some space"), "{kib} KiB: {error}");
        disk.make_room();
        common::sprint(["train", "--out", &common::word(&out), "--resume"]).ok();
        common::assert_same_end(&out, &unbroken);
    }
}

/// A file system of a few kilobytes, where a test may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(kib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("SKIP: no file system can be mounted here");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves so many pages free.
    fn fill_up(&self, num_free_pages: usize) {
        let mut ballast = fs::File::create(self.path().join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
        let length = ballast.metadata().unwrap().len();
        ballast.set_len(length - 4096 * num_free_pages as u64).unwrap();
    }

    fn make_room(&self) {
        let mounted =
            Command::new("mount").args(["-o", "remount,size=8m"]).arg(self.path()).status().unwrap();
        assert!(mounted.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|unmounted| unmounted.success()) || std::thread::panicking());
    }
}

#[test]
fn any_run_can_be_drawn() {
    let lonely_epoch = vec![Row::Epoch(epoch_row(0))];
    let no_val = Row::Epoch(EpochRow { at: at(0, 5), train_loss: Some(2.0), ..EpochRow::default() });
    let nan =
        StepRow { train_loss: f64::NAN, train_top1: Some(f64::INFINITY), lr: f64::NAN, ..step_row(0, 1) };
    let runs: [(&str, Vec<Row>, &[&str]); 8] = [
        ("empty", vec![], &["no step has been recorded"]),
        ("only a phase", vec![Row::Phase(phase_row(0))], &["no step has been recorded"]),
        ("one step", vec![Row::Step(step_row(0, 1))], &["loss", "accuracy", "learning rate", "images"]),
        ("one epoch", lonely_epoch, &["val top-5", "epoch", "70 %"]),
        ("no validation", vec![no_val], &["loss", "epoch"]),
        ("nothing finite", vec![Row::Step(nan.clone())], &["no step has been recorded"]),
        ("one not finite", vec![Row::Step(nan), Row::Step(step_row(0, 2))], &["loss"]),
        ("at no image", vec![Row::Epoch(EpochRow { at: Moment::default(), ..epoch_row(0) })], &["no step"]),
    ];
    for (name, rows, words) in runs {
        let svg = curve_svg(&rows).unwrap();
        for word in words {
            assert!(svg.contains(word), "{name}: no {word}");
        }
        assert!(!svg.contains("NaN"), "{name}");
        let png = image::load_from_memory(&curve_png(&rows).unwrap()).unwrap();
        assert_eq!(png.width(), 1500, "{name}");
        assert!(png.to_rgb8().pixels().any(|pixel| pixel.0 != [255; 3]), "{name}: blank");
    }
}

#[test]
fn a_long_run_makes_no_larger_picture() {
    let rows: Vec<Row> = (1..=50_000).map(|step| Row::Step(step_row(0, step))).collect();
    let svg = curve_svg(&rows).unwrap();
    assert!(svg.len() < 100_000, "{} bytes", svg.len());
}
