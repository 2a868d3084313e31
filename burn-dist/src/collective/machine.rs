//! Carries a schedule out over links, as far as it goes without waiting. Who calls it decides how to wait: a driver
//! polls sockets, a test lets simulated peers move in any order.

use bytemuck::{cast_slice, cast_slice_mut};

use super::{
    schedule::{Action, Schedule},
    terms::{Terms, check, verify},
};
use crate::{
    transport::link::{Link, Trouble, room},
    wire::{
        checksum::crc32c,
        header::{Header, NOT_FINITE, SHARED},
        number::{Element, ReduceOp},
    },
};

/// How far it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// All of it.
    Done,
    /// Until some link has something, or takes something.
    Blocked,
}

/// What a link should be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interest {
    /// The link's place among the lane's.
    pub(crate) link: usize,
    /// Until its connection has something.
    pub(crate) read: bool,
    /// Until its connection takes something.
    pub(crate) write: bool,
    /// What it should read for: a frame in memory,
    pub(crate) frame: bool,
    /// a free slot there.
    pub(crate) slot: bool,
}

/// An operation under way on one lane.
pub(crate) struct Machine {
    terms: Terms,
    schedule: Schedule,
    queues: Vec<Queue>,
    sent: Vec<bool>,
    /// The checksum of what came, for whoever sends it on unchanged.
    received: Vec<Option<u32>>,
    /// Whether this rank's numbers, or those of any rank that it heard of, were not finite.
    pub(crate) not_finite: bool,
}

/// Transfers with one peer, in order.
struct Queue {
    link: usize,
    sends: std::vec::IntoIter<u32>,
    receives: std::vec::IntoIter<u32>,
    /// Whether the next send waits for a free slot.
    wants_slot: bool,
    /// The next receive waits for another transfer, not for its peer.
    held: bool,
}

