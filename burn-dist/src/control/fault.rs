//! Verdicts in words: what is known goes in, a [`Fault`] comes out. Which one is due is the business of [`judge`].
//!
//! [`judge`]: super::judge

use std::{collections::BTreeMap, time::Duration};

use super::Suspicion;
use crate::{
    config::Timeouts,
    error::{Fault, FaultKind, OpName, Who},
    flight::{OpRecord, Standing},
    rendezvous::Roster,
};

/// Of all that a verdict says beside the culprits: a thousand ranks may each have called something else.
const MAX_DETAIL_CHARS: usize = 8000;

/// The rank as a person can find it.
pub(super) fn who(roster: &Roster, rank: u32) -> Who {
    let host = roster.members.get(rank as usize).map_or("an unknown machine", |member| &member.host);
    Who { rank, host: host.into() }
}

/// A verdict.
pub(super) fn fault(
    roster: &Roster,
    kind: FaultKind,
    culprits: &[u32],
    op: Option<OpName>,
    detail: impl Into<String>,
) -> Fault {
    let mut detail = detail.into();
    if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL_CHARS) {
        detail.replace_range(end.., " ...");
    }
    Fault { kind, culprits: culprits.iter().map(|&rank| who(roster, rank)).collect(), op, detail }
}

/// Nothing was heard of `rank` for so long.
pub(super) fn silent(roster: &Roster, rank: u32, silence: Duration, op: Option<OpName>) -> Fault {
    fault(roster, FaultKind::Silent, &[rank], op, silence_words(silence))
}

/// How long a rank may say nothing. One that never spoke may still be connecting.
pub(super) fn patience(timeouts: &Timeouts, greeted: bool) -> Duration {
    if greeted { timeouts.silence } else { timeouts.startup.max(timeouts.silence) }
}

/// What is known of a silent rank.
pub(super) fn silence_words(silence: Duration) -> String {
    format!("no heartbeat for {silence:?}: it is stopped, its machine hangs, or it is cut off")
}

/// What is known of ranks that left after operation `last_seq`, while others called `seq`.
pub(super) fn left_words(last_seq: u64, seq: u64) -> String {
    format!("it ended its work after operation {last_seq} while others are at operation {seq}")
}

/// The verdict of a rank that has nobody to ask: its own report is all there is.
pub(super) fn alone(roster: &Roster, reporter: u32, suspicion: &Suspicion, op: Option<OpName>) -> Fault {
    let only = "; nobody is left to ask for more";
    match suspicion {
        Suspicion::LinkBroke { peer, why, .. } => {
            fault(roster, FaultKind::LinkLost, &[reporter, *peer], op, format!("{why}{only}"))
        }
        Suspicion::Mismatch { peer, .. } => fault(
            roster,
            FaultKind::Mismatch,
            &[*peer],
            op,
            format!("{}{only}", frame_words(reporter, suspicion)),
        ),
        Suspicion::Corrupt { peer, why, .. } => {
            fault(roster, FaultKind::Corrupt, &[*peer], op, format!("{why}{only}"))
        }
        Suspicion::Deadline { waiting_for, .. } => {
            let detail = format!("rank {reporter} waited for its data until the deadline{only}");
            fault(roster, FaultKind::Stalled, waiting_for, op, detail)
        }
    }
}

/// What a frame out of place said.
pub(super) fn frame_words(reporter: u32, suspicion: &Suspicion) -> String {
    let Suspicion::Mismatch { peer, seq, fingerprint, peer_seq, peer_fingerprint } = suspicion else {
        return String::new();
    };
    format!(
        "rank {reporter} was in operation {seq} with fingerprint {fingerprint:016x} and got a frame of operation \
         {peer_seq} with fingerprint {peer_fingerprint:016x} from rank {peer}"
    )
}

/// The verdict on ranks that called different operations under the same number; `None` if those that called it did
/// the same. The culprits are all but the largest group, or all if no group is the largest.
pub(super) fn disagreement(roster: &Roster, seq: u64, calls: &BTreeMap<u32, OpRecord>) -> Option<Fault> {
    let mut groups: Vec<(&OpRecord, Vec<u32>)> = Vec::new();
    for (&rank, record) in calls {
        match groups.iter_mut().find(|(first, _)| first.fingerprint == record.fingerprint) {
            Some((_, ranks)) => ranks.push(rank),
            None => groups.push((record, vec![rank])),
        }
    }
    if groups.len() < 2 {
        return None;
    }
    // Stable: among equals, the group of the lowest rank comes first.
    groups.sort_by_key(|(_, ranks)| std::cmp::Reverse(ranks.len()));
    let tied = groups[0].1.len() == groups[1].1.len();
    let mut culprits =
        groups[usize::from(!tied)..].iter().flat_map(|(_, ranks)| ranks.clone()).collect::<Vec<_>>();
    culprits.sort_unstable();
    let same_words = |what: &str| groups.iter().filter(|(record, _)| record.name.what == what).count() > 1;
    let said = groups.iter().map(|(record, ranks)| {
        let what = &record.name.what;
        let mark =
            if same_words(what) { format!(" [layout {:016x}]", record.fingerprint) } else { String::new() };
        format!("{}: {what}{mark}", ranks_words(ranks))
    });
    let detail = said.collect::<Vec<_>>().join("; ");
    let op = OpName { seq, what: groups[0].0.name.what.clone() };
    Some(fault(roster, FaultKind::Mismatch, &culprits, Some(op), detail))
}

