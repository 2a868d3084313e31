//! Carries operations out, one after the other: plans it, drives a machine on every lane until it is through, and turns
//! what goes wrong into the verdict that all ranks share. A lane is one connection to each neighbour; a large buffer is
//! cut into as many stripes as there are lanes, each on a thread of its own.

use std::{
    io,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use crate::{
    collective::{
        chunk::chunk,
        machine::{Machine, Status},
        schedule::Schedule,
        terms::Terms,
    },
    config::{Agreed, Wire},
    control::{Control, Suspicion},
    error::{DistError, OpName, Result},
    flight::FlightRecorder,
    trace::{Span, Trace},
    transport::{
        link::{Link, Trouble},
        poll,
    },
    wire::{
        checksum::hash,
        number::{Element, ReduceOp},
    },
};

/// A stripe shorter than this is not worth a thread.
const MIN_STRIPE_BYTES: usize = 1 << 20;

/// Whether the caller waits for an operation, or computes meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Waits,
    Computes,
}

impl Caller {
    /// How long a lane looks again and again, giving way to others, before it sleeps. Waking takes tens of microseconds,
    /// and with more ranks than cores they add up to a fifth of the time (benches/RESULTS.md); but looking takes time from
    /// a backward pass.
    pub(crate) const fn spin(self) -> Duration {
        match self {
            Self::Waits => Duration::from_millis(1),
            Self::Computes => Duration::from_micros(50),
        }
    }
}

/// One connection to each neighbour.
pub(crate) struct Lane {
    pub(crate) links: Vec<Link>,
}

/// What carries operations out.
pub(crate) struct Engine {
    pub(crate) generation: u32,
    pub(crate) world_size: usize,
    pub(crate) agreed: Agreed,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) control: Arc<Control>,
    pub(crate) flight: Arc<FlightRecorder>,
    pub(crate) trace: Arc<Trace>,
    /// How long an operation may wait for a rank that does not come.
    pub(crate) deadline: Duration,
    /// The number of the last operation.
    pub(crate) seq: u64,
    /// Of the operation under way.
    pub(crate) caller: Caller,
}

/// An operation, before it has a number.
pub(crate) struct Call {
    /// In words, for messages.
    pub(crate) what: String,
    pub(crate) op: ReduceOp,
    /// How its numbers travel.
    pub(crate) wire: Wire,
    /// Whether the buffer may be cut into stripes: every part of it is treated alike.
    pub(crate) striped: bool,
    /// Whether several ranks compute the result, each for itself, rather than one for all.
    pub(crate) computed_by_all: bool,
    /// Whether this rank's numbers are not all finite.
    pub(crate) not_finite: bool,
}

/// What came of an operation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Carried {
    /// Whether some rank's numbers were not all finite.
    pub(crate) not_finite: bool,
    /// From the call to its end.
    pub(crate) seconds: f64,
    /// Of them, waiting for peers; the longest of the lanes.
    pub(crate) wait_s: f64,
}

impl Engine {
    /// Carries out one operation on `buffer`; `plan` writes the schedule for a stripe of it.
    ///
    /// # Errors
    /// The verdict, if the job came to its end before or during the operation.
    pub(crate) fn run<T: Element>(
        &mut self,
        call: Call,
        buffer: &mut [T],
        plan: &(dyn Fn(&mut Schedule, Range<usize>) + Sync),
    ) -> Result<Carried> {
        if let Some(fault) = self.control.fault() {
            return Err(DistError::Fault(fault));
        }
        self.seq += 1;
        let started = Instant::now();
        let fingerprint = fingerprint(&call.what, call.wire, &self.agreed);
        let name = OpName { seq: self.seq, what: call.what };
        self.flight.begin(name.clone(), fingerprint, size_of_val(buffer) as u64);

        // A half has little room above: what is to be a mean is divided before it is added up.
        let before = call.op == ReduceOp::Mean && call.wire == Wire::F16;
        if before {
            T::divide(buffer, self.world_size);
        }
        let terms = Terms {
            generation: self.generation,
            seq: self.seq,
            fingerprint,
            op: if before { ReduceOp::Sum } else { call.op },
            wire: call.wire,
            world_size: self.world_size,
            checksum: self.agreed.checksum,
        };
        let bytes = size_of_val(buffer);
        let num_stripes =
            if call.striped { (bytes / MIN_STRIPE_BYTES).clamp(1, self.lanes.len()) } else { 1 };
        let shared_segment = self.agreed.segment_bytes / size_of::<T>();
        let driver = Driver {
            terms,
            control: &self.control,
            deadline: started + self.deadline,
            spin: self.caller.spin(),
        };
        let whole = 0..buffer.len();
        let mut rest = &mut *buffer;
        let mut stripes = Vec::with_capacity(num_stripes);
        for (index, lane) in self.lanes.iter_mut().take(num_stripes).enumerate() {
            let (stripe, after) = rest.split_at_mut(chunk(&whole, num_stripes, index).len());
            rest = after;
            stripes.push((lane, stripe));
        }
        let drive = |(lane, stripe): (&mut Lane, &mut [T])| {
            let mut schedule = Schedule::new(shared_segment);
            plan(&mut schedule, 0..stripe.len());
            driver.drive(lane, stripe, schedule, call.not_finite)
        };
        let results: Vec<Result<Carried>> = std::thread::scope(|scope| {
            let first = stripes.remove(0);
            let others: Vec<_> = stripes.drain(..).map(|stripe| scope.spawn(|| drive(stripe))).collect();
            let first = drive(first);
            let others = others.into_iter().map(|lane| match lane.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            std::iter::once(first).chain(others).collect()
        });
        let mut carried = Carried { seconds: started.elapsed().as_secs_f64(), ..Carried::default() };
        for (lane, result) in results.into_iter().enumerate() {
            let of_lane = result?;
            self.trace.add(Span::of(
                &name,
                lane,
                bytes / num_stripes,
                started,
                of_lane.seconds,
                of_lane.wait_s,
            ));
            carried.not_finite |= of_lane.not_finite;
            carried.wait_s = carried.wait_s.max(of_lane.wait_s);
        }
        if call.computed_by_all {
            T::settle(buffer);
        }
        self.flight.end();
        Ok(carried)
    }
}

/// What all lanes of an operation share.
struct Driver<'a> {
    terms: Terms,
    control: &'a Control,
    deadline: Instant,
    spin: Duration,
}

