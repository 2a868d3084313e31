//! Goal: `sprint dist` shows what it measured as a table and as JSON, and reads what ranks wrote; ranks of a training run
//! write it when they are asked to, and a run of several ranks that loses one is started again and ends as it should.
//!
//! Method: the command as a process, with ranks of its own on loopback.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
};

use common::{Output, assert_same_end, command, data, sets, sprint, tiny, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn bench_gives_a_table_and_a_file() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("bench.json");
    let mut line =
        words(&["dist", "bench", "--nproc", "3", "--counts", "10,100000", "--repeat", "2", "--json"]);
    line.push(file.display().to_string());
    let output = sprint(line);
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert_eq!(output.stdout.lines().count(), 4, "{}", output.stdout);
    assert!(output.stdout.starts_with("3 ranks"), "{}", output.stdout);
    let rows = json(&file)["rows"].as_array().unwrap().clone();
    assert_eq!(rows.iter().map(|row| row["count"].as_u64().unwrap()).collect::<Vec<_>>(), [10, 100_000]);
    assert!(rows.iter().all(|row| row["busbw_gb_per_s"].as_f64().unwrap() > 0.0));
}

#[test]
fn check_meets_every_pair() {
    let output = sprint(words(&["dist", "check", "--nproc", "3"]));
    assert_eq!(output.status, 0, "{}", output.stderr);
    for pair in ["0 - 1", "0 - 2", "1 - 2"] {
        assert!(output.stdout.lines().any(|line| line.trim_start().starts_with(pair)), "{}", output.stdout);
    }
}

#[test]
fn doctor_says_where_ranks_parted_and_what_is_no_record() {
    let temp = tempfile::tempdir().unwrap();
    let record = |rank: u32, what: &str, fingerprint: u64| {
        let op = |seq: u64, what: &str, fingerprint: u64| {
            serde_json::json!({ "seq": seq, "what": what, "fingerprint": fingerprint, "bytes": 4, "begin_us": seq,
                "end_us": seq + 1 })
        };
        let path = temp.path().join(format!("flight-{rank}.json"));
        let operations = [op(1, "barrier", 1), op(2, what, fingerprint)];
        let all = serde_json::json!({ "rank": rank, "fault": null, "operations": operations });
        fs::write(&path, all.to_string()).unwrap();
        path.display().to_string()
    };
    let files = [record(0, "all-reduce (mean) of 10 f32", 7), record(1, "barrier", 8)];
    let output = sprint([words(&["dist", "doctor"]), files.to_vec()].concat());
    assert_eq!(output.status, 0, "{}", output.stderr);
    let parted = "the ranks parted at operation 2: all-reduce (mean) of 10 f32 by 0; barrier by 1";
    assert!(output.stdout.contains(parted), "{}", output.stdout);

    fs::write(temp.path().join("no.json"), "{").unwrap();
    let output = sprint(
        [words(&["dist", "doctor"]), vec![temp.path().join("no.json").display().to_string()]].concat(),
    );
    assert!(output.error(1).contains("is no flight record"), "{}", output.stderr);
}

/// The two ranks of a run that would not end by itself.
fn two_ranks(temp: &Path, run: &Path) -> Vec<Child> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let rank = |rank: &str| {
        let endless = sets(&["phase.1.epochs=10000"]);
        command([tiny(&temp.join("data"), run), endless].concat())
            .envs([("BURN_DIST_RANK", rank), ("BURN_DIST_WORLD_SIZE", "2"), ("BURN_DIST_MASTER_PORT", &port)])
            .env("BURN_DIST_MASTER_ADDR", "127.0.0.1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    vec![rank("0"), rank("1")]
}

#[test]
fn ranks_write_what_they_did_when_asked() {
    let temp = data();
    let run = temp.path().join("run");
    let mut ranks = two_ranks(temp.path(), &run);
    let rows = || fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    wait_until("the run does not begin", || rows().contains("\"step\":3,"));
    let signal = |ranks: &[Child], signal| {
        for rank in ranks {
            kill_process(Pid::from_child(rank), signal).unwrap();
        }
    };
    signal(&ranks, Signal::USR1);
    let files = [0, 1].map(|rank| run.join(format!("flight/flight-{rank}.json")));
    wait_until("no flight records come", || files.iter().all(|file| file.exists()));
    signal(&ranks[..1], Signal::TERM);
    for rank in &mut ranks {
        // The wish of one stops both after the same step, state saved.
        assert_eq!(rank.wait().unwrap().code(), Some(130));
    }
    let files = files.map(|file| file.display().to_string());
    let output = sprint([words(&["dist", "doctor"]), files.to_vec()].concat());
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(output.stdout.contains("rank 1: last operation"), "{}", output.stdout);
}

#[test]
fn a_launch_has_all_its_ranks_write_what_they_did() {
    let temp = data();
    let run = temp.path().join("run");
    let endless = sets(&["phase.1.epochs=10000"]);
    let launch = words(&["launch", "--nproc", "2", "--"]);
    let launcher =
        command([launch, tiny(&temp.path().join("data"), &run), endless].concat()).spawn().unwrap();
    let rows = || fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    wait_until("the run does not begin", || rows().contains("\"step\":3,"));
    kill_process(Pid::from_child(&launcher), Signal::USR1).unwrap();
    let files = [0, 1].map(|rank| run.join(format!("flight/flight-{rank}.json")));
    wait_until("no flight records come", || files.iter().all(|file| file.exists()));
    kill_process(Pid::from_child(&launcher), Signal::TERM).unwrap();
    let output = Output::of(launcher.wait_with_output().unwrap());
    assert_eq!(output.status, 130, "{output:#?}");
}

#[test]
fn a_launch_that_loses_a_rank_goes_on_from_the_checkpoint() {
    let temp = data();
    let words = |run: &str, launch: &[&str]| -> Vec<String> {
        let launch = ["launch", "--nproc", "2"].iter().chain(launch).chain(&["--"]).map(ToString::to_string);
        launch.chain(tiny(&temp.path().join("data"), &temp.path().join(run))).collect()
    };
    let whole = sprint(words("whole", &[]));
    assert_eq!(whole.status, 0, "{}", whole.stderr);

    // Pipes for its output are what `command` gives.
    let child = command(words("killed", &["--max-restarts", "1"])).spawn().unwrap();
    let checkpoint = temp.path().join("killed/checkpoints/latest");
    wait_until("no checkpoint comes", || checkpoint.exists());
    // Rank 1, whichever of the launcher's children says so.
    let launcher = child.id().to_string();
    let is_rank_1 = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1).map(str::to_owned));
        let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        parent.as_deref() == Some(&launcher)
            && variables.split(|byte| *byte == 0).any(|variable| variable == b"BURN_DIST_RANK=1")
    };
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let rank_1 = pids.into_iter().find(|pid| is_rank_1(pid));
    if let Some(pid) = rank_1 {
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    } else {
        panic!("rank 1 was through before it could be killed");
    }
    let output = Output::of(child.wait_with_output().unwrap());
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(output.stderr.contains("rank 1 on"), "{}", output.stderr);
    assert_same_end(&temp.path().join("whole"), &temp.path().join("killed"));
}
