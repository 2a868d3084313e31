//! The control plane: heartbeats, stall reports, and one verdict for all when something breaks. A star: each rank has
//! one connection to rank 0, apart from the data, so that a full data connection never delays a heartbeat.
//!
//! Each rank runs one thread. Rank 0's ([`hub`]) hears all others and lets [`judge`] decide; the others' ([`agent`])
//! report and obey, and decide alone only when rank 0 itself is gone.

mod agent;
mod fault;
mod hub;
mod judge;
mod link;
mod mailbox;
mod message;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    config::Timeouts,
    error::{DistError, Fault, OpName, Result, Who},
    flight::FlightRecorder,
    limits::MAX_CONTROL_BYTES,
    rank::Rank,
    rendezvous::{ControlLinks, Roster},
};

use mailbox::Mailbox;

/// What a rank noticed on its data connections. Not yet a verdict: the first to notice is seldom the cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Suspicion {
    /// A data connection ended or broke.
    LinkBroke { peer: u32, seq: u64, why: String },
    /// A frame came that belongs to another operation. The peer's number and fingerprint, and ours.
    Mismatch { peer: u32, seq: u64, fingerprint: u64, peer_seq: u64, peer_fingerprint: u64 },
    /// A frame came damaged.
    Corrupt { peer: u32, seq: u64, why: String },
    /// The deadline of an operation is over; `waiting_for` are the peers whose data did not come after `received` segments.
    Deadline { seq: u64, waiting_for: Vec<u32>, received: u64 },
}

/// How a rank goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Farewell {
    /// Its work is done.
    Done,
    /// It met an error of its own.
    Failed(String),
    /// It is panicking.
    Panicked(String),
}

/// An operation that waits long for ranks that have not called it. Not a fault: they may still come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stall {
    /// The operation.
    pub(crate) op: OpName,
    /// Who has not called it.
    pub(crate) missing: Vec<Who>,
    /// How long the rank that waits longest has waited.
    pub(crate) waited: Duration,
    /// Where those who are missing stand, in words.
    pub(crate) standings: String,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has waited {} s for ", self.op, self.waited.as_secs_f64().round())?;
        for (at, who) in self.missing.iter().enumerate() {
            write!(f, "{}{who}", if at == 0 { "" } else { ", " })?;
        }
        write!(f, ": {}", self.standings)
    }
}

/// For a farewell to be heard, and for a verdict to be taken by all, before a connection is closed.
const LINGER: Duration = Duration::from_secs(2);
/// More than the control thread needs for anything beside its timeouts: past it, it counts as hung.
const MARGIN: Duration = Duration::from_secs(3);
/// Heartbeats come no faster: they would tell no more.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
/// Of each free text that goes out.
const MAX_TEXT_CHARS: usize = 2000;

/// This rank's part in the control plane. Dropping it ends its thread, after a farewell.
pub(crate) struct Control {
    mailbox: Arc<Mailbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
    rank: Rank,
    roster: Arc<Roster>,
    flight: Arc<FlightRecorder>,
    timeouts: Timeouts,
}

/// The verdict in a message from rank 0, for a rank that has no [`Control`] yet.
pub(crate) fn verdict_in(json: &[u8]) -> Option<Fault> {
    match serde_json::from_slice(json) {
        Ok(message::Message::Verdict(fault)) => Some(fault),
        _ => None,
    }
}

/// [`ControlLinks`] on which something was said.
enum Links {
    Hub(Vec<(u32, link::Link)>),
    Spoke(link::Link),
}

