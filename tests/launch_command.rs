//! Goal: `sprint launch` refuses what cannot be in one line, saves the state when it is told to stop, goes on from the
//! last checkpoint after a rank was killed, and takes its ranks along when it is killed itself.
//!
//! Method: the command as a process, with a real training run as its one rank. Rows of the run say where it is; the
//! deadline only ends a test that hangs.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    thread,
    time::{Duration, Instant},
};

use common::{
    DEADLINE, Output, STEPS_PER_EPOCH, assert_same_end, checkpoints, command, data, sets, sprint, tiny,
    wait_until, word,
};
use rustix::process::{Pid, Signal, getpgid, kill_process, test_kill_process};

/// [`tiny`] under a launch.
fn words(temp: &Path, run: &str, launch: &[&str]) -> Vec<String> {
    let launch = ["launch", "--nproc", "1"].iter().chain(launch).chain(&["--"]).map(ToString::to_string);
    launch.chain(tiny(&temp.join("data"), &temp.join(run))).collect()
}

/// More steps than any test waits for.
fn endless() -> Vec<String> {
    sets(&["phase.1.epochs=10000"])
}

/// Waits for the run to have done its first steps, and returns the rank's process.
#[track_caller]
fn rank_at_work(launcher: &Child, run: &Path) -> Pid {
    let rows = || fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    wait_until("the run does not begin", || rows().contains(&format!("\"step\":{},", STEPS_PER_EPOCH + 2)));
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parent == Some(launcher.id())
    };
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ranks: Vec<i32> = pids.filter(is_child).collect();
    assert_eq!(ranks.len(), 1, "{ranks:?}");
    Pid::from_raw(ranks[0]).unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[test]
fn slips_of_the_hand_are_told_and_start_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let train = ["--", "train", "--out", &word(&run)].map(String::from);
    let several = ["--nnodes", "2", "--master", "a:1"];
    for (words, command, expected) in [
        (vec!["--nproc", "0"], &train[..], "--nproc is 0"),
        (vec!["--nproc", "gpu"], &train, "they would train on flex: expected `--device cuda`"),
        (vec!["--nnodes", "0"], &train, "--nnodes is 0"),
        (vec!["--nnodes", "2", "--node-rank", "2"], &train, "--node-rank is 2"),
        (vec!["--nnodes", "2"], &train, "--master HOST:PORT"),
        (vec!["--nproc", "2000"], &train, "at most 1024 ranks"),
        (vec!["--master", "somewhere"], &train, "--master somewhere: expected HOST:PORT"),
        (vec!["--nproc", "2"], &[], "no command to launch"),
        (vec!["--nproc", "2"], &train[..1], "no command to launch"),
        (vec![], &["--".to_owned(), "launch".into()], "cannot launch `launch`"),
        (vec![], &["--".to_owned(), "report".into(), "x".into()], "cannot launch `report`"),
        (several.into(), &train[..2], "several machines need --out"),
        (
            vec![],
            &["--".to_owned(), "train".into(), "--preset".into(), "defualt".into()],
            "did you mean `default`?",
        ),
    ] {
        let words = words.into_iter().map(String::from).chain(command.iter().cloned());
        let output = sprint(["launch".to_owned()].into_iter().chain(words));
        let error = output.error(2);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!run.exists());
    }
    // A slip in the command itself is told by the one who reads it first, not by every rank.
    let output = sprint(["launch", "--nproc", "3", "--", "train", "--prset", "default"]);
    assert_eq!(output.status, 2);
    assert_eq!(output.stderr.matches("--prset").count(), 1, "{}", output.stderr);
    let output = sprint(["launch", "--nproc", "gpus", "--", "train"]);
    assert_eq!(output.status, 2);
    assert!(output.stderr.contains("expected a number of ranks, or gpu"), "{}", output.stderr);
}

#[test]
fn a_rank_for_each_gpu_needs_one() {
    if Path::new("/proc/driver/nvidia/gpus").exists() {
        eprintln!("SKIP: this machine has NVIDIA's driver");
        return;
    }
    let output = sprint(["launch", "--nproc", "gpu", "--", "train", "--device", "cuda"]);
    let error = output.error(2);
    assert!(error.contains("--nproc gpu: the driver lists no NVIDIA GPU on this machine"), "{error}");
    assert!(error.ends_with("or say the number of ranks"), "{error}");
}

