//! Goal: a run that is killed or interrupted, anywhere, and resumed ends as one that never stopped, bit for bit, and
//! no stop, damage or slip loses what was saved.
//!
//! Method: the command itself as a process, killed (SIGKILL) once chosen rows have come up in `metrics.jsonl`, as
//! often as the case says, then let run to its end; weights, velocities and rows are compared with a run in one go.
//! The rows say where it is killed, not a clock: the deadline only ends a test that hangs.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use common::{
    DEADLINE, NUM_STEPS, Output, Random, STEPS_PER_EPOCH, assert_same_end, checkpoints, command, data, halve,
    sets, sprint, tiny, word,
};

/// A folder with data and the run in one go, `whole`.
struct Bench {
    folder: tempfile::TempDir,
    extra: Vec<String>,
}

impl Bench {
    fn new(extra: &[&str]) -> Self {
        let bench = Self { folder: data(), extra: sets(extra) };
        sprint(bench.words("whole")).ok();
        bench
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn words(&self, run: &str) -> Vec<String> {
        let mut words = tiny(&self.path("data"), &self.path(run));
        words.extend(self.extra.clone());
        words
    }

    fn start(&self, run: &str) -> Child {
        let resume = self.path(run).join("config.toml").exists().then(|| "--resume".to_owned());
        command(self.words(run).into_iter().chain(resume)).spawn().unwrap()
    }

    /// Starts or resumes the run and kills it once its rows are as wanted. Returns whether that was before its end.
    fn kill_when(&self, run: &str, wanted: impl Fn(&str) -> bool) -> bool {
        let mut child = self.start(run);
        let reached = wait_for(&mut child, &self.path(run), wanted);
        child.kill().unwrap();
        child.wait().unwrap();
        reached
    }

    /// Goes on to the end, and compares.
    #[track_caller]
    fn finish(&self, run: &str) -> Output {
        let output = sprint(self.words(run).into_iter().chain(["--resume".to_owned()])).ok();
        assert_same_end(&self.path(run), &self.path("whole"));
        output
    }

    /// A run that was killed after its second epoch, so that it holds two checkpoints, or three if it was about to
    /// remove one.
    fn killed(&self, run: &str) {
        assert!(self.kill_when(run, |rows| rows.contains(&step_row(2 * STEPS_PER_EPOCH + 2))));
        assert!(checkpoints(&self.path(run)).len() >= 2);
    }
}

/// Waits until the rows of `run` are as wanted; false if the process ends first.
fn wait_for(child: &mut Child, run: &Path, wanted: impl Fn(&str) -> bool) -> bool {
    let start = Instant::now();
    loop {
        let ended = child.try_wait().unwrap().is_some();
        if wanted(&fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default()) {
            return !ended;
        }
        if ended {
            return false;
        }
        assert!(start.elapsed() < DEADLINE, "the run hangs");
        thread::sleep(Duration::from_micros(200));
    }
}

/// What the row of a step holds and no other row before it.
fn step_row(step: u64) -> String {
    format!("\"event\":\"step\",\"epoch\":{},\"step\":{step},", (step - 1) / STEPS_PER_EPOCH)
}

/// Starts with no resume, every checkpoint due, both phases, before the first checkpoint and after the last.
#[test]
fn killed_at_random_steps_and_resumed_it_ends_the_same() {
    let bench = Bench::new(&[]);
    let mut random = Random(42);
    let mut num_kills = 0;
    for trial in 0..4 {
        let run = format!("run{trial}");
        let mut step = 1 + random.below(5);
        while step <= NUM_STEPS {
            num_kills += u32::from(bench.kill_when(&run, |rows| rows.contains(&step_row(step))));
            step += 1 + random.below(12);
        }
        bench.finish(&run);
    }
    assert!(num_kills >= 10, "only {num_kills} kills came before the end of a run");
}

#[test]
fn killed_around_the_end_of_an_epoch_and_a_phase_switch_it_ends_the_same() {
    let bench = Bench::new(&[]);
    type Wanted<'a> = &'a dyn Fn(&str) -> bool;
    let in_evaluation = step_row(STEPS_PER_EPOCH);
    let kills: [(&str, Wanted<'_>); 4] = [
        ("evaluating", &|rows| rows.contains(&in_evaluation)),
        ("epoch", &|rows| rows.contains("\"event\":\"epoch\"")),
        ("phase", &|rows| rows.matches("\"event\":\"phase\"").count() == 2),
        ("last", &|rows| rows.matches("\"event\":\"epoch\"").count() == 3),
    ];
    for (run, wanted) in kills {
        bench.kill_when(run, wanted);
        bench.finish(run);
    }
    // All of them in one run.
    for (_, wanted) in kills {
        bench.kill_when("all", wanted);
    }
    bench.finish("all");
}

/// A run without checkpoints between epochs begins again, and its first rows are not there twice.
#[test]
fn killed_before_its_first_checkpoint_it_begins_again() {
    let bench = Bench::new(&["checkpoint.every_steps=0"]);
    assert!(bench.kill_when("run", |rows| rows.contains(&step_row(4))));
    assert!(!bench.path("run").join("checkpoints").exists());
    let output = bench.finish("run");
    assert!(output.stderr.contains("no checkpoint yet: starting from the beginning"), "{}", output.stderr);
}

#[test]
fn interrupted_it_says_how_to_go_on_and_ends_the_same() {
    let bench = Bench::new(&[]);
    let mut child = bench.start("run");
    assert!(wait_for(&mut child, &bench.path("run"), |rows| rows.contains(&step_row(4))));
    // Signals have no safe call in the standard library.
    let signal = Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status().unwrap();
    assert!(signal.success());
    let output = Output::of(child.wait_with_output().unwrap());
    assert_eq!(output.status, 130, "{output:#?}");
    let run = bench.path("run");
    let told = format!("go on with: sprint train --out {} --resume\n", word(&run));
    assert!(output.stderr.ends_with(&told), "{}", output.stderr);
    let last_row = common::rows(&run).pop().unwrap();
    assert_eq!(last_row["reason"], "stopped");
    // Nothing but what it says: the folder knows the rest.
    sprint(["train", "--out", &word(&run), "--resume"]).ok();
    assert_same_end(&run, &bench.path("whole"));
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_it_used() {
    let bench = Bench::new(&[]);
    for file in ["model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"] {
        bench.killed(file);
        let checkpoints = checkpoints(&bench.path(file));
        let [.., (before, _), (_, newest)] = checkpoints.as_slice() else { unreachable!() };
        halve(&newest.join(file));
        let output = bench.finish(file);
        let told = format!("passed over a damaged checkpoint: {}", word(newest));
        assert!(output.stderr.contains(&told), "{}", output.stderr);
        assert!(output.stderr.contains(&format!("resuming after step {before}\n")), "{}", output.stderr);
    }
}

#[test]
fn one_flipped_bit_is_damage() {
    let bench = Bench::new(&[]);
    bench.killed("run");
    let whole = checkpoints(&bench.path("run"));
    let flip = |checkpoint: &Path, file: &str, find: fn(&[u8]) -> usize| {
        let path = checkpoint.join(file);
        let mut bytes = fs::read(&path).unwrap();
        let at = find(&bytes);
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    let [.., (_, before), (_, newest)] = whole.as_slice() else { unreachable!() };
    flip(newest, "model.safetensors", |bytes| bytes.len() / 2);
    // A digit becomes another one.
    flip(before, "state.json", |bytes| bytes.iter().position(u8::is_ascii_digit).unwrap());
    let output = sprint(["train", "--out", &word(&bench.path("run")), "--resume"]);
    let told = output.error(1);
    assert!(told.contains("model.safetensors has CRC-32C "), "{told}");
    assert!(told.contains("state.json has CRC-32C "), "{told}");
}

/// Damaged checkpoints count for nothing when old ones are removed: what the run goes on to save is kept.
#[test]
fn damaged_checkpoints_do_not_push_out_good_ones() {
    let bench = Bench::new(&[]);
    bench.killed("run");
    let run = bench.path("run");
    let (_, good) = checkpoints(&run).pop().unwrap();
    for step in ["step-1001", "step-1002"] {
        let damaged = run.join("checkpoints").join(step);
        fs::create_dir(&damaged).unwrap();
        fs::copy(good.join("checksums.json"), damaged.join("checksums.json")).unwrap();
    }
    bench.finish("run");
}

#[test]
fn with_every_checkpoint_damaged_it_stops_and_touches_nothing() {
    let bench = Bench::new(&[]);
    bench.killed("run");
    let run = bench.path("run");
    let damaged = checkpoints(&run);
    for (_, checkpoint) in &damaged {
        halve(&checkpoint.join("model.safetensors"));
    }
    let before = fs::read(run.join("metrics.jsonl")).unwrap();
    let output = sprint(["train", "--out", &word(&run), "--resume"]);
    let error = output.error(1);
    assert!(error.starts_with("error: every checkpoint is damaged: "), "{error}");
    for (_, checkpoint) in &damaged {
        assert!(error.contains(&word(checkpoint)), "{error}");
    }
    assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), before);
    assert_eq!(checkpoints(&run), damaged);
}

#[test]
fn other_settings_and_another_run_in_the_folder_are_refused() {
    let bench = Bench::new(&[]);
    let whole = bench.path("whole");
    let before =
        (fs::read(whole.join("metrics.jsonl")).unwrap(), fs::read(whole.join("config.toml")).unwrap());

    let words = bench.words("whole").into_iter().chain(sets(&["optimizer.momentum=0.8"]));
    let output = sprint(words.chain(["--resume".to_owned()]));
    let error = output.error(2);
    assert!(error.contains("`momentum = 0.9` there, `momentum = 0.8` here"), "{error}");

    let output = sprint(bench.words("whole"));
    let error = output.error(2);
    assert!(error.contains(&format!("{} holds a run already", word(&whole))), "{error}");
    assert!(error.contains("--resume"), "{error}");

    let after =
        (fs::read(whole.join("metrics.jsonl")).unwrap(), fs::read(whole.join("config.toml")).unwrap());
    assert_eq!(before, after);
}

/// A run that is through stays as it is.
#[test]
fn a_finished_run_resumed_is_finished() {
    let bench = Bench::new(&[]);
    let run = bench.path("whole");
    let before = common::rows(&run);
    let output = sprint(bench.words("whole").into_iter().chain(["--resume".to_owned()])).ok();
    assert!(output.stdout.contains(" after 3 epochs in "), "{}", output.stdout);
    assert_eq!(common::rows(&run), before);
}
