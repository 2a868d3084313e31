//! A control connection: bounded queues both ways over a [`Pipe`], and waiting on many of them at once.

use std::{collections::VecDeque, io, io::IoSlice, os::fd::BorrowedFd, sync::Arc, time::Duration};

use rustix::event::{PollFd, PollFlags};

use super::message::{Inbox, Message};
use crate::{
    error::FaultKind,
    limits::MAX_CONTROL_BYTES,
    transport::{Pipe, poll},
};

/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;
/// Reads of one connection before the others have their turn.
const READS: usize = 4;
/// Bytes that wait for a peer who does not read: the longest verdict and everything that was said before it.
const MAX_QUEUED_BYTES: usize = 2 * MAX_CONTROL_BYTES;
/// Between two looks at connections that have no socket to wait on.
const NO_SOCKET: Duration = Duration::from_millis(1);

/// Why nothing more comes from a connection.
#[derive(Debug)]
pub(super) struct Broken {
    /// What that makes of the rank at its other end.
    pub(super) kind: FaultKind,
    pub(super) why: String,
    /// Whether the connection itself is over: else it is only not listened to any more.
    pub(super) over: bool,
}

/// One connection.
pub(super) struct Link {
    pipe: Box<dyn Pipe>,
    inbox: Inbox,
    outbox: VecDeque<Arc<[u8]>>,
    /// Of the first in `outbox`.
    sent_bytes: usize,
    queued_bytes: usize,
    /// Whether what comes is thrown away.
    deaf: bool,
    /// Whether nothing can be sent any more.
    broken: bool,
}

impl Link {
    /// Takes messages of at most `max_bytes`.
    pub(super) fn new(pipe: Box<dyn Pipe>, max_bytes: usize) -> Self {
        Self {
            pipe,
            inbox: Inbox::new(max_bytes),
            outbox: VecDeque::new(),
            sent_bytes: 0,
            queued_bytes: 0,
            deaf: false,
            broken: false,
        }
    }

    /// Queues a message. A peer that leaves so much unread gets no more: it has long been silent.
    pub(super) fn push(&mut self, frame: &Arc<[u8]>) {
        if !self.broken && self.queued_bytes + frame.len() <= MAX_QUEUED_BYTES {
            self.queued_bytes += frame.len();
            self.outbox.push_back(frame.clone());
        }
    }

    /// Gives away as much as fits. An error shows at the next [`receive`](Self::receive), behind what came before it.
    pub(super) fn send(&mut self) {
        while let Some(first) = self.outbox.front() {
            match self.pipe.write(&[IoSlice::new(&first[self.sent_bytes..])]) {
                Ok(taken) => self.sent_bytes += taken,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => break,
                    _ => {
                        (self.broken, self.queued_bytes) = (true, 0);
                        self.outbox.clear();
                        break;
                    }
                },
            }
            if self.sent_bytes == first.len() {
                self.queued_bytes -= first.len();
                self.sent_bytes = 0;
                self.outbox.pop_front();
            }
        }
        if self.pipe.holds_bytes() {
            let _ = self.pipe.flush();
        }
    }

    /// Listens no more, but for the end of the connection.
    pub(super) fn deafen(&mut self) {
        self.deaf = true;
    }

    /// Whether something waits to be sent.
    pub(super) fn is_behind(&self) -> bool {
        !self.broken && (!self.outbox.is_empty() || self.pipe.holds_bytes())
    }

    /// Adds what came to `messages`, also what came before the end.
    pub(super) fn receive(&mut self, messages: &mut Vec<Message>) -> Option<Broken> {
        let mut bytes = [0; READ_BYTES];
        for _ in 0..READS {
            match self.pipe.read(&mut bytes) {
                Ok(0) => return Some(Broken { kind: FaultKind::Died, why: DIED.into(), over: true }),
                Ok(_) if self.deaf => {}
                Ok(count) => {
                    self.inbox.put(&bytes[..count]);
                    loop {
                        match self.inbox.next() {
                            Ok(Some(message)) => messages.push(message),
                            Ok(None) => break,
                            Err(why) => {
                                self.deafen();
                                return Some(Broken { kind: FaultKind::Corrupt, why, over: false });
                            }
                        }
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return None,
                    io::ErrorKind::Interrupted => {}
                    kind => return Some(broken(kind, &error)),
                },
            }
        }
        None
    }
}

/// Which of two ways a death shows depends on what was under way: it reads the same on every rank.
const DIED: &str = "its control connection ended without a farewell: it exited, crashed or was killed";

