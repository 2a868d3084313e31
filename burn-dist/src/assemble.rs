//! From a rendezvous to a working engine: connections to the neighbours, shared memory between those of one machine,
//! the control plane.

use std::{collections::HashMap, io, sync::Arc, time::Instant};

use crate::{
    config::Config,
    control::{Control, Stall, Suspicion},
    engine::{Caller, Engine, Lane},
    error::{DistError, Fault, Result},
    flight::FlightRecorder,
    rendezvous::{Door, LinkId, Meeting, Roster},
    topology::Topology,
    trace::Trace,
    transport::{
        Pipe, Shutter,
        link::Link,
        shared::{Name, Offered, Region, Shared},
        talk::{Patience, receive, send},
    },
};

/// An engine, and what a communicator keeps beside it.
pub(crate) struct Assembled {
    pub(crate) engine: Engine,
    pub(crate) topology: Topology,
    pub(crate) roster: Arc<Roster>,
    /// Rank 0's, for as long as the job runs.
    pub(crate) door: Option<Door>,
}

/// Connects a rank that has met the others.
///
/// # Errors
/// A connection that did not come about: with whom.
pub(crate) fn assemble(mut meeting: Meeting, config: &Config, start: Instant) -> Result<Assembled> {
    let rank = meeting.rank.index() as u32;
    let topology = Topology::new(rank, &meeting.roster);
    let deadline = Instant::now() + config.timeouts.startup;
    let mut connected = meeting.connect_links(&topology.links(&config.agreed), deadline)?;
    let shutters: Vec<Shutter> = connected.iter().filter_map(|(_, pipe)| pipe.shutter()).collect();
    let flight = Arc::new(FlightRecorder::new(start));
    let records = FaultRecords { flight: Arc::clone(&flight), rank, config: config.clone() };
    let control = Arc::new(Control::start(
        meeting.rank,
        Arc::clone(&meeting.roster),
        meeting.control,
        config.timeouts,
        Arc::clone(&flight),
        Box::new(move |fault| {
            shutters.iter().for_each(Shutter::shut);
            records.write(fault);
        }),
        Box::new(move |stall: &Stall| {
            // One rank says it for all.
            if rank == 0 {
                eprintln!("burn-dist: {stall}");
            }
        }),
    )?);

    // With the control plane at work: should a rank be lost meanwhile, all are told which.
    let mut shared = if config.agreed.shared_memory {
        share_memory(&mut connected, &topology, &meeting.roster, config, deadline).map_err(
            |(peer, error)| {
                let why = format!("while shared memory was agreed on: {error}");
                DistError::Fault(control.suspect(Suspicion::LinkBroke { peer, seq: 0, why }))
            },
        )?
    } else {
        HashMap::new()
    };

    let mut lanes: Vec<Lane> =
        (0..topology.num_lanes(&config.agreed)).map(|_| Lane { links: Vec::new() }).collect();
    for (id, pipe) in connected {
        let link = Link::new(id.peer, pipe, shared.remove(&id), meeting.roster.generation);
        lanes[usize::from(id.stream)].links.push(link);
    }
    let engine = Engine {
        generation: meeting.roster.generation,
        world_size: meeting.rank.world_size().count(),
        agreed: config.agreed.clone(),
        lanes,
        control,
        flight,
        trace: Arc::new(Trace::new(rank, start)),
        deadline: config.timeouts.operation,
        seq: 0,
        caller: Caller::Waits,
    };
    Ok(Assembled { engine, topology, roster: meeting.roster, door: meeting.door })
}

/// Writes what this rank did last to a file when the job ends by a fault.
struct FaultRecords {
    flight: Arc<FlightRecorder>,
    rank: u32,
    config: Config,
}

impl FaultRecords {
    fn write(&self, fault: &Fault) {
        let Some(folder) = &self.config.flight_dir else { return };
        if let Err(error) = self.flight.write(folder, self.rank, Some(fault)) {
            eprintln!(
                "burn-dist: cannot write the flight record of rank {} to {}: {error}",
                self.rank,
                folder.display()
            );
        }
    }
}

/// Offers memory to every neighbour on this machine, and takes what they offer. A side that cannot (a full or
/// missing `/dev/shm`) says so, and that connection carries its payloads itself.
///
/// # Errors
/// A neighbour that was lost meanwhile, and how.
fn share_memory(
    connected: &mut [(LinkId, Box<dyn Pipe>)],
    topology: &Topology,
    roster: &Roster,
    config: &Config,
    deadline: Instant,
) -> Result<HashMap<LinkId, Shared>, (u32, io::Error)> {
    const YES: u8 = b'Y';
    const NO: u8 = b'N';
    let me = topology.rank;
    let session = &roster.session;
    let bytes = config.agreed.segment_bytes;
    let mut local: Vec<_> =
        connected.iter_mut().filter(|(id, _)| topology.shares_memory_with(id.peer)).collect();
    let patience = Patience::until(deadline);
    let tell = |pipe: &mut Box<dyn Pipe>, id: LinkId, answer: bool| {
        send(&mut **pipe, &[if answer { YES } else { NO }], patience).map_err(|error| (id.peer, error))
    };
    let hear = |pipe: &mut Box<dyn Pipe>, id: LinkId| {
        let mut answer = [0];
        receive(&mut **pipe, &mut answer, patience).map_err(|error| (id.peer, error))?;
        Ok(answer == [YES])
    };

    // What they offer has a name until it is opened here, and no longer, even if they die before that.
    let names: Vec<Name> = local.iter().map(|(id, _)| Name::new(session, id.peer, me, id.stream)).collect();
    let mut offers = HashMap::new();
    for (id, pipe) in &mut local {
        let offered = Offered::new(Name::new(session, me, id.peer, id.stream), bytes).ok();
        tell(pipe, *id, offered.is_some())?;
        offers.insert(*id, offered);
    }
    let mut taken = HashMap::new();
    for ((id, pipe), name) in local.iter_mut().zip(&names) {
        let theirs = hear(pipe, *id)?;
        let region = theirs.then(|| Region::open(name, bytes).ok()).flatten();
        tell(pipe, *id, region.is_some())?;
        taken.insert(*id, region);
    }
    drop(names);
    let mut shared = HashMap::new();
    for (id, pipe) in &mut local {
        // Both directions or none.
        let accepted = hear(pipe, *id)?;
        if let (Some(Some(offered)), Some(Some(come)), true) = (offers.remove(id), taken.remove(id), accepted)
        {
            shared.insert(*id, Shared::new(offered.accepted(), come));
        }
    }
    Ok(shared)
}
