//! The control thread of every rank but 0: it says that this rank lives and where it stands, passes reports on, and
//! brings the verdict home. It judges alone only about rank 0, which has nobody above it.

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    LINGER, Suspicion, fault,
    link::{Broken, Link, wait},
    mailbox::Mailbox,
    message::Message,
};
use crate::{
    config::Timeouts,
    error::{Fault, FaultKind, OpName},
    flight::FlightRecorder,
    rank::Rank,
    rendezvous::Roster,
};

struct Agent {
    rank: u32,
    /// To rank 0; `None` once that has left.
    link: Option<Link>,
    roster: Arc<Roster>,
    timeouts: Timeouts,
    flight: Arc<FlightRecorder>,
    mailbox: Arc<Mailbox>,
    /// When something came from rank 0.
    heard: Duration,
    /// Whether anything ever did.
    greeted: bool,
    /// Rank 0's last operation, since it said goodbye.
    hub_left: Option<u64>,
    /// What this rank reported first and waits for a verdict on.
    reported: Option<Suspicion>,
    /// Since this rank said goodbye: until when it waits for that to be heard.
    leaving: Option<Duration>,
    now: Duration,
}

/// Serves the rank until it leaves or the job is over.
pub(super) fn run(
    link: Link,
    rank: Rank,
    roster: Arc<Roster>,
    timeouts: Timeouts,
    flight: Arc<FlightRecorder>,
    mailbox: Arc<Mailbox>,
) {
    let mut agent = Agent {
        rank: rank.index() as u32,
        link: Some(link),
        roster,
        timeouts,
        flight,
        mailbox,
        heard: Duration::ZERO,
        greeted: false,
        hub_left: None,
        reported: None,
        leaving: None,
        now: Duration::ZERO,
    };
    let (start, mut beat) = (Instant::now(), Duration::ZERO);
    loop {
        let links: Vec<&Link> = agent.link.iter().collect();
        let ready = wait(&links, Some(agent.mailbox.waker()), beat.saturating_sub(agent.now));
        let away = start.elapsed() - agent.now;
        agent.now += away;
        // While this process itself was stopped it heard nobody: that counts against no one.
        if away > 2 * timeouts.heartbeat {
            agent.heard += away;
        }
        if agent.round(ready.contains(&true)).is_break() {
            break;
        }
        if agent.now >= beat {
            beat = agent.now + timeouts.heartbeat;
            agent.say_standing();
        }
        if let Some(link) = &mut agent.link {
            link.send();
        }
    }
    agent.say_last();
}

impl Agent {
    fn round(&mut self, ready: bool) -> ControlFlow<()> {
        if ready {
            self.receive()?;
        }
        self.forward()?;
        match self.leaving {
            Some(until) if self.now >= until => return ControlFlow::Break(()),
            Some(_) => {}
            None => self.watch()?,
        }
        ControlFlow::Continue(())
    }

    /// Everything that came is heard before its end is judged: a verdict may be the last of it.
    fn receive(&mut self) -> ControlFlow<()> {
        let Some(link) = &mut self.link else { return ControlFlow::Continue(()) };
        let mut messages = Vec::new();
        let broken = link.receive(&mut messages);
        for message in messages {
            (self.heard, self.greeted) = (self.now, true);
            self.hear(message)?;
        }
        let Some(Broken { kind, why, .. }) = broken else { return ControlFlow::Continue(()) };
        if self.leaving.is_some() {
            return ControlFlow::Break(());
        }
        if self.hub_left.is_some() {
            return self.go_alone();
        }
        // However it was noticed, all ranks say the same.
        self.decide(match kind {
            FaultKind::Silent => fault::silent(&self.roster, 0, self.timeouts.silence, self.op()),
            _ => fault::fault(&self.roster, kind, &[0], self.op(), why),
        })
    }

