//! How processes become a job: they meet at rank 0, prove who they are, agree on the settings, learn each other's
//! addresses, and connect. Nothing of it runs while the job computes, but for turning strangers away.
//!
//! ```text
//! rank r                         rank 0
//!   hello           ------->               who, what for, a nonce; 64 bytes, believed by nobody
//!                   <-------  challenge    a nonce
//!   proof           ------->               HMAC-SHA256 over all of the above
//!                   <-------  verdict      the same, by rank 0
//!   join            ------->               address, settings (JSON with a checksum, at most 64 KiB)
//!                   <-------  answer       the roster, or everything that is wrong
//! ```
//! Data connections begin with the first four, on the roster's session.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    descriptors,
    env::Identity,
    error::{DistError, Result},
    limits::{HELLO_TIMEOUT, MAX_WORLD_SIZE},
    rank::Rank,
    transport::Pipe,
};

mod complaint;
mod dial;
mod door;
mod gather;
mod guest;
mod hello;
mod here;
mod host;
mod links;
mod message;
mod proof;
mod reception;
mod security;
mod stranger;
#[cfg(test)]
mod tests;

pub(crate) use door::Door;
pub use here::host_name;

/// A process of the job, as all others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its rank.
    pub rank: u32,
    /// The name of its machine.
    pub host: String,
    /// Equal exactly for processes that can share memory: one kernel, one network namespace, one `/dev/shm`.
    pub host_id: u64,
    /// Its process number there.
    pub pid: u32,
    /// Where it takes data connections.
    pub data_addr: SocketAddr,
}

/// The job, as all ranks agreed on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roster {
    /// Which start of the job this is: restarts count up, and processes of an earlier one are refused.
    pub generation: u32,
    /// Drawn by rank 0 for this job alone; part of every proof.
    pub session: [u8; 16],
    /// By rank, without gaps.
    pub members: Vec<Member>,
}

/// The control connections of this rank: one to rank 0, or rank 0's to all others.
pub(crate) enum ControlLinks {
    /// This is rank 0; one connection to each other rank, by rank.
    Hub(Vec<(u32, Box<dyn Pipe>)>),
    /// This is another rank.
    Spoke(Box<dyn Pipe>),
}

/// A data connection: to whom, and which of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId {
    /// The other rank.
    pub(crate) peer: u32,
    /// From 0.
    pub(crate) stream: u16,
}

/// What came of the rendezvous.
pub(crate) struct Meeting {
    pub(crate) rank: Rank,
    pub(crate) roster: Arc<Roster>,
    pub(crate) control: ControlLinks,
    /// Rank 0's: to be kept for as long as the job runs.
    pub(crate) door: Option<Door>,
    data: Option<TcpListener>,
    security: Arc<security::Security>,
    manner: Manner,
}

/// How a rendezvous goes about it: what tests want otherwise.
#[derive(Clone)]
pub(crate) struct Manner {
    /// How long one who proved nothing may take.
    hello_timeout: Duration,
    /// Between two reports of whom rank 0 waits for.
    report_every: Duration,
    /// How long others may still come after something was found wrong, to be named along with it.
    settle: Duration,
    /// Takes a line for the user.
    say: Arc<dyn Fn(String) + Send + Sync>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            hello_timeout: HELLO_TIMEOUT,
            report_every: Duration::from_secs(10),
            settle: Duration::from_secs(5),
            say: Arc::new(|line| eprintln!("burn-dist: {line}")),
        }
    }
}

impl Manner {
    fn say(&self, line: fmt::Arguments<'_>) {
        (self.say)(line.to_string());
    }
}

/// Meets the other ranks of a job of two or more. Blocks until all have come and agree.
///
/// # Errors
/// The settings cannot be followed, or the job does not form: all that is known of why, the same for every rank that
/// had joined. Within twice the startup time.
pub(crate) fn meet(identity: &Identity, config: &Config) -> Result<Meeting> {
    meet_at(identity, config, None)
}

/// The same; rank 0 is given its listener.
pub(crate) fn meet_at(
    identity: &Identity,
    config: &Config,
    listener: Option<TcpListener>,
) -> Result<Meeting> {
    meet_in(identity, config, listener, &Manner::default())
}

fn meet_in(
    identity: &Identity,
    config: &Config,
    listener: Option<TcpListener>,
    manner: &Manner,
) -> Result<Meeting> {
    config.agreed.check()?;
    descriptors::reserve(identity.rank, &config.agreed)?;
    if identity.rank.is_main() {
        host::meet(identity, config, listener, manner)
    } else {
        guest::meet(identity, config, manner)
    }
}

impl Meeting {
    /// Makes the data connections of this rank. Every pair of ranks that wants one wants it on both sides. Afterwards
    /// this rank takes no more of them: to be called once.
    ///
    /// # Errors
    /// Not all came about by the deadline, or a rank went away meanwhile: which, and where it ran.
    pub(crate) fn connect_links(
        &mut self,
        wanted: &[LinkId],
        deadline: Instant,
    ) -> Result<Vec<(LinkId, Box<dyn Pipe>)>> {
        let Some(listener) = self.data.take() else {
            return Err(DistError::usage("the data connections of this job have been made already"));
        };
        let plan = links::Plan {
            rank: self.rank,
            roster: &self.roster,
            security: &self.security,
            manner: &self.manner,
            deadline,
        };
        Ok(plan.connect(listener, &mut self.control, wanted)?.into_iter().collect())
    }
}

/// Where this process takes data connections.
fn listen_for_data(ip: IpAddr) -> Result<TcpListener> {
    let listen = || TcpListener::bind((ip, 0)).and_then(widen);
    listen().map_err(DistError::io(format!("listen at {ip}")))
}

/// Lets as many connections wait as a whole job has: one that finds no place tries again only after a second.
fn widen(listener: TcpListener) -> io::Result<TcpListener> {
    rustix::net::listen(&listener, MAX_WORLD_SIZE as i32)?;
    Ok(listener)
}

/// This process, which takes data connections at `data`.
fn member(identity: &Identity, data: &TcpListener) -> Result<Member> {
    Ok(Member {
        rank: identity.rank.index() as u32,
        host: host_name(),
        host_id: here::host_id(),
        pid: std::process::id(),
        data_addr: data.local_addr().map_err(DistError::io("use a listening socket"))?,
    })
}
