//! Every rule, without a thread or a clock.

use super::{super::tests::roster, *};
use crate::transport::simulated::Dice;

const HEARTBEAT: Duration = Duration::from_secs(1);

fn timeouts() -> Timeouts {
    Timeouts::default()
}

/// A judge with the time, and ranks that answer as they are told.
struct Court {
    judge: Judge,
    now: Duration,
    /// Those who answer at once when asked, with the operation they remember, by its fingerprint.
    answers: BTreeMap<u32, (Standing, Option<u64>)>,
    reports: Vec<Stall>,
    verdict: Option<Fault>,
}

impl Court {
    /// Where nobody answers yet.
    fn new(num_ranks: u32) -> Self {
        let judge = Judge::new(Arc::new(roster(num_ranks)), timeouts(), Duration::ZERO);
        Self { judge, now: Duration::ZERO, answers: BTreeMap::new(), reports: Vec::new(), verdict: None }
    }

    /// Where all are in operation `seq` and answer.
    fn in_op(num_ranks: u32, seq: u64) -> Self {
        let mut court = Self::new(num_ranks);
        for rank in 0..num_ranks {
            court.enter(rank, seq, 1);
        }
        court
    }

    fn enter(&mut self, rank: u32, seq: u64, fingerprint: u64) {
        self.answers.insert(rank, (within(seq, fingerprint), Some(fingerprint)));
        self.say(rank, Event::Heartbeat(within(seq, fingerprint)));
    }

    /// Between operations, after `last_seq`.
    fn idle(&mut self, rank: u32, last_seq: u64) {
        self.answers.insert(rank, (idle(last_seq), None));
        self.say(rank, Event::Heartbeat(idle(last_seq)));
    }

    fn say(&mut self, rank: u32, event: Event) {
        let decision = self.judge.hear(self.now, rank, event);
        self.take(decision);
    }

    fn take(&mut self, decision: Option<Decision>) {
        let Some(decision) = decision else { return };
        assert!(self.verdict.is_none(), "{decision:?} after the verdict");
        match decision {
            Decision::Ask { seq } => {
                for (rank, (standing, fingerprint)) in self.answers.clone() {
                    let record = fingerprint.map(|fingerprint| record(seq, fingerprint));
                    self.say(rank, Event::Answer { seq, record, standing });
                }
            }
            Decision::Report(stall) => self.reports.push(stall),
            Decision::Verdict(fault) => self.verdict = Some(fault),
        }
    }

    /// Nothing but time passes, and those who answer send heartbeats.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = until.min(self.now + HEARTBEAT / 4);
            for (rank, (standing, _)) in self.answers.clone() {
                self.say(rank, Event::Heartbeat(standing));
            }
            let decision = self.judge.tick(self.now);
            self.take(decision);
        }
    }

    #[track_caller]
    fn expect(&self, kind: FaultKind, culprits: &[u32]) -> &Fault {
        let fault = self.verdict.as_ref().expect("a verdict");
        let named: Vec<u32> = fault.culprits.iter().map(|who| who.rank).collect();
        assert_eq!((fault.kind, &*named), (kind, culprits), "{fault}");
        fault
    }

    #[track_caller]
    fn expect_peace(&self) {
        assert_eq!(self.verdict, None);
    }
}

fn op(seq: u64, fingerprint: u64) -> OpName {
    OpName { seq, what: format!("kind {fingerprint}") }
}

fn within(seq: u64, fingerprint: u64) -> Standing {
    Standing { now: Some((op(seq, fingerprint), fingerprint, 0)), last_seq: seq }
}

fn idle(last_seq: u64) -> Standing {
    Standing { now: None, last_seq }
}

fn record(seq: u64, fingerprint: u64) -> OpRecord {
    OpRecord { name: op(seq, fingerprint), fingerprint, bytes: 0, begin_us: 0, end_us: None }
}

fn lost() -> Event {
    Event::Lost { kind: FaultKind::Died, why: "closed".into() }
}

fn done(last_seq: u64) -> Event {
    Event::Farewell { farewell: Farewell::Done, last_seq }
}

