//! Jobs of a few ranks in this process, on loopback, with whatever may come along.

use std::{
    net::TcpListener,
    sync::{Arc, Condvar, Mutex},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

mod decoders;
mod gathering;
mod hostile;
#[cfg(feature = "tls")]
mod tls;

use super::*;
use crate::{
    config::{Timeouts, Trust},
    rank::WorldSize,
    transport::{
        Pipe,
        talk::{Patience, receive, send},
    },
};

/// Lines that ranks said to the user.
#[derive(Clone, Default)]
struct Said(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Said {
    fn manner(&self) -> Manner {
        let said = self.clone();
        Manner {
            settle: Duration::from_secs(2),
            say: Arc::new(move |line| {
                said.0.0.lock().unwrap().push(line);
                said.0.1.notify_all();
            }),
            ..Manner::default()
        }
    }

    fn all(&self) -> String {
        self.0.0.lock().unwrap().join("\n")
    }

    /// Until a line has these words.
    fn wait_for(&self, words: &str) {
        let (lines, more) = &*self.0;
        let is_missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(words));
        let waited = more.wait_timeout_while(lines.lock().unwrap(), Duration::from_secs(60), is_missing);
        let (lines, timeout) = waited.unwrap();
        assert!(!timeout.timed_out(), "nobody said {words}: {lines:?}");
    }
}

fn identity(rank: u32, world_size: u32, port: u16) -> Identity {
    Identity {
        rank: Rank::new(rank, WorldSize::new(world_size).unwrap()).unwrap(),
        local_rank: None,
        local_world_size: None,
        master_addr: "127.0.0.1".to_owned(),
        master_port: port,
        generation: 3,
        source: "test",
    }
}

fn config() -> Config {
    Config {
        trust: Trust::Secret(b"known to all".to_vec()),
        timeouts: Timeouts { startup: Duration::from_secs(60), ..Timeouts::default() },
        ..Config::default()
    }
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Starts rank `rank`.
fn start<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    identity: Identity,
    config: Config,
    listener: Option<TcpListener>,
    said: &Said,
) -> ScopedJoinHandle<'scope, Result<Meeting>> {
    let manner = said.manner();
    scope.spawn(move || meet_in(&identity, &config, listener, &manner))
}

/// A job of `world_size` ranks that trust as `config` says.
fn job(world_size: u32, config: &Config, said: &Said) -> Vec<Meeting> {
    let (listener, port) = listen();
    let mut listener = Some(listener);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world_size)
            .map(|rank| start(scope, identity(rank, world_size, port), config.clone(), listener.take(), said))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap().unwrap()).collect()
    })
}

/// Has every rank do its part on a thread of its own; what they return, in order.
fn each<R: Send>(meetings: Vec<Meeting>, part: impl Fn(Meeting) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let part = &part;
        let ranks: Vec<_> = meetings.into_iter().map(|meeting| scope.spawn(move || part(meeting))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Every rank connected to every other, by so many streams; each connection says who holds it.
fn check_full_mesh(meetings: Vec<Meeting>, streams: u16) {
    let world_size = meetings.len() as u32;
    let mut links = each(meetings, |mut meeting| {
        let me = meeting.rank.index() as u32;
        let peers = (0..world_size).filter(|peer| *peer != me);
        let wanted: Vec<_> =
            peers.flat_map(|peer| (0..streams).map(move |stream| LinkId { peer, stream })).collect();
        let links = meeting.connect_links(&wanted, soon()).unwrap();
        assert_eq!(links.iter().map(|(id, _)| *id).collect::<Vec<_>>(), wanted);
        (me, links)
    });
    let patience = Patience::until(soon());
    for (me, links) in &mut links {
        for (id, pipe) in links {
            send(pipe.as_mut(), &[*me as u8, id.peer as u8, id.stream as u8], patience).unwrap();
        }
    }
    for (me, links) in &mut links {
        for (id, pipe) in links {
            let mut said = [0; 3];
            receive(pipe.as_mut(), &mut said, patience).unwrap();
            assert_eq!(said, [id.peer as u8, *me as u8, id.stream as u8]);
        }
    }
}

#[test]
fn a_job_forms_and_connects() {
    for trust in [Trust::LoopbackOnly, Trust::Insecure, Trust::Secret(b"s".to_vec())] {
        let said = Said::default();
        let meetings = job(4, &Config { trust, ..config() }, &said);
        let roster = Arc::clone(&meetings[0].roster);
        assert_eq!(roster.members.iter().map(|member| member.rank).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(roster.members.iter().all(|member| member.host_id == roster.members[0].host_id));
        assert!(meetings.iter().all(|meeting| meeting.roster == roster));
        check_full_mesh(meetings, 3);
        assert_eq!(said.all(), "");
    }
}

/// All at the same moment, and each the neighbour of two others.
#[test]
fn a_job_of_many_forms_at_once() {
    let said = Said::default();
    let meetings = job(100, &config(), &said);
    let jobs = each(meetings, |mut meeting| {
        let me = meeting.rank.index() as u32;
        let wanted = [(me + 1) % 100, (me + 99) % 100].map(|peer| LinkId { peer, stream: 0 });
        let links = meeting.connect_links(&wanted, soon()).unwrap();
        (meeting, links)
    });
    assert!(jobs.iter().all(|(_, links)| links.len() == 2));
    drop(jobs);
    assert_eq!(said.all(), "");
}
