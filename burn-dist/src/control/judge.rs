//! Who is to blame: what ranks tell and when goes in, decisions come out. Pure: no socket, no clock.
//!
//! A direct cause (a death, a rank's own error, damaged bytes, an early end) is certain; a broken data connection mostly
//! follows from one and waits for it. Before any verdict all ranks are asked where they stand, so that it names the
//! operation it broke, and whether two of them called different ones.

mod cause;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use self::cause::{Cause, Late};
use super::{Farewell, Stall, Suspicion, fault};
use crate::{
    config::Timeouts,
    error::{Fault, FaultKind, OpName},
    flight::{OpRecord, Standing},
    rendezvous::Roster,
};

/// For the cause behind a broken connection to show, and for answers once a cause is certain.
pub(super) const GRACE: Duration = Duration::from_millis(300);
/// For answers where they decide.
pub(super) const INQUIRY: Duration = Duration::from_secs(1);
/// Before those who had not called the operation yet are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What rank 0 hears of a rank, itself included. The time is since the start of the job, here and below.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Heartbeat(Standing),
    Suspect(Suspicion),
    Answer {
        seq: u64,
        record: Option<OpRecord>,
        standing: Standing,
    },
    Farewell {
        farewell: Farewell,
        last_seq: u64,
    },
    /// Its control connection is over, or what comes over it is nothing that a rank would say.
    Lost {
        kind: FaultKind,
        why: String,
    },
    /// It judged alone: this process was stopped for so long that the others gave it up.
    GivenUp(Fault),
}