fn link_broke(peer: u32, seq: u64) -> Event {
    Event::Suspect(Suspicion::LinkBroke { peer, seq, why: format!("reset by {peer}") })
}

fn mismatch(peer: u32, seq: u64) -> Event {
    Event::Suspect(Suspicion::Mismatch { peer, seq, fingerprint: 1, peer_seq: seq, peer_fingerprint: 2 })
}

fn corrupt(peer: u32, seq: u64) -> Event {
    Event::Suspect(Suspicion::Corrupt { peer, seq, why: "crc".into() })
}

fn deadline(seq: u64, waiting_for: &[u32]) -> Event {
    late(seq, waiting_for, 7)
}

fn late(seq: u64, waiting_for: &[u32], received: u64) -> Event {
    Event::Suspect(Suspicion::Deadline { seq, waiting_for: waiting_for.into(), received })
}

#[test]
fn a_death_is_the_verdict_as_soon_as_the_others_answered() {
    let mut court = Court::in_op(4, 9);
    court.say(2, lost());
    let fault = court.expect(FaultKind::Died, &[2]);
    assert_eq!(fault.to_string(), "rank 2 on node2 died at operation 9 (kind 1): closed");
}

#[test]
fn a_death_does_not_wait_long_for_answers() {
    let mut court = Court::new(3);
    court.say(2, lost());
    court.now += GRACE - Duration::from_millis(1);
    let decision = court.judge.tick(court.now);
    court.take(decision);
    court.expect_peace();
    court.pass(Duration::from_millis(1));
    assert_eq!(court.expect(FaultKind::Died, &[2]).op, None);
}

#[test]
fn a_verdict_names_the_operation_that_fresh_answers_tell() {
    let mut court = Court::in_op(3, 9);
    court.answers.insert(0, (within(10, 1), None));
    court.answers.insert(1, (within(10, 1), None));
    court.say(2, lost());
    assert_eq!(court.expect(FaultKind::Died, &[2]).op, Some(op(10, 1)));
}

#[test]
fn silence_is_noticed_in_its_time_and_not_before() {
    let mut court = Court::in_op(3, 9);
    court.answers.remove(&1);
    court.pass(timeouts().silence);
    court.expect_peace();
    court.pass(HEARTBEAT / 4);
    court.expect(FaultKind::Silent, &[1]);
}

#[test]
fn who_never_spoke_may_still_be_connecting() {
    let mut court = Court::in_op(2, 9);
    court.judge = Judge::new(Arc::new(roster(3)), timeouts(), court.now);
    court.pass(timeouts().startup);
    court.expect_peace();
    court.pass(HEARTBEAT);
    court.expect(FaultKind::Silent, &[2]);
}

#[test]
fn who_computes_for_long_is_not_silent() {
    let mut court = Court::in_op(3, 9);
    court.idle(1, 8);
    court.pass(timeouts().silence * 3);
    court.expect_peace();
}

#[test]
fn the_time_in_which_rank_0_was_stopped_counts_against_nobody() {
    let mut court = Court::in_op(3, 9);
    court.pass(HEARTBEAT);
    court.now += Duration::from_secs(100);
    let decision = court.judge.tick(court.now);
    court.take(decision);
    court.expect_peace();
    court.answers.remove(&2);
    court.pass(timeouts().silence + HEARTBEAT);
    court.expect(FaultKind::Silent, &[2]);
}

#[test]
fn an_error_and_a_panic_are_told_as_what_they_are() {
    for (farewell, kind) in [
        (Farewell::Failed("disk full".into()), FaultKind::Failed),
        (Farewell::Panicked("disk full".into()), FaultKind::Panicked),
    ] {
        for rank in [0, 2] {
            let mut court = Court::in_op(3, 9);
            court.say(rank, Event::Farewell { farewell: farewell.clone(), last_seq: 9 });
            assert_eq!(court.expect(kind, &[rank]).detail, "disk full");
        }
    }
}

