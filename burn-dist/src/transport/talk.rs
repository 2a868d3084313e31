//! One message after the other over a [`Pipe`], with a deadline, for a side that has nothing else to do. Who serves several
//! must never wait for one of them.

use std::{
    io::{self, IoSlice},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{
    Pipe,
    poll::{is_for_later, wait},
};

/// How often somebody who waits looks whether it was called off.
const CALLED_OFF_EVERY: Duration = Duration::from_millis(200);

/// How long to go on.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'a> {
    pub(crate) deadline: Instant,
    /// Set by somebody else when there is no point any more.
    pub(crate) called_off: &'a AtomicBool,
}

impl Patience<'static> {
    /// Until `deadline`, whatever else happens.
    pub(crate) fn until(deadline: Instant) -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self { deadline, called_off: &NEVER }
    }
}

impl Patience<'_> {
    /// The same, but no longer than `limit` from now.
    pub(crate) fn at_most(self, limit: Duration) -> Self {
        Self { deadline: self.deadline.min(Instant::now() + limit), ..self }
    }

    pub(crate) fn left(self) -> Duration {
        if self.called_off.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(crate) fn is_over(self) -> bool {
        self.left().is_zero()
    }
}

fn wait_for(pipe: &dyn Pipe, writing: bool, patience: Patience<'_>) -> io::Result<()> {
    let left = patience.left();
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let Some(fd) = pipe.fd() else { return Err(io::ErrorKind::Unsupported.into()) };
    let flags = match (writing, pipe.holds_bytes()) {
        (true, _) => PollFlags::OUT,
        (false, true) => PollFlags::IN | PollFlags::OUT,
        (false, false) => PollFlags::IN,
    };
    wait(&mut [PollFd::from_borrowed_fd(fd, flags)], left.min(CALLED_OFF_EVERY))
}

/// Sends all of `bytes`.
pub(crate) fn send(pipe: &mut dyn Pipe, mut bytes: &[u8], patience: Patience<'_>) -> io::Result<()> {
    while !bytes.is_empty() {
        match pipe.write(&[IoSlice::new(bytes)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if is_for_later(&error) => wait_for(pipe, true, patience)?,
            Err(error) => return Err(error),
        }
    }
    match pipe.flush() {
        Err(error) if !is_for_later(&error) => Err(error),
        _ => Ok(()), // The rest goes while the answer is awaited.
    }
}

/// Fills `into`, and takes no byte more.
pub(crate) fn receive(pipe: &mut dyn Pipe, into: &mut [u8], patience: Patience<'_>) -> io::Result<()> {
    let mut filled = 0;
    while filled < into.len() {
        if pipe.holds_bytes() {
            match pipe.flush() {
                Err(error) if !is_for_later(&error) => return Err(error),
                _ => {}
            }
        }
        match pipe.read(&mut into[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if is_for_later(&error) => wait_for(pipe, false, patience)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
