//! Ranks as processes of their own, for tests: a test binary starts itself again as a rank, hands it a script, and hears
//! what becomes of it, line by line. Not the faults: those are the tests'.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use burn_dist::{Fault, FaultKind};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) mod dice;
pub(crate) mod proxy;
pub(crate) mod rank;

/// Nothing in these tests takes so long: past it something hangs.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);
/// Stated bounds are for a machine that has time; one that runs other work beside the tests gets so many times as much.
pub(crate) const SLACK: u32 = 5;

/// How a job is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) world_size: u32,
    pub(crate) master: String,
    pub(crate) port: u16,
    /// Further variables.
    pub(crate) vars: Vec<(&'static str, String)>,
}

impl Launch {
    /// On loopback, at a port that was free a moment ago.
    pub(crate) fn new(world_size: u32) -> Self {
        Self { world_size, master: "127.0.0.1".into(), port: free_port(), vars: Vec::new() }
    }

    pub(crate) fn var(mut self, name: &'static str, value: impl ToString) -> Self {
        self.vars.push((name, value.to_string()));
        self
    }

    /// Through shared memory, or through sockets.
    pub(crate) fn memory(self, shared: bool) -> Self {
        self.var("BURN_DIST_SHARED_MEMORY", u8::from(shared))
    }

    /// The control plane's clocks, in milliseconds.
    pub(crate) fn clocks(self, heartbeat: u64, silence: u64) -> Self {
        self.var(rank::HEARTBEAT_MS, heartbeat).var(rank::SILENCE_MS, silence)
    }

    /// Starts one rank with its script (see [`rank::run`]).
    pub(crate) fn start(&self, rank: u32, script: &str) -> Process {
        self.start_under(&[], rank, script)
    }

    /// The same, by another program: `ip netns exec NAME`.
    pub(crate) fn start_under(&self, under: &[&str], rank: u32, script: &str) -> Process {
        let this = std::env::current_exe().unwrap().into_os_string();
        let mut words = under.iter().map(std::ffi::OsString::from).chain([this]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(["worker", "--exact", "--ignored", "--nocapture"])
            .env(rank::SCRIPT, script)
            .env("BURN_DIST_RANK", rank.to_string())
            .env("BURN_DIST_WORLD_SIZE", self.world_size.to_string())
            .env("BURN_DIST_MASTER_ADDR", &self.master)
            .env("BURN_DIST_MASTER_PORT", self.port.to_string())
            .envs(self.vars.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Process::of(rank, command.spawn().unwrap())
    }

    /// Starts all ranks.
    pub(crate) fn start_all(&self, script: impl Fn(u32) -> String) -> Vec<Process> {
        (0..self.world_size).map(|rank| self.start(rank, &script(rank))).collect()
    }
}

/// A port below those that systems give away by themselves, so that no connection has it by chance.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16 % 500 * 20;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A rank, and what it said so far.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) rank: u32,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<(Instant, String)>,
    said: Vec<String>,
    readers: Vec<JoinHandle<()>>,
}

/// How a rank ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) rank: u32,
    pub(crate) status: ExitStatus,
    /// When it was seen to have ended.
    pub(crate) at: Instant,
    pub(crate) said: Vec<String>,
}

impl Process {
    fn of(rank: u32, mut child: Child) -> Self {
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = streams.map(|stream| {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send((Instant::now(), line));
                }
            })
        });
        let stdin = child.stdin.take();
        Self { rank, child, stdin, lines, said: Vec::new(), readers: readers.into() }
    }

    /// Waits for a line that contains `text`; when it came.
    pub(crate) fn await_line(&mut self, text: &str) -> Instant {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((at, line)) => {
                    let found = line.contains(text);
                    self.said.push(line);
                    if found {
                        return at;
                    }
                }
                Err(error) => panic!("rank {} did not say {text:?} ({error}): {:#?}", self.rank, self.said),
            }
        }
    }

    /// Whether it has said so by now.
    pub(crate) fn has_said(&mut self, text: &str) -> bool {
        self.said.extend(self.lines.try_iter().map(|(_, line)| line));
        self.said.iter().any(|line| line.contains(text))
    }

    /// What memory it has mapped.
    pub(crate) fn maps(&self) -> String {
        fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Lets a script go on that waits at `ask`.
    pub(crate) fn go(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn end(mut self) -> End {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((_, line)) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("rank {} hangs: {:#?}", self.rank, self.said),
            }
        }
        // Its output is closed by its end only; all that is left is the system's own work.
        let status = self.child.wait().unwrap();
        End { rank: self.rank, status, at: Instant::now(), said: std::mem::take(&mut self.said) }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // After `end` there is nothing to kill; after a failed test there is.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl End {
    fn said_after(&self, mark: &str) -> Option<&str> {
        self.said.iter().find_map(|line| Some(line.split_once(mark)?.1))
    }

    pub(crate) fn has_fault(&self) -> bool {
        self.said_after("@fault ").is_some()
    }

    /// The verdict that it was told.
    pub(crate) fn fault(&self) -> Fault {
        let Some(json) = self.said_after("@fault ") else { panic!("no fault: {self:#?}") };
        assert!(self.said_after("@poisoned").is_some(), "a later call returned something else: {self:#?}");
        serde_json::from_str(json).unwrap()
    }

    /// Why it has no communicator, or why a call could not be meant.
    pub(crate) fn error(&self) -> &str {
        self.said_after("@error ").unwrap_or_else(|| panic!("no error: {self:#?}"))
    }

    /// It came to the end of its script, and all results were right.
    pub(crate) fn assert_done(&self) {
        assert!(self.said_after("@done").is_some() && self.status.success(), "{self:#?}");
    }

    /// Its verdict is this one, and it ended as a program that was told so would.
    pub(crate) fn assert_fault(&self, kind: FaultKind, culprits: &[u32]) -> Fault {
        let fault = self.fault();
        let named: Vec<u32> = fault.culprits.iter().map(|who| who.rank).collect();
        assert_eq!((fault.kind, &*named), (kind, culprits), "{self:#?}");
        assert!(self.status.success(), "{self:#?}");
        fault
    }
}

/// Files in memory that there are just now.
pub(crate) fn shared_files() -> BTreeSet<String> {
    let names = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("burn-dist-")).collect()
}

/// Nothing is left of the jobs that ran since `before` was taken. Jobs of other tests have files for a moment.
pub(crate) fn assert_no_files_left(before: &BTreeSet<String>) {
    let new: BTreeSet<String> = shared_files().difference(before).cloned().collect();
    poll(&format!("{new:?} to vanish"), || shared_files().is_disjoint(&new));
}

/// Nobody listens there any more.
pub(crate) fn assert_port_is_free(port: u16) {
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

/// Waits for a condition that comes by itself.
pub(crate) fn poll(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + WATCHDOG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
