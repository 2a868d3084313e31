//! A supervisor of ranks: starts them, ends all when one fails, says who was first, and starts all again if it may.
//!
//! The semantics are torchrun's: ranks live and die together, and what they do not want to lose is in a checkpoint.
//! There is no agent between machines. Each has a launcher of its own; a rank that dies makes the ranks of the other
//! machines fail, so all launchers come to the same count of restarts.

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

use burn_dist::host_name;

use super::{
    cause::{Ended, How, STOPPED, USAGE, first_cause},
    layout::Layout,
    output::Streams,
    ranks::{Event, Ranks},
};

/// For what was written before a kill to come out of the pipes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What to launch, and how.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The ranks of this machine.
    pub layout: Layout,
    /// The program of every rank.
    pub program: PathBuf,
    /// Its words.
    pub words: Vec<OsString>,
    /// What is added to the words when the ranks are started again.
    pub resume: Vec<OsString>,
    /// How often all ranks may be started again after a failure.
    pub max_restarts: u32,
    /// From a failure to the next start.
    pub back_off: Duration,
    /// For the other ranks to save what they can after one failed, before they are killed.
    pub grace: Duration,
    /// Where the ranks' output goes.
    pub streams: Streams,
}

impl Launch {
    /// Launches `program` with `words`: no restarts, 15 seconds of grace, output to this process' own.
    pub fn new(layout: Layout, program: PathBuf, words: Vec<OsString>) -> Self {
        Self {
            layout,
            program,
            words,
            resume: Vec::new(),
            max_restarts: 0,
            back_off: Duration::from_secs(1),
            grace: Duration::from_secs(15),
            streams: Streams::standard(),
        }
    }

    /// Runs the ranks to their end.
    ///
    /// The first [`Stopper::stop`] sends SIGTERM to every rank and waits for all, as long as that takes; the second
    /// one kills them.
    ///
    /// # Errors
    /// [`LaunchError::Failed`] with the first cause, once no rank of this machine runs any more.
    pub fn run(&self, Stops(sender, events): Stops) -> Result<End, LaunchError> {
        let host = host_name();
        let mut num_restarts = 0;
        loop {
            let start = Attempt::run(self, num_restarts, &host, &sender, &events)?;
            let Some(cause) = first_cause(&start.ends) else {
                let stopped = start.ends.iter().any(|end| end.how == How::Status(STOPPED));
                return Ok(if stopped { End::Stopped } else { End::Done });
            };
            let message = cause.describe(&host);
            if start.stopped || cause.how == How::Status(USAGE) || num_restarts == self.max_restarts {
                let status = cause.how.exit_status();
                return Err(LaunchError::Failed { message, num_restarts, status });
            }
            num_restarts += 1;
            let of = self.max_restarts;
            self.streams
                .tell(&format!("{message}; starting all ranks again, restart {num_restarts} of {of}"));
            if stop_within(self.back_off, &events) {
                return Ok(End::Stopped);
            }
        }
    }
}

/// How ranks may end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All did their work.
    Done,
    /// All stopped because the user asked, their state saved.
    Stopped,
}

/// The means to stop a launch: one half for a signal handler, the other for [`Launch::run`].
pub fn stopper() -> (Stopper, Stops) {
    let (sender, events) = channel();
    (Stopper(sender.clone()), Stops(sender, events))
}

/// How a launch learns that its user wants it to stop.
#[derive(Debug)]
pub struct Stops(Sender<Event>, Receiver<Event>);

/// The user's way to stop a launch, and to ask what it does.
#[derive(Debug, Clone)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Asks all ranks to save their state and end; the second time, ends them at once.
    pub fn stop(&self) {
        // It fails when the launch is over, which is what was asked for.
        let _ = self.0.send(Event::Stop);
    }

    /// Passes SIGUSR1 on to all ranks, on which those that train write down what they did last.
    pub fn record(&self) {
        // It fails when the launch is over, and then there is nothing to write down.
        let _ = self.0.send(Event::Record);
    }
}

