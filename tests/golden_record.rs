//! Golden checks 21 and 22: what the run of 2018 left is read to the last number, what we leave says the same.
//!
//! 21: accuracies are counts over images, not means over batches; DAWNBench's entries give the published times and
//! costs. (Ranks with ties: `train_library`.) 22: the events of 2018 are read with their checksums, and ours carry the
//! same values under the same tags, for our own reader and for TensorBoard's.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/eight_machines.rs"]
mod eight_machines;

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::ElementConversion;
use burn_resnet::{Depth, ResNetConfig, Start};
use burn_sprint::{
    config::Normalization,
    data::{Channels, Loader, LoaderConfig, Location, Pass, Transform, open_pair},
    record::{Event, Row, TensorBoard, dawn_rows, dawn_tsv, read_dawn_tsv, read_events, time_to_accuracy},
    train::{Normalizer, cross_entropy, evaluate, target_rank},
};
use common::{NUM_VAL, SIDE, devices, peer, shared, tolerance, write_idx};
use eight_machines::{WORLD_SIZE, scalars};
use serde_json::Value;

fn entry(machines: u32, extension: &str) -> Option<PathBuf> {
    shared(&format!("dawn/fastai_resnet50_p3_{machines}_machine_pytorch.{extension}"))
}

#[test]
fn check_21_the_entries_of_2018_have_their_published_times_and_costs() {
    let expected = [
        // machines, epoch as the file counts, hours, top-5, seconds, dollars
        (16, 38, 0.301_439_276_999_897_4, 93.110_000_610_351_56, "1085.2", "118.07"),
        (8, 29, 0.31472, 93.012, "1133.0", "61.63"),
        (4, 28, 0.49509, 93.008, "1782.3", "48.48"),
    ];
    for (machines, epoch, hours, top5, seconds, dollars) in expected {
        let (Some(tsv), Some(json)) = (entry(machines, "tsv"), entry(machines, "json")) else { return };
        let rows = read_dawn_tsv(&tsv).unwrap();
        let row = time_to_accuracy(&rows, 93.0).unwrap();
        assert_eq!((row.epoch, row.hours, row.top5), (epoch, hours, top5));
        assert_eq!(format!("{:.1}", row.seconds()), seconds);
        let entry: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
        let cost = row.cost(entry["costPerHour"].as_f64().unwrap());
        assert_eq!(format!("{cost:.2}"), dollars);
        assert_eq!(time_to_accuracy(&rows, top5), Some(row), "reaching the target is enough");
        assert_eq!(time_to_accuracy(&rows, 99.0), None);
    }
}

/// 40 images in batches of 16, 16 and 8 or of 40 by 1: every image counts once, and as much as any other.
#[test]
fn check_21_accuracy_is_over_images_whatever_the_batches() {
    let temp = tempfile::tempdir().unwrap();
    write_idx(temp.path());
    let val = open_pair(&Location::Path(temp.path().into()), None, 0.2).unwrap().val;
    for (name, device) in devices() {
        let config =
            ResNetConfig::new(Depth::D8, 4).unwrap().with_width(2).unwrap().with_channels(1).unwrap();
        let model = config.init_with(1, &device, Start { last_gain: 1.0, ..Start::default() });
        let normalizer = Normalizer::new(&Normalization::imagenet(1), &device);
        let loader = |batch_size| {
            let transform = Transform::CenterCrop { size: SIDE, resize: SIDE };
            let config = LoaderConfig::new(transform, Channels::Grey, batch_size, Pass::Evaluate);
            Loader::new(val.clone(), config).unwrap()
        };
        let (images, targets) = normalizer.tensors(&loader(NUM_VAL).next().unwrap().unwrap());
        let logits = model.forward(images);
        let ranks = target_rank(logits.clone(), targets.clone()).into_data();
        let right = ranks.iter::<i64>().filter(|rank| *rank == 0).count();
        let loss: f64 = cross_entropy(logits, targets, 0.0).into_scalar::<f32>().elem();
        for batch_size in [16, 1, NUM_VAL] {
            let got = evaluate(&model, &normalizer, loader(batch_size), |_| {}, || false).unwrap().unwrap();
            assert_eq!(got.num_images, NUM_VAL as u64);
            assert_eq!(got.top1, 100.0 * right as f64 / NUM_VAL as f64);
            assert_eq!(got.top5, 100.0, "of four classes");
            assert!((got.loss - loss).abs() < tolerance(name, 1e-6), "{name}: {} {loss}", got.loss);
        }
    }
}

/// From the events of the run on 8 machines to the file that was submitted: hours to its five decimals (its clock was
/// read some milliseconds before an event was written), accuracies to their three.
#[test]
fn check_21_our_tsv_of_the_run_of_2018_is_the_one_submitted() {
    let (Some(events), Some(submitted)) = (eight_machines::events(), entry(8, "tsv")) else { return };
    let temp = tempfile::tempdir().unwrap();
    let rows = eight_machines::rows(&events);
    let path = temp.path().join("dawn.tsv");
    fs::write(&path, dawn_tsv(&dawn_rows(&rows))).unwrap();
    let (ours, theirs) = (read_dawn_tsv(&path).unwrap(), read_dawn_tsv(&submitted).unwrap());
    assert_eq!((ours.len(), theirs.len()), (36, 36));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours.epoch, theirs.epoch + 1, "ours are counted from 1");
        assert!((ours.hours - theirs.hours).abs() < 1.1e-5, "{ours:?} {theirs:?}");
        assert_eq!(
            format!("{:.3} {:.3}", ours.top1, ours.top5),
            format!("{:.3} {:.3}", theirs.top1, theirs.top5)
        );
    }
    assert_eq!(time_to_accuracy(&ours, 93.0).unwrap().epoch, 30);
}

