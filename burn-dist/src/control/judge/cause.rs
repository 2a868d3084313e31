//! What a case is about, and what weighs more.

use std::collections::BTreeSet;

use crate::{
    control::{Suspicion, fault},
    error::FaultKind,
};

#[derive(Debug, PartialEq)]
pub(super) enum Cause {
    Direct { kind: FaultKind, culprits: Vec<u32>, seq: Option<u64>, detail: String },
    Disagreement { seq: u64, frame: Option<(u32, String)> },
    Deadline { seq: u64, reporters: BTreeSet<u32>, behind: Late },
    Link { reporter: u32, peer: u32, seq: u64, why: String },
}

/// One whose time is over.
#[derive(Debug, PartialEq)]
pub(super) struct Late {
    pub(super) reporter: u32,
    pub(super) waiting_for: Vec<u32>,
    /// Segments that it has.
    pub(super) received: u64,
}

impl Cause {
    pub(super) fn seq(&self) -> Option<u64> {
        match *self {
            Self::Direct { seq, .. } => seq,
            Self::Disagreement { seq, .. } | Self::Deadline { seq, .. } | Self::Link { seq, .. } => Some(seq),
        }
    }

    /// What weighs more replaces what weighs less; of equals, the first counts.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Direct { .. } => 2,
            Self::Disagreement { .. } => 1,
            Self::Deadline { .. } | Self::Link { .. } => 0,
        }
    }

    /// Takes in what weighs no more. Of those whose time is over in one operation, the one that is furthest behind waits
    /// for what the others wait for through it.
    pub(super) fn add(&mut self, other: Self) {
        if let Self::Deadline { seq, reporters, behind } = self
            && let Self::Deadline { seq: also, reporters: others, behind: other } = other
            && *seq == also
        {
            reporters.extend(others);
            if other.received < behind.received {
                *behind = other;
            }
        }
    }

    /// What a report may come to; an error if no rank of this job would make it.
    pub(super) fn of(reporter: u32, suspicion: Suspicion, num_ranks: u32) -> Result<Self, String> {
        let known = |peer: u32| {
            if peer < num_ranks && peer != reporter {
                Ok(peer)
            } else {
                Err(format!("it reports on rank {peer}"))
            }
        };
        Ok(match suspicion {
            Suspicion::LinkBroke { peer, seq, why } => Self::Link { reporter, peer: known(peer)?, seq, why },
            Suspicion::Mismatch { peer, seq, .. } => Self::Disagreement {
                seq,
                frame: Some((known(peer)?, fault::frame_words(reporter, &suspicion))),
            },
            Suspicion::Corrupt { peer, seq, why } => {
                let detail = format!("as rank {reporter} received them: {why}");
                Self::Direct {
                    kind: FaultKind::Corrupt,
                    culprits: vec![known(peer)?],
                    seq: Some(seq),
                    detail,
                }
            }
            Suspicion::Deadline { seq, waiting_for, received } => {
                let peers: BTreeSet<u32> = waiting_for.into_iter().map(known).collect::<Result<_, _>>()?;
                let behind = Late { reporter, waiting_for: peers.into_iter().collect(), received };
                Self::Deadline { seq, reporters: [reporter].into(), behind }
            }
        })
    }
}
