//! The other ranks' side: each finds rank 0, joins, and waits for what it says.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ControlLinks, Manner, Meeting, Roster,
    dial::{Call, Connected, Failure, back_off},
    hello::{Hello, Purpose},
    message::{self, Answer, Join, MAX_JOIN_BYTES, printable},
    security::{Security, check_reach},
};
use crate::{
    config::Config,
    env::Identity,
    error::{DistError, Result},
    interface,
    limits::MAX_CONTROL_BYTES,
    transport::{
        Pipe,
        talk::{Patience, receive, send},
    },
    wire::envelope,
};

/// Longest reason that rank 0 gives and this rank repeats.
pub(super) const MAX_REASON_BYTES: usize = 64 << 10;

/// Meets rank 0 and, through it, all others.
pub(super) fn meet(identity: &Identity, config: &Config, manner: &Manner) -> Result<Meeting> {
    let security = Arc::new(Security::new(config)?);
    let begin = Instant::now();
    let patience = Patience::until(begin + config.timeouts.startup);
    let mut report_at = begin + manner.report_every;
    let mut tries = 0;
    loop {
        let why = match join(identity, config, &security, manner, patience) {
            Ok(meeting) => return Ok(meeting),
            Err(Failure::Lasting(error)) => return Err(error),
            Err(Failure::Passing(why)) => why,
        };
        let Identity { rank, master_addr, master_port, .. } = identity;
        if Instant::now() >= report_at {
            manner.say(format_args!("rank {rank}: waiting for rank 0 at {master_addr}:{master_port}: {why}"));
            report_at = Instant::now() + manner.report_every;
        }
        std::thread::sleep(back_off(tries).min(patience.left()));
        if patience.is_over() {
            return Err(DistError::rendezvous(format!(
                "rank {rank} did not meet rank 0 at {master_addr}:{master_port} within {:?}; last try: {why}",
                config.timeouts.startup
            )));
        }
        tries += 1;
    }
}

/// Tries once, at each address that rank 0's name has.
fn join(
    identity: &Identity,
    config: &Config,
    security: &Arc<Security>,
    manner: &Manner,
    patience: Patience<'_>,
) -> Result<Meeting, Failure> {
    let Identity { rank, master_addr, master_port, generation, .. } = identity;
    let passing =
        |why: io::Error| Failure::Passing(format!("the address of {master_addr} is not known: {why}"));
    // A name may be known only after a while: that of a machine that is still starting.
    let addresses = (master_addr.as_str(), *master_port).to_socket_addrs().map_err(passing)?;
    let hello = Hello {
        purpose: Purpose::Control,
        stream: 0,
        rank: rank.index() as u32,
        to: 0,
        world_size: rank.world_size().count() as u32,
        generation: *generation,
        nonce: [0; 32],
    };
    let mut last = Failure::Passing(format!("{master_addr} has no address"));
    for address in addresses {
        check_reach(config, address.ip()).map_err(Failure::Lasting)?;
        let call = Call { whom: "rank 0", address, hello, session: [0; 16], security, manner };
        match call.make(patience) {
            Ok(Connected { pipe, local }) => {
                return introduce(pipe, local, address, identity, config, security, manner);
            }
            Err(failure @ Failure::Lasting(_)) => return Err(failure),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// On a proved connection: says who this is, and waits for what rank 0 makes of all.
fn introduce(
    mut pipe: Box<dyn Pipe>,
    local: SocketAddr,
    master: SocketAddr,
    identity: &Identity,
    config: &Config,
    security: &Arc<Security>,
    manner: &Manner,
) -> Result<Meeting, Failure> {
    let passing = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => {
            Failure::Lasting(DistError::rendezvous(format!("rank 0 at {master}: {error}")))
        }
        _ => Failure::Passing(format!("rank 0 at {master} went away before the job had formed: {error}")),
    };
    // The way to rank 0 is known now, and with it the address at which others can reach this rank.
    let data_ip = interface::to_advertise(local.ip(), master.ip(), config.interface.as_deref())
        .map_err(Failure::Lasting)?;
    check_reach(config, data_ip).map_err(Failure::Lasting)?;
    let data = super::listen_for_data(data_ip).map_err(Failure::Lasting)?;
    let member = super::member(identity, &data).map_err(Failure::Lasting)?;
    let world_size = identity.rank.world_size().count() as u32;
    let join = Join::new(world_size, identity.generation, member, &config.agreed);
    let join = message::encode(&join, MAX_JOIN_BYTES).map_err(Failure::Lasting)?;

    // Rank 0 started before this moment and decides within its own startup time; it knows who is missing, so its word
    // is worth waiting for.
    let limit = config.timeouts.startup + manner.hello_timeout + Duration::from_secs(1);
    let patience = Patience::until(Instant::now() + limit);
    send(pipe.as_mut(), &join, patience).map_err(passing)?;
    match receive_answer(pipe.as_mut(), patience).map_err(passing)? {
        Ok(Answer::Formed(roster)) => {
            check(&roster, identity).map_err(|why| {
                Failure::Lasting(DistError::rendezvous(format!("rank 0 at {master} sent a roster {why}")))
            })?;
            Ok(Meeting {
                rank: identity.rank,
                roster: Arc::new(roster),
                control: ControlLinks::Spoke(pipe),
                door: None,
                data: Some(data),
                security: Arc::clone(security),
                manner: manner.clone(),
            })
        }
        Ok(Answer::Refused { reason, again }) => {
            let reason = printable(&reason, MAX_REASON_BYTES);
            if again {
                Err(Failure::Passing(reason))
            } else {
                Err(Failure::Lasting(DistError::rendezvous(reason)))
            }
        }
        Err(why) => Err(Failure::Lasting(DistError::rendezvous(format!(
            "rank 0 at {master} cannot be understood: {why}"
        )))),
    }
}

/// The next answer on a control connection; the inner error is one of its meaning.
fn receive_answer(pipe: &mut dyn Pipe, patience: Patience<'_>) -> io::Result<Result<Answer, String>> {
    Ok(receive_message(pipe, patience)?.and_then(|json| message::decode(&json)))
}

/// The next message on a control connection, whatever it means; the inner error is one of its envelope.
pub(super) fn receive_message(
    pipe: &mut dyn Pipe,
    patience: Patience<'_>,
) -> io::Result<Result<Vec<u8>, String>> {
    let mut prefix = [0; 4];
    receive(pipe, &mut prefix, patience)?;
    let Some(length) = envelope::body_length(prefix, MAX_CONTROL_BYTES) else {
        return Ok(Err(format!("an answer longer than {MAX_CONTROL_BYTES} bytes")));
    };
    let mut body = vec![0; length];
    receive(pipe, &mut body, patience)?;
    Ok(envelope::open(&body).map(<[u8]>::to_vec))
}

/// What is wrong with a roster, if anything.
fn check(roster: &Roster, identity: &Identity) -> Result<(), &'static str> {
    let ranks = roster.members.iter().map(|member| member.rank);
    if !ranks.eq(0..identity.rank.world_size().count() as u32) {
        return Err("that is not every rank of the job, once");
    }
    if roster.generation != identity.generation { Err("of another generation") } else { Ok(()) }
}
