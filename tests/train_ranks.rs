//! Goal: a run by several ranks is one run. They evaluate every image once, end with the same network to the bit, stop
//! together, resume from rank 0's checkpoint alone, and where one fails or is told something else all end and name it.
//!
//! Method: `train::run` on every rank of a local mesh, ranks as threads; a folder of its own for each rank stands for a
//! machine without a common disk.

#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, path::Path, thread};

use burn::tensor::Device;
use burn_dist::{Communicator, Config, WorldSize};
use burn_sprint::{
    Error, Result,
    config::{DataFacts, Plan, Sources},
    data::{Location, open_pair},
    record::{EndReason, ProgressMode, RunInfo},
    train::{Job, Outcome, Stop, run},
};
use common::{NUM_TRAIN, NUM_VAL, assert_same_end, checkpoints, rows, tiny, write_idx};

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

/// Runs a job; `told` says what rank i is told.
fn train<'a>(data: &Path, told: impl Fn(usize) -> Rank<'a> + Sync) -> Vec<Result<Outcome>> {
    train_on(WORLD, data, told)
}

fn train_on<'a>(world: u32, data: &Path, told: impl Fn(usize) -> Rank<'a> + Sync) -> Vec<Result<Outcome>> {
    let mesh = Communicator::local_mesh(WorldSize::new(world).unwrap(), &Config::default()).unwrap();
    let told = &told;
    let one = |comm: Communicator| {
        let Rank { set, out, resume, stop } = told(comm.rank().index());
        let words = tiny(data, &out).into_iter().skip_while(|word| word != "--set");
        let words = words.filter(|word| word != "--set").chain(set.into_iter().map(str::to_owned));
        let sources = Sources { preset: Some("default".into()), set: words.collect(), ..Sources::default() };
        let pictures = open_pair(&Location::Path(data.into()), None, 0.2).unwrap();
        let plan =
            Plan::new(sources.resolve().unwrap(), DataFacts::of(&pictures.train), comm.rank().world_size());
        let wish = Stop::new();
        if stop {
            wish.request();
        }
        run(Job {
            plan: &plan.unwrap(),
            data: &pictures,
            device: &Device::flex(),
            comm,
            out: &out,
            resume,
            stop: &wish,
            progress: ProgressMode::Silent,
            info: RunInfo::default(),
            now_s: 0.0,
        })
    };
    thread::scope(|scope| {
        let ranks: Vec<_> = mesh.into_iter().map(|comm| scope.spawn(|| one(comm))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
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
