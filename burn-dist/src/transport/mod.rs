//! Connections: bytes in order, or an error. What they mean is the business of `wire` and `collective`.

use std::{
    io::{self, IoSlice},
    net::{Shutdown, TcpStream},
    os::fd::BorrowedFd,
};

pub(crate) mod link;
pub(crate) mod poll;
pub(crate) mod shared;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod talk;
pub(crate) mod tcp;
#[cfg(feature = "tls")]
pub(crate) mod tls;

/// A connection that never blocks.
pub(crate) trait Pipe: Send {
    /// Takes what has come. `Ok(0)` is the end; `WouldBlock`: nothing yet.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Gives away as much as fits. `WouldBlock`: nothing does.
    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Whether bytes that `write` took are still in this process (TLS), so that there is something to flush.
    fn holds_bytes(&self) -> bool {
        false
    }

    /// Moves those on. `WouldBlock`: not all of them.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Whether `read` may have something although the socket has not (TLS).
    fn has_bytes(&self) -> bool {
        false
    }

    /// What to wait on; `None` for what has no socket.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// A handle with which another thread can end the connection; `None` for what has no socket.
    fn shutter(&self) -> Option<Shutter>;
}

/// Ends a connection from another thread: whoever waits on it wakes.
#[derive(Debug)]
pub(crate) struct Shutter(pub(crate) TcpStream);

impl Shutter {
    /// Ends both directions. What was written before is still delivered.
    pub(crate) fn shut(&self) {
        // A connection that is over already cannot be ended again.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