#[test]
fn a_normal_end_in_any_order_is_no_fault() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut court = Court::in_op(3, 9);
        for rank in order {
            // Its connection ends, while others are still in the last operation.
            court.answers.remove(&rank);
            court.say(rank, done(9));
            court.say(rank, lost());
            court.pass(timeouts().silence * 2);
        }
        court.expect_peace();
    }
}

#[test]
fn who_leaves_while_others_go_on_is_missed() {
    // It left before the others called the next operation.
    let mut court = Court::in_op(3, 9);
    court.say(1, done(9));
    court.expect_peace();
    court.enter(2, 10, 1);
    let fault = court.expect(FaultKind::Left, &[1]);
    assert_eq!(fault.op, Some(op(10, 1)));
    assert_eq!(fault.detail, "it ended its work after operation 9 while others are at operation 10");
    // It leaves after that.
    let mut court = Court::in_op(3, 9);
    court.enter(2, 10, 1);
    court.say(1, done(9));
    court.expect(FaultKind::Left, &[1]);
    // Rank 0 is no exception.
    let mut court = Court::in_op(3, 9);
    court.say(0, done(9));
    court.enter(2, 10, 1);
    court.expect(FaultKind::Left, &[0]);
    // Two went.
    let mut court = Court::in_op(4, 9);
    court.say(3, done(9));
    court.say(1, done(9));
    court.enter(0, 10, 1);
    court.expect(FaultKind::Left, &[1, 3]);
}

#[test]
fn a_broken_connection_to_one_who_left_early_is_his_leaving() {
    // Whichever comes first.
    for first_link in [true, false] {
        let mut court = Court::in_op(3, 9);
        if first_link {
            court.say(2, link_broke(1, 10));
            court.say(1, done(9));
        } else {
            court.say(1, done(9));
            court.say(2, link_broke(1, 10));
        }
        court.expect(FaultKind::Left, &[1]);
    }
}

#[test]
fn a_broken_connection_is_the_cause_only_if_no_other_shows() {
    let mut court = Court::in_op(4, 9);
    court.say(1, link_broke(2, 9));
    court.now += GRACE - Duration::from_millis(1);
    let decision = court.judge.tick(court.now);
    court.take(decision);
    court.expect_peace();
    // The second report is younger.
    court.say(2, link_broke(3, 9));
    court.pass(Duration::from_millis(1));
    let fault = court.expect(FaultKind::LinkLost, &[1, 2]);
    assert_eq!((fault.op.as_ref(), &*fault.detail), (Some(&op(9, 1)), "rank 1 to rank 2: reset by 2"));
}

#[test]
fn what_is_behind_a_broken_connection_is_named_instead() {
    let failed = |why: &str| Event::Farewell { farewell: Farewell::Failed(why.into()), last_seq: 9 };
    for (rank, event, kind, culprit) in [
        (2, lost(), FaultKind::Died, 2),
        (2, failed("x"), FaultKind::Failed, 2),
        (3, lost(), FaultKind::Died, 3),
        (3, corrupt(2, 9), FaultKind::Corrupt, 2),
    ] {
        let mut court = Court::in_op(4, 9);
        court.say(1, link_broke(2, 9));
        court.now += GRACE - Duration::from_millis(1);
        court.say(rank, event);
        court.expect(kind, &[culprit]);
    }
}

#[test]
fn a_broken_connection_to_one_who_says_nothing_waits_for_his_silence() {
    let mut court = Court::in_op(3, 9);
    court.answers.remove(&2);
    court.pass(HEARTBEAT * 3);
    court.say(1, link_broke(2, 9));
    court.pass(GRACE * 2);
    court.expect_peace();
    court.pass(timeouts().silence);
    court.expect(FaultKind::Silent, &[2]);
}

#[test]
fn a_frame_out_of_place_makes_all_say_what_they_called() {
    let mut court = Court::in_op(4, 9);
    court.answers.insert(2, (idle(9), Some(2)));
    court.say(3, mismatch(2, 9));
    let fault = court.expect(FaultKind::Mismatch, &[2]);
    assert_eq!(fault.detail, "ranks 0, 1, 3: kind 1; rank 2: kind 2");
    // One does not answer: it is not waited for much longer.
    let mut court = Court::in_op(4, 9);
    court.answers.insert(2, (idle(9), Some(2)));
    court.answers.remove(&1);
    court.say(3, mismatch(2, 9));
    court.expect_peace();
    court.pass(INQUIRY);
    assert_eq!(court.expect(FaultKind::Mismatch, &[2]).detail, "ranks 0, 3: kind 1; rank 2: kind 2");
}