impl Machine {
    /// Begins an operation. Every peer of the schedule must have a link.
    pub(crate) fn new(terms: Terms, schedule: Schedule, links: &[Link], not_finite: bool) -> Self {
        let mut peers: Vec<u32> = Vec::new();
        let all = schedule.sends.iter().map(|send| send.peer);
        for peer in all.chain(schedule.receives.iter().map(|receive| receive.peer)) {
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        let queue = |peer: u32| {
            let link =
                links.iter().position(|link| link.peer == peer).expect("the engine links all partners");
            let sends: Vec<u32> =
                (0..).zip(&schedule.sends).filter(|(_, send)| send.peer == peer).map(|(id, _)| id).collect();
            let receives: Vec<u32> = (0..)
                .zip(&schedule.receives)
                .filter(|(_, come)| come.peer == peer)
                .map(|(id, _)| id)
                .collect();
            let (sends, receives) = (sends.into_iter(), receives.into_iter());
            Queue { link, sends, receives, wants_slot: false, held: false }
        };
        Self {
            terms,
            queues: peers.into_iter().map(queue).collect(),
            sent: vec![false; schedule.sends.len()],
            received: vec![None; schedule.receives.len()],
            schedule,
            not_finite,
        }
    }

    /// Goes on until it would have to wait; whether anything moved, and how far it is.
    pub(crate) fn advance<T: Element>(
        &mut self,
        links: &mut [Link],
        buffer: &mut [T],
    ) -> Result<(bool, Status), Trouble> {
        let mut ever = false;
        loop {
            let mut moved = false;
            for index in 0..self.queues.len() {
                moved |= self.send(index, links, buffer)?;
                moved |= self.receive(index, links, buffer)?;
                let queue = &self.queues[index];
                let link = &mut links[queue.link];
                // While it looked for frames it may have read that slots are free.
                moved |= queue.wants_slot && link.has_free_slot();
            }
            ever |= moved;
            if moved {
                continue;
            }
            let mut done = true;
            for queue in &self.queues {
                let link = &mut links[queue.link];
                let told = link.is_sending() || link.ring()?;
                done &= queue.sends.len() == 0 && queue.receives.len() == 0 && told && !link.has_unsent();
            }
            return Ok((ever, if done { Status::Done } else { Status::Blocked }));
        }
    }

    /// What to wait for after [`Status::Blocked`].
    pub(crate) fn interests(&self, links: &[Link]) -> impl Iterator<Item = Interest> {
        self.queues.iter().map(|queue| {
            let link = &links[queue.link];
            let receives = queue.receives.len() > 0;
            // A frame that cannot be dealt with yet lies before whatever else there is to read.
            let frame = if link.has_header() { receives && !queue.held } else { receives };
            let slot = queue.wants_slot;
            Interest { link: queue.link, read: frame || slot, frame, slot, write: link.has_unsent() }
        })
    }

    /// The peers that something is still to come from.
    pub(crate) fn waiting_for(&self, links: &[Link]) -> Vec<u32> {
        let waits = |queue: &&Queue| queue.receives.len() > 0 && !queue.held;
        self.queues.iter().filter(waits).map(|queue| links[queue.link].peer).collect()
    }

    /// Segments that came so far. Of ranks that wait for each other the one with the fewest waits for the cause, on one
    /// level.
    pub(crate) fn num_received(&self) -> u64 {
        self.received.iter().flatten().count() as u64
    }

    /// Sends at most one segment; whether anything moved.
    fn send<T: Element>(
        &mut self,
        index: usize,
        links: &mut [Link],
        buffer: &mut [T],
    ) -> Result<bool, Trouble> {
        let queue = &mut self.queues[index];
        let link = &mut links[queue.link];
        let Some(&id) = queue.sends.as_slice().first() else { return Ok(false) };
        let send = &self.schedule.sends[id as usize];
        if send.after.is_some_and(|receive| self.received[receive as usize].is_none()) {
            return Ok(false);
        }
        let wire = self.terms.wire_of(link);
        let numbers = &mut buffer[send.range.clone()];
        let native = T::wire_bytes(wire) == size_of::<T>();
        let bytes = numbers.len() * T::wire_bytes(wire);
        let mut encoded = std::mem::take(&mut link.scratch.encoded);
        let through = 'frame: {
            if !link.is_sending() {
                if !native {
                    if send.rounds {
                        T::round_as_sent(wire, numbers);
                    }
                    T::encode(wire, numbers, room(&mut encoded, bytes));
                }
                let payload: &[u8] = if native { cast_slice(numbers) } else { room(&mut encoded, bytes) };
                let checked = self.terms.checksum && !link.is_shared();
                let known = send.after.and_then(|receive| {
                    let come = &self.schedule.receives[receive as usize];
                    let same = native && come.action == Action::Store && come.range == send.range;
                    self.received[receive as usize].filter(|&crc| same && crc != 0)
                });
                let crc = if checked { known.unwrap_or_else(|| crc32c(payload)) } else { 0 };
                let header = self.terms.header(checked.then_some(crc), send, bytes, self.not_finite);
                if link.is_shared() && !link.has_free_slot() && queue.receives.len() == 0 {
                    // With nothing to receive nobody else would see that the peer is gone.
                    link.header()?;
                }
                queue.wants_slot = !link.begin(header, payload)?;
                if queue.wants_slot {
                    break 'frame false;
                }
            }
            let payload: &[u8] = if native { cast_slice(numbers) } else { room(&mut encoded, bytes) };
            link.push(payload)?
        };
        link.scratch.encoded = encoded;
        if through {
            self.sent[id as usize] = true;
            queue.sends.next();
        }
        Ok(through)
    }

    /// Receives at most one segment; whether anything moved.
    fn receive<T: Element>(
        &mut self,
        index: usize,
        links: &mut [Link],
        buffer: &mut [T],
    ) -> Result<bool, Trouble> {
        let queue = &mut self.queues[index];
        let link = &mut links[queue.link];
        queue.held = false;
        let Some(&id) = queue.receives.as_slice().first() else { return Ok(false) };
        let come = &self.schedule.receives[id as usize];
        let Some(header) = link.header()? else { return Ok(false) };
        check::<T>(link, &header, &self.terms, come)?;
        let free = come.after_receive.is_none_or(|receive| self.received[receive as usize].is_some())
            && come.after_send.is_none_or(|send| self.sent[send as usize]);
        let relays = free && come.action == Action::Relay && header.flags & SHARED != 0;
        Ok(relays && self.relay(index, id, links, buffer, &header)?
            || self.take(index, id, links, buffer, &header, free)?)
    }

