//! Progress lines: what a person reads in a log, when a line comes, and how time left is reckoned.

#![allow(clippy::unwrap_used)]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use burn_sprint::record::{EndReason, EndRow, EpochRow, Moment, PhaseRow, Progress, StepRow, Totals};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(std::mem::take(&mut self.0.lock().unwrap()))
            .unwrap()
            .lines()
            .map(Into::into)
            .collect()
    }
}

const TOTALS: Totals = Totals { epochs: 12, images: 12_000 };

fn step(images: u64, elapsed_s: f64) -> StepRow {
    let at = Moment { epoch: (images / 1001) as u32, images, elapsed_s, ..Moment::default() };
    StepRow {
        at,
        train_loss: 0.41234,
        train_top1: Some(85.06),
        images_per_s: Some(1234.4),
        ..StepRow::default()
    }
}

#[test]
fn an_epoch_is_a_line_of_a_table() {
    let out = Shared::default();
    let mut progress = Progress::to_writer(TOTALS, 10.0, out.clone());
    let mut row = EpochRow {
        at: Moment { epoch: 2, elapsed_s: 31.2, ..Moment::default() },
        train_loss: Some(0.4123),
        train_top1: Some(85.14),
        val_loss: Some(0.45),
        val_top1: Some(84.16),
        val_top5: Some(99.1),
        images_per_s: Some(1234.4),
        ..EpochRow::default()
    };
    progress.epoch(&row);
    row.at.epoch = 11;
    row.cost_usd = Some(0.125);
    row.skipped_images = Some(3);
    row.skipped_steps = Some(2);
    progress.epoch(&row);
    progress.epoch(&EpochRow { train_loss: Some(f64::NAN), ..EpochRow::default() });
    assert_eq!(
        out.lines(),
        [
            "epoch  3/12  loss 0.412  top1 85.1 %  val loss 0.450  val top1 84.2 %  top5 99.1 %  1234 images/s  0:31",
            "epoch 12/12  loss 0.412  top1 85.1 %  val loss 0.450  val top1 84.2 %  top5 99.1 %  1234 images/s  0:31  \
             $0.12  3 bad images skipped  2 steps skipped",
            "epoch  1/12  loss NaN  0:00",
        ]
    );
}

#[test]
fn a_line_comes_when_the_heartbeat_is_due_and_an_epoch_s_line_counts_as_one() {
    let out = Shared::default();
    let mut progress = Progress::to_writer(TOTALS, 10.0, out.clone());
    let mut lines_at = |elapsed_s: f64| {
        progress.step(&step(100, elapsed_s));
        out.lines().len()
    };
    assert_eq!([0.0, 9.9, 10.0, 10.1, 19.9, 20.0].map(&mut lines_at), [0, 0, 1, 0, 0, 1]);
    let at = Moment { elapsed_s: 25.0, ..Moment::default() };
    progress.epoch(&EpochRow { at, ..EpochRow::default() });
    out.lines();
    let mut lines_at = |elapsed_s: f64| {
        progress.step(&step(100, elapsed_s));
        out.lines().len()
    };
    assert_eq!([30.0, 34.9, 35.0].map(&mut lines_at), [0, 0, 1]);
}

#[test]
fn time_left_is_reckoned_from_the_pace_of_the_phase() {
    let out = Shared::default();
    let mut progress = Progress::to_writer(TOTALS, 0.0, out.clone());
    progress.step(&step(0, 100.0));
    // No pace yet: 12,000 images at 1234.4 a second.
    assert_eq!(out.lines(), ["epoch  1/12  loss 0.412  top1 85.1 %  1234 images/s  0:10 left"]);
    progress.step(&step(2_000, 120.0));
    assert!(out.lines()[0].ends_with("1:40 left"));
    let at = Moment { epoch: 2, phase: 1, images: 2_000, elapsed_s: 120.0, ..Moment::default() };
    let epochs = Some((2, 12));
    progress.phase(&PhaseRow { at, size: Some(160), batch_size: Some(64), epochs, ..PhaseRow::default() });
    progress.step(&step(3_000, 140.0));
    assert_eq!(
        out.lines(),
        [
            "phase 2  epochs 3-12  160 px, batch 64",
            "epoch  3/12  loss 0.412  top1 85.1 %  1234 images/s  3:00 left  160 px, batch 64"
        ]
    );
}

#[test]
fn the_end_says_why() {
    let out = Shared::default();
    let mut progress = Progress::to_writer(TOTALS, 10.0, out.clone());
    progress.note("resumed at step 40");
    let at = Moment { step: 948, elapsed_s: 4000.0, ..Moment::default() };
    let message = Some("loss is NaN at step 948".to_string());
    progress.finish(&EndRow {
        at,
        reason: EndReason::Failed,
        message,
        cost_usd: None,
        skipped_images: Some(0),
    });
    assert_eq!(out.lines(), ["resumed at step 40", "failed  loss is NaN at step 948  948 steps  1:06:40"]);
}