/// Why ranks could not be launched, or how they ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Numbers that cannot be; nothing was started.
    #[error("{0}")]
    Usage(String),
    /// The program cannot be started. Ranks that had been are ended.
    #[error("cannot start rank {rank}, {}: {source}", program.display())]
    Start {
        /// The first rank that could not be started.
        rank: u32,
        /// Its program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// This process is a rank whose launcher is dead.
    #[error("the process that launched this rank is gone: it is not needed any more")]
    Orphan,
    /// A rank failed, and with it the run.
    #[error("{message}{}", after(*num_restarts))]
    Failed {
        /// The first cause: rank, host, how it ended, and its last `error:` line.
        message: String,
        /// How often all ranks had been started again.
        num_restarts: u32,
        /// Its exit status, 128 and the signal's number if it died by one.
        status: u8,
    },
}

impl LaunchError {
    /// The exit status that passes it on.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed { status, .. } => *status,
            _ => 1,
        }
    }
}

fn after(num_restarts: u32) -> String {
    match num_restarts {
        0 => String::new(),
        1 => " (after 1 restart)".into(),
        n => format!(" (after {n} restarts)"),
    }
}

/// What came of one start.
struct Attempt {
    ends: Vec<Ended>,
    /// Whether the user asked to stop.
    stopped: bool,
}

impl Attempt {
    /// Starts all ranks and waits until none runs and all their output is passed on.
    fn run(
        launch: &Launch,
        generation: u32,
        host: &str,
        sender: &Sender<Event>,
        events: &Receiver<Event>,
    ) -> Result<Self, LaunchError> {
        let mut ranks = Ranks::start(launch, generation, sender)?;
        let mut stopped = false;
        // When those that still run, or still hold a pipe, are killed.
        let mut deadline = None;
        let mut failing = false;
        while !(ranks.all_ended() && ranks.all_closed()) {
            match next(events, deadline) {
                Some(Event::Stop) if stopped => ranks.kill(),
                Some(Event::Stop) => {
                    stopped = true;
                    ranks.terminate();
                    launch.streams.tell("stopping all ranks; once more to end them at once");
                }
                Some(Event::Record) => ranks.record(),
                Some(Event::Ended { generation, local, how, at }) if generation == ranks.generation() => {
                    let rank = launch.layout.rank(local as u32);
                    ranks.ended(local, how, at);
                    if how.is_failure() && !failing {
                        failing = true;
                        deadline = Some(Instant::now() + launch.grace);
                        if launch.layout.num_local() > 1 && !stopped {
                            let how = how.describe();
                            launch.streams.tell(&format!("rank {rank} on {host} {how}; ending the others"));
                        }
                        ranks.terminate();
                    }
                    if ranks.all_ended() {
                        deadline = deadline.or(Some(Instant::now() + launch.grace));
                    }
                }
                Some(Event::Closed { generation, local, error }) if generation == ranks.generation() => {
                    ranks.closed(local, error);
                }
                // Of an earlier start.
                Some(_) => {}
                None if !ranks.killed() => {
                    ranks.kill();
                    deadline = Some(Instant::now() + LAST_WORDS);
                }
                // Whoever holds a pipe still has left its group: that is not a rank's process any more.
                None if ranks.all_ended() => break,
                // The kernel has not let go of it yet.
                None => deadline = None,
            }
        }
        Ok(Self { ends: ranks.ends(), stopped })
    }
}

/// The next event, or `None` once the deadline has passed.
fn next(events: &Receiver<Event>, deadline: Option<Instant>) -> Option<Event> {
    match deadline {
        Some(deadline) => events.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
        None => events.recv().ok(),
    }
}

/// Waits, and returns whether the user asked to stop meanwhile.
fn stop_within(wait: Duration, events: &Receiver<Event>) -> bool {
    let deadline = Instant::now() + wait;
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Stop) => return true,
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
    }
}