/// Where ranks stand, for at most a handful of them.
pub(super) fn standings_words<'a>(standings: impl Iterator<Item = (u32, &'a Standing)>) -> String {
    const MOST: usize = 8;
    let all: Vec<_> = standings.collect();
    let mut words: Vec<String> =
        all.iter().take(MOST).map(|(rank, standing)| standing_words(*rank, standing)).collect();
    if all.len() > MOST {
        words.push(format!("and {} more", all.len() - MOST));
    }
    words.join("; ")
}

fn standing_words(rank: u32, standing: &Standing) -> String {
    match &standing.now {
        Some((op, _, since_ms)) => {
            format!("rank {rank} has been in {op} for {:.1} s", *since_ms as f64 / 1000.0)
        }
        None if standing.last_seq == 0 => format!("rank {rank} has called no operation yet"),
        None => format!("rank {rank} is in no operation, its last was {}", standing.last_seq),
    }
}

/// `rank 2`; `ranks 0, 1, 5 to 9`.
pub(super) fn ranks_words(ranks: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let words = runs.iter().flat_map(|&(first, last)| match last - first {
        0 => vec![first.to_string()],
        1 => vec![first.to_string(), last.to_string()],
        _ => vec![format!("{first} to {last}")],
    });
    let words = words.collect::<Vec<_>>().join(", ");
    if ranks.len() == 1 { format!("rank {words}") } else { format!("ranks {words}") }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::roster, *};

    fn calls(of: &[(u32, u64, &str)]) -> BTreeMap<u32, OpRecord> {
        let record = |fingerprint, what: &str| OpRecord {
            name: OpName { seq: 7, what: what.into() },
            fingerprint,
            bytes: 0,
            begin_us: 0,
            end_us: None,
        };
        of.iter().map(|&(rank, fingerprint, what)| (rank, record(fingerprint, what))).collect()
    }

    fn culprits(fault: &Fault) -> Vec<u32> {
        fault.culprits.iter().map(|who| who.rank).collect()
    }

    #[test]
    fn the_minority_is_blamed_and_everybody_is_quoted() {
        let calls =
            calls(&[(0, 1, "all-reduce"), (1, 1, "all-reduce"), (2, 2, "barrier"), (3, 1, "all-reduce")]);
        let fault = disagreement(&roster(4), 7, &calls).unwrap();
        assert_eq!(fault.kind, FaultKind::Mismatch);
        assert_eq!(culprits(&fault), [2]);
        assert_eq!(fault.detail, "ranks 0, 1, 3: all-reduce; rank 2: barrier");
        assert_eq!(fault.op.unwrap().to_string(), "operation 7 (all-reduce)");
    }

    #[test]
    fn without_a_largest_group_all_are_named() {
        let fault = disagreement(&roster(2), 7, &calls(&[(0, 1, "a"), (1, 2, "b")])).unwrap();
        assert_eq!(culprits(&fault), [0, 1]);
        let of = [(0, 1, "a"), (1, 1, "a"), (2, 2, "b"), (3, 2, "b"), (4, 3, "c")];
        assert_eq!(culprits(&disagreement(&roster(5), 7, &calls(&of)).unwrap()), [0, 1, 2, 3, 4]);
        let of = [(0, 2, "b"), (1, 1, "a"), (2, 1, "a"), (3, 3, "c")];
        assert_eq!(culprits(&disagreement(&roster(4), 7, &calls(&of)).unwrap()), [0, 3]);
    }

    #[test]
    fn equal_words_for_different_layouts_are_told_apart() {
        let fault = disagreement(&roster(2), 7, &calls(&[(0, 1, "bucket 3"), (1, 2, "bucket 3")])).unwrap();
        let expected =
            "rank 0: bucket 3 [layout 0000000000000001]; rank 1: bucket 3 [layout 0000000000000002]";
        assert_eq!(fault.detail, expected);
    }

    #[test]
    fn those_who_agree_are_left_in_peace() {
        assert_eq!(disagreement(&roster(3), 7, &calls(&[(0, 1, "a"), (2, 1, "a")])), None);
        assert_eq!(disagreement(&roster(3), 7, &calls(&[])), None);
    }

    #[test]
    fn runs_of_ranks_are_short() {
        assert_eq!(ranks_words(&[3]), "rank 3");
        assert_eq!(ranks_words(&[0, 1, 3]), "ranks 0, 1, 3");
        assert_eq!(ranks_words(&(0..512).chain([600, 601]).collect::<Vec<_>>()), "ranks 0 to 511, 600, 601");
    }

    #[test]
    fn a_verdict_of_a_thousand_opinions_is_bounded() {
        let of: Vec<_> =
            (0..1024).map(|rank| (rank, u64::from(rank), "all-reduce (mean) of many f32")).collect();
        let fault = disagreement(&roster(1024), 7, &calls(&of)).unwrap();
        let bytes = super::super::message::Message::Verdict(fault).frame().len();
        assert!(bytes < crate::limits::MAX_CONTROL_BYTES, "{bytes}");
    }
}
