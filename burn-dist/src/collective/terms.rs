//! What the frames of an operation say: written for those that go, compared for those that come. Not when they go: that
//! is the machine's.

use super::schedule::{Receive, Send};
use crate::{
    config::Wire,
    transport::link::{Link, Trouble},
    wire::{
        checksum::crc32c,
        header::{CHECKED, Header, NOT_FINITE, SHARED},
        number::{Element, ReduceOp},
    },
};

/// What all frames of an operation have alike, and what is done to numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) generation: u32,
    pub(crate) seq: u64,
    pub(crate) fingerprint: u64,
    pub(crate) op: ReduceOp,
    pub(crate) wire: Wire,
    pub(crate) world_size: usize,
    pub(crate) checksum: bool,
}

impl Terms {
    /// How numbers travel over a link: in memory as they are.
    pub(super) fn wire_of(&self, link: &Link) -> Wire {
        if link.is_shared() { Wire::F32 } else { self.wire }
    }

    /// The header of a segment.
    pub(super) fn header(&self, crc: Option<u32>, send: &Send, bytes: usize, not_finite: bool) -> Header {
        Header {
            flags: crc.map_or(0, |_| CHECKED) | if not_finite { NOT_FINITE } else { 0 },
            generation: self.generation,
            payload_crc: crc.unwrap_or(0),
            seq: self.seq,
            fingerprint: self.fingerprint,
            offset: send.range.start as u64,
            bytes: bytes as u32,
        }
    }
}

/// Whether the frame is the one that must come next.
pub(super) fn check<T: Element>(
    link: &Link,
    header: &Header,
    terms: &Terms,
    come: &Receive,
) -> Result<(), Trouble> {
    if (header.seq, header.fingerprint) != (terms.seq, terms.fingerprint) {
        let (peer_seq, peer_fingerprint) = (header.seq, header.fingerprint);
        return Err(Trouble::Mismatch { peer: link.peer, peer_seq, peer_fingerprint });
    }
    let expected = (come.range.start as u64, come.range.len() * T::wire_bytes(terms.wire_of(link)));
    let got = (header.offset, header.bytes as usize);
    if expected != got {
        return Err(link.corrupt(format!(
            "a frame of {} bytes at element {}, expected {} at {}",
            got.1, got.0, expected.1, expected.0
        )));
    }
    if (header.flags & SHARED != 0) != link.is_shared() {
        return Err(link.corrupt("a payload that took another way than was agreed"));
    }
    let checked = header.flags & CHECKED != 0;
    if checked != (terms.checksum && !link.is_shared()) {
        return Err(link.corrupt("a frame with another use of checksums than was agreed"));
    }
    Ok(())
}

/// Compares a payload with its header; its checksum, 0 without one.
pub(super) fn verify(link: &Link, header: &Header, payload: &[u8]) -> Result<u32, Trouble> {
    if header.flags & CHECKED == 0 {
        return Ok(0);
    }
    let got = crc32c(payload);
    if got == header.payload_crc {
        return Ok(got);
    }
    Err(link.corrupt(format!(
        "{} bytes at element {} have CRC-32C {got:08x}, the sender computed {:08x}",
        header.bytes, header.offset, header.payload_crc
    )))
}
