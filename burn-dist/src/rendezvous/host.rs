//! Rank 0's side: takes all others in, compares what they say, and tells all of them what came of it.

use std::{
    io::{self, IoSlice},
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{
    ControlLinks, Manner, Meeting, Member, Roster,
    complaint::{Complaint, Complaints},
    door::Door,
    gather::{self, Joined},
    hello::Purpose,
    message::{self, Answer, Join},
    proof::random,
    reception::{Arrival, Expecting, Reception, Watched},
    security::{Security, check_reach},
};
use crate::{
    config::{Config, Trust},
    env::Identity,
    error::{DistError, Result},
    interface,
    limits::MAX_CONTROL_BYTES,
    transport::{
        Pipe,
        poll::{is_for_later, wait},
    },
};

/// Between two attempts to get the port.
const BIND_EVERY: Duration = Duration::from_millis(100);
/// How long a member may take to receive the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A process that proved itself and joined; the answer is due.
struct Guest {
    join: Join,
    from: SocketAddr,
    pipe: Box<dyn Pipe>,
}

/// Meets all others at `listener`, or at the port that `identity` names.
pub(super) fn meet(
    identity: &Identity,
    config: &Config,
    listener: Option<TcpListener>,
    manner: &Manner,
) -> Result<Meeting> {
    let deadline = Instant::now() + config.timeouts.startup;
    let security = Arc::new(Security::new(config)?);
    let listener = match listener {
        Some(listener) => listener,
        None => listen(identity, config, deadline, manner)?,
    };
    let master = listener.local_addr().map_err(DistError::io("use a listening socket"))?;
    check_reach(config, master.ip())?;
    if config.trust == Trust::Insecure && config.tls.is_none() && !master.ip().is_loopback() {
        manner.say(format_args!(
            "rank 0: no secret, as asked for: whoever reaches {master} can join the job and change its numbers"
        ));
    }
    let data_ip = interface::to_advertise(master.ip(), master.ip(), config.interface.as_deref())?;
    check_reach(config, data_ip)?;
    let data = super::listen_for_data(data_ip)?;
    let member = super::member(identity, &data)?;
    let world_size = identity.rank.world_size().count() as u32;
    let main = Join::new(world_size, identity.generation, member, &config.agreed);

    let expecting = Expecting { purpose: Purpose::Control, session: [0; 16] };
    let mut reception = Reception::open(listener, Arc::clone(&security), expecting, manner.clone())?;
    let mut guests = Vec::new();
    let formed = gather(&mut reception, &mut guests, &main, deadline, config, manner);
    let members = match formed {
        Ok(()) => members(main, &guests),
        Err(error) => {
            let refused = Answer::Refused { reason: error.to_string(), again: false };
            let answer = message::encode(&refused, MAX_CONTROL_BYTES)?;
            // The job is over anyway; who does not hear it, finds out.
            let _ = tell_all(&mut guests, &answer);
            return Err(error);
        }
    };
    let roster = Roster { generation: identity.generation, session: random()?, members };
    let answer = message::encode(&Answer::Formed(roster.clone()), MAX_CONTROL_BYTES)?;
    tell_all(&mut guests, &answer)?;
    guests.sort_by_key(|guest| guest.join.member.rank);
    Ok(Meeting {
        rank: identity.rank,
        control: ControlLinks::Hub(
            guests.into_iter().map(|guest| (guest.join.member.rank, guest.pipe)).collect(),
        ),
        door: Some(Door::keep(reception, roster.generation)?),
        roster: Arc::new(roster),
        data: Some(data),
        security,
        manner: manner.clone(),
    })
}

/// The listening socket. A name that is not known yet and a port that somebody else still has are waited for.
fn listen(identity: &Identity, config: &Config, deadline: Instant, manner: &Manner) -> Result<TcpListener> {
    let Identity { master_addr, master_port, .. } = identity;
    let mut has_said_so = false;
    loop {
        let (what, error) = match (master_addr.as_str(), *master_port).to_socket_addrs() {
            Ok(addresses) => {
                let address = interface::own(identity, &addresses.collect::<Vec<_>>())?;
                check_reach(config, address.ip())?;
                let what = format!("listen at {address}, where the others look for rank 0");
                match TcpListener::bind(address) {
                    Ok(listener) => return Ok(listener),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => (what, error),
                    Err(error) => return Err(DistError::io(what)(error)),
                }
            }
            Err(error) => (format!("find the address of {master_addr}"), error),
        };
        if Instant::now() + BIND_EVERY >= deadline {
            return Err(DistError::io(what)(error));
        }
        if !has_said_so {
            manner.say(format_args!("rank 0: cannot {what}: {error}; trying on"));
            has_said_so = true;
        }
        std::thread::sleep(BIND_EVERY);
    }
}

/// Takes guests in until they are a job, or until it is certain that they will not be one.
fn gather(
    reception: &mut Reception,
    guests: &mut Vec<Guest>,
    main: &Join,
    deadline: Instant,
    config: &Config,
    manner: &Manner,
) -> Result<()> {
    let mut complaints = Complaints::new(manner.clone());
    let mut report_at = Instant::now() + manner.report_every;
    // When those who are still on their way had time to be named together with what is wrong already.
    let mut settled_at: Option<Instant> = None;
    let (mut problems, mut missing) = look(main, guests);
    loop {
        if problems.is_empty() && missing.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let everybody_came = guests.len() + 1 >= main.world_size as usize;
        let is_late = now >= deadline;
        if is_late || !problems.is_empty() && (everybody_came || settled_at.is_some_and(|at| at <= now)) {
            if !missing.is_empty() {
                let waited =
                    if is_late { format!(" within {:?}", config.timeouts.startup) } else { String::new() };
                let (all, missing) = (main.world_size, gather::list(&missing));
                problems.push(format!("of {all} ranks, {missing} did not come{waited}"));
            }
            return Err(DistError::rendezvous(format!("the job does not form: {}", problems.join("; "))));
        }
        if now >= report_at {
            let (came, all) = (guests.len() + 1, main.world_size);
            manner.say(format_args!(
                "rank 0: waiting for ranks {}: {came} of {all} have joined",
                gather::list(&missing)
            ));
            report_at = now + manner.report_every;
        }
        let until = settled_at.map_or(deadline, |at| at.min(deadline)).min(report_at);
        let watch: Vec<_> = guests
            .iter()
            .filter_map(|guest| guest.pipe.fd())
            .map(|fd| Watched { fd, end_only: true })
            .collect();
        let round = reception.round(&watch, until.saturating_duration_since(now))?;
        let mut left = round.watched.into_iter();
        let num_before = guests.len();
        guests.retain(|guest| {
            let has_left = left.next().unwrap_or(false);
            if has_left {
                manner.say(format_args!("rank 0: {} went away again before the job had formed", who(guest)));
            }
            !has_left
        });
        let has_changed = guests.len() != num_before || !round.arrivals.is_empty();
        for arrival in round.arrivals {
            admit(arrival, main, guests, &mut complaints)?;
        }
        if has_changed {
            (problems, missing) = look(main, guests);
            settled_at =
                if problems.is_empty() { None } else { settled_at.or(Some(Instant::now() + manner.settle)) };
        }
    }
}

/// What is wrong, and who is missing.
fn look(main: &Join, guests: &[Guest]) -> (Vec<String>, Vec<u32>) {
    let joined: Vec<_> = guests.iter().map(|guest| Joined { join: &guest.join, from: guest.from }).collect();
    (gather::problems(main, &joined), gather::missing(main, &joined))
}

/// Takes in one who proved itself, or tells it why not.
fn admit(arrival: Arrival, main: &Join, guests: &mut Vec<Guest>, complaints: &mut Complaints) -> Result<()> {
    let Arrival { hello, from, mut pipe, join } = arrival;
    if let Some(reason) = gather::other_generation(hello.generation, main.generation) {
        let again = hello.generation > main.generation;
        refuse(pipe.as_mut(), &reason, again);
        if again {
            return Err(DistError::rendezvous(format!(
                "rank {} of generation {} came: this generation, {}, is over",
                hello.rank, hello.generation, main.generation
            )));
        }
        complaints.note(Complaint::Ghost(reason), from);
        return Ok(());
    }
    let join = Join::decode(&join).and_then(|join| {
        let said = (join.member.rank, join.world_size, join.generation);
        let proved = (hello.rank, hello.world_size, hello.generation);
        if said == proved { Ok(join) } else { Err("it differs from what was proved".to_owned()) }
    });
    match join {
        Ok(join) => guests.push(Guest { join, from, pipe }),
        Err(why) => {
            let reason = format!("rank {} sent a join message that cannot be read: {why}", hello.rank);
            refuse(pipe.as_mut(), &reason, false);
            complaints.note(Complaint::Broken(reason), from);
        }
    }
    Ok(())
}

/// Says why somebody is not let in. It is short: it fits into what the system keeps for a connection, or is lost.
pub(super) fn refuse(pipe: &mut dyn Pipe, reason: &str, again: bool) {
    let answer = Answer::Refused { reason: reason.to_owned(), again };
    if let Ok(bytes) = message::encode(&answer, MAX_CONTROL_BYTES) {
        let _ = pipe.write(&[IoSlice::new(&bytes)]).and_then(|_| pipe.flush());
    }
}

fn members(main: Join, guests: &[Guest]) -> Vec<Member> {
    let mut members: Vec<_> =
        guests.iter().map(|guest| guest.join.member.clone()).chain([main.member]).collect();
    members.sort_by_key(|member| member.rank);
    members
}

/// Sends the same to all, without waiting for one of them while another could be served.
fn tell_all(guests: &mut [Guest], bytes: &[u8]) -> Result<()> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut sent = vec![0; guests.len()];
    let mut lost = Vec::new();
    loop {
        let mut waits = Vec::new();
        for (guest, sent) in guests.iter_mut().zip(&mut sent) {
            match send_some(guest.pipe.as_mut(), bytes, sent) {
                Ok(true) => {}
                Ok(false) => waits.push((&*guest, *sent)),
                Err(_) => lost.push(who(guest)),
            }
        }
        if waits.is_empty() || Instant::now() >= deadline {
            lost.extend(waits.iter().map(|(guest, _)| who(guest)));
            break;
        }
        let fds = waits.iter().filter_map(|(guest, _)| guest.pipe.fd());
        let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)).collect();
        wait(&mut fds, deadline.saturating_duration_since(Instant::now()))
            .map_err(DistError::io("wait for connections"))?;
    }
    if lost.is_empty() {
        return Ok(());
    }
    lost.sort();
    lost.dedup();
    Err(DistError::rendezvous(format!("{} went away while the job was forming", lost.join(", "))))
}

fn who(guest: &Guest) -> String {
    format!("rank {} on {}", guest.join.member.rank, guest.join.member.host)
}

/// Whether everything is sent; `sent` says how much.
fn send_some(pipe: &mut dyn Pipe, bytes: &[u8], sent: &mut usize) -> io::Result<bool> {
    loop {
        let result = if *sent < bytes.len() {
            pipe.write(&[IoSlice::new(&bytes[*sent..])])
        } else {
            return match pipe.flush() {
                Err(error) if is_for_later(&error) => Ok(false),
                other => other.map(|()| true),
            };
        };
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *sent += written,
            Err(error) if is_for_later(&error) => return Ok(false),
            Err(error) => {
                // Later rounds do not try again.
                *sent = bytes.len();
                return Err(error);
            }
        }
    }
}
