//! The processes of one start: started together, watched, signalled, reaped. What becomes of an end is decided by
//! whoever receives the events.
//!
//! Each process leads a process group of its own. So a Ctrl-C on the terminal reaches the launcher alone, which passes
//! it on once: ranks take a second signal for the wish to end without saving. And what a rank has started is
//! signalled along with it.

use std::{
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc::Sender,
    thread,
    time::Instant,
};

use rustix::{
    io::retry_on_intr,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};

use super::{
    cause::{Ended, How},
    launch::{Launch, LaunchError},
    output::{Sink, relay},
};

/// What the launcher waits for.
pub(super) enum Event {
    /// A rank's process ended.
    Ended { generation: u32, local: usize, how: How, at: Instant },
    /// One of a rank's two pipes was closed by all who could write to it.
    Closed { generation: u32, local: usize, error: Option<String> },
    /// The user wants the run to stop.
    Stop,
    /// The user wants to know what the ranks did last.
    Record,
}

struct Process {
    child: Child,
    pid: Pid,
    rank: u32,
    end: Option<Ended>,
    error: Option<String>,
    num_open_pipes: u32,
}

/// The processes of one start. None is left when it is dropped.
pub(super) struct Ranks {
    processes: Vec<Process>,
    generation: u32,
    terminated: bool,
    killed: bool,
}

impl Ranks {
    /// Starts all of them. Call it on a thread that outlives them: to the kernel, that thread is their parent.
    pub(super) fn start(
        launch: &Launch,
        generation: u32,
        events: &Sender<Event>,
    ) -> Result<Self, LaunchError> {
        let layout = &launch.layout;
        let start = layout.start(generation)?;
        let mut ranks = Self { processes: Vec::new(), generation, terminated: false, killed: false };
        for local in 0..layout.num_local() {
            let rank = layout.rank(local);
            let mut command = Command::new(&launch.program);
            command.args(&launch.words).envs(start.environment(layout, local)).process_group(0);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            if generation > 0 {
                command.args(&launch.resume);
            }
            let failed = |source| LaunchError::Start { rank, program: launch.program.clone(), source };
            let mut child = command.spawn().map_err(failed)?;
            let pipes = (child.stdout.take(), child.stderr.take());
            let pid = Pid::from_child(&child);
            ranks.processes.push(Process { child, pid, rank, end: None, error: None, num_open_pipes: 0 });
            let prefix = if layout.num_local() > 1 { format!("[{rank}] ") } else { String::new() };
            ranks.watch(pid, events).map_err(failed)?;
            if let (Some(out), Some(err)) = pipes {
                ranks.forward(out, prefix.clone(), &launch.streams.out, events).map_err(failed)?;
                ranks.forward(err, prefix, &launch.streams.err, events).map_err(failed)?;
            }
        }
        Ok(ranks)
    }

    /// Reports the end of the newest process, and leaves it unreaped: its number, and so the name of its group, stays
    /// its own until everybody has been signalled.
    fn watch(&self, pid: Pid, events: &Sender<Event>) -> io::Result<()> {
        let (generation, local, events) = (self.generation, self.processes.len() - 1, events.clone());
        let wait = move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let ended = retry_on_intr(|| waitid(WaitId::Pid(pid), options)).ok().flatten();
            let at = Instant::now();
            let how = ended.and_then(|status| {
                status.exit_status().map(How::Status).or_else(|| status.terminating_signal().map(How::Signal))
            });
            let how = how.unwrap_or(How::Unknown);
            // Nobody listens any more: the launch itself failed.
            let _ = events.send(Event::Ended { generation, local, how, at });
        };
        thread::Builder::new().name(format!("wait {local}")).spawn(wait).map(drop)
    }

    /// Passes on what the newest process writes into a pipe.
    fn forward(
        &mut self,
        pipe: impl Read + Send + 'static,
        prefix: String,
        sink: &Sink,
        events: &Sender<Event>,
    ) -> io::Result<()> {
        let (generation, local, events) = (self.generation, self.processes.len() - 1, events.clone());
        let sink = sink.clone();
        let relay = move || {
            let error = relay(pipe, &prefix, &sink);
            let _ = events.send(Event::Closed { generation, local, error });
        };
        thread::Builder::new().name(format!("output {local}")).spawn(relay)?;
        self.processes[local].num_open_pipes += 1;
        Ok(())
    }

    /// Takes note that a process ended.
    pub(super) fn ended(&mut self, local: usize, how: How, at: Instant) {
        let by_us = (self.terminated && how == How::Signal(Signal::TERM.as_raw()))
            || (self.killed && how == How::Signal(Signal::KILL.as_raw()));
        let process = &mut self.processes[local];
        process.end = Some(Ended { rank: process.rank, at, how, by_us, error: None });
    }

    /// Takes note that a pipe was closed, and of the last error that came through it.
    pub(super) fn closed(&mut self, local: usize, error: Option<String>) {
        let process = &mut self.processes[local];
        process.num_open_pipes -= 1;
        process.error = error.or(process.error.take());
    }

    /// Whether every process ended.
    pub(super) fn all_ended(&self) -> bool {
        self.processes.iter().all(|process| process.end.is_some())
    }

    /// Whether all that they wrote was passed on.
    pub(super) fn all_closed(&self) -> bool {
        self.processes.iter().all(|process| process.num_open_pipes == 0)
    }

    /// The ends so far, with what is known of each.
    pub(super) fn ends(&self) -> Vec<Ended> {
        let end = |process: &Process| Some(Ended { error: process.error.clone(), ..process.end.clone()? });
        self.processes.iter().filter_map(end).collect()
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Asks all that still run to save their state and end, once however often it is called.
    pub(super) fn terminate(&mut self) {
        if !self.terminated {
            self.terminated = true;
            self.signal(Signal::TERM);
        }
    }

    /// Has all that still run write down what they did last.
    pub(super) fn record(&self) {
        self.signal(Signal::USR1);
    }

    pub(super) fn killed(&self) -> bool {
        self.killed
    }

    /// Ends all that still run, and all that they started.
    pub(super) fn kill(&mut self) {
        self.killed = true;
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        for process in &self.processes {
            // It fails for a group that has ended, which is as well.
            let _ = kill_process_group(process.pid, signal);
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.kill();
        for process in &mut self.processes {
            let _ = process.child.wait();
        }
    }
}
