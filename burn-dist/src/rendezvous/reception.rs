//! The answering side: takes connections, lets them prove themselves, and turns strangers away. One loop serves all of
//! them without ever waiting for one, so that nobody who is silent, slow or hostile keeps others out; their number,
//! their time and the bytes taken from them are bounded. Who is admitted is decided elsewhere.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{
    Manner,
    complaint::{Complaint, Complaints},
    hello::{Hello, Purpose},
    security::Security,
    stranger::{Next, Stranger},
};
use crate::{
    error::{DistError, Result},
    limits::MAX_UNPROVED,
    transport::{Pipe, poll::wait},
};

/// Most connections that are taken before those that are there get their turn.
const ACCEPTED_AT_A_TIME: usize = 64;
/// How long to leave a listener alone that the system cannot serve: it has no descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Whom a reception expects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expecting {
    pub(super) purpose: Purpose,
    /// Part of the proof; zeros before there is one.
    pub(super) session: [u8; 16],
}

/// Somebody who proved to know the secret.
pub(super) struct Arrival {
    pub(super) hello: Hello,
    pub(super) from: SocketAddr,
    pub(super) pipe: Box<dyn Pipe>,
    /// The body of its join message; empty on a data connection.
    pub(super) join: Vec<u8>,
}

/// What came of one round.
pub(super) struct Round {
    pub(super) arrivals: Vec<Arrival>,
    /// Which of the watched descriptors have something.
    pub(super) watched: Vec<bool>,
}

/// Something that the loop looks at on the side.
pub(super) struct Watched<'a> {
    pub(super) fd: BorrowedFd<'a>,
    /// Only its end is of interest, not what it brings.
    pub(super) end_only: bool,
}

/// A listener and those who came to it.
pub(super) struct Reception {
    listener: TcpListener,
    security: Arc<Security>,
    expecting: Expecting,
    manner: Manner,
    /// Oldest first.
    pending: Vec<Pending>,
    complaints: Complaints,
    exhausted_until: Option<Instant>,
}

struct Pending {
    pipe: Box<dyn Pipe>,
    from: SocketAddr,
    /// Somebody who has not proved anything by then has to go.
    until: Instant,
    stranger: Stranger,
}

