//! The door of a job that has formed: rank 0's port stays open, so that whoever comes later is told why it is not let
//! in, and does not try for minutes.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    thread::JoinHandle,
    time::Duration,
};

use super::{
    gather::other_generation,
    host::refuse,
    reception::{Reception, Watched},
};
use crate::error::{DistError, Result};

/// Keeps the door while it lives; after that the port is free.
#[derive(Debug)]
pub(crate) struct Door {
    /// Its end wakes the thread.
    bell: Option<UnixStream>,
    keeper: Option<JoinHandle<()>>,
}

impl Door {
    pub(super) fn keep(mut reception: Reception, generation: u32) -> Result<Self> {
        let start = || -> io::Result<Self> {
            let (bell, hears) = UnixStream::pair()?;
            let keeper = std::thread::Builder::new().name("burn-dist door".to_owned()).spawn(move || {
                loop {
                    let watch = [Watched { fd: hears.as_fd(), end_only: false }];
                    // A system that cannot wait for sockets any more has no door to keep either.
                    let Ok(round) = reception.round(&watch, Duration::from_secs(3600)) else { return };
                    if round.watched == [true] {
                        return;
                    }
                    for mut late in round.arrivals {
                        let (theirs, rank) = (late.hello.generation, late.hello.rank);
                        let reason = other_generation(theirs, generation).unwrap_or_else(|| {
                            format!("the job has formed already, without this process as rank {rank}")
                        });
                        refuse(late.pipe.as_mut(), &reason, theirs > generation);
                    }
                }
            })?;
            Ok(Self { bell: Some(bell), keeper: Some(keeper) })
        };
        start().map_err(DistError::io("keep rank 0's port"))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(self.bell.take());
        if let Some(keeper) = self.keeper.take() {
            // It has nothing to say but a panic, which has been printed.
            let _ = keeper.join();
        }
    }
}
