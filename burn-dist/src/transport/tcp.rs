//! A TCP connection as a [`Pipe`].

use std::{
    io::{self, IoSlice, Read, Write},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::net::sockopt;

use super::{Pipe, Shutter};

/// A socket that does not block.
#[derive(Debug)]
pub(crate) struct TcpPipe(TcpStream);

impl TcpPipe {
    /// Takes over a connection that has been proved.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        #[cfg(target_os = "linux")]
        {
            sockopt::set_tcp_keepidle(&stream, Duration::from_secs(10))?;
            sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(5))?;
            sockopt::set_tcp_keepcnt(&stream, 4)?;
            // Inside a machine nothing is congested. An algorithm that paces (BBR) halves the rate there: measured in
            // benches/RESULTS.md. Where the system does not allow the choice, its own stays.
            if stream.peer_addr()?.ip() == stream.local_addr()?.ip() {
                let _ = sockopt::set_tcp_congestion(&stream, "reno");
            }
        }
        Ok(Self(stream))
    }
}

impl Pipe for TcpPipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }

    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(from)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn shutter(&self) -> Option<Shutter> {
        self.0.try_clone().ok().map(Shutter)
    }
}
