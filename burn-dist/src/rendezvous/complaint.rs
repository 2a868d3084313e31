//! What is said about those who are not let in: each kind at once when it first comes, then at most once a minute with
//! a count. A scan of the network does not fill anybody's log.

use std::{
    collections::HashMap,
    mem::{Discriminant, discriminant},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Manner, hello::BadHello};

const EVERY: Duration = Duration::from_secs(60);

/// Why somebody was sent away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Complaint {
    #[error("it said nothing in time")]
    Silent,
    #[error("it did not come to an end in time")]
    Slow,
    #[error("it closed before it had said who it is")]
    Closed,
    #[error("{0}")]
    Stranger(BadHello),
    #[error("it says to be rank {rank} but has another secret")]
    NotProved { rank: u32 },
    #[error("{0}")]
    Broken(String),
    #[error("too many others came after it")]
    GaveWay,
    #[error("no connection can be taken at present: {0}")]
    Exhausted(String),
    #[error("{0}")]
    Ghost(String),
}

/// Says so, but not too often.
pub(super) struct Complaints {
    manner: Manner,
    said: HashMap<Discriminant<Complaint>, Said>,
}

struct Said {
    last: Instant,
    since: usize,
}

impl Complaints {
    pub(super) fn new(manner: Manner) -> Self {
        Self { manner, said: HashMap::new() }
    }

    pub(super) fn note(&mut self, complaint: Complaint, from: SocketAddr) {
        let now = Instant::now();
        let since = match self.said.get_mut(&discriminant(&complaint)) {
            Some(said) if now.duration_since(said.last) < EVERY => {
                said.since += 1;
                return;
            }
            Some(said) => std::mem::replace(said, Said { last: now, since: 0 }).since,
            None => {
                self.said.insert(discriminant(&complaint), Said { last: now, since: 0 });
                0
            }
        };
        let others = if since == 0 { String::new() } else { format!(" (and {since} more of the kind)") };
        self.manner.say(format_args!("a connection from {from} was turned away: {complaint}{others}"));
    }
}