#[test]
fn a_frame_that_nobody_remembers_is_blamed_on_its_sender() {
    let mut court = Court::in_op(3, 9);
    court.say(0, mismatch(2, 9));
    let fault = court.expect(FaultKind::Mismatch, &[2]);
    assert!(fault.detail.contains("rank 0 was in operation 9 with fingerprint 0000000000000001"), "{fault}");
}

#[test]
fn heartbeats_alone_show_a_disagreement() {
    let mut court = Court::in_op(4, 9);
    court.idle(3, 9);
    for rank in [0, 1] {
        court.enter(rank, 10, 1);
    }
    court.expect_peace();
    court.enter(2, 10, 7);
    // Rank 3 may be about to call it; it is not waited for much longer.
    court.expect_peace();
    court.pass(INQUIRY);
    let fault = court.expect(FaultKind::Mismatch, &[2]);
    assert_eq!(fault.detail, "ranks 0, 1: kind 1; rank 2: kind 7");
    // The same if it is only known from heartbeats: answers come too late.
    let mut court = Court::new(2);
    court.say(0, Event::Heartbeat(within(4, 1)));
    court.say(1, Event::Heartbeat(within(4, 2)));
    court.pass(INQUIRY);
    assert_eq!(court.expect(FaultKind::Mismatch, &[0, 1]).detail, "rank 0: kind 1; rank 1: kind 2");
}

#[test]
fn who_calls_a_little_later_decides_who_is_in_the_minority() {
    let mut court = Court::in_op(3, 9);
    court.idle(2, 9);
    court.enter(0, 10, 1);
    court.enter(1, 10, 7);
    court.pass(INQUIRY / 4);
    court.expect_peace();
    // It says so when it is asked again, without a heartbeat.
    court.answers.insert(2, (within(10, 1), Some(1)));
    let decision = court.judge.tick(court.now + INQUIRY / 4);
    court.take(decision);
    court.expect(FaultKind::Mismatch, &[1]);
}

#[test]
fn past_the_deadline_the_missing_are_blamed_and_never_the_waiter() {
    let mut court = Court::in_op(4, 9);
    court.idle(3, 8);
    // Rank 1 waits for 0, which waits for 3.
    court.say(1, deadline(9, &[0]));
    let fault = court.expect(FaultKind::Stalled, &[3]);
    assert_eq!(fault.detail, "rank 1 waited 300s; rank 3 is in no operation, its last was 8");
}

#[test]
fn past_the_deadline_with_all_there_the_network_is_blamed() {
    let mut court = Court::in_op(4, 9);
    court.say(1, deadline(9, &[0, 0]));
    court.pass(INQUIRY);
    let fault = court.expect(FaultKind::Stalled, &[0]);
    assert!(fault.detail.contains("not all data reached rank 1 within 300s"), "{fault}");
    let mut court = Court::in_op(4, 9);
    court.say(1, deadline(9, &[]));
    court.pass(INQUIRY);
    court.expect(FaultKind::Stalled, &[1]);
}

#[test]
fn past_the_deadline_old_standings_do_not_count() {
    let mut court = Court::in_op(3, 9);
    court.idle(2, 8);
    // It came since its last heartbeat.
    court.answers.insert(2, (within(9, 1), Some(1)));
    court.say(1, deadline(9, &[0]));
    court.pass(INQUIRY);
    court.expect(FaultKind::Stalled, &[0]);
}

