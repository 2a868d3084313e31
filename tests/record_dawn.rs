//! DAWNBench: time to accuracy of the real entries, and our files from a run's rows.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn_sprint::record::{
    DawnInfo, DawnRow, EpochRow, Moment, PhaseRow, RecordError, Row, dawn_json, dawn_rows, dawn_tsv,
    read_dawn_tsv, time_to_accuracy,
};
use serde_json::{Value, json};

fn entry(machines: u32, extension: &str) -> Option<PathBuf> {
    let name = format!("../shared/data/dawn/fastai_resnet50_p3_{machines}_machine_pytorch.{extension}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIP: no {name}");
    None
}

fn phase(index: u32, epochs: (u32, u32), size: u32, global_batch_size: u32, lr: (f64, f64)) -> Row {
    Row::Phase(PhaseRow {
        at: Moment { epoch: epochs.0, phase: index, ..Moment::default() },
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
        let at = Moment { epoch, elapsed_s: 36.0 * f64::from(epoch + 1), ..Moment::default() };
        rows.push(Row::Epoch(EpochRow {
            at,
            val_top1: Some(50.0),
            val_top5: Some(80.5),
            ..EpochRow::default()
        }));
    }
    rows
}

#[test]
fn times_to_accuracy_of_the_entries_of_2018() {
    let expected = [
        // machines, epoch as the file counts, hours, top-5, seconds, dollars
        (16, 38, 0.301_439_276_999_897_4, 93.110_000_610_351_56, 1085.2, 118.07),
        (8, 29, 0.31472, 93.012, 1133.0, 61.63),
        (4, 28, 0.49509, 93.008, 1782.3, 48.48),
    ];
    for (machines, epoch, hours, top5, seconds, dollars) in expected {
        let (Some(tsv), Some(entry)) = (entry(machines, "tsv"), entry(machines, "json")) else { return };
        let rows = read_dawn_tsv(&tsv).unwrap();
        let row = time_to_accuracy(&rows, 93.0).unwrap();
        assert_eq!((row.epoch, row.hours, row.top5), (epoch, hours, top5));
        assert_eq!(format!("{:.1}", row.seconds()), format!("{seconds:.1}"));
        let entry: Value = serde_json::from_slice(&fs::read(entry).unwrap()).unwrap();
        let cost = row.cost(entry["costPerHour"].as_f64().unwrap());
        assert_eq!(format!("{cost:.2}"), format!("{dollars:.2}"));
        assert_eq!(time_to_accuracy(&rows, top5), Some(row), "reaching the target is enough");
        assert_eq!(time_to_accuracy(&rows, 99.0), None);
    }
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
    let Some(real) = entry(8, "json") else { return };
    let real: Value = serde_json::from_slice(&fs::read(real).unwrap()).unwrap();
    for (key, value) in real.as_object().unwrap() {
        assert_eq!(json[key].is_string(), value.is_string(), "{key}");
    }
    assert_eq!(json["misc"]["imageSize"], real["misc"]["imageSize"]);
    assert_eq!(json["misc"]["batchSize"], real["misc"]["batchSize"]);
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
