//! Rank 0's control thread: all sockets in one poll, everything heard goes to [`Judge`], what it decides goes to all.
//! It blocks nowhere else. Not the rules: those are the judge's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Farewell, LINGER,
    judge::{Decision, Event, Judge},
    link::{Broken, Link, wait},
    mailbox::Mailbox,
    message::Message,
};
use crate::{
    config::Timeouts,
    error::{Fault, FaultKind},
    flight::FlightRecorder,
    rendezvous::Roster,
};

/// Between two looks at what did not happen.
const TICK_MAX: Duration = Duration::from_millis(250);
/// The same while answers are awaited.
const TICK_BUSY: Duration = Duration::from_millis(10);
/// Messages that a rank may send in a second, and at once. A heartbeat every 10 ms and a silence of eight seconds fit.
const MAX_MESSAGES_PER_S: f64 = 1000.0;

/// Another rank, seen from here.
struct Spoke {
    rank: u32,
    link: Link,
    /// Whether anything may still come from it.
    open: bool,
    /// Whether it read the last goodbye or verdict, or needs none.
    heard: bool,
    /// How many messages it may send just now.
    allowance: f64,
}

struct Hub {
    spokes: Vec<Spoke>,
    judge: Judge,
    flight: Arc<FlightRecorder>,
    mailbox: Arc<Mailbox>,
    /// Since rank 0 said goodbye: its last operation, and until when it stays at most.
    leaving: Option<(u64, Duration)>,
    /// Since there is a verdict: who need not take it, and until when the others may.
    verdict: Option<(Vec<u32>, Duration)>,
    now: Duration,
}

/// Serves the job until all was said.
pub(super) fn run(
    links: Vec<(u32, Link)>,
    roster: Arc<Roster>,
    timeouts: Timeouts,
    flight: Arc<FlightRecorder>,
    mailbox: Arc<Mailbox>,
) {
    let spoke = |(rank, link)| Spoke { rank, link, open: true, heard: false, allowance: MAX_MESSAGES_PER_S };
    let start = Instant::now();
    let judge = Judge::new(roster, timeouts, Duration::ZERO);
    let spokes = links.into_iter().map(spoke).collect();
    let mut hub = Hub { spokes, judge, flight, mailbox, leaving: None, verdict: None, now: Duration::ZERO };
    let mut beat = Duration::ZERO;
    while !hub.is_done() {
        let ready = hub.wait(timeouts.heartbeat / 4);
        let before = std::mem::replace(&mut hub.now, start.elapsed());
        hub.receive(&ready, hub.now - before);
        // Of a job that is over the verdict is the last word.
        if hub.now >= beat && hub.verdict.is_none() {
            beat = hub.now + timeouts.heartbeat;
            hub.tell(&Message::Heartbeat(hub.flight.standing()));
        }
        hub.own(timeouts.silence);
        let decision = hub.judge.tick(hub.now);
        hub.obey(decision);
        for spoke in hub.spokes.iter_mut().filter(|spoke| spoke.open) {
            spoke.link.send();
        }
    }
}

impl Hub {
    fn is_done(&self) -> bool {
        let mut open = self.spokes.iter().filter(|spoke| spoke.open);
        match (&self.verdict, self.leaving) {
            (Some((spared, until)), _) => {
                self.now >= *until || open.all(|spoke| spoke.heard || spared.contains(&spoke.rank))
            }
            (None, Some((last_seq, until))) => {
                let read = open.all(|spoke| spoke.heard);
                self.now >= until || (read && self.judge.can_spare_main(last_seq))
            }
            (None, None) => false,
        }
    }

    fn wait(&self, tick: Duration) -> Vec<bool> {
        let open: Vec<&Link> =
            self.spokes.iter().filter(|spoke| spoke.open).map(|spoke| &spoke.link).collect();
        let busy = self.judge.is_busy() || self.verdict.is_some();
        let tick = if busy { TICK_BUSY.min(tick) } else { TICK_MAX.min(tick) };
        wait(&open, Some(self.mailbox.waker()), tick)
    }

