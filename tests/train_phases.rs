//! Goal: a recipe of three phases, small pictures first, a doubled batch and rectangular validation last, trains on photos
//! of mixed shapes by 1, 2 and 4 ranks; ranks that are killed at ten random steps leave no trace in what comes out.
//!
//! Method: `sprint launch` with restarts, a random rank of it ended by SIGKILL each time the rows say so, beside a launch
//! that nobody disturbs; weights, velocities and rows are compared bit for bit. The photos are the project's issue's,
//! where they are there.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Child,
};

use common::{Output, Random, assert_same_end, checkpoints, command, rows, sets, shared, wait_until, word};
use rustix::process::{Pid, Signal, kill_process};

const NUM_CLASSES: usize = 4;
const NUM_TRAIN: usize = 64;
const NUM_VAL: usize = 23;
/// Over all ranks, before it doubles.
const GLOBAL_BATCH: usize = 8;
/// Two epochs, two of half as many steps, one.
const NUM_STEPS: u64 = (2 * 8 + 2 * 4 + 8) as u64;
const NUM_KILLS: usize = 10;

/// Photos of mixed shapes dealt into classes, whatever they show, or a visible word that there are none.
fn photos(folder: &Path) -> Option<PathBuf> {
    let mut archive = tar::Archive::new(fs::File::open(shared("imagenet-200-jpeg.tar")?).unwrap());
    let files =
        archive.entries().unwrap().map(Result::unwrap).filter(|entry| entry.header().entry_type().is_file());
    for (index, mut file) in files.take(NUM_TRAIN + NUM_VAL).enumerate() {
        let part = if index < NUM_TRAIN { "train" } else { "val" };
        let class = folder.join(part).join(format!("class{}", index % NUM_CLASSES));
        fs::create_dir_all(&class).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        fs::write(class.join(format!("{index:03}.jpg")), bytes).unwrap();
    }
    Some(folder.to_owned())
}

/// A launch of the recipe on `world` ranks, whose batches together are the same for any number of them.
fn launch(world: usize, data: &Path, run: &Path) -> Child {
    let batch = GLOBAL_BATCH / world;
    let phases = format!(
        "phase=[\
            {{epochs=2, size=32, batch_size={batch}, lr=[0.0, 0.1]}}, \
            {{epochs=2, size=48, batch_size={double}, lr=[0.2, 0.1], min_scale=0.3}}, \
            {{epochs=1, size=64, batch_size={batch}, lr=[0.05, 0.0], min_scale=0.5, val='rect'}}]",
        double = 2 * batch
    );
    let nproc = world.to_string();
    let restarts = NUM_KILLS.to_string();
    let words =
        ["launch", "--nproc", &nproc, "--max-restarts", &restarts, "--", "train", "--preset", "photos"];
    let places = ["--data", &word(data), "--out", &word(run)].map(String::from);
    let recipe = sets(&[
        "seed=5",
        "model.depth=8",
        "model.width=4",
        "data.num_workers=1",
        "checkpoint.every_steps=3",
        &phases,
    ]);
    command(words.map(String::from).into_iter().chain(places).chain(recipe)).spawn().unwrap()
}

/// The ranks of a launch.
fn ranks(launcher: &Child) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{}/task", launcher.id())).unwrap();
    let of_thread = |thread: PathBuf| fs::read_to_string(thread.join("children")).unwrap_or_default();
    let pids = threads.map(|thread| of_thread(thread.unwrap().path())).collect::<Vec<_>>().join(" ");
    pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn has_row(run: &Path, step: u64) -> bool {
    let rows = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    rows.lines()
        .any(|row| row.starts_with("{\"event\":\"step\"") && row.contains(&format!("\"step\":{step},")))
}

/// Ten different steps in order.
fn random_steps(random: &mut Random) -> Vec<u64> {
    let mut steps: Vec<u64> = (1..NUM_STEPS).collect();
    while steps.len() > NUM_KILLS {
        steps.remove(random.below(steps.len() as u64) as usize);
    }
    steps
}

fn killed_at_ten_steps_it_ends_as_if_it_had_not_been(world: usize) {
    let temp = tempfile::tempdir().unwrap();
    let Some(data) = photos(&temp.path().join("data")) else { return };
    let (whole, run) = (temp.path().join("whole"), temp.path().join("run"));
    Output::of(launch(world, &data, &whole).wait_with_output().unwrap()).ok();

    let mut random = Random(world as u64);
    let launcher = launch(world, &data, &run);
    for step in random_steps(&mut random) {
        wait_until("the run does not get on", || has_row(&run, step) && !ranks(&launcher).is_empty());
        let alive = ranks(&launcher);
        let rank = alive[random.below(alive.len() as u64) as usize];
        kill_process(rank, Signal::KILL).unwrap();
        // All of them, or the next to be killed may be one that the launcher is ending anyhow.
        wait_until("ranks are still there", || !ranks(&launcher).iter().any(|rank| alive.contains(rank)));
    }
    let output = Output::of(launcher.wait_with_output().unwrap()).ok();
    assert_eq!(output.stderr.matches(", restart ").count(), NUM_KILLS, "{}", output.stderr);
    assert_same_end(&run, &whole);
    assert_eq!(checkpoints(&run).pop().unwrap().0, NUM_STEPS);

    let rows = rows(&run);
    let epochs: Vec<_> = rows.iter().filter(|row| row["event"] == "epoch").collect();
    assert_eq!(epochs.len(), 5);
    for epoch in epochs {
        assert_eq!(epoch["val_images"], NUM_VAL, "{epoch}");
    }
    let global: Vec<_> = rows
        .iter()
        .filter(|row| row["event"] == "phase")
        .map(|row| row["global_batch_size"].as_u64().unwrap() as usize)
        .collect();
    assert_eq!(global, [GLOBAL_BATCH, 2 * GLOBAL_BATCH, GLOBAL_BATCH]);
}

#[test]
fn by_one_rank() {
    killed_at_ten_steps_it_ends_as_if_it_had_not_been(1);
}

#[test]
fn by_two_ranks() {
    killed_at_ten_steps_it_ends_as_if_it_had_not_been(2);
}

#[test]
fn by_four_ranks() {
    killed_at_ten_steps_it_ends_as_if_it_had_not_been(4);
}