/// In a ring whose link from 1 to 2 is dead, everybody waits for its predecessor; rank 2 began to first.
#[test]
fn past_the_deadline_the_one_furthest_behind_knows_for_whom_all_wait() {
    let reports = [(0, 3, 12), (2, 1, 4), (1, 0, 16), (3, 2, 8)];
    for turn in 0..reports.len() {
        let mut court = Court::in_op(4, 9);
        for (rank, previous, received) in reports.iter().cycle().skip(turn).take(4) {
            court.expect_peace();
            court.say(*rank, late(9, &[*previous], *received));
        }
        let fault = court.expect(FaultKind::Stalled, &[1]);
        assert!(fault.detail.contains("not all data reached rank 2 within 300s"), "{fault}");
    }
    // One that has its result, and one that was too late to say so, are not waited for; another operation is none of this.
    let mut court = Court::in_op(4, 9);
    court.idle(1, 9);
    court.say(0, late(9, &[3], 5));
    court.say(2, late(10, &[1], 1));
    court.say(3, late(9, &[2], 4));
    court.expect_peace();
    court.pass(INQUIRY);
    court.expect(FaultKind::Stalled, &[2]);
}

#[test]
fn past_the_deadline_a_better_cause_counts() {
    let mut court = Court::in_op(3, 9);
    court.answers.insert(2, (idle(9), Some(2)));
    court.say(1, deadline(9, &[2]));
    court.pass(INQUIRY);
    court.expect(FaultKind::Mismatch, &[2]);
    let mut court = Court::in_op(3, 8);
    court.say(2, done(8));
    court.say(1, deadline(9, &[2]));
    court.expect(FaultKind::Left, &[2]);
}

fn waiting(seq: u64, since: Duration) -> Standing {
    Standing { now: Some((op(seq, 1), 1, since.as_millis() as u64)), last_seq: seq }
}

#[test]
fn a_wait_is_reported_once_a_period_with_who_is_missing() {
    let period = timeouts().stall_report;
    let mut court = Court::in_op(4, 8);
    court.idle(2, 8);
    court.idle(3, 0);
    let begin = court.now;
    for rank in [0, 1] {
        court.enter(rank, 9, 1);
    }
    while court.now < period * 2 + HEARTBEAT * 2 {
        court.answers.insert(1, (waiting(9, court.now - begin), Some(1)));
        court.pass(HEARTBEAT);
        let expected = court.now.as_secs() / period.as_secs();
        assert!(court.reports.len() as u64 <= expected, "{:?} after {:?}", court.reports, court.now);
    }
    court.expect_peace();
    let [first, second] = &court.reports[..] else { panic!("{:?}", court.reports) };
    assert_eq!((first.waited, second.waited), (period, period * 2));
    assert_eq!(
        first.to_string(),
        "operation 9 (kind 1) has waited 30 s for rank 2 on node2, rank 3 on node3: \
         rank 2 is in no operation, its last was 8; rank 3 has called no operation yet"
    );
    // Another operation is another matter.
    court.answers.insert(1, (waiting(10, period), Some(1)));
    court.pass(HEARTBEAT);
    assert_eq!(court.reports.len(), 3);
}

#[test]
fn a_slow_operation_that_all_are_in_is_not_reported() {
    let mut court = Court::in_op(3, 9);
    court.answers.insert(1, (waiting(9, timeouts().stall_report * 2), Some(1)));
    court.pass(HEARTBEAT * 2);
    assert_eq!(court.reports, []);
}

#[test]
fn who_is_out_is_not_heard_any_more() {
    let mut court = Court::new(3);
    court.say(1, lost());
    court.say(1, corrupt(2, 9));
    court.say(1, Event::Heartbeat(within(9, 1)));
    court.pass(GRACE);
    court.expect(FaultKind::Died, &[1]);
    // Neither is anybody after the verdict.
    court.say(2, lost());
    court.pass(timeouts().silence * 2);
    court.expect(FaultKind::Died, &[1]);
}

#[test]
fn who_reports_on_nobody_we_know_or_himself_is_the_culprit() {
    for event in
        [link_broke(3, 9), link_broke(1, 9), mismatch(u32::MAX, 9), corrupt(7, 9), deadline(9, &[0, 99])]
    {
        let mut court = Court::in_op(3, 9);
        court.say(1, event);
        court.expect(FaultKind::Corrupt, &[1]);
    }
    // And a rank that does not exist is nobody.
    let mut court = Court::in_op(3, 9);
    court.say(3, lost());
    court.expect_peace();
}

