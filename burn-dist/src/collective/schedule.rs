//! What one rank sends and receives in an operation, and which of it waits for which.
//!
//! An algorithm writes its transfers down in program order. What waits for what follows from the parts of the buffer
//! that they touch: what is sent was received before (read after write), what is overwritten was sent before (write
//! after read), and what two peers add to the same place is added in program order (write after write), so that the
//! result has the same bits in every run. Transfers with one peer happen in program order anyway.

use std::ops::Range;

/// What is done with what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// It replaces what is there.
    Store,
    /// It is combined with what is there; `last`: the result is final here, so it is divided if a mean was asked for,
    /// and rounded to what others will receive.
    Reduce { last: bool },
    /// It is combined with what is there and sent on; nobody needs it here, so what is there may stay as it was.
    Relay,
}

/// Elements that go to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Send {
    pub(crate) peer: u32,
    pub(crate) range: Range<usize>,
    /// The receive that must be through.
    pub(crate) after: Option<u32>,
    /// Whether what is sent becomes in this buffer, too, what the peer receives.
    pub(crate) rounds: bool,
}

/// Elements that come from a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receive {
    pub(crate) peer: u32,
    pub(crate) range: Range<usize>,
    pub(crate) action: Action,
    /// The receive that must be through.
    pub(crate) after_receive: Option<u32>,
    /// The send that must be through.
    pub(crate) after_send: Option<u32>,
}

/// A rank's part of an operation.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    pub(crate) sends: Vec<Send>,
    pub(crate) receives: Vec<Receive>,
    /// Elements of a segment.
    segment: usize,
}

impl Schedule {
    /// An empty one that cuts what it is given into segments of so many elements.
    pub(crate) fn new(segment: usize) -> Self {
        Self { segment: segment.max(1), ..Self::default() }
    }

    /// Elements of a segment.
    pub(crate) const fn segment(&self) -> usize {
        self.segment
    }

    /// Sends one segment.
    pub(crate) fn send(&mut self, peer: u32, range: Range<usize>, rounds: bool) {
        debug_assert!(range.len() <= self.segment);
        let after = self.last_receive(&range);
        self.sends.push(Send { peer, range, after, rounds });
    }

    /// Receives one segment.
    pub(crate) fn receive(&mut self, peer: u32, range: Range<usize>, action: Action) {
        debug_assert!(range.len() <= self.segment);
        let after_receive = self.last_receive(&range);
        let after_send = last_overlap(self.sends.iter().map(|send| &send.range), &range);
        self.receives.push(Receive { peer, range, action, after_receive, after_send });
    }

    fn last_receive(&self, range: &Range<usize>) -> Option<u32> {
        last_overlap(self.receives.iter().map(|receive| &receive.range), range)
    }
}

/// The last of `ranges` that shares an element with `range`.
fn last_overlap<'a>(
    ranges: impl DoubleEndedIterator<Item = &'a Range<usize>> + ExactSizeIterator,
    range: &Range<usize>,
) -> Option<u32> {
    let overlaps = |other: &&Range<usize>| other.start < range.end && range.start < other.end;
    ranges.enumerate().rev().find(|(_, other)| overlaps(other)).map(|(index, _)| index as u32)
}
