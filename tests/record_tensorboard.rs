//! TensorBoard event files: TensorBoard's own is read, ours are in their format, and a resumed run
//! tells the reader what to forget. The run of 2018, and TensorBoard as a reader of ours, are in `golden_record`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use burn_sprint::record::{
    Content, EpochRow, Event, Moment, PhaseRow, RecordError, Row, StepRow, TensorBoard, read_events,
};

fn step(number: u64) -> Row {
    let at =
        Moment { step: number, images: 256 * number, elapsed_s: 2.0 * number as f64, ..Moment::default() };
    let (images_per_s, data_wait_s) = (Some(128.0), Some(0.25));
    let row = StepRow { at, lr: 0.5, train_loss: 3.0, images_per_s, data_wait_s, ..StepRow::default() };
    Row::Step(row)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn scalars(events: &[Event], tag: &str) -> Vec<(i64, f32)> {
    let mut found = Vec::new();
    for event in events {
        let Content::Scalars(scalars) = &event.content else { continue };
        found.extend(scalars.iter().filter(|(name, _)| name == tag).map(|(_, value)| (event.step, *value)));
    }
    found
}

#[test]
fn tensorboard_s_own_file_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/record/tensorboard.tfevents");
    let event = |wall_time, step, content| Event { wall_time, step, content };
    let scalars = vec![("losses/xent".to_string(), 6.5), ("sizes/lr".to_string(), -1e-3)];
    let expected = [
        event(1536150000.25, 0, Content::FileVersion("brain.Event:2".into())),
        event(1536150001.5, 1281167, Content::Scalars(scalars)),
        event(1536150002.0, 1281168, Content::SessionStart),
        event(1536150003.0, 7, Content::Other),
    ];
    assert_eq!(read_events(&path).unwrap(), expected);
}

#[test]
fn rows_become_the_tags_of_2018_over_images() {
    let dir = tempfile::tempdir().unwrap();
    let tb = dir.path().join("tb");
    let mut board = TensorBoard::create(&tb, 1_000.0, None, 4).unwrap();
    let at = Moment { step: 2, images: 512, elapsed_s: 9.0, ..Moment::default() };
    let phase = PhaseRow {
        size: Some(128),
        batch_size: Some(64),
        global_batch_size: Some(256),
        momentum: Some(0.5),
        ..PhaseRow::default()
    };
    let (val_top1, val_top5, eval_s) = (Some(50.0), Some(80.0), Some(1.5));
    let epoch = EpochRow { at, val_top1, val_top5, eval_s, ..EpochRow::default() };
    for row in [Row::Phase(phase), step(1), step(2), Row::Epoch(epoch), step(3)] {
        board.row(&row).unwrap();
    }
    let events = read_events(&files(&tb)[0]).unwrap();
    assert_eq!(events[0].content, Content::FileVersion("brain.Event:2".into()));
    let times: Vec<f64> = events.iter().map(|event| event.wall_time).collect();
    assert_eq!(times, [1000.0, 1000.0, 1000.0, 1002.0, 1004.0, 1009.0, 1006.0]);
    for (tag, expected) in [
        ("first", vec![(0, 1000.0)]),
        ("sizes/world", vec![(0, 4.0)]),
        ("sizes/image", vec![(0, 128.0)]),
        ("sizes/batch", vec![(0, 64.0)]),
        ("sizes/batch_total", vec![(0, 256.0)]),
        ("sizes/momentum", vec![(0, 0.5)]),
        ("losses/xent", vec![(256, 3.0), (512, 3.0), (768, 3.0)]),
        ("sizes/lr", vec![(256, 0.5), (512, 0.5), (768, 0.5)]),
        ("times/1gpu_images_per_sec", vec![(256, 32.0), (512, 32.0), (768, 32.0)]),
        ("times/8gpu_images_per_sec", vec![(256, 256.0), (512, 256.0), (768, 256.0)]),
        // Milliseconds, and not across the evaluation, whose time is no step's.
        ("times/step", vec![(512, 2000.0)]),
        ("times/data", vec![(256, 250.0), (512, 250.0), (768, 250.0)]),
        ("times/eval_sec", vec![(512, 1.5)]),
        ("epoch", vec![(512, 0.0)]),
        ("losses/test_1", vec![(512, 50.0)]),
        ("losses/test_5", vec![(512, 80.0)]),
        ("losses/train_1", vec![]),
    ] {
        assert_eq!(scalars(&events, tag), expected, "{tag}");
    }
}

#[test]
fn a_resumed_run_starts_a_file_that_sorts_later_and_says_what_to_forget() {
    let dir = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::create(dir.path(), 1_000.0, None, 1).unwrap();
    (1..=5).for_each(|number| board.row(&step(number)).unwrap());
    let mut board = TensorBoard::create(dir.path(), 1_000.0, Some(*step(3).at()), 1).unwrap();
    board.row(&step(4)).unwrap();
    let files = files(dir.path());
    assert_eq!(files.len(), 2);
    let events = read_events(&files[1]).unwrap();
    assert_eq!((events[1].step, &events[1].content), (3 * 256 + 1, &Content::SessionStart));
    // The run's clock stood at 6 s when it was resumed, and stands at 8 s.
    assert_eq!((events[3].step, events[3].wall_time), (4 * 256, 1_002.0));
}

#[test]
fn a_torn_end_is_forgiven_and_damage_is_not() {
    let dir = tempfile::tempdir().unwrap();
    // A record for the version, and one for the start.
    TensorBoard::create(dir.path(), 1_000.0, None, 1).unwrap();
    let path = &files(dir.path())[0];
    let whole = fs::read(path).unwrap();
    let first = 16 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in [first + 1, first + 13, whole.len() - 1] {
        fs::write(path, &whole[..length]).unwrap();
        assert_eq!(read_events(path).unwrap().len(), 1, "{length} bytes");
    }
    // In the second record: its length, the length's checksum, its content, its own checksum.
    for position in [first + 2, first + 9, first + 20, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[position] ^= 4;
        fs::write(path, damaged).unwrap();
        let error = read_events(path).unwrap_err();
        assert!(
            matches!(error, RecordError::BadEvents { offset, .. } if offset == first as u64),
            "{position}: {error}"
        );
    }
}

#[test]
fn a_record_that_claims_to_be_huge_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge");
    let length = (1_u64 << 60).to_le_bytes();
    let crc = crc32c::crc32c(&length).rotate_right(15).wrapping_add(0xa282_ead8);
    fs::write(&path, [&length[..], &crc.to_le_bytes(), &[0; 64]].concat()).unwrap();
    let error = read_events(&path).unwrap_err();
    assert!(matches!(error, RecordError::BadEvents { .. }), "{error}");
}
