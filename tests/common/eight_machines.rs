//! fast.ai's run on 8 machines of 2018 as rows of ours, made from its own TensorBoard events.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part of this")]

use std::{collections::HashMap, fs};

use burn_sprint::record::{Content, EpochRow, Event, Moment, PhaseRow, Row, StepRow, read_events};

use crate::common::shared;

pub const WORLD_SIZE: u32 = 64;

/// First epoch, learning rate at the start and at the end; the rest is in the events.
const PHASES: [(u32, f64, f64); 7] = [
    (0, 1.92, 3.84),
    (6, 3.84, 3.84),
    (11, 3.84, 1.92),
    (14, 1.92, 1.92),
    (17, 1.92, 0.336),
    (23, 0.336, 0.0336),
    (29, 0.0192, 0.00192),
];
/// Planned; it was ended inside the one before the last.
const NUM_EPOCHS: u32 = 37;

/// The run's own event file, if it is there.
pub fn events() -> Option<Vec<Event>> {
    let path = shared("dawn/imagenet18-8machine.tfevents")?;
    assert_eq!(fs::metadata(&path).unwrap().len(), 1_060_035);
    Some(read_events(&path).unwrap())
}

/// The values of a tag, each with its x.
pub fn scalars(events: &[Event], tag: &str) -> Vec<(i64, f32)> {
    let mut found = Vec::new();
    for event in events {
        let Content::Scalars(scalars) = &event.content else { continue };
        found.extend(scalars.iter().filter(|(name, _)| name == tag).map(|(_, value)| (event.step, *value)));
    }
    found
}

/// Phases, the steps that it logged (one in five), epochs.
pub fn rows(events: &[Event]) -> Vec<Row> {
    let mut rows = Vec::new();
    // What each tag said last; the run's clock starts with its first phase, the epoch's with the one before it.
    let mut now: HashMap<&str, f64> = HashMap::new();
    let (mut started, mut epoch_started, mut epoch_images, mut steps_before) = (None, 0.0, 0, 0);
    let mut at = Moment::default();
    for event in events {
        let Content::Scalars(scalars) = &event.content else { continue };
        let [(tag, value)] = &scalars[..] else { panic!("one value an event: {event:?}") };
        now.insert(tag, f64::from(*value));
        let get = |tag: &str| now.get(tag).copied();
        if tag == "sizes/batch" {
            started.get_or_insert(event.wall_time);
        }
        at.elapsed_s = event.wall_time - started.unwrap_or(event.wall_time);
        // Of all steps but an epoch's last.
        let batch_size = get("sizes/batch").unwrap_or(1.0) as u64 * u64::from(WORLD_SIZE);
        match tag.as_str() {
            // The first of an epoch's: the learning rate if it moves, else those of a logged step.
            "sizes/lr" | "times/step" => {
                let index = PHASES.iter().rposition(|(first, ..)| *first <= at.epoch).unwrap() as u32;
                if rows.is_empty() || at.phase != index {
                    at.phase = index;
                    rows.push(Row::Phase(phase(at, get)));
                }
            }
            // The last of a logged step's values that we have; its own images are not counted there.
            "sizes/batch_total" => {
                at.images = event.step as u64 + *value as u64;
                at.step = steps_before + (at.images - epoch_images).div_ceil(batch_size);
                rows.push(Row::Step(step(at, get)));
            }
            // The last of an epoch's.
            "epoch" => {
                at.images = event.step as u64;
                at.step = steps_before + (at.images - epoch_images).div_ceil(batch_size);
                let seconds = at.elapsed_s - epoch_started - get("times/eval_sec").unwrap();
                let images_per_s = (at.images - epoch_images) as f64 / seconds;
                rows.push(Row::Epoch(epoch(at, images_per_s, get)));
                (epoch_started, epoch_images, steps_before) = (at.elapsed_s, at.images, at.step);
                at.epoch += 1;
            }
            _ => {}
        }
    }
    rows
}

fn phase(at: Moment, get: impl Fn(&str) -> Option<f64>) -> PhaseRow {
    let (first, lr, lr_end) = PHASES[at.phase as usize];
    let end = PHASES.get(at.phase as usize + 1).map_or(NUM_EPOCHS, |(first, ..)| *first);
    let batch_size = get("sizes/batch").map(|size| size as u32);
    PhaseRow {
        at,
        size: get("sizes/image").map(|size| size as u32),
        batch_size,
        global_batch_size: batch_size.map(|size| size * WORLD_SIZE),
        epochs: Some((first, end)),
        lr: Some(lr),
        lr_end: Some(lr_end),
        momentum: get("sizes/momentum").or(Some(0.9)),
    }
}

fn step(at: Moment, get: impl Fn(&str) -> Option<f64>) -> StepRow {
    StepRow {
        at,
        lr: get("sizes/lr").unwrap(),
        train_loss: get("losses/xent").unwrap(),
        train_top1: get("losses/train_1"),
        train_top5: get("losses/train_5"),
        images_per_s: get("times/1gpu_images_per_sec").map(|speed| speed * f64::from(WORLD_SIZE)),
        data_wait_s: get("times/data").map(|milliseconds| milliseconds / 1e3),
        ..StepRow::default()
    }
}

fn epoch(at: Moment, images_per_s: f64, get: impl Fn(&str) -> Option<f64>) -> EpochRow {
    EpochRow {
        at,
        lr: get("sizes/lr"),
        val_top1: get("losses/test_1"),
        val_top5: get("losses/test_5"),
        val_images: Some(50_000),
        eval_s: get("times/eval_sec"),
        images_per_s: Some(images_per_s),
        // Of the entry's JSON: 24.48 dollars a machine and hour.
        cost_usd: Some(at.elapsed_s / 3600.0 * 195.84),
        ..EpochRow::default()
    }
}