#[test]
fn rank_0_goes_when_nobody_is_in_an_operation_of_his() {
    let mut court = Court::in_op(4, 9);
    court.idle(1, 9);
    court.idle(2, 8);
    court.say(3, done(9));
    court.say(0, done(9));
    assert!(!court.judge.can_spare_main(9), "rank 2 has not called it");
    court.enter(2, 9, 1);
    assert!(!court.judge.can_spare_main(9), "rank 2 is in it");
    court.idle(2, 9);
    assert!(court.judge.can_spare_main(9));
    court.say(2, link_broke(1, 9));
    assert!(!court.judge.can_spare_main(9), "a case is open");
}

#[test]
fn rank_0_accepts_that_it_was_given_up() {
    let mut court = Court::in_op(3, 9);
    let verdict = fault::silent(&roster(3), 0, timeouts().silence, Some(op(9, 1)));
    court.say(2, Event::GivenUp(verdict.clone()));
    court.say(1, lost());
    assert_eq!(court.verdict, Some(verdict));
}

#[test]
fn any_order_of_reports_comes_to_one_verdict_and_a_death_is_never_taken_for_a_lost_connection() {
    const RANKS: u32 = 6;
    for seed in 0..3000 {
        let mut dice = Dice(seed);
        let mut court = Court::in_op(RANKS, 9);
        let dead = dice.below(RANKS as usize - 1) as u32 + 1;
        // Both neighbours in the ring, and those whom their ends made stumble.
        let mut events = vec![(dead, lost())];
        for rank in (0..RANKS).filter(|rank| *rank != dead) {
            if rank.abs_diff(dead) == 1 || dice.below(2) == 0 {
                events.push((rank, link_broke(dead, 9)));
            }
            if dice.below(3) == 0 {
                events.push((rank, link_broke((rank + 1) % RANKS, 9)));
            }
            if dice.below(3) == 0 {
                court.answers.remove(&rank);
            }
        }
        court.answers.remove(&dead);
        // All of it within the grace of the first.
        let gap = GRACE / (events.len() as u32 + 1);
        while !events.is_empty() {
            let (rank, event) = events.swap_remove(dice.below(events.len()));
            court.say(rank, event);
            court.now += gap.mul_f64(dice.below(100) as f64 / 100.0);
            let decision = court.judge.tick(court.now);
            court.take(decision);
        }
        court.pass(GRACE);
        assert!(court.verdict.is_some(), "seed {seed}");
        court.expect(FaultKind::Died, &[dead]);
    }
}

#[test]
fn whatever_is_said_there_is_at_most_one_verdict_and_it_comes_in_time() {
    for seed in 0..3000 {
        let mut dice = Dice(seed);
        let mut court = Court::in_op(4, 9);
        let mut suspected = false;
        for _ in 0..dice.below(12) + 1 {
            let rank = dice.below(4) as u32;
            let peer = dice.below(5) as u32;
            let seq = 8 + dice.below(3) as u64;
            let event = match dice.below(8) {
                0 => link_broke(peer, seq),
                1 => mismatch(peer, seq),
                2 => corrupt(peer, seq),
                3 => deadline(seq, &[peer]),
                4 => done(seq),
                5 => Event::Heartbeat(within(seq, 1 + dice.below(2) as u64)),
                6 => lost(),
                _ => Event::Heartbeat(idle(seq)),
            };
            // Of one who has left nothing is taken, so only the first to speak surely counts.
            suspected |= court.judge.seats[rank as usize].presence == Presence::Here
                && matches!(event, Event::Suspect(_) | Event::Lost { .. });
            // `Court::take` asserts that nothing follows a verdict.
            court.say(rank, event);
            court.pass(Duration::from_millis(dice.below(400) as u64));
        }
        court.pass(timeouts().silence + GRACE + HEARTBEAT);
        assert!(court.verdict.is_some() || !suspected, "seed {seed}: no verdict");
    }
}
