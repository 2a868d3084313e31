//! DAWNBench: our files from a run's rows. The entries of 2018 are in `golden_record`.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;

use burn_sprint::record::{
    DawnInfo, DawnRow, EndReason, EndRow, EpochRow, Moment, PhaseRow, RecordError, Row, dawn_json, dawn_rows,
    dawn_tsv, read_dawn_tsv,
};
use serde_json::{Value, json};

fn phase(index: u32, epochs: (u32, u32), size: u32, global_batch_size: u32, lr: (f64, f64)) -> Row {
    Row::Phase(PhaseRow {
        at: Moment {
            epoch: epochs.0,
            phase: index,
            images: 1_281_216 * u64::from(epochs.0),
            ..Moment::default()
        },
        size: Some(size),
        global_batch_size: Some(global_batch_size),
        epochs: Some(epochs),
        lr: Some(lr.0),
        lr_end: Some(lr.1),
        ..PhaseRow::default()
    })
}

/// The 8-machine run: planned to 37 epochs, stopped after `num_epochs`.
fn eight_machines(num_epochs: u32) -> Vec<Row> {
    let phases = [
        phase(0, (0, 6), 128, 8192, (1.92, 3.84)),
        phase(1, (6, 11), 128, 16384, (3.84, 3.84)),
        phase(2, (11, 14), 128, 16384, (3.84, 1.92)),
        phase(3, (14, 17), 224, 8192, (1.92, 1.92)),
        phase(4, (17, 23), 224, 14336, (1.92, 0.336)),
        phase(5, (23, 29), 224, 14336, (0.336, 0.0336)),
        phase(6, (29, 37), 288, 8192, (0.0192, 0.00192)),
    ];
    let mut rows = Vec::new();
    for epoch in 0..num_epochs {
        rows.extend(phases.iter().filter(|phase| phase.at().epoch == epoch).cloned());
        let images = 1_281_216 * u64::from(epoch + 1);
        let at = Moment { epoch, images, elapsed_s: 36.0 * f64::from(epoch + 1), ..Moment::default() };
        let Some(Row::Phase(phase)) = rows.iter().rfind(|row| matches!(row, Row::Phase(_))) else { continue };
        let ((first, end), from, to) = (phase.epochs.unwrap(), phase.lr.unwrap(), phase.lr_end.unwrap());
        let part = f64::from(epoch + 1 - first) / f64::from(end - first);
        rows.push(Row::Epoch(EpochRow {
            at,
            lr: Some(from + (to - from) * part),
            images_per_s: Some(if epoch == first { 30_000.0 } else { 60_000.0 }),
            val_top1: Some(50.0),
            val_top5: Some(80.5),
            ..EpochRow::default()
        }));
    }
    rows
}

#[test]
fn our_lines_are_the_evaluated_epochs_and_are_read_back() {
    let mut rows = eight_machines(3);
    let at = Moment { epoch: 3, elapsed_s: 144.0, ..Moment::default() };
    rows.push(Row::Epoch(EpochRow { at, train_loss: Some(1.0), ..EpochRow::default() }));
    let text = dawn_tsv(&dawn_rows(&rows));
    let expected = "epoch\thours\ttop1Accuracy\ttop5Accuracy\n1\t0.010000\t50.000000\t80.500000\n\
                    2\t0.020000\t50.000000\t80.500000\n3\t0.030000\t50.000000\t80.500000\n";
    assert_eq!(text, expected);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dawn.tsv"), text).unwrap();
    let last = DawnRow { epoch: 3, hours: 0.03, top1: 50.0, top5: 80.5 };
    assert_eq!(read_dawn_tsv(&dir.path().join("dawn.tsv")).unwrap()[2], last);
}