/// Tags that we have a value for, and how many values the run of 2018 left under each.
const SHARED: [(&str, usize); 17] = [
    ("first", 1),
    ("epoch", 36),
    ("sizes/world", 1),
    ("sizes/batch", 5),
    ("sizes/image", 3),
    ("sizes/batch_total", 865),
    ("sizes/lr", 3407),
    ("sizes/momentum", 3407),
    ("losses/xent", 865),
    ("losses/train_1", 865),
    ("losses/train_5", 865),
    ("losses/test_1", 36),
    ("losses/test_5", 36),
    ("times/step", 865),
    ("times/data", 865),
    ("times/1gpu_images_per_sec", 865),
    ("times/8gpu_images_per_sec", 865),
];
const EVAL: (&str, usize) = ("times/eval_sec", 36);
/// A CUDA allocator's and a network card's counters.
const THEIRS_ALONE: [&str; 6] = [
    "memory/allocated_gb",
    "memory/max_allocated_gb",
    "memory/cached_gb",
    "memory/max_cached_gb",
    "net/recv_gbit",
    "net/transmit_gbit",
];

#[test]
fn check_22_the_events_of_2018_are_read_whole() {
    let Some(events) = eight_machines::events() else { return };
    let theirs = THEIRS_ALONE.map(|tag| (tag, 865));
    let mut num_values = 0;
    for (tag, count) in SHARED.into_iter().chain([EVAL]).chain(theirs) {
        assert_eq!(scalars(&events, tag).len(), count, "{tag}");
        num_values += count;
    }
    // One value an event, and the file's version.
    assert_eq!(events.len(), num_values + 1);
    assert_eq!(scalars(&events, "sizes/lr")[1], (8192, 1.924_076_4));
    assert_eq!(scalars(&events, "losses/xent")[0], (32768, 6.848_388_7));
    assert_eq!(scalars(&events, "losses/test_5").last(), Some(&(46_123_776, 93.186)));
}

/// Writes the run of 2018 as ours would be.
fn written_anew(folder: &Path) -> Option<(Vec<Event>, Vec<Event>)> {
    let theirs = eight_machines::events()?;
    let tb = folder.join("tb");
    let mut board = TensorBoard::create(&tb, 1_536_151_099.0, None, WORLD_SIZE).unwrap();
    eight_machines::rows(&theirs).iter().for_each(|row: &Row| board.row(row).unwrap());
    let ours = fs::read_dir(tb).unwrap().next().unwrap().unwrap().path();
    Some((theirs, read_events(&ours).unwrap()))
}

#[test]
fn check_22_our_events_have_the_tags_of_2018_and_their_values() {
    let temp = tempfile::tempdir().unwrap();
    let Some((theirs, ours)) = written_anew(temp.path()) else { return };
    let values = |events: &[Event], tag| scalars(events, tag).into_iter().map(|(_, value)| value).collect();
    for (tag, _) in SHARED.into_iter().chain([EVAL]) {
        let (theirs, ours): (Vec<f32>, Vec<f32>) = (values(&theirs, tag), values(&ours, tag));
        match tag {
            // Theirs have a point wherever something changed, ours with each phase or step.
            "sizes/batch" | "sizes/image" | "sizes/batch_total" | "sizes/momentum" => {
                // Less the short last batches of 51 and 83 a rank, which they have a point for where it was logged.
                let distinct = |values: &[f32]| {
                    let mut values = values.to_vec();
                    values.retain(|value| ![51.0 * 64.0, 83.0 * 64.0].contains(value));
                    values.dedup();
                    values
                };
                assert_eq!(distinct(&ours), distinct(&theirs), "{tag}");
            }
            "sizes/lr" => assert!(ours.iter().all(|lr| theirs.contains(lr)), "{tag}"),
            // Ours is the time between rows of an epoch, which lay five steps apart here.
            "times/step" => assert_eq!(ours.len(), 865 - 37, "{tag}"),
            // Went through seconds, or through all ranks.
            "times/data" | "times/1gpu_images_per_sec" | "times/8gpu_images_per_sec" => {
                assert_eq!(ours.len(), theirs.len());
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
                assert!(ours.iter().zip(&theirs).all(close), "{tag}");
            }
            _ => assert_eq!(ours, theirs, "{tag}"),
        }
    }
    for tag in THEIRS_ALONE {
        assert_eq!(scalars(&ours, tag), [], "{tag}");
    }
    // A step's own images count.
    assert_eq!(scalars(&ours, "losses/xent")[0], (40_960, 6.848_388_7));
    assert_eq!(scalars(&ours, "losses/test_5"), scalars(&theirs, "losses/test_5"));
}

/// TensorBoard's own package reads our events: every tag, every point, every bit.
#[test]
fn check_22_tensorboard_reads_our_events() {
    let temp = tempfile::tempdir().unwrap();
    let Some((_, ours)) = written_anew(temp.path()) else { return };
    let Some(read) = peer("tensorboard_reads.py", "tensorboard", [temp.path().join("tb")]) else { return };
    let tags: serde_json::Map<String, Value> = serde_json::from_str(&read).unwrap();
    for (tag, _) in SHARED.into_iter().chain([EVAL]) {
        assert!(tags.contains_key(tag), "{tag}");
    }
    for (tag, points) in &tags {
        let points: Vec<(i64, f32)> = serde_json::from_value(points.clone()).unwrap();
        assert_eq!(points, scalars(&ours, tag), "{tag}");
    }
}