impl Driver<'_> {
    /// Carries a schedule out on one lane, waiting where the machine would.
    fn drive<T: Element>(
        &self,
        lane: &mut Lane,
        buffer: &mut [T],
        schedule: Schedule,
        not_finite: bool,
    ) -> Result<Carried> {
        let started = Instant::now();
        let mut waited = Duration::ZERO;
        let mut idle_since: Option<Instant> = None;
        // Over a slow link every wait is long: looking again would only take processor time from the backward pass.
        let mut peers_are_quick = true;
        let links = &mut lane.links;
        let mut machine = Machine::new(self.terms, schedule, links, not_finite);
        loop {
            // Looked up first: what a peer sent before it went is still taken.
            let fault = self.control.fault();
            let (moved, status) = match machine.advance(links, buffer) {
                Ok(progress) => progress,
                Err(trouble) => return Err(self.verdict(suspicion(trouble, &self.terms))),
            };
            let now = Instant::now();
            if let Some(since) = idle_since.filter(|_| moved || status == Status::Done) {
                waited += now - since;
                peers_are_quick = now - since < 4 * self.spin;
                idle_since = None;
            }
            if status == Status::Done {
                break;
            }
            if let Some(fault) = fault {
                return Err(DistError::Fault(fault));
            }
            let since = *idle_since.get_or_insert(now);
            if peers_are_quick && now - since < self.spin {
                std::thread::yield_now();
                continue;
            }
            if now >= self.deadline {
                let (waiting_for, received) = (machine.waiting_for(links), machine.num_received());
                let seq = self.terms.seq;
                return Err(self.verdict(Suspicion::Deadline { seq, waiting_for, received }));
            }
            wait(&machine, links, self.deadline - now)
                .map_err(|error| DistError::usage(format!("cannot wait for connections: {error}")))?;
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(Carried { not_finite: machine.not_finite, seconds, wait_s: waited.as_secs_f64() })
    }

    fn verdict(&self, suspicion: Suspicion) -> DistError {
        DistError::Fault(self.control.suspect(suspicion))
    }
}

/// Waits until some link has something or takes something, or for `patience`.
fn wait(machine: &Machine, links: &[Link], patience: Duration) -> io::Result<()> {
    let mut fds = Vec::new();
    for interest in machine.interests(links) {
        let link = &links[interest.link];
        let pipe = link.pipe();
        if (interest.read && pipe.has_bytes()) || !link.may_sleep(interest.frame, interest.slot) {
            return Ok(());
        }
        let read = if interest.read { PollFlags::IN } else { PollFlags::empty() };
        let write = if interest.write { PollFlags::OUT } else { PollFlags::empty() };
        // With neither it still tells that the connection ended.
        fds.extend(pipe.fd().map(|fd| PollFd::from_borrowed_fd(fd, read | write)));
    }
    poll::wait(&mut fds, patience)
}

fn suspicion(trouble: Trouble, terms: &Terms) -> Suspicion {
    let seq = terms.seq;
    match trouble {
        Trouble::Broke { peer, why } => Suspicion::LinkBroke { peer, seq, why },
        Trouble::Corrupt { peer, why } => Suspicion::Corrupt { peer, seq, why },
        Trouble::Mismatch { peer, peer_seq, peer_fingerprint } => {
            Suspicion::Mismatch { peer, seq, fingerprint: terms.fingerprint, peer_seq, peer_fingerprint }
        }
    }
}

/// The same on two ranks exactly if they mean the same operation on the same layout.
pub(crate) fn fingerprint(what: &str, wire: Wire, agreed: &Agreed) -> u64 {
    let layout = [wire as u64, agreed.segment_bytes as u64, agreed.streams as u64];
    hash([what.as_bytes(), bytemuck::bytes_of(&layout)])
}
