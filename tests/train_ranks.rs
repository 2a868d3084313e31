//! Goal: a run by several ranks is one run. They evaluate every image once, end with the same network to the bit, stop
//! together, resume from rank 0's checkpoint alone, and where one fails or is told something else all end and name it.
//!
//! Method: `train::run` on every rank of a local mesh, ranks as threads; a folder of its own for each rank stands for a
//! machine without a common disk.

#![allow(clippy::unwrap_used)]

#[path = "common/by_library.rs"]
mod by_library;
mod common;

use std::{fs, path::Path};

use burn_sprint::{Error, Result, record::EndReason, train::Outcome};
use by_library::{on_ranks, train_rank};
use common::{NUM_TRAIN, NUM_VAL, Random, assert_same_end, checkpoints, killed_after, rows, write_idx};

const WORLD: u32 = 2;
/// Of the tiny recipe with 16 images a rank.
const STEPS_PER_EPOCH: u64 = (NUM_TRAIN / (16 * WORLD as usize)) as u64;

/// What a rank of a test is told.
#[derive(Clone)]
struct Rank<'a> {
    set: Vec<&'a str>,
    out: std::path::PathBuf,
    resume: bool,
    stop: bool,
}

/// Runs a job of [`WORLD`] ranks; `told` says what rank i is told.
fn train<'a>(data: &Path, told: impl Fn(usize) -> Rank<'a> + Sync) -> Vec<Result<Outcome>> {
    train_on(WORLD, data, told)
}

fn train_on<'a>(world: u32, data: &Path, told: impl Fn(usize) -> Rank<'a> + Sync) -> Vec<Result<Outcome>> {
    on_ranks(world, |comm| {
        let Rank { set, out, resume, stop } = told(comm.rank().index());
        train_rank(comm, data, &out, &set, |job| {
            job.resume = resume;
            if stop {
                job.stop.request();
            }
        })
    })
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_idx(folder.path());
        Self(folder)
    }

    fn out(&self, run: &str, rank: usize) -> std::path::PathBuf {
        self.0.path().join(format!("{run}-{rank}"))
    }

    fn told<'a>(&self, run: &str, rank: usize) -> Rank<'a> {
        Rank { set: Vec::new(), out: self.out(run, rank), resume: false, stop: false }
    }
}