    fn hear(&mut self, message: Message) -> ControlFlow<()> {
        match message {
            Message::Heartbeat(_) => {}
            Message::Query { seq } => {
                let (record, standing) = (self.flight.find(seq), self.flight.standing());
                self.say(&Message::Answer { seq, record, standing });
            }
            Message::Left { last_seq } => {
                self.hub_left = Some(last_seq);
                self.say_standing();
                self.say(&Message::Heard);
            }
            Message::Stall(stall) => self.mailbox.report(&stall),
            Message::Heard => return ControlFlow::Break(()),
            Message::Verdict(fault) => {
                // Said first: what the data path does about it may take its time.
                self.say(&Message::Heard);
                self.link.iter_mut().for_each(Link::send);
                self.mailbox.decide(fault);
                return ControlFlow::Break(());
            }
            Message::Suspect(_) | Message::Answer { .. } | Message::Farewell { .. } => {
                let why = "it sent what only other ranks may say";
                let fault = fault::fault(&self.roster, FaultKind::Corrupt, &[0], self.op(), why);
                return self.decide(fault);
            }
        }
        ControlFlow::Continue(())
    }

    /// Passes on what the data path left.
    fn forward(&mut self) -> ControlFlow<()> {
        let (suspicions, farewell) = self.mailbox.take();
        for suspicion in suspicions {
            if self.link.is_none() {
                return self.decide_alone(&suspicion);
            }
            self.say_standing();
            self.say(&Message::Suspect(suspicion.clone()));
            self.reported.get_or_insert(suspicion);
        }
        if let Some(farewell) = farewell {
            if self.link.is_none() {
                return ControlFlow::Break(());
            }
            self.leaving = Some(self.now + LINGER);
            self.say_standing();
            self.say(&Message::Farewell { farewell, last_seq: self.flight.standing().last_seq });
        }
        ControlFlow::Continue(())
    }

    /// Is rank 0 there, as far as it is needed?
    fn watch(&mut self) -> ControlFlow<()> {
        let patience = fault::patience(&self.timeouts, self.greeted);
        let silent = self.now.saturating_sub(self.heard) > patience;
        match (&self.link, self.hub_left) {
            (Some(_), None) if silent => self.decide(fault::silent(&self.roster, 0, patience, self.op())),
            (Some(_), Some(_)) if silent => self.go_alone(),
            (None, Some(last_seq)) => match self.op() {
                Some(op) if op.seq > last_seq => {
                    let fault = self.missed(last_seq, op.seq);
                    self.decide(fault)
                }
                _ => ControlFlow::Continue(()),
            },
            _ => ControlFlow::Continue(()),
        }
    }

    /// Rank 0 has ended, as it said it would: what it did not answer is decided here.
    fn go_alone(&mut self) -> ControlFlow<()> {
        self.link = None;
        match self.reported.take() {
            Some(suspicion) => self.decide_alone(&suspicion),
            None => ControlFlow::Continue(()),
        }
    }

    fn decide_alone(&mut self, suspicion: &Suspicion) -> ControlFlow<()> {
        let fault = match self.hub_left {
            Some(last_seq) if suspicion.seq() > last_seq => self.missed(last_seq, suspicion.seq()),
            _ => fault::alone(&self.roster, self.rank, suspicion, self.op()),
        };
        self.decide(fault)
    }

    fn missed(&self, last_seq: u64, seq: u64) -> Fault {
        let detail = fault::left_words(last_seq, seq);
        fault::fault(&self.roster, FaultKind::Left, &[0], self.op(), detail)
    }

    fn op(&self) -> Option<OpName> {
        self.flight.standing().now.map(|(name, ..)| name)
    }

    /// The verdict of this rank alone, on rank 0. Told to it, should it wake.
    fn decide(&mut self, fault: Fault) -> ControlFlow<()> {
        let verdict = self.mailbox.decide(fault);
        self.say(&Message::Verdict((*verdict).clone()));
        ControlFlow::Break(())
    }

    fn say_standing(&mut self) {
        self.say(&Message::Heartbeat(self.flight.standing()));
    }

    fn say(&mut self, message: &Message) {
        if let Some(link) = &mut self.link {
            link.push(&message.frame());
        }
    }

    /// Gives what is queued a moment to go out.
    fn say_last(&mut self) {
        let Some(link) = &mut self.link else { return };
        let until = Instant::now() + LINGER;
        link.send();
        while link.is_behind() && Instant::now() < until {
            wait(&[link], None, Duration::from_millis(10));
            link.send();
        }
    }
}