impl Control {
    /// Starts this rank's control thread. `on_fault` is called once, as soon as the verdict is there for
    /// [`fault`](Self::fault), from that thread (or from [`suspect`](Self::suspect), should that thread be gone): it
    /// wakes whoever waits on a data connection. `on_stall` may not block: heartbeats would stop.
    ///
    /// # Errors
    /// A system that gives no thread or no socket.
    pub(crate) fn start(
        rank: Rank,
        roster: Arc<Roster>,
        links: ControlLinks,
        timeouts: Timeouts,
        flight: Arc<FlightRecorder>,
        on_fault: Box<dyn Fn(&Fault) + Send + Sync>,
        on_stall: Box<dyn Fn(&Stall) + Send + Sync>,
    ) -> Result<Self> {
        assert_eq!(roster.members.len(), rank.world_size().count(), "a roster names every rank");
        let timeouts = Timeouts { heartbeat: timeouts.heartbeat.max(HEARTBEAT_MIN), ..timeouts };
        let mailbox =
            Arc::new(Mailbox::new(on_fault, on_stall).map_err(DistError::io("make a pair of sockets"))?);
        let (desk, book, names) = (mailbox.clone(), flight.clone(), roster.clone());
        // Before this returns the others hear that this rank is there: from now on its silence counts.
        let hello = message::Message::Heartbeat(flight.standing()).frame();
        let greet = |pipe, max_bytes| {
            let mut link = link::Link::new(pipe, max_bytes);
            link.push(&hello);
            link.send();
            link
        };
        let links = match links {
            ControlLinks::Hub(pipes) => {
                let greet = |(rank, pipe)| (rank, greet(pipe, message::MAX_REPORT_BYTES));
                Links::Hub(pipes.into_iter().map(greet).collect())
            }
            ControlLinks::Spoke(pipe) => Links::Spoke(greet(pipe, MAX_CONTROL_BYTES)),
        };
        let thread = thread::Builder::new().name("burn-dist control".into()).spawn(move || {
            let _ends = desk.clone().ends_with_this();
            match links {
                Links::Hub(links) => hub::run(links, names, timeouts, book, desk),
                Links::Spoke(link) => agent::run(link, rank, names, timeouts, book, desk),
            }
        });
        let thread = Mutex::new(Some(thread.map_err(DistError::io("start the control thread"))?));
        Ok(Self { mailbox, thread, rank, roster, flight, timeouts })
    }

    /// The verdict, if there is one. Cost: one atomic load, and a reference count if there is.
    pub(crate) fn fault(&self) -> Option<Arc<Fault>> {
        self.mailbox.fault()
    }

    /// Reports what this rank noticed and waits for the verdict, which may well name another cause. Ends within the
    /// silence timeout and a few seconds: should rank 0 say nothing at all, it is blamed itself.
    pub(crate) fn suspect(&self, suspicion: Suspicion) -> Arc<Fault> {
        let suspicion = suspicion.clipped();
        if let Some(fault) = self.mailbox.suspect(suspicion.clone(), self.timeouts.silence + MARGIN) {
            return fault;
        }
        // The thread is gone or hangs, so there is no verdict to come.
        let op = self.flight.standing().now.map(|(name, ..)| name);
        let fault = if self.rank.is_main() || self.mailbox.is_over() {
            fault::alone(&self.roster, self.rank.index() as u32, &suspicion, op)
        } else {
            fault::silent(&self.roster, 0, self.timeouts.silence, op)
        };
        self.mailbox.decide(fault)
    }

    /// Tells the others that this rank goes, and how; returns when that is heard, or after a bounded time. An error
    /// of its own becomes the verdict for all. Further calls only wait for the end of the first.
    pub(crate) fn leave(&self, farewell: Farewell) {
        // Rank 0 stays until the others have ended the operations that it took part in.
        self.mailbox.leave(farewell.clipped(), self.timeouts.silence + LINGER + MARGIN);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.leave(if thread::panicking() {
            Farewell::Panicked("a panic, seen as the communicator was dropped".into())
        } else {
            Farewell::Done
        });
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|_| self.mailbox.is_over()) {
            // It has ended or is about to; a panic of its own is told by `Mailbox::is_over` without a verdict.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("rank", &self.rank)
            .field("fault", &self.fault())
            .finish_non_exhaustive()
    }
}

impl Suspicion {
    /// The operation in which it was noticed.
    fn seq(&self) -> u64 {
        match *self {
            Self::LinkBroke { seq, .. }
            | Self::Mismatch { seq, .. }
            | Self::Corrupt { seq, .. }
            | Self::Deadline { seq, .. } => seq,
        }
    }

    fn clipped(mut self) -> Self {
        if let Self::LinkBroke { why, .. } | Self::Corrupt { why, .. } = &mut self {
            *why = clip(why);
        }
        self
    }
}

impl Farewell {
    fn clipped(self) -> Self {
        match self {
            Self::Done => Self::Done,
            Self::Failed(why) => Self::Failed(clip(&why)),
            Self::Panicked(why) => Self::Panicked(clip(&why)),
        }
    }
}

/// One line of bounded length.
fn clip(text: &str) -> String {
    let line = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(MAX_TEXT_CHARS).collect()
}
