//! `metrics.jsonl`: its keys are fixed, its lines survive a kill, a resumed run has the rows of one never stopped.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use burn_sprint::record::{
    EndReason, EndRow, EpochRow, MetricsLog, Moment, PhaseRow, RecordError, Row, StepRow, read_rows,
};

fn moment(step: u64) -> Moment {
    Moment { epoch: 2, step, phase: 1, images: 64 * step, elapsed_s: 0.5 * step as f64 }
}

fn step(number: u64) -> Row {
    Row::Step(StepRow { at: moment(number), lr: 0.1, train_loss: 2.25, ..StepRow::default() })
}

fn all_kinds() -> Vec<Row> {
    let some = Some(12.5);
    vec![
        Row::Phase(PhaseRow {
            at: moment(0),
            size: Some(128),
            batch_size: Some(64),
            global_batch_size: Some(8192),
            epochs: Some((0, 6)),
            lr: Some(1.88),
            lr_end: Some(3.76),
            momentum: Some(0.9),
        }),
        Row::Step(StepRow {
            at: moment(1),
            lr: 1.88,
            train_loss: 6.9,
            train_top1: some,
            train_top5: some,
            images_per_s: some,
            data_wait_s: some,
            comm_wait_s: some,
            comm_s: some,
            cost_usd: some,
            skipped_images: Some(3),
            loss_scale: some,
            skipped_steps: Some(2),
        }),
        Row::Epoch(EpochRow {
            at: moment(1),
            lr: some,
            train_loss: some,
            train_top1: some,
            train_top5: some,
            val_loss: some,
            val_top1: some,
            val_top5: some,
            val_images: Some(50_000),
            eval_s: some,
            val_center_size: Some(224),
            val_center_top1: some,
            val_center_top5: some,
            images_per_s: some,
            data_wait_s: some,
            comm_wait_s: some,
            comm_s: some,
            param_hash: Some("0123456789abcdef".into()),
            cost_usd: some,
            skipped_images: Some(3),
            skipped_steps: Some(2),
        }),
        Row::End(EndRow {
            at: moment(1),
            reason: EndReason::Failed,
            message: Some("loss is \"NaN\"".into()),
            cost_usd: some,
            skipped_images: Some(3),
        }),
    ]
}

fn file(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("metrics.jsonl")
}

fn write(path: &std::path::Path, rows: &[Row]) -> MetricsLog {
    let mut log = MetricsLog::create(path).unwrap();
    rows.iter().for_each(|row| log.append(row).unwrap());
    log
}

#[test]
fn keys_are_the_published_ones_and_unknown_values_have_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = all_kinds();
    rows.push(step(2));
    write(&file(&dir), &rows);
    let text = fs::read_to_string(file(&dir)).unwrap();
    let expected = [
        r#"{"event":"phase","epoch":2,"step":0,"phase":1,"images":0,"elapsed_s":0.0,"size":128,"batch_size":64,"global_batch_size":8192,"epochs":[0,6],"lr":1.88,"lr_end":3.76,"momentum":0.9}"#,
        r#"{"event":"step","epoch":2,"step":1,"phase":1,"images":64,"elapsed_s":0.5,"lr":1.88,"train_loss":6.9,"train_top1":12.5,"train_top5":12.5,"images_per_s":12.5,"data_wait_s":12.5,"comm_wait_s":12.5,"comm_s":12.5,"cost_usd":12.5,"skipped_images":3,"loss_scale":12.5,"skipped_steps":2}"#,
        r#"{"event":"epoch","epoch":2,"step":1,"phase":1,"images":64,"elapsed_s":0.5,"lr":12.5,"train_loss":12.5,"train_top1":12.5,"train_top5":12.5,"val_loss":12.5,"val_top1":12.5,"val_top5":12.5,"val_images":50000,"eval_s":12.5,"val_center_size":224,"val_center_top1":12.5,"val_center_top5":12.5,"images_per_s":12.5,"data_wait_s":12.5,"comm_wait_s":12.5,"comm_s":12.5,"param_hash":"0123456789abcdef","cost_usd":12.5,"skipped_images":3,"skipped_steps":2}"#,
        r#"{"event":"end","epoch":2,"step":1,"phase":1,"images":64,"elapsed_s":0.5,"reason":"failed","message":"loss is \"NaN\"","cost_usd":12.5,"skipped_images":3}"#,
        r#"{"event":"step","epoch":2,"step":2,"phase":1,"images":128,"elapsed_s":1.0,"lr":0.1,"train_loss":2.25}"#,
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    assert_eq!(read_rows(&file(&dir)).unwrap(), rows);
}