/// What rank 0 does about it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// Ask all where they stand and what they called under that number.
    Ask { seq: u64 },
    /// Tell all that an operation waits.
    Report(Stall),
    /// Tell all that the job is over. Nothing is decided after it.
    Verdict(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Presence {
    Here,
    /// Its work was done after that operation.
    Left(u64),
    /// Its connection is over, or nothing it says counts any more.
    Gone,
}

#[derive(Debug)]
struct Seat {
    presence: Presence,
    standing: Standing,
    heard: Duration,
    /// Whether it ever spoke: until then it may still be connecting, and has the time to start.
    greeted: bool,
}

impl Seat {
    /// Whether it is in that operation.
    fn is_in(&self, seq: u64) -> bool {
        self.standing.now.as_ref().is_some_and(|(op, ..)| op.seq == seq)
    }
}

#[derive(Debug)]
struct Case {
    cause: Cause,
    due: Duration,
    /// When to ask again, should some not have called the operation.
    again: Duration,
    answered: BTreeSet<u32>,
    calls: BTreeMap<u32, OpRecord>,
}

impl Case {
    fn is_disagreement(&self) -> bool {
        matches!(self.cause, Cause::Disagreement { .. })
    }
}

/// The state of a job, as rank 0 knows it.
#[derive(Debug)]
pub(super) struct Judge {
    roster: Arc<Roster>,
    timeouts: Timeouts,
    seats: Vec<Seat>,
    case: Option<Case>,
    /// What to ask all, for a case just opened.
    ask: Option<u64>,
    /// The operation last reported as waiting, and when to report it again.
    stall: Option<(u64, Duration)>,
    ticked: Duration,
    over: bool,
}

impl Judge {
    pub(super) fn new(roster: Arc<Roster>, timeouts: Timeouts, now: Duration) -> Self {
        let (presence, standing) = (Presence::Here, Standing::default());
        let seat = |_: &_| Seat { presence, standing: standing.clone(), heard: now, greeted: false };
        let seats = roster.members.iter().map(seat).collect();
        Self { roster, timeouts, seats, case: None, ask: None, stall: None, ticked: now, over: false }
    }

    /// Takes note of what rank `from` says. Of a rank that left or is gone, nothing is.
    pub(super) fn hear(&mut self, now: Duration, from: u32, event: Event) -> Option<Decision> {
        if self.over {
            return None;
        }
        let num_ranks = self.seats.len() as u32;
        let here = |seat: &&mut Seat| seat.presence == Presence::Here;
        let seat = self.seats.get_mut(from as usize).filter(here)?;
        (seat.heard, seat.greeted) = (now, true);
        match event {
            Event::Heartbeat(standing) => {
                seat.standing = standing;
                self.compare(now, from);
            }
            Event::Answer { seq, record, standing } => {
                seat.standing = standing;
                if let Some(case) = self.case.as_mut().filter(|case| case.cause.seq().unwrap_or(0) == seq) {
                    case.answered.insert(from);
                    case.calls.extend(record.map(|record| (from, record)));
                }
                self.compare(now, from);
            }
            Event::Suspect(suspicion) => match Cause::of(from, suspicion, num_ranks) {
                Ok(cause) => self.open(now, cause),
                Err(why) => self.lose(now, from, FaultKind::Corrupt, why),
            },
            Event::Farewell { farewell, last_seq } => match farewell {
                Farewell::Done => seat.presence = Presence::Left(last_seq),
                Farewell::Failed(why) => self.lose(now, from, FaultKind::Failed, why),
                Farewell::Panicked(why) => self.lose(now, from, FaultKind::Panicked, why),
            },
            Event::Lost { kind, why } => self.lose(now, from, kind, why),
            Event::GivenUp(fault) => return self.end(fault),
        }
        self.settle(now)
    }

    /// Notices what did not happen. To be called often, after everything that came was heard.
    pub(super) fn tick(&mut self, now: Duration) -> Option<Decision> {
        if self.over {
            return None;
        }
        // While this process itself was stopped it heard nobody: that counts against no one.
        let away = now.saturating_sub(self.ticked);
        let forgiven = if away > 2 * self.timeouts.heartbeat { away } else { Duration::ZERO };
        self.ticked = now;
        // Rank 0 hears itself.
        for rank in 1..self.seats.len() {
            let seat = &mut self.seats[rank];
            seat.heard = now.min(seat.heard + forgiven);
            let patience = fault::patience(&self.timeouts, seat.greeted);
            if seat.presence == Presence::Here && now - seat.heard > patience {
                let detail = fault::silence_words(patience);
                self.lose(now, rank as u32, FaultKind::Silent, detail);
            }
        }
        if let Some(case) = self.case.as_mut().filter(|case| case.is_disagreement() && now >= case.again) {
            case.again = now + ASK_AGAIN;
            self.ask = case.cause.seq();
        }
        self.settle(now).or_else(|| self.stalled(now))
    }

    /// Whether an answer is awaited, so that time matters more than usual.
    pub(super) fn is_busy(&self) -> bool {
        self.case.is_some() && !self.over
    }

    /// Whether rank 0, which took part in operations up to `last_seq`, can go without leaving anybody in one of them.
    pub(super) fn can_spare_main(&self, last_seq: u64) -> bool {
        self.case.is_none()
            && self.seats.iter().skip(1).all(|seat| {
                let Standing { now, last_seq: last } = &seat.standing;
                seat.presence != Presence::Here || (now.is_none() && *last >= last_seq)
            })
    }

    /// What follows from all that is known by now.
    fn settle(&mut self, now: Duration) -> Option<Decision> {
        self.miss(now);
        match self.conclude(now) {
            Some(fault) => self.end(fault),
            None => self.ask.take().map(|seq| Decision::Ask { seq }),
        }
    }

    fn end(&mut self, fault: Fault) -> Option<Decision> {
        self.over = true;
        Some(Decision::Verdict(fault))
    }

    fn here(&self) -> impl Iterator<Item = (u32, &Seat)> {
        let seats = self.seats.iter().enumerate().map(|(rank, seat)| (rank as u32, seat));
        seats.filter(|(_, seat)| seat.presence == Presence::Here)
    }

    /// Those who have not called an operation.
    fn missing(&self, seq: u64) -> impl Iterator<Item = (u32, &Seat)> {
        self.here().filter(move |(_, seat)| seat.standing.last_seq < seq)
    }

    fn lose(&mut self, now: Duration, rank: u32, kind: FaultKind, detail: String) {
        self.seats[rank as usize].presence = Presence::Gone;
        self.open(now, Cause::Direct { kind, culprits: vec![rank], seq: None, detail });
    }

    /// Takes up a cause, unless there is a better one.
    fn open(&mut self, now: Duration, cause: Cause) {
        if let Some(case) = self.case.as_mut().filter(|case| case.cause.weight() >= cause.weight()) {
            return case.cause.add(cause);
        }
        let wait = match cause {
            Cause::Direct { .. } | Cause::Link { .. } => GRACE,
            Cause::Disagreement { .. } | Cause::Deadline { .. } => INQUIRY,
        };
        self.ask = Some(cause.seq().unwrap_or(0));
        let (answered, calls) = Default::default();
        self.case = Some(Case { cause, due: now + wait, again: now + ASK_AGAIN, answered, calls });
    }

    /// Two ranks in operations of one number that are not the same, although no frame crossed yet.
    fn compare(&mut self, now: Duration, rank: u32) {
        let Some((op, fingerprint, _)) = &self.seats[rank as usize].standing.now else { return };
        let seq = op.seq;
        let differs = |seat: &Seat| {
            seat.standing.now.as_ref().is_some_and(|(op, other, _)| op.seq == seq && other != fingerprint)
        };
        if self.here().any(|(_, seat)| differs(seat)) {
            self.open(now, Cause::Disagreement { seq, frame: None });
        }
    }

    /// Finds ranks that left and are missed by one that called a later operation.
    fn miss(&mut self, now: Duration) {
        let left = |seat: &Seat| match seat.presence {
            Presence::Left(last_seq) => Some(last_seq),
            _ => None,
        };
        let Some(first) = self.seats.iter().filter_map(left).min() else { return };
        let called = self.here().filter_map(|(_, seat)| Some(seat.standing.now.as_ref()?.0.seq));
        // A report may come before the standing that goes with it.
        let reported =
            self.case.iter().filter(|case| case.cause.weight() < 2).filter_map(|case| case.cause.seq());
        let Some(seq) = called.chain(reported).filter(|&seq| seq > first).min() else { return };
        let early = |(rank, seat)| left(seat).filter(|&last| last < seq).map(|_| rank as u32);
        let culprits: Vec<u32> = self.seats.iter().enumerate().filter_map(early).collect();
        let detail = fault::left_words(first, seq);
        self.open(now, Cause::Direct { kind: FaultKind::Left, culprits, seq: Some(seq), detail });
    }

    /// The verdict, once the open case is ripe.
    fn conclude(&self, now: Duration) -> Option<Fault> {
        let case = self.case.as_ref()?;
        // Who has not called the operation yet may be about to, and decide who is in the minority.
        let complete = self.here().all(|(rank, _)| match case.is_disagreement() {
            true => case.calls.contains_key(&rank),
            false => case.answered.contains(&rank),
        });
        let ripe = match &case.cause {
            // A peer that does not answer is about to be found silent: that is then the cause.
            Cause::Link { peer, .. } => {
                let peer_lives =
                    self.seats[*peer as usize].presence != Presence::Here || case.answered.contains(peer);
                now >= case.due && (peer_lives || now >= case.due + self.timeouts.silence)
            }
            // Once all called it, those who wait too are about to report, and one may be further behind.
            Cause::Deadline { seq, reporters, .. } => {
                let waits = |(rank, seat): (u32, &Seat)| seat.is_in(*seq) && !reporters.contains(&rank);
                let more = self.missing(*seq).next().is_none() && self.here().any(waits);
                (complete && !more) || now >= case.due
            }
            _ => complete || now >= case.due,
        };
        ripe.then(|| self.sentence(case))
    }

    fn sentence(&self, case: &Case) -> Fault {
        let roster = &*self.roster;
        let op = match case.cause.seq() {
            Some(seq) => self.name(case, seq),
            // What waits longest is what broke.
            None => self
                .here()
                .filter_map(|(_, seat)| Some(&seat.standing.now.as_ref()?.0))
                .min_by_key(|op| op.seq)
                .cloned(),
        };
        if case.cause.weight() < 2
            && let Some(fault) =
                case.cause.seq().and_then(|seq| fault::disagreement(roster, seq, &case.calls))
        {
            return fault;
        }
        match &case.cause {
            Cause::Direct { kind, culprits, detail, .. } => fault::fault(roster, *kind, culprits, op, detail),
            Cause::Disagreement { frame: Some((peer, detail)), .. } => {
                fault::fault(roster, FaultKind::Mismatch, &[*peer], op, detail)
            }
            Cause::Disagreement { seq, frame: None } => self.disagreed(*seq, op),
            Cause::Deadline { seq, behind, .. } => self.late(*seq, behind, op),
            Cause::Link { reporter, peer, why, .. } => {
                let detail = format!("rank {reporter} to rank {peer}: {why}");
                fault::fault(roster, FaultKind::LinkLost, &[*reporter, *peer], op, detail)
            }
        }
    }

    fn name(&self, case: &Case, seq: u64) -> Option<OpName> {
        let standings = self.seats.iter().filter_map(|seat| Some(&seat.standing.now.as_ref()?.0));
        standings.chain(case.calls.values().map(|record| &record.name)).find(|op| op.seq == seq).cloned()
    }

    /// Heartbeats disagreed, and the answers do not tell more.
    fn disagreed(&self, seq: u64, op: Option<OpName>) -> Fault {
        let calls = self.here().filter_map(|(rank, seat)| {
            let (name, fingerprint, _) = seat.standing.now.clone().filter(|(name, ..)| name.seq == seq)?;
            Some((rank, OpRecord { name, fingerprint, bytes: 0, begin_us: 0, end_us: None }))
        });
        let all: Vec<u32> = self.here().map(|(rank, _)| rank).collect();
        fault::disagreement(&self.roster, seq, &calls.collect()).unwrap_or_else(|| {
            let detail =
                "its ranks were seen in different operations of that number, and do not remember them";
            fault::fault(&self.roster, FaultKind::Mismatch, &all, op, detail)
        })
    }

    fn late(&self, seq: u64, behind: &Late, op: Option<OpName>) -> Fault {
        let Late { reporter, waiting_for, .. } = behind;
        let limit = self.timeouts.operation;
        let missing: Vec<_> = self.missing(seq).collect();
        if missing.is_empty() {
            let detail = format!(
                "all called the operation, but not all data reached rank {reporter} within {limit:?}: the network is too \
                 slow or cut"
            );
            let culprits = if waiting_for.is_empty() { std::slice::from_ref(reporter) } else { waiting_for };
            return fault::fault(&self.roster, FaultKind::Stalled, culprits, op, detail);
        }
        let culprits: Vec<u32> = missing.iter().map(|(rank, _)| *rank).collect();
        let stand = fault::standings_words(missing.into_iter().map(|(rank, seat)| (rank, &seat.standing)));
        let detail = format!("rank {reporter} waited {limit:?}; {stand}");
        fault::fault(&self.roster, FaultKind::Stalled, &culprits, op, detail)
    }

    fn stalled(&mut self, now: Duration) -> Option<Decision> {
        if self.case.is_some() {
            return None;
        }
        let waits = |(_, seat): (u32, &Seat)| {
            let (op, _, since_ms) = seat.standing.now.clone()?;
            Some((op, Duration::from_millis(since_ms)))
        };
        // The lowest number first: the others wait for it too.
        let long = self.here().filter_map(waits).filter(|(_, waited)| *waited >= self.timeouts.stall_report);
        let (op, waited) = long.min_by_key(|(op, waited)| (op.seq, std::cmp::Reverse(*waited)))?;
        if self.stall.is_some_and(|(seq, again)| seq == op.seq && now < again) {
            return None;
        }
        let missing: Vec<_> = self.missing(op.seq).collect();
        if missing.is_empty() {
            return None;
        }
        let standings = fault::standings_words(missing.iter().map(|(rank, seat)| (*rank, &seat.standing)));
        let missing = missing.iter().map(|(rank, _)| fault::who(&self.roster, *rank)).collect();
        self.stall = Some((op.seq, now + self.timeouts.stall_report));
        Some(Decision::Report(Stall { op, missing, waited, standings }))
    }
}