#[test]
fn the_schedule_is_the_executed_one() {
    let info = DawnInfo {
        author: "A. \"B\" <C>".into(),
        code_url: "https://example.org/x".into(),
        cost_per_hour: Some(195.84),
        misc: BTreeMap::from([("momentum".to_string(), json!(0.9))]),
        ..DawnInfo::default()
    };
    let json: Value = serde_json::from_str(&dawn_json(&eight_machines(36), &info)).unwrap();
    assert_eq!(json["version"], "v1.0");
    assert_eq!(json["author"], "A. \"B\" <C>");
    assert_eq!(json["codeURL"], "https://example.org/x");
    assert_eq!(json["costPerHour"], 195.84);
    assert_eq!(json["misc"]["momentum"], 0.9);
    let schedule = json["misc"]["schedule"].as_array().unwrap();
    assert_eq!(schedule[0], json!({"learning_rate": [1.92, 3.84], "epochs": 6, "linear": true}));
    assert_eq!(schedule[1], json!({"learning_rate": [3.84], "epochs": 5}));
    // Seven of eight epochs: the learning rate had come seven eighths of the way.
    let end = schedule[6]["learning_rate"][1].as_f64().unwrap();
    assert!((end - (0.0192 + (0.00192 - 0.0192) * 7.0 / 8.0)).abs() < 1e-12, "{end}");
    for spans in ["schedule", "imageSize", "batchSize"] {
        let epochs: u64 =
            json["misc"][spans].as_array().unwrap().iter().map(|s| s["epochs"].as_u64().unwrap()).sum();
        assert_eq!(epochs, 36, "{spans}");
    }
    // Cold: the first epoch, and where a size changes; phase 3 (epochs 11 to 14) only turns the learning rate.
    let speeds = json["misc"]["throughput"].as_array().unwrap();
    assert_eq!(speeds[0], json!({"epochs": 6, "cold": 30_000.0, "warm": 60_000.0}));
    assert_eq!(speeds[2]["cold"], Value::Null);
    assert_eq!(json["misc"]["timeToAccuracy"], Value::Null, "80.5 % is not 93 %");

    let Some(entry) = common::shared("dawn/fastai_resnet50_p3_8_machine_pytorch.json") else { return };
    let real: Value = serde_json::from_slice(&fs::read(entry).unwrap()).unwrap();
    for (key, value) in real.as_object().unwrap() {
        assert_eq!(json[key].is_string(), value.is_string(), "{key}");
    }
    assert_eq!(json["misc"]["imageSize"], real["misc"]["imageSize"]);
    assert_eq!(json["misc"]["batchSize"], real["misc"]["batchSize"]);
}

#[test]
fn a_learning_rate_that_is_no_line_is_told_epoch_by_epoch() {
    let mut rows = eight_machines(6);
    let rates = [1.9, 1.5, 1.0, 0.5, 0.2, 0.0];
    for (row, rate) in rows.iter_mut().filter_map(as_epoch).zip(rates) {
        row.lr = Some(rate);
    }
    let json: Value = serde_json::from_str(&dawn_json(&rows, &DawnInfo::default())).unwrap();
    let told = json!({"learning_rate": [1.92, 1.9, 1.5, 1.0, 0.5, 0.2, 0.0], "epochs": 6});
    assert_eq!(json["misc"]["schedule"][0], told);
}

#[test]
fn time_to_accuracy_is_the_run_s_own_target_or_the_benchmark_s() {
    let mut rows = eight_machines(4);
    for (row, top5) in rows.iter_mut().filter_map(as_epoch).zip([90.0, 93.0, 94.0, 92.0]) {
        row.val_top5 = Some(top5);
    }
    let reached = |rows: &[Row]| {
        let info = DawnInfo { cost_per_hour: Some(391.68), ..DawnInfo::default() };
        let json: Value = serde_json::from_str(&dawn_json(rows, &info)).unwrap();
        json["misc"]["timeToAccuracy"].clone()
    };
    assert_eq!(
        reached(&rows),
        json!({"epoch": 2, "hours": 0.02, "top1": 50.0, "top5": 93.0, "cost": 0.02 * 391.68})
    );
    // A run that was to stop at another accuracy ends with the epoch that had it.
    let (at, reason) = (*rows.last().unwrap().at(), EndReason::Target);
    rows.push(Row::End(EndRow { at, reason, message: None, cost_usd: None, skipped_images: None }));
    assert_eq!(reached(&rows)["epoch"], 4);
}

fn as_epoch(row: &mut Row) -> Option<&mut EpochRow> {
    if let Row::Epoch(row) = row { Some(row) } else { None }
}

#[test]
fn bad_files_are_named_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tsv");
    let header = "epoch\thours\ttop1Accuracy\ttop5Accuracy\n";
    for (text, at) in [
        (String::new(), 1),
        ("epoch,hours\n".into(), 1),
        (format!("{header}1\t0.1\t50\n"), 2),
        (format!("{header}1\t0.1\t50\t80\n\n2\tsoon\t50\t80\n"), 4),
        (format!("{header}1\tNaN\t50\t80\n"), 2),
        (format!("{header}-1\t0.1\t50\t80\n"), 2),
    ] {
        fs::write(&path, &text).unwrap();
        let error = read_dawn_tsv(&path).unwrap_err();
        assert!(matches!(error, RecordError::BadLine { line, .. } if line == at), "{text:?}: {error}");
    }
}