/// A system that gave up on a peer who does not answer met silence; bytes that make no sense to TLS are damaged.
fn broken(kind: io::ErrorKind, error: &io::Error) -> Broken {
    use io::ErrorKind::{HostUnreachable, InvalidData, NetworkDown, NetworkUnreachable, TimedOut};
    let (kind, why) = match kind {
        TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown => {
            (FaultKind::Silent, format!("the system gave its control connection up ({error})"))
        }
        InvalidData => (FaultKind::Corrupt, format!("on its control connection: {error}")),
        _ => (FaultKind::Died, DIED.into()),
    };
    Broken { kind, why, over: true }
}

/// Waits until one of `links` has something or takes something that waits, until `waker` has a byte, or until
/// `timeout`. Returns which links are worth reading.
pub(super) fn wait(links: &[&Link], waker: Option<BorrowedFd<'_>>, timeout: Duration) -> Vec<bool> {
    let blind = |link: &Link| link.pipe.fd().is_none() || link.pipe.has_bytes();
    let timeout = match links.iter().find(|link| blind(link)) {
        Some(link) if link.pipe.has_bytes() => Duration::ZERO,
        Some(_) => timeout.min(NO_SOCKET),
        None => timeout,
    };
    let mut fds: Vec<_> = waker.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    for link in links {
        let out = if link.is_behind() { PollFlags::OUT } else { PollFlags::empty() };
        fds.extend(link.pipe.fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN | out)));
    }
    // The system is without memory: then all are looked at, which is right if slow.
    let polled = poll::wait(&mut fds, timeout).is_ok();
    let mut answers =
        fds[usize::from(waker.is_some())..].iter().map(|fd| !(fd.revents() - PollFlags::OUT).is_empty());
    links
        .iter()
        .map(|link| {
            let ready = link.pipe.fd().is_some().then(|| answers.next()).flatten();
            blind(link) || !polled || ready.unwrap_or(true)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::transport::tcp::TcpPipe;

    /// A link, and the other end of its connection.
    fn link() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let pipe = TcpPipe::new(listener.accept().unwrap().0).unwrap();
        (Link::new(Box::new(pipe), 1000), other)
    }

    #[test]
    fn one_who_does_not_read_costs_bounded_memory_and_later_reads_whole_messages() {
        let (mut link, mut other) = link();
        let frame = Message::Left { last_seq: 123_456 }.frame();
        for _ in 0..20 * MAX_QUEUED_BYTES / frame.len() {
            link.push(&frame);
            link.send();
            assert!(link.queued_bytes <= MAX_QUEUED_BYTES);
        }
        assert!(link.is_behind() && link.queued_bytes + frame.len() > MAX_QUEUED_BYTES);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            other.read_to_end(&mut all).unwrap();
            all
        });
        while link.is_behind() {
            wait(&[&link], None, Duration::from_secs(1));
            link.send();
        }
        drop(link);
        let all = reader.join().unwrap();
        assert!(all.len() > MAX_QUEUED_BYTES && all.chunks(frame.len()).all(|chunk| *chunk == *frame));
    }

    #[test]
    fn what_came_before_the_end_is_heard() {
        use std::io::Write;
        let (mut link, mut other) = link();
        let message = Message::Left { last_seq: 3 };
        other.write_all(&message.frame()).unwrap();
        drop(other);
        let mut messages = Vec::new();
        let broken = loop {
            wait(&[&link], None, Duration::from_secs(1));
            if let Some(broken) = link.receive(&mut messages) {
                break broken;
            }
        };
        assert_eq!((messages, broken.kind, broken.over), (vec![message], FaultKind::Died, true));
    }

    #[test]
    fn one_who_talked_nonsense_is_heard_no_more_and_costs_no_memory() {
        use std::io::Write;
        let (mut link, mut other) = link();
        let writer = std::thread::spawn(move || other.write_all(&[0xff; 1 << 20]));
        let (mut messages, mut kinds) = (Vec::new(), Vec::new());
        while kinds.last() != Some(&FaultKind::Died) {
            wait(&[&link], None, Duration::from_secs(1));
            kinds.extend(link.receive(&mut messages).map(|broken| broken.kind));
            assert!(link.inbox.held_bytes() <= READ_BYTES + 1004);
        }
        writer.join().unwrap().unwrap();
        assert_eq!((messages.len(), kinds), (0, vec![FaultKind::Corrupt, FaultKind::Died]));
    }
}
