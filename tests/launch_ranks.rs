//! Goal: a launch tells each rank who it is, passes on every line whole, ends all ranks when one fails and says which
//! was first, starts them again as often as it may, and leaves no process behind.
//!
//! Method: the library with small shell scripts as ranks. Scripts and test wait for each other's files and lines, never
//! for a time; the deadline only ends a test that hangs.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use burn_sprint::cluster::{End, Launch, LaunchError, Layout, Stopper, Streams, stopper};
use common::{DEADLINE, wait_until};

/// A launch of a script, a folder that its ranks run in, and what they wrote.
struct Bench {
    launch: Launch,
    folder: tempfile::TempDir,
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
}

/// What every script may use: `$R` its rank, `tell FILE WORD` to write a file that appears whole, and `await FILE`, whose
/// short sleeps let a signal in whenever it comes: a shell that has just begun a long one answers to none.
const PRELUDE: &str = "R=$BURN_DIST_RANK
    tell() { echo \"$2\" > \"$1.new\"; mv \"$1.new\" \"$1\"; }
    await() { while [ ! -e \"$1\" ]; do sleep 0.005; done; }\n";

impl Bench {
    fn new(num_ranks: u32, script: &str) -> Self {
        Self::of(Layout::new(num_ranks, 1, 0, None).unwrap(), script)
    }

    fn of(layout: Layout, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("cd '{}'\n{PRELUDE}{script}", folder.path().display());
        let words = ["-c", &script, "rank", "first"].map(Into::into).into();
        let mut launch = Launch::new(layout, "/bin/sh".into(), words);
        let (out, err) = (Arc::default(), Arc::default());
        launch.streams =
            Streams { out: Arc::<Mutex<Vec<u8>>>::clone(&out), err: Arc::<Mutex<Vec<u8>>>::clone(&err) };
        launch.back_off = Duration::ZERO;
        launch.grace = DEADLINE;
        Self { launch, folder, out, err }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn touch(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    fn out(&self) -> String {
        String::from_utf8(self.out.lock().unwrap().clone()).unwrap()
    }

    fn err(&self) -> String {
        String::from_utf8(self.err.lock().unwrap().clone()).unwrap()
    }

    /// Runs the launch on a thread of its own.
    fn start(&self) -> Running {
        let (launch, (stopper, stops), (end, ended)) = (self.launch.clone(), stopper(), mpsc::channel());
        thread::spawn(move || end.send(launch.run(stops)));
        Running { stopper, ended }
    }

    #[track_caller]
    fn run(&self) -> Result<End, LaunchError> {
        self.start().end()
    }

    /// How it failed: the message, and the exit status.
    #[track_caller]
    fn failure(&self) -> (String, u8) {
        let error = self.run().unwrap_err();
        (error.to_string(), error.exit_status())
    }
}

struct Running {
    stopper: Stopper,
    ended: mpsc::Receiver<Result<End, LaunchError>>,
}

impl Running {
    #[track_caller]
    fn end(self) -> Result<End, LaunchError> {
        self.ended.recv_timeout(DEADLINE).expect("the launch hangs")
    }
}

/// The process number that a script wrote, once it has.
#[track_caller]
fn pid_in(path: &Path) -> rustix::process::Pid {
    let mut pid = None;
    wait_until("no process number", || {
        pid = fs::read_to_string(path).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
        pid.is_some()
    });
    rustix::process::Pid::from_raw(pid.unwrap()).unwrap()
}

/// Whether a process has ended, be it that nobody has asked how.
fn is_gone(pid: rustix::process::Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

const PRINT_WHO: &str = "echo $R $BURN_DIST_WORLD_SIZE $BURN_DIST_LOCAL_RANK $BURN_DIST_LOCAL_WORLD_SIZE \
                         $BURN_DIST_MASTER_ADDR $BURN_DIST_MASTER_PORT $BURN_DIST_GENERATION";

#[test]
fn ranks_of_one_of_several_machines_know_their_place() {
    let bench = Bench::of(Layout::new(2, 3, 1, Some("node-0:29400")).unwrap(), PRINT_WHO);
    assert_eq!(bench.run().unwrap(), End::Done);
    let expected = ["[2] 2 6 0 2 node-0 29400 0", "[3] 3 6 1 2 node-0 29400 0"];
    assert_eq!(sorted(&bench.out()), expected);
}

#[test]
fn ranks_of_one_machine_share_a_port_a_secret_and_the_cores() {
    let more = format!("{PRINT_WHO} $BURN_DIST_SECRET $RAYON_NUM_THREADS");
    let bench = Bench::new(3, &more);
    bench.run().unwrap();
    let told: Vec<Vec<String>> =
        sorted(&bench.out()).iter().map(|line| line.split(' ').map(String::from).collect()).collect();
    assert_eq!(told.len(), 3);
    for (rank, told) in told.iter().enumerate() {
        let rank = rank.to_string();
        assert_eq!(told[1..6], [rank.as_str(), "3", &rank, "3", "127.0.0.1"]);
        assert_ne!(told[6].parse::<u16>().unwrap(), 0);
        assert!(told[8].len() >= 32, "a secret: {}", told[8]);
        let cores = thread::available_parallelism().unwrap().get();
        let expected = std::env::var("RAYON_NUM_THREADS").unwrap_or_else(|_| (cores / 3).max(1).to_string());
        assert_eq!(told[9], expected);
    }
    let alike: BTreeSet<_> = told.iter().map(|told| &told[6..9]).collect();
    assert_eq!(alike.len(), 1, "{told:?}");
}

#[test]
fn lines_are_whole_and_bear_their_rank() {
    let line = "0123456789".repeat(30);
    let script = format!("for i in $(seq 500); do echo $i {line}; echo $i {line} >&2; done; printf end");
    let bench = Bench::new(4, &script);
    bench.run().unwrap();
    for (written, has_end) in [(bench.out(), true), (bench.err(), false)] {
        for rank in 0..4 {
            let own: Vec<_> = written.lines().filter_map(|l| l.strip_prefix(&format!("[{rank}] "))).collect();
            let mut expected: Vec<_> = (1..=500).map(|i| format!("{i} {line}")).collect();
            expected.extend(has_end.then(|| "end".to_owned()));
            assert_eq!(own, expected);
        }
        assert_eq!(written.lines().count(), 4 * (500 + usize::from(has_end)));
    }
    let alone = Bench::new(1, "echo to out; echo to err >&2");
    alone.run().unwrap();
    assert_eq!((alone.out(), alone.err()), ("to out\n".into(), "to err\n".into()));
}

#[test]
fn a_rank_that_is_killed_is_the_cause_and_ends_the_others() {
    let script = "tell pid$R $$; case $R in 2) await pid0; await pid1; kill -9 $$;; *) sleep 1000;; esac";
    let bench = Bench::new(3, script);
    let (message, status) = bench.failure();
    assert!(
        message.starts_with("rank 2 on ") && message.ends_with(" was killed by SIGKILL (9)"),
        "{message}"
    );
    assert_eq!(status, 128 + 9);
    assert!(bench.err().ends_with(" was killed by SIGKILL (9); ending the others\n"), "{}", bench.err());
    for rank in 0..2 {
        assert!(is_gone(pid_in(&bench.path(&format!("pid{rank}")))), "rank {rank} still runs");
    }
}

#[test]
fn a_rank_that_fails_is_told_with_its_last_error_and_status() {
    let script = "case $R in 1) echo error: first >&2; echo 'error: cannot read x.jpg' >&2; echo more >&2; exit 3;; \
                  *) sleep 1000;; esac";
    let bench = Bench::new(2, script);
    let (message, status) = bench.failure();
    assert!(message.starts_with("rank 1 on "), "{message}");
    assert!(message.ends_with(" exited with status 3: error: cannot read x.jpg"), "{message}");
    assert_eq!(status, 3);
    assert!(bench.err().contains("[1] more\n"), "what came last is passed on as well: {}", bench.err());
}

/// Rank 1 ends only after rank 0 has, and is the cause all the same.
#[test]
fn a_rank_that_blames_another_is_not_the_cause() {
    let script = "case $R in \
                  0) await ready; echo 'error: rank 1 on x failed at operation 7' >&2; exit 1;; \
                  1) trap 'echo error: the disk is full >&2; exit 7' TERM; touch ready; await never;; \
                  esac";
    let (message, status) = Bench::new(2, script).failure();
    assert!(
        message.starts_with("rank 1 on ") && message.ends_with(" status 7: error: the disk is full"),
        "{message}"
    );
    assert_eq!(status, 7);
}

#[test]
fn a_rank_that_will_not_end_is_killed_with_what_it_started() {
    let script = "case $R in \
                  0) await parent; exit 5;; \
                  1) trap '' TERM; sleep 1000 & tell child $!; tell parent $$; await never;; esac";
    let mut bench = Bench::new(2, script);
    bench.launch.grace = Duration::from_millis(200);
    let (message, status) = bench.failure();
    assert!(message.starts_with("rank 0 on ") && message.ends_with(" exited with status 5"), "{message}");
    assert_eq!(status, 5);
    assert!(is_gone(pid_in(&bench.path("parent"))));
    let child = pid_in(&bench.path("child"));
    wait_until("a rank's own process is left", || is_gone(child));
}

/// A process that left its rank's group is nobody's to end, but must not hold the launch up either.
#[test]
fn a_pipe_that_a_stranger_holds_does_not_hold_the_launch() {
    let script = "setsid sh -c 'echo $$ > stranger; exec sleep 1000' & await stranger; echo done";
    let mut bench = Bench::new(1, script);
    bench.launch.grace = Duration::from_millis(200);
    let end = bench.run();
    rustix::process::kill_process(pid_in(&bench.path("stranger")), rustix::process::Signal::KILL).unwrap();
    assert_eq!(end.unwrap(), End::Done);
    assert_eq!(bench.out(), "done\n");
}

#[test]
fn restarts_are_counted_told_and_resume() {
    let script =
        "echo $BURN_DIST_GENERATION \"$@\"; [ $BURN_DIST_GENERATION -lt 2 ] && [ $R = 1 ] && exit 4; exit 0";
    let mut bench = Bench::new(2, script);
    bench.launch.resume = vec!["again".into()];
    bench.launch.max_restarts = 3;
    assert_eq!(bench.run().unwrap(), End::Done);
    let own: Vec<_> = bench.out().lines().filter_map(|l| Some(l.strip_prefix("[1] ")?.to_owned())).collect();
    assert_eq!(own, ["0 first", "1 first again", "2 first again"]);
    let restarts: Vec<_> =
        bench.err().lines().filter_map(|l| Some(l.split_once("; starting ")?.1.to_owned())).collect();
    assert_eq!(restarts, ["all ranks again, restart 1 of 3", "all ranks again, restart 2 of 3"]);

    let mut bench = Bench::new(2, script);
    bench.launch.max_restarts = 1;
    let (message, status) = bench.failure();
    assert!(message.ends_with(" exited with status 4 (after 1 restart)"), "{message}");
    assert_eq!(status, 4);
}

#[test]
fn wrong_words_and_a_wish_to_stop_are_not_tried_again() {
    for (script, starts) in
        [("echo start; exit 2", 1), ("echo start; exit 130", 1), ("echo start; exit 1", 4)]
    {
        let mut bench = Bench::new(1, script);
        bench.launch.max_restarts = 3;
        let end = bench.run();
        assert_eq!(bench.out().lines().count(), starts, "{script}: {end:?}");
        if script.ends_with("130") {
            assert_eq!(end.unwrap(), End::Stopped);
        }
    }
}

/// Ranks that say what reaches them, and end only when the test lets them.
const OBSTINATE: &str = "trap 'echo term' TERM; touch ready$R; await go; exit 130";

#[test]
fn a_stop_reaches_every_rank() {
    let bench = Bench::new(2, OBSTINATE);
    let running = bench.start();
    wait_until("not ready", || bench.path("ready0").exists() && bench.path("ready1").exists());
    running.stopper.stop();
    wait_until("no SIGTERM", || bench.out().lines().count() == 2);
    assert_eq!(sorted(&bench.out()), ["[0] term", "[1] term"]);
    bench.touch("go");
    assert_eq!(running.end().unwrap(), End::Stopped);
}

/// To a rank, a second signal means to end without saving.
#[test]
fn a_rank_gets_one_sigterm_whoever_wants_it_to_end() {
    let script = format!("[ $R = 0 ] && {{ await ready1; exit 6; }}; {OBSTINATE}");
    let bench = Bench::new(2, &script);
    let running = bench.start();
    wait_until("no SIGTERM", || bench.out().contains("[1] term\n"));
    running.stopper.stop();
    wait_until("the stop is not told", || bench.err().contains("launch: stopping all ranks"));
    bench.touch("go");
    assert_eq!(running.end().unwrap_err().exit_status(), 6);
    assert_eq!(bench.out(), "[1] term\n");
}

#[test]
fn a_wish_for_records_reaches_every_rank_and_ends_none() {
    let script = "trap 'echo usr1' USR1; touch ready$R; await go";
    let bench = Bench::new(2, script);
    let running = bench.start();
    wait_until("not ready", || bench.path("ready0").exists() && bench.path("ready1").exists());
    running.stopper.record();
    wait_until("no SIGUSR1", || bench.out().lines().count() == 2);
    bench.touch("go");
    assert_eq!(running.end().unwrap(), End::Done);
    assert_eq!(sorted(&bench.out()), ["[0] usr1", "[1] usr1"]);
}

#[test]
fn a_second_stop_ends_all_at_once() {
    let script = "trap '' TERM; tell pid$R $$; await never";
    let bench = Bench::new(2, script);
    let running = bench.start();
    let pids = [0, 1].map(|rank| pid_in(&bench.path(&format!("pid{rank}"))));
    running.stopper.stop();
    running.stopper.stop();
    let error = running.end().unwrap_err();
    assert!(error.to_string().ends_with(" was killed by SIGKILL (9)"), "{error}");
    assert!(pids.into_iter().all(is_gone));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let mut bench = Bench::new(2, "");
    bench.launch.program = "/no/such/program".into();
    let (message, status) = bench.failure();
    assert!(message.starts_with("cannot start rank 0, /no/such/program: "), "{message}");
    assert_eq!(status, 1);
}