    /// Hears those who have something. `ready` is of the open ones, in order.
    fn receive(&mut self, ready: &[bool], passed: Duration) {
        let mut events = Vec::new();
        let mut messages = Vec::new();
        let open = self.spokes.iter_mut().filter(|spoke| spoke.open);
        for (spoke, _) in open.zip(ready).filter(|(_, ready)| **ready) {
            let mut broken = spoke.link.receive(&mut messages);
            spoke.allowance += (passed.as_secs_f64() * MAX_MESSAGES_PER_S).min(MAX_MESSAGES_PER_S);
            spoke.allowance = (spoke.allowance - messages.len() as f64).min(MAX_MESSAGES_PER_S);
            if spoke.allowance < 0.0 {
                spoke.link.deafen();
                let why = format!("it sent more than {MAX_MESSAGES_PER_S} control messages in a second");
                broken = Some(Broken { kind: FaultKind::Failed, why, over: false });
            }
            for message in messages.drain(..) {
                spoke.hear(message, &mut events);
            }
            if let Some(Broken { kind, why, over }) = broken {
                // One who talks nonsense is told the verdict all the same.
                spoke.open = !over;
                events.push((spoke.rank, Event::Lost { kind, why }));
            }
        }
        for (rank, event) in events {
            let decision = self.judge.hear(self.now, rank, event);
            self.obey(decision);
        }
    }

    /// Rank 0's own standing, reports and farewell.
    fn own(&mut self, patience: Duration) {
        let (suspicions, farewell) = self.mailbox.take();
        let standing = self.flight.standing();
        let last_seq = standing.last_seq;
        let mut events = vec![Event::Heartbeat(standing)];
        events.extend(suspicions.into_iter().map(Event::Suspect));
        if let Some(farewell) = farewell {
            if self.verdict.is_none() && farewell == Farewell::Done {
                self.tell(&Message::Left { last_seq });
            }
            self.leaving = Some((last_seq, self.now + patience));
            events.push(Event::Farewell { farewell, last_seq });
        }
        for event in events {
            let decision = self.judge.hear(self.now, 0, event);
            self.obey(decision);
        }
    }

    fn obey(&mut self, decision: Option<Decision>) {
        match decision {
            None => {}
            Some(Decision::Ask { seq }) => {
                self.tell(&Message::Query { seq });
                let (record, standing) = (self.flight.find(seq), self.flight.standing());
                let more = self.judge.hear(self.now, 0, Event::Answer { seq, record, standing });
                self.obey(more);
            }
            Some(Decision::Report(stall)) => {
                self.mailbox.report(&stall);
                self.tell(&Message::Stall(stall));
            }
            Some(Decision::Verdict(fault)) => self.announce(fault),
        }
    }

    fn announce(&mut self, fault: Fault) {
        for spoke in &mut self.spokes {
            spoke.heard = false;
        }
        // Said first: what the data path does about it may take its time.
        self.tell(&Message::Verdict(fault.clone()));
        self.spokes.iter_mut().filter(|spoke| spoke.open).for_each(|spoke| spoke.link.send());
        let verdict = self.mailbox.decide(fault);
        // They are gone or deaf; a stopped one finds the verdict in its socket when it wakes.
        let gone = matches!(verdict.kind, FaultKind::Died | FaultKind::Silent);
        let spared = if gone { verdict.culprits.iter().map(|who| who.rank).collect() } else { Vec::new() };
        self.verdict = Some((spared, self.now + LINGER));
    }

    fn tell(&mut self, message: &Message) {
        let frame = message.frame();
        for spoke in self.spokes.iter_mut().filter(|spoke| spoke.open) {
            spoke.link.push(&frame);
        }
    }
}

impl Spoke {
    fn hear(&mut self, message: Message, events: &mut Vec<(u32, Event)>) {
        let event = match message {
            Message::Heartbeat(standing) => Event::Heartbeat(standing),
            Message::Suspect(suspicion) => Event::Suspect(suspicion),
            Message::Answer { seq, record, standing } => Event::Answer { seq, record, standing },
            Message::Farewell { farewell, last_seq } => {
                if farewell == Farewell::Done {
                    self.link.push(&Message::Heard.frame());
                    self.heard = true;
                }
                Event::Farewell { farewell, last_seq }
            }
            Message::Heard => {
                self.heard = true;
                return;
            }
            Message::Verdict(fault) if fault.culprits.iter().all(|who| who.rank == 0) => {
                Event::GivenUp(fault)
            }
            Message::Verdict(_) | Message::Query { .. } | Message::Left { .. } | Message::Stall(_) => {
                Event::Lost { kind: FaultKind::Corrupt, why: "it sent what only rank 0 may say".into() }
            }
        };
        events.push((self.rank, event));
    }
}