#[test]
fn numbers_beyond_json_are_strings_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let row = StepRow {
        at: moment(1),
        lr: f64::NEG_INFINITY,
        train_loss: f64::NAN,
        train_top1: Some(f64::INFINITY),
        ..StepRow::default()
    };
    write(&file(&dir), &[Row::Step(row)]);
    let text = fs::read_to_string(file(&dir)).unwrap();
    assert!(text.contains(r#""lr":"-Infinity","train_loss":"NaN","train_top1":"Infinity""#), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["train_loss"], "NaN");
    let Row::Step(back) = &read_rows(&file(&dir)).unwrap()[0] else { panic!("not a step") };
    assert!(back.train_loss.is_nan());
    assert_eq!((back.lr, back.train_top1), (f64::NEG_INFINITY, Some(f64::INFINITY)));
}

#[test]
fn a_run_killed_in_mid_line_and_resumed_has_the_rows_of_one_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let unbroken = dir.path().join("unbroken.jsonl");
    write(&unbroken, &(1..=9).map(step).collect::<Vec<_>>());

    let log = write(&file(&dir), &(1..=4).map(step).collect::<Vec<_>>());
    log.sync().unwrap();
    let position = log.position();
    drop(log);
    let mut tail = fs::OpenOptions::new().append(true).open(file(&dir)).unwrap();
    tail.write_all(b"{\"event\":\"step\",\"lost\":1}\n{\"event\":\"st").unwrap();

    let mut log = MetricsLog::resume(&file(&dir), position).unwrap();
    (5..=9).for_each(|number| log.append(&step(number)).unwrap());
    assert_eq!(fs::read(file(&dir)).unwrap(), fs::read(&unbroken).unwrap());
    assert_eq!(log.position(), fs::metadata(&unbroken).unwrap().len());
}

#[test]
fn resume_from_the_very_start_empties_the_file() {
    let dir = tempfile::tempdir().unwrap();
    write(&file(&dir), &[step(1)]);
    assert_eq!(MetricsLog::resume(&file(&dir), 0).unwrap().position(), 0);
    assert_eq!(fs::read(file(&dir)).unwrap(), b"");
}

#[test]
fn a_file_that_is_not_the_checkpoint_s_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let missing = MetricsLog::resume(&file(&dir), 10).unwrap_err();
    assert!(matches!(missing, RecordError::Missing { .. }), "{missing}");

    let position = write(&file(&dir), &[step(1), step(2)]).position();
    let before = fs::read(file(&dir)).unwrap();
    let shorter = MetricsLog::resume(&file(&dir), position + 1).unwrap_err();
    assert!(
        matches!(shorter, RecordError::MetricsShorter { expected_bytes, got_bytes, .. }
            if expected_bytes == position + 1 && got_bytes == position),
        "{shorter}"
    );
    let misaligned = MetricsLog::resume(&file(&dir), position - 1).unwrap_err();
    assert!(matches!(misaligned, RecordError::MetricsMisaligned { .. }), "{misaligned}");
    assert_eq!(fs::read(file(&dir)).unwrap(), before);

    let mixed = MetricsLog::create(&file(&dir)).unwrap_err();
    assert!(matches!(mixed, RecordError::Exists { .. }), "{mixed}");
}

#[test]
fn the_reader_forgives_a_torn_last_line_and_unknown_keys_only() {
    let dir = tempfile::tempdir().unwrap();
    let good = r#"{"event":"step","epoch":0,"step":1,"phase":0,"images":8,"elapsed_s":1,"lr":0.1,"train_loss":2,"new":[1]}"#;
    fs::write(file(&dir), format!("{good}\n{}", &good[..40])).unwrap();
    assert_eq!(read_rows(&file(&dir)).unwrap().len(), 1);

    for (broken, at) in [
        (format!("{good}\n{}\n{good}\n", &good[..40]), 2),
        (format!("{good}\n{good}\nnull\n"), 3),
        (format!("\n{good}\n"), 1),
        (good.replace("step", "leap") + "\n", 1),
        (good.replace("\"lr\":0.1", "\"lr\":\"fast\"") + "\n", 1),
        (good.replace("\"lr\":0.1,", "") + "\n", 1),
        (good.replace("0.1", &"1".repeat(70_000)) + "\n", 1),
    ] {
        fs::write(file(&dir), broken).unwrap();
        let error = read_rows(&file(&dir)).unwrap_err();
        assert!(matches!(error, RecordError::BadLine { line, .. } if line == at), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
    let missing = read_rows(&dir.path().join("none")).unwrap_err();
    assert!(matches!(missing, RecordError::Missing { .. }), "{missing}");
}

#[test]
fn a_full_disk_is_called_that() {
    for kind in [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded] {
        let error = RecordError::io("write", std::path::Path::new("m"), kind.into());
        assert!(matches!(error, RecordError::DiskFull { .. }), "{error}");
    }
}