#[test]
fn told_to_stop_it_saves_and_can_go_on() {
    let temp = data();
    let run = temp.path().join("run");
    let launcher = command(words(temp.path(), "run", &[]).into_iter().chain(endless())).spawn().unwrap();
    let rank = rank_at_work(&launcher, &run);
    // Slurm signals every process of a job, so the rank hears it twice: that is one wish.
    kill_process(rank, Signal::TERM).unwrap();
    kill_process(pid(&launcher), Signal::TERM).unwrap();
    let output = Output::of(launcher.wait_with_output().unwrap());
    assert_eq!(output.status, 130, "{output:#?}");
    let steps: Vec<_> = checkpoints(&run).iter().map(|(step, _)| *step).collect();
    let told = format!("stopped after step {}, state saved", steps.last().unwrap());
    assert!(output.stderr.contains(&told), "{steps:?}: {}", output.stderr);
    assert!(output.stderr.ends_with(&format!("--out {} --resume\n", run.display())), "{}", output.stderr);

    let again = ["launch", "--", "train", "--resume", "--out", &word(&run)];
    let launcher = command(again).spawn().unwrap();
    let reached = steps.last().unwrap() + 3;
    let rows = || fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    wait_until("it does not go on", || rows().contains(&format!("\"step\":{reached},")));
    kill_process(pid(&launcher), Signal::INT).unwrap();
    assert_eq!(Output::of(launcher.wait_with_output().unwrap()).status, 130);
}

#[test]
fn a_killed_rank_is_started_again_from_its_checkpoint() {
    let temp = data();
    // Long enough to be caught in the middle.
    let longer = sets(&["phase.1.epochs=10"]);
    sprint(tiny(&temp.path().join("data"), &temp.path().join("whole")).into_iter().chain(longer.clone()))
        .ok();
    let run = temp.path().join("run");
    let launch = words(temp.path(), "run", &["--max-restarts", "1"]);
    let launcher = command(launch.into_iter().chain(longer)).spawn().unwrap();
    kill_process(rank_at_work(&launcher, &run), Signal::KILL).unwrap();
    let output = Output::of(launcher.wait_with_output().unwrap()).ok();
    let told = " was killed by SIGKILL (9); starting all ranks again, restart 1 of 1\n";
    assert!(
        output.stderr.contains(told) && output.stderr.contains("resuming after step"),
        "{}",
        output.stderr
    );
    assert_same_end(&run, &temp.path().join("whole"));

    // Without a restart it is the end, and the rank's status the launcher's.
    let run = temp.path().join("once");
    let launcher = command(words(temp.path(), "once", &[]).into_iter().chain(endless())).spawn().unwrap();
    kill_process(rank_at_work(&launcher, &run), Signal::KILL).unwrap();
    let output = Output::of(launcher.wait_with_output().unwrap());
    let error = output.error(137);
    assert!(
        error.starts_with("error: rank 0 on ") && error.ends_with(" was killed by SIGKILL (9)"),
        "{error}"
    );
}

#[test]
fn a_rank_does_not_outlive_its_launcher() {
    let temp = data();
    let mut launcher = command(words(temp.path(), "run", &[]).into_iter().chain(endless())).spawn().unwrap();
    let rank = rank_at_work(&launcher, &temp.path().join("run"));
    // A Ctrl-C on the terminal must not reach it beside the launcher's own word.
    assert_ne!(getpgid(Some(rank)).unwrap(), getpgid(Some(pid(&launcher))).unwrap());
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let start = Instant::now();
    while test_kill_process(rank).is_ok() {
        if start.elapsed() > DEADLINE {
            kill_process(rank, Signal::KILL).unwrap();
            panic!("the rank still runs");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// And the same at every start.
#[test]
fn a_run_without_a_folder_gets_one_from_the_launcher() {
    let temp = data();
    let mut words = words(temp.path(), "run", &["--max-restarts", "1"]);
    let out = words.iter().position(|word| word == "--out").unwrap();
    words.drain(out..out + 2);
    words.extend(sets(&["phase.1.epochs=10"]));
    let launcher = command(words).current_dir(temp.path()).spawn().unwrap();
    let runs = || -> Vec<PathBuf> {
        let entries = fs::read_dir(temp.path().join("runs")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    wait_until("no folder", || !runs().is_empty());
    let run = runs().remove(0);
    kill_process(rank_at_work(&launcher, &run), Signal::KILL).unwrap();
    Output::of(launcher.wait_with_output().unwrap()).ok();
    assert_eq!(runs(), std::slice::from_ref(&run));
    let name = run.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("default-20"), "{name}");
    assert!(run.join("report.html").exists());
}

/// Such a process is no rank, whatever its environment says.
#[test]
fn an_orphan_does_not_start() {
    // Reaped, so its number is free.
    let mut gone = command(["--version"]).spawn().unwrap();
    gone.wait().unwrap();
    let output =
        command(["train", "--dry-run"]).env("SPRINT_LAUNCHER_PID", gone.id().to_string()).output().unwrap();
    let output = Output::of(output);
    assert!(output.error(1).contains("launched this rank is gone"), "{}", output.stderr);
    // A rank's own child goes its way.
    let own = std::process::id().to_string();
    let output = common::command(["--version"]).env("SPRINT_LAUNCHER_PID", own).output().unwrap();
    Output::of(output).ok();
}
