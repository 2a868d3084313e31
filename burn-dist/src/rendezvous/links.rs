//! The data connections of a job that has met: of two ranks the higher dials, the lower takes; both prove themselves
//! once more, on the session that only members know.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    ControlLinks, LinkId, Manner, Roster,
    dial::{Call, Failure, back_off},
    guest::{MAX_REASON_BYTES, receive_message},
    hello::{Hello, Purpose},
    host::refuse,
    message::{self, Answer, printable},
    reception::{Expecting, Reception, Watched},
    security::Security,
};
use crate::{
    control::verdict_in,
    error::{DistError, Result},
    rank::Rank,
    transport::{Pipe, talk::Patience},
};

/// How long connections may still come about after a control connection ended.
const AFTER_THE_END: Duration = Duration::from_secs(1);

type Links = BTreeMap<LinkId, Box<dyn Pipe>>;

/// Who connects, to whom, and by when.
pub(super) struct Plan<'a> {
    pub(super) rank: Rank,
    pub(super) roster: &'a Roster,
    pub(super) security: &'a Arc<Security>,
    pub(super) manner: &'a Manner,
    pub(super) deadline: Instant,
}

impl Plan<'_> {
    /// Makes all `wanted` connections, taking those of higher ranks at `listener`, which is closed afterwards.
    /// `control` is watched: if its other side goes away there is no job to connect.
    ///
    /// # Errors
    /// Not all of them came about by the deadline: who is missing; or a rank ended meanwhile: which.
    pub(super) fn connect(
        &self,
        listener: std::net::TcpListener,
        control: &mut ControlLinks,
        wanted: &[LinkId],
    ) -> Result<Links> {
        let begin = Instant::now();
        let me = self.rank.index() as u32;
        let (to_dial, mut to_take): (BTreeSet<_>, BTreeSet<_>) =
            wanted.iter().partition(|link| link.peer < me);
        if let Some(LinkId { peer, .. }) =
            wanted.iter().find(|link| link.peer == me || self.host(link.peer).is_none())
        {
            return Err(DistError::usage(format!("rank {} cannot connect to rank {peer}", self.rank)));
        }
        let expecting = Expecting { purpose: Purpose::Data, session: self.roster.session };
        let mut reception =
            Reception::open(listener, Arc::clone(self.security), expecting, self.manner.clone())?;
        let (bell, hears) = UnixStream::pair().map_err(DistError::io("make a pair of sockets"))?;
        let called_off = AtomicBool::new(false);
        let patience = Patience { deadline: self.deadline, called_off: &called_off };

        std::thread::scope(|scope| {
            let dialler = scope.spawn(|| {
                let result = self.dial_all(to_dial, patience);
                if result.is_err() {
                    called_off.store(true, Ordering::Relaxed);
                }
                drop(bell);
                result
            });
            let taken = self.take_all(&mut reception, &mut to_take, control, (&hears, &called_off), begin);
            if taken.is_err() {
                called_off.store(true, Ordering::Relaxed);
            }
            let dialled = match dialler.join() {
                Ok(dialled) => dialled,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            // What rank 0 says of the end is nearer to its cause than what the ends of connections say.
            let (taken, late) = taken?;
            let (mut links, mut missing) = dialled?;
            for id in late {
                missing.insert(id, "it did not dial".to_owned());
            }
            if missing.is_empty() {
                links.extend(taken);
                return Ok(links);
            }
            Err(self.name_missing(&missing, begin))
        })
        .inspect_err(|error| {
            // Who goes says why: rank 0 to everybody, the others to rank 0.
            let pipes: &mut dyn Iterator<Item = &mut Box<dyn Pipe>> = match control {
                ControlLinks::Hub(all) => &mut all.iter_mut().map(|(_, pipe)| pipe),
                ControlLinks::Spoke(pipe) => &mut std::iter::once(pipe),
            };
            pipes.for_each(|pipe| refuse(pipe.as_mut(), &error.to_string(), false));
        })
    }

    fn host(&self, rank: u32) -> Option<&str> {
        self.roster.members.get(rank as usize).map(|member| member.host.as_str())
    }

    fn who(&self, rank: u32) -> String {
        format!("rank {rank} on {}", self.host(rank).unwrap_or("an unknown machine"))
    }

    /// Dials until all have answered or time is over. Those that did not, and why, come along.
    fn dial_all(
        &self,
        mut to_dial: BTreeSet<LinkId>,
        patience: Patience<'_>,
    ) -> Result<(Links, BTreeMap<LinkId, String>)> {
        let mut links = Links::new();
        let mut missing = BTreeMap::new();
        let mut rounds = 0;
        while !to_dial.is_empty() {
            // Each in turn, so that one that does not answer keeps no other from being connected.
            for id in std::mem::take(&mut to_dial) {
                match self.call(id, patience) {
                    Ok(pipe) => drop(links.insert(id, pipe)),
                    Err(Failure::Lasting(error)) => return Err(error),
                    Err(Failure::Passing(why)) => {
                        missing.insert(id, why);
                        to_dial.insert(id);
                    }
                }
            }
            if patience.is_over() {
                break;
            }
            if !to_dial.is_empty() {
                std::thread::sleep(back_off(rounds).min(patience.left()));
                rounds += 1;
            }
        }
        missing.retain(|id, _| to_dial.contains(id));
        Ok((links, missing))
    }

    fn call(&self, id: LinkId, patience: Patience<'_>) -> Result<Box<dyn Pipe>, Failure> {
        let Roster { generation, session, members } = self.roster;
        let hello = Hello {
            purpose: Purpose::Data,
            stream: id.stream,
            rank: self.rank.index() as u32,
            to: id.peer,
            world_size: self.rank.world_size().count() as u32,
            generation: *generation,
            nonce: [0; 32],
        };
        let call = Call {
            whom: &self.who(id.peer),
            address: members[id.peer as usize].data_addr,
            hello,
            session: *session,
            security: self.security,
            manner: self.manner,
        };
        call.make(patience).map(|connected| connected.pipe)
    }

    /// Takes connections until all `to_take` are there and the dialler has done its part. Those that did not come by
    /// the deadline come along.
    fn take_all(
        &self,
        reception: &mut Reception,
        to_take: &mut BTreeSet<LinkId>,
        control: &mut ControlLinks,
        (dialler, called_off): (&UnixStream, &AtomicBool),
        begin: Instant,
    ) -> Result<(Links, BTreeSet<LinkId>)> {
        let mut links = Links::new();
        let mut dials = true;
        let mut ended = None;
        let mut deadline = self.deadline;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !dials && (to_take.is_empty() || called_off.load(Ordering::Relaxed)) {
                return Ok((links, BTreeSet::new()));
            }
            if left.is_zero() {
                return match ended {
                    Some(at) => Err(self.ended(control, at, begin)),
                    None => Ok((links, std::mem::take(to_take))),
                };
            }
            let mut watch = vec![Watched { fd: dialler.as_fd(), end_only: false }];
            watch.truncate(usize::from(dials));
            let num_dialler = watch.len();
            if ended.is_none() {
                let fds = control_pipes(control).filter_map(|pipe| pipe.fd());
                watch.extend(fds.map(|fd| Watched { fd, end_only: true }));
            }
            let round = reception.round(&watch, left)?;
            let (dialler_done, control_ended) = round.watched.split_at(num_dialler);
            dials &= dialler_done != [true];
            if let Some(at) = control_ended.iter().position(|ended| *ended) {
                // A job may be over as soon as it has begun: only if connections do not come about it matters.
                ended = Some(at);
                deadline = deadline.min(Instant::now() + AFTER_THE_END);
            }
            for arrival in round.arrivals {
                let Hello { rank: peer, stream, to, .. } = arrival.hello;
                let id = LinkId { peer, stream };
                // One that is there already is replaced: its other side would not dial again if it still had it.
                if to as usize == self.rank.index() && (to_take.remove(&id) || links.contains_key(&id)) {
                    links.insert(id, arrival.pipe);
                }
            }
        }
    }

    /// Why the job is over, after a control connection ended.
    fn ended(&self, control: &mut ControlLinks, at: usize, begin: Instant) -> DistError {
        let patience = Patience::until(Instant::now() + Duration::from_secs(1));
        let elapsed = begin.elapsed();
        let what = "went away while data connections were being made, after";
        let (rank, pipe) = match control {
            ControlLinks::Hub(all) => match all.get_mut(at) {
                Some((rank, pipe)) => (*rank, pipe),
                None => return DistError::rendezvous(format!("a rank {what} {elapsed:.1?}")),
            },
            ControlLinks::Spoke(pipe) => (0, pipe),
        };
        // What it said is among the last words of its control connection. Rank 0 may have connected already, and
        // have heard of a death: then heartbeats come first, and the verdict behind them.
        while let Ok(Ok(json)) = receive_message(pipe.as_mut(), patience) {
            if let Ok(Answer::Refused { reason, .. }) = message::decode(&json) {
                return DistError::rendezvous(printable(&reason, MAX_REASON_BYTES));
            }
            if let Some(fault) = verdict_in(&json).filter(|_| rank == 0) {
                return fault.into();
            }
        }
        DistError::rendezvous(format!("{} {what} {elapsed:.1?}", self.who(rank)))
    }

    fn name_missing(&self, missing: &BTreeMap<LinkId, String>, begin: Instant) -> DistError {
        let mut by_peer = BTreeMap::<u32, (usize, &str)>::new();
        for (LinkId { peer, .. }, why) in missing {
            by_peer.entry(*peer).or_insert((0, why)).0 += 1;
        }
        let mut out = format!("rank {} has no data connection after {:.1?} with", self.rank, begin.elapsed());
        for (at, (peer, (count, why))) in by_peer.into_iter().enumerate() {
            let comma = if at == 0 { "" } else { ";" };
            // A String takes everything.
            let _ = write!(out, "{comma} {} ({count} missing: {why})", self.who(peer));
        }
        DistError::rendezvous(out)
    }
}

fn control_pipes(control: &ControlLinks) -> impl Iterator<Item = &dyn Pipe> {
    let (hub, spoke) = match control {
        ControlLinks::Hub(all) => (all.as_slice(), None),
        ControlLinks::Spoke(pipe) => (&[] as &[_], Some(pipe)),
    };
    hub.iter().map(|(_, pipe)| pipe).chain(spoke).map(|pipe| pipe.as_ref())
}