impl Reception {
    /// Takes connections from `listener`.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub(super) fn open(
        listener: TcpListener,
        security: Arc<Security>,
        expecting: Expecting,
        manner: Manner,
    ) -> Result<Self> {
        let listener = super::widen(listener)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(DistError::io("use a listening socket"))?;
        let complaints = Complaints::new(manner.clone());
        Ok(Self {
            listener,
            security,
            expecting,
            manner,
            pending: Vec::new(),
            complaints,
            exhausted_until: None,
        })
    }

    /// Waits for something to happen, `limit` at most, and deals with it. `watch` is looked at on the side.
    ///
    /// # Errors
    /// The system cannot wait for sockets.
    pub(super) fn round(&mut self, watch: &[Watched<'_>], limit: Duration) -> Result<Round> {
        let now = Instant::now();
        let next = self.pending.iter().map(|pending| pending.until).chain(self.exhausted_until).min();
        let limit = next.map_or(limit, |next| limit.min(next.saturating_duration_since(now)));
        let (knocked, ready, watched) =
            self.wait(watch, limit).map_err(DistError::io("wait for connections"))?;
        let arrivals = self.serve(&ready);
        if knocked {
            self.accept(Instant::now());
            // What comes with the connection is seen in the next round; mostly nothing has come yet.
        }
        Ok(Round { arrivals, watched })
    }

    fn wait(&mut self, watch: &[Watched<'_>], limit: Duration) -> io::Result<(bool, Vec<bool>, Vec<bool>)> {
        let now = Instant::now();
        let listens = self.exhausted_until.is_none_or(|until| until <= now);
        if listens {
            self.exhausted_until = None;
        }
        let listener = if listens { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = Vec::with_capacity(1 + self.pending.len() + watch.len());
        fds.push(PollFd::from_borrowed_fd(self.listener.as_fd(), listener));
        for pending in &self.pending {
            let Some(fd) = pending.pipe.fd() else { return Err(io::ErrorKind::Unsupported.into()) };
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, pending.stranger.has_words() || pending.pipe.holds_bytes());
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        for watched in watch {
            let flags = if watched.end_only { end_of_connection() } else { PollFlags::IN };
            fds.push(PollFd::from_borrowed_fd(watched.fd, flags));
        }
        wait(&mut fds, limit)?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let knocked = ready.next().unwrap_or(false);
        let pending = ready.by_ref().take(self.pending.len()).collect();
        Ok((knocked, pending, ready.collect()))
    }

    fn serve(&mut self, ready: &[bool]) -> Vec<Arrival> {
        let now = Instant::now();
        let mut arrivals = Vec::new();
        let mut at = 0;
        let Self { pending, complaints, security, expecting, manner, .. } = self;
        let mut serve = |pending: &mut Pending| {
            let is_ready = ready.get(at).copied().unwrap_or(false);
            at += 1;
            if !is_ready {
                let late = pending.until <= now;
                if late {
                    complaints.note(pending.stranger.late(), pending.from);
                }
                return if late { Outcome::Gone } else { Outcome::Stays };
            }
            match pending.stranger.go_on(pending.pipe.as_mut(), security, expecting) {
                Ok(Next::Waits { proved_now }) => {
                    if proved_now {
                        pending.until = now + manner.hello_timeout;
                    }
                    if pending.until <= now {
                        complaints.note(pending.stranger.late(), pending.from);
                        return Outcome::Gone;
                    }
                    Outcome::Stays
                }
                Ok(Next::Arrived(hello, join)) => Outcome::Arrived(hello, join),
                Err(complaint) => {
                    complaints.note(complaint, pending.from);
                    Outcome::Gone
                }
            }
        };
        let mut kept = Vec::with_capacity(pending.len());
        for mut one in std::mem::take(pending) {
            match serve(&mut one) {
                Outcome::Stays => kept.push(one),
                Outcome::Gone => {}
                Outcome::Arrived(hello, join) => {
                    arrivals.push(Arrival { hello, from: one.from, pipe: one.pipe, join });
                }
            }
        }
        *pending = kept;
        arrivals
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTED_AT_A_TIME {
            let (stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_exhaustion(&error) => {
                    self.complaints.note(Complaint::Exhausted(error.to_string()), unknown());
                    if !self.give_way() {
                        self.exhausted_until = Some(now + EXHAUSTED_PAUSE);
                        return;
                    }
                    continue;
                }
                // This one connection is gone already; the next may do.
                Err(_) => continue,
            };
            let unproved = self.pending.iter().filter(|pending| !pending.stranger.has_proved()).count();
            if unproved >= MAX_UNPROVED {
                self.give_way();
            }
            // Somebody who is gone before it is begun needs no words.
            if let Ok(pipe) = self.security.answer(stream) {
                let until = now + self.manner.hello_timeout;
                self.pending.push(Pending { pipe, from, until, stranger: Stranger::new() });
            }
        }
    }

    /// Drops the oldest connection that proved nothing; whether there was one.
    fn give_way(&mut self) -> bool {
        let oldest = self.pending.iter().position(|pending| !pending.stranger.has_proved());
        if let Some(oldest) = oldest {
            let gone = self.pending.remove(oldest);
            self.complaints.note(Complaint::GaveWay, gone.from);
        }
        oldest.is_some()
    }
}

enum Outcome {
    Stays,
    Gone,
    Arrived(Hello, Vec<u8>),
}

/// What `poll` reports when the other side has closed, whatever may still be unread.
fn end_of_connection() -> PollFlags {
    #[cfg(target_os = "linux")]
    return PollFlags::RDHUP;
    // Elsewhere only a connection that is over in both directions shows.
    #[cfg(not(target_os = "linux"))]
    PollFlags::empty()
}

fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

fn unknown() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}