#[test]
fn ranks_train_and_evaluate_as_one_and_only_rank_0_writes() {
    let bench = Bench::new();
    let outcomes = train(bench.0.path(), |rank| bench.told("run", rank));
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    let progress = &outcomes[0].progress;
    assert_eq!(outcomes[0].reason, EndReason::Done);
    assert_eq!((progress.step, progress.images), (3 * STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH * 32));
    assert_eq!(outcomes[0].accuracy, outcomes[1].accuracy);
    assert_eq!(outcomes[0].accuracy.unwrap().num_images, NUM_VAL as u64);
    assert_eq!(outcomes[0].progress.epoch.loss.to_bits(), outcomes[1].progress.epoch.loss.to_bits());
    assert!(!bench.out("run", 1).exists());

    let text = fs::read_to_string(bench.out("run", 0).join("metrics.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| rows.iter().filter(|row| row["event"] == event).collect::<Vec<_>>();
    assert_eq!(of("step").len() as u64, 3 * STEPS_PER_EPOCH);
    for row in of("step") {
        let (wait, wire) = (row["comm_wait_s"].as_f64().unwrap(), row["comm_s"].as_f64().unwrap());
        assert!(wait >= 0.0 && wire > 0.0, "{row}");
    }
    let hashes: Vec<_> =
        of("epoch").iter().map(|row| row["param_hash"].as_str().unwrap().to_owned()).collect();
    assert_eq!(hashes.len(), 3);
    assert!(hashes[0].len() == 16 && hashes[0] != hashes[1], "{hashes:?}");
    assert_eq!(of("phase")[0]["global_batch_size"], 32);
}

#[test]
fn a_stop_on_one_rank_stops_all_and_a_resume_needs_rank_0s_folder_only() {
    let bench = Bench::new();
    // The whole run saves nowhere inside an epoch: what a save does to the run would show.
    let told = |run, rank| Rank { set: vec!["checkpoint.every_steps=0"], ..bench.told(run, rank) };
    for outcome in train(bench.0.path(), |rank| told("whole", rank)) {
        assert_eq!(outcome.unwrap().reason, EndReason::Done);
    }
    let stopped = train(bench.0.path(), |rank| Rank { stop: rank == 1, ..told("run", rank) });
    let steps: Vec<_> = stopped
        .into_iter()
        .map(|outcome| {
            let outcome = outcome.unwrap();
            assert_eq!(outcome.reason, EndReason::Stopped);
            outcome.progress.step
        })
        .collect();
    assert_eq!(steps[0], steps[1]);
    assert!((1..STEPS_PER_EPOCH).contains(&steps[0]), "{steps:?}");

    let saved = checkpoints(&bench.out("run", 0));
    assert_eq!(saved.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [steps[0]]);
    // Inside an epoch batches belong to a world size.
    let alone = train_on(1, bench.0.path(), |rank| Rank { resume: true, ..told("run", rank) });
    let error = alone.into_iter().next().unwrap().unwrap_err();
    assert_eq!(error.exit_status(), 2);
    let said = format!(
        "step {} lies inside epoch 0 of a job of 2 ranks, and this one has 1: resume with 2",
        steps[0]
    );
    assert!(error.to_string().contains(&said), "{error}");

    for outcome in train(bench.0.path(), |rank| Rank { resume: true, ..told("run", rank) }) {
        assert_eq!(outcome.unwrap().reason, EndReason::Done);
    }
    assert!(!bench.out("run", 1).exists());
    assert_same_end(&bench.out("run", 0), &bench.out("whole", 0));
}

/// Mixed images, moments and averages: drawn by each rank, and the same on all after every epoch (which a run checks of
/// weights and averages), also after a resume inside an epoch from what only rank 0 has.
#[test]
fn ranks_that_mix_and_average_stay_one_and_resume_as_one() {
    let bench = Bench::new();
    let set = vec![
        "checkpoint.keep=100",
        "optimizer.rule=lamb",
        "optimizer.loss=bce",
        "optimizer.mixup=0.2",
        "optimizer.cutmix=1.0",
        "optimizer.ema=0.8",
    ];
    let told = |run: &'static str, rank| Rank { set: set.clone(), ..bench.told(run, rank) };
    for outcome in train(bench.0.path(), |rank| told("whole", rank)) {
        assert_eq!(outcome.unwrap().reason, EndReason::Done);
    }
    const { assert!(12 % STEPS_PER_EPOCH > 0) };
    killed_after(&bench.out("whole", 0), 12, &bench.out("run", 0));
    let resumed = train(bench.0.path(), |rank| Rank { resume: true, ..told("run", rank) });
    let [first, second] = resumed.into_iter().map(Result::unwrap).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((first.reason, first.accuracy), (EndReason::Done, second.accuracy));
    assert_same_end(&bench.out("run", 0), &bench.out("whole", 0));
}

/// From 2 ranks to 1 and then to 3, each after an epoch: batches and learning rates follow.
#[test]
fn between_epochs_a_job_may_go_on_with_other_ranks() {
    let bench = Bench::new();
    let one_epoch = |rank| Rank { set: vec!["stop_at='top1=0'"], resume: true, ..bench.told("run", rank) };
    let worlds = [2, 1, 3];
    for (world, reason) in worlds.into_iter().zip([EndReason::Target, EndReason::Target, EndReason::Target]) {
        for outcome in train_on(world, bench.0.path(), one_epoch) {
            assert_eq!(outcome.unwrap().reason, reason);
        }
    }
    let rows = rows(&bench.out("run", 0));
    let of = |event: &str| rows.iter().filter(|row| row["event"] == event).collect::<Vec<_>>();
    let steps = of("step");
    let num_steps = |world: u32| NUM_TRAIN / (16 * world as usize);
    assert_eq!(steps.len(), worlds.map(num_steps).iter().sum::<usize>());
    assert!(steps.iter().zip(1u64..).all(|(row, step)| row["step"] == step), "counted on");
    // The first phase goes up to 0.1 in an epoch, the second down from 0.1 in two: half of it, of one rank's share.
    let last_lr = |epoch: u32| of("epoch")[epoch as usize]["lr"].as_f64().unwrap();
    assert_eq!(last_lr(0), 0.1);
    assert_eq!(last_lr(1), 0.5 * 0.05);
    assert_eq!(last_lr(2), 1.5 * 0.0);
    let global = of("phase").iter().map(|row| row["global_batch_size"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(global, [32, 16, 48]);
    let images = steps.last().unwrap()["images"].as_u64().unwrap();
    assert_eq!(
        images,
        worlds.map(|world| (num_steps(world) * 16) as u64 * u64::from(world)).iter().sum::<u64>()
    );
}

#[test]
fn a_rank_that_is_told_something_else_is_named() {
    let bench = Bench::new();
    let told =
        |rank| Rank { set: if rank == 1 { vec!["seed=4"] } else { vec![] }, ..bench.told("run", rank) };
    for outcome in train(bench.0.path(), told) {
        let error = outcome.unwrap_err().to_string();
        assert!(error.starts_with("the runs differ: rank 1"), "{error}");
        assert!(error.contains("`seed = 4` where rank 0 has `seed = 3`"), "{error}");
    }
    assert!(!bench.out("run", 0).exists());
}

#[test]
fn a_rank_that_fails_ends_all_and_says_why() {
    let bench = Bench::new();
    fs::write(bench.0.path().join("file"), "").unwrap();
    let inside = bench.0.path().join("file").join("run");
    let outcomes = train(bench.0.path(), |rank| Rank { out: inside.clone(), ..bench.told("run", rank) });
    let [first, second] = outcomes.map_errors();
    assert!(matches!(first, Error::Io { .. }), "{first:?}");
    let second = second.to_string();
    assert!(second.starts_with("rank 0 on ") && second.contains(" failed"), "{second}");
    assert!(second.contains(&first.to_string()), "{second}");
}

trait MapErrors {
    fn map_errors(self) -> [Error; WORLD as usize];
}

impl MapErrors for Vec<Result<Outcome>> {
    fn map_errors(self) -> [Error; WORLD as usize] {
        self.into_iter().map(Result::unwrap_err).collect::<Vec<_>>().try_into().unwrap()
    }
}

#[test]
fn weights_that_were_thrown_off_stop_all_ranks_and_name_them() {
    let bench = Bench::new();
    let set = vec!["phase.1.lr=1e30", "checkpoint.every_steps=0"];
    let outcomes = train(bench.0.path(), |rank| Rank { set: set.clone(), ..bench.told("run", rank) });
    let [first, second] = outcomes.map_errors().map(|error| error.to_string());
    assert_eq!(first, second);
    let step = STEPS_PER_EPOCH + 2;
    assert!(first.contains(&format!(" at step {step} (epoch 1, phase 2): ")), "{first}");
    assert!(first.contains("rank 0") && first.contains("rank 1"), "{first}");
    assert!(first.ends_with(&format!("the checkpoint of step {STEPS_PER_EPOCH} is kept")), "{first}");
    let end = rows(&bench.out("run", 0)).pop().unwrap();
    assert_eq!((&end["event"], &end["reason"]), (&"end".into(), &"failed".into()));
}

const SHAPES: [(u32, u32); 4] = [(40, 30), (30, 40), (60, 24), (32, 32)];
/// Validation pictures of [`write_shapes`].
const NUM_SHAPES: u64 = 10;

/// Pictures of [`SHAPES`] in two classes for training and validation, and a copy of them in half the size.
fn write_shapes(folder: &Path) {
    let mut random = Random(6);
    for (part, per_class) in [("train", 16), ("val", NUM_SHAPES as usize / 2)] {
        for (class, index) in (0..2).flat_map(|class| (0..per_class).map(move |index| (class, index))) {
            let (width, height) = SHAPES[index % SHAPES.len()];
            let pixels: Vec<u8> =
                (0..3 * width * height).map(|_| (120 * class + random.below(130)) as u8).collect();
            let picture = image::RgbImage::from_raw(width, height, pixels).unwrap();
            let half = image::imageops::thumbnail(&picture, width / 2, height / 2);
            for (copy, picture) in [(".", picture), ("small", half)] {
                let class_folder = folder.join(copy).join(part).join(format!("class{class}"));
                fs::create_dir_all(&class_folder).unwrap();
                picture.save(class_folder.join(format!("{index:02}.png"))).unwrap();
            }
        }
    }
}

/// A copy, then the pictures themselves by rectangles: two epochs of 8 steps each, if one rank takes them.
const SIZED: [&str; 3] = [
    "phase=[\
        {epochs=2, size=12, batch_size=4, lr=0.05, data='small'}, \
        {epochs=2, size=24, batch_size=4, lr=0.05, val='rect'}]",
    "data.mean=[0.5, 0.5, 0.5]",
    "data.std=[0.25, 0.25, 0.25]",
];

/// By one rank, by fewer than there are chunks (of 4, 4 and 2 pictures), and by more.
#[test]
fn copies_and_rectangles_are_validated_once_by_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    write_shapes(folder.path());
    for world_size in [1, 2, 4] {
        let out = |rank: usize| folder.path().join(format!("run-{world_size}-{rank}"));
        let told = |rank| Rank { set: SIZED.to_vec(), out: out(rank), resume: false, stop: false };
        let outcomes: Vec<_> =
            train_on(world_size, folder.path(), told).into_iter().map(Result::unwrap).collect();
        assert!(outcomes.iter().all(|outcome| outcome.accuracy == outcomes[0].accuracy));
        let (size, center) = outcomes[0].center.unwrap();
        assert_eq!((size, center.num_images), (24, NUM_SHAPES));
        let epochs: Vec<_> = rows(&out(0)).into_iter().filter(|row| row["event"] == "epoch").collect();
        assert!(epochs.iter().all(|row| row["val_images"] == NUM_SHAPES), "{epochs:#?}");
        // At the end of the phase that validates by rectangles, and nowhere else.
        let sizes: Vec<_> = epochs.iter().map(|row| row["val_center_size"].as_u64()).collect();
        assert_eq!(sizes, [None, None, None, Some(24)]);
        assert_eq!(epochs[3]["val_center_top1"], center.top1);
    }
    assert!(folder.path().join("val/.burn-sprint-picture-sizes-10").is_file());
}

/// From within both phases, from the switch, and from the last step.
#[test]
fn copies_and_rectangles_resume_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    write_shapes(folder.path());
    let job = |run: &str, resume| {
        let out = folder.path().join(run);
        let set = [&SIZED[..], &["checkpoint.every_steps=9", "checkpoint.keep=50"]].concat();
        let told = |_| Rank { set: set.clone(), out: out.clone(), resume, stop: false };
        assert_eq!(train_on(1, folder.path(), told).swap_remove(0).unwrap().reason, EndReason::Done);
        out
    };
    let (whole, broken) = (job("whole", false), job("broken", false));
    for step in [32, 27, 16, 9] {
        for (_, newer) in checkpoints(&broken).into_iter().filter(|(saved, _)| *saved > step) {
            fs::remove_dir_all(newer).unwrap();
        }
        assert_same_end(&job("broken", true), &whole);
    }

    // What the first phase reads is the copy: another one makes other losses, until the second phase's sizes are read.
    let losses = |run: &Path| {
        let steps = rows(run).into_iter().filter(|row| row["event"] == "step");
        steps.map(|row| row["train_loss"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    for part in ["train", "val"] {
        fs::remove_dir_all(folder.path().join("small").join(part)).unwrap();
        fs::create_dir(folder.path().join("small").join(part)).unwrap();
        for class in ["class0", "class1"] {
            let below = Path::new(part).join(class);
            fs::create_dir(folder.path().join("small").join(&below)).unwrap();
            for entry in fs::read_dir(folder.path().join(&below)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), folder.path().join("small").join(&below).join(entry.file_name()))
                    .unwrap();
            }
        }
    }
    assert_ne!(losses(&job("other", false))[0], losses(&whole)[0]);
}

/// A validation picture without a size: named by all ranks before anything is written, or left out.
#[test]
fn a_bad_picture_is_known_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    write_shapes(folder.path());
    fs::write(folder.path().join("val/class1/02.png"), "text").unwrap();
    let told = |policy: &'static str| {
        let folder = folder.path();
        move |rank: usize| Rank {
            set: [&SIZED[..], &[policy]].concat(),
            out: folder.join(format!("{policy}-{rank}")),
            resume: false,
            stop: false,
        }
    };
    let [first, second] = train(folder.path(), told("data.on_bad_file=fail")).map_errors();
    let first = first.to_string();
    assert!(
        first.starts_with("picture ") && first.contains("val/class1/02.png: is not a picture"),
        "{first}"
    );
    assert!(second.to_string().contains(&first), "{second}");
    assert!(!folder.path().join("data.on_bad_file=fail-0").exists());
    for outcome in train(folder.path(), told("data.on_bad_file=skip")) {
        let outcome = outcome.unwrap();
        assert_eq!(outcome.accuracy.unwrap().num_images, NUM_SHAPES - 1);
        // Once an epoch of the second phase; the first reads the copy.
        assert_eq!(outcome.progress.skipped_images, 2);
    }

    // Headers, and no pixels.
    for class in ["class0", "class1"] {
        for entry in fs::read_dir(folder.path().join("val").join(class)).unwrap() {
            let path = entry.unwrap().path();
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..60.min(whole.len())]).unwrap();
        }
    }
    fs::remove_dir_all(folder.path().join("data.on_bad_file=skip-0")).unwrap();
    for outcome in train(folder.path(), told("data.on_bad_file=skip")) {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("none of the 10 validation pictures can be used"), "{error}");
    }
}