    /// Takes the segment whose header is here, if it is free to; whether that is through.
    fn take<T: Element>(
        &mut self,
        index: usize,
        id: u32,
        links: &mut [Link],
        buffer: &mut [T],
        header: &Header,
        free: bool,
    ) -> Result<bool, Trouble> {
        let queue = &mut self.queues[index];
        let link = &mut links[queue.link];
        let come = &self.schedule.receives[id as usize];
        let wire = self.terms.wire_of(link);
        let numbers = &mut buffer[come.range.clone()];
        let native = T::wire_bytes(wire) == size_of::<T>();
        let bytes = header.bytes as usize;
        let mut crc = 0;
        if header.flags & SHARED != 0 {
            queue.held = !free;
            if !free {
                return Ok(false);
            }
            let came = link.shared_payload(header)?;
            match (come.action, bytemuck::try_cast_slice(came)) {
                (Action::Store, _) => cast_slice_mut(numbers).copy_from_slice(came),
                (Action::Reduce { .. } | Action::Relay, Ok(came)) => T::combine(self.terms.op, numbers, came),
                (_, Err(why)) => return Err(link.corrupt(why)),
            }
        } else if come.action == Action::Store && native {
            queue.held = !free;
            if !free || !link.read_payload(cast_slice_mut(numbers))? {
                return Ok(false);
            }
            crc = verify(link, header, cast_slice(numbers))?;
        } else {
            // Out of the link while the link is at work; an error ends the job, and the room with it.
            let mut scratch = std::mem::take(&mut link.scratch);
            let arrived = room(&mut scratch.arrived, bytes);
            let here = link.read_payload(arrived)?;
            queue.held = here && !free;
            if here && free {
                verify(link, header, arrived)?;
                match come.action {
                    Action::Store => T::decode(wire, arrived, numbers),
                    Action::Reduce { .. } | Action::Relay if native => {
                        T::combine(self.terms.op, numbers, cast_slice(arrived));
                    }
                    Action::Reduce { .. } | Action::Relay => {
                        let decoded = cast_slice_mut(room(&mut scratch.decoded, size_of_val(numbers)));
                        T::decode(wire, arrived, decoded);
                        T::combine(self.terms.op, numbers, decoded);
                    }
                }
            }
            link.scratch = scratch;
            if !here || !free {
                return Ok(false);
            }
        }
        if come.action == (Action::Reduce { last: true }) {
            if self.terms.op == ReduceOp::Mean {
                T::divide(numbers, self.terms.world_size);
            }
            T::round_as_sent(self.terms.wire, numbers);
        }
        self.not_finite |= header.flags & NOT_FINITE != 0;
        self.received[id as usize] = Some(crc);
        link.finish()?;
        queue.receives.next();
        Ok(true)
    }

    /// Combines a segment that came through memory into the slot in which it goes on, if that is possible now: what
    /// this rank has is read and not written, and nothing is copied.
    fn relay<T: Element>(
        &mut self,
        index: usize,
        id: u32,
        links: &mut [Link],
        buffer: &[T],
        header: &Header,
    ) -> Result<bool, Trouble> {
        let range = &self.schedule.receives[id as usize].range;
        let takes = |queue: &Queue| {
            let next = queue.sends.as_slice().first().map(|&send| &self.schedule.sends[send as usize]);
            next.is_some_and(|send| send.after == Some(id) && send.range == *range)
        };
        let Some(onward) = self.queues.iter().position(takes) else { return Ok(false) };
        let (from, to) = (self.queues[index].link, self.queues[onward].link);
        let Ok([from, to]) = links.get_disjoint_mut([from, to]) else { return Ok(false) };
        let Ok(came) = bytemuck::try_cast_slice(from.shared_payload(header)?) else { return Ok(false) };
        let own = &buffer[range.clone()];
        self.not_finite |= header.flags & NOT_FINITE != 0;
        let sent = self.queues[onward].sends.as_slice()[0];
        let send = &self.schedule.sends[sent as usize];
        let header = self.terms.header(None, send, size_of_val(own), self.not_finite);
        let op = self.terms.op;
        if !to.put(header, |slot| T::combined(op, cast_slice_mut(slot), own, came))? {
            return Ok(false);
        }
        self.sent[sent as usize] = true;
        self.received[id as usize] = Some(0);
        from.finish()?;
        self.queues[onward].wants_slot = false;
        self.queues[onward].sends.next();
        self.queues[index].receives.next();
        Ok(true)
    }
}
