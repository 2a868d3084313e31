//! Frames to and from one peer, over one connection, with the payload behind the header or in shared memory. Knows
//! what a frame is, not what it is for.

use std::io::{self, IoSlice};

use super::{
    Pipe,
    shared::{NUM_SLOTS, Shared},
};
use crate::wire::header::{BadHeader, CREDIT, HEADER_BYTES, Header, SHARED};

/// What can go wrong with a peer's frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The connection ended or broke.
    Broke { peer: u32, why: String },
    /// The peer is at another operation.
    Mismatch { peer: u32, peer_seq: u64, peer_fingerprint: u64 },
    /// What came is not what was sent.
    Corrupt { peer: u32, why: String },
}

/// A connection to one peer.
pub(crate) struct Link {
    pub(crate) peer: u32,
    pipe: Box<dyn Pipe>,
    shared: Option<Shared>,
    /// Which start of the job frames must be of.
    generation: u32,
    out: Out,
    come: Come,
    pub(crate) scratch: Scratch,
}

/// Room for one segment each, kept between operations: what is sent in another format than it lies in memory, what
/// came and is to be combined, and what that means. In words of 8 bytes, so that it is aligned for every number.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) encoded: Vec<u64>,
    pub(crate) arrived: Vec<u64>,
    pub(crate) decoded: Vec<u64>,
}

/// The frame that is on its way out.
struct Out {
    /// A header, or the notice that slots are free.
    head: [u8; HEADER_BYTES],
    /// The bytes of it that are still to go.
    head_left: usize,
    /// Whether that is a frame of [`Link::begin`] whose payload follows.
    in_frame: bool,
    payload_sent: usize,
    credits_due: u32,
}

/// The frame that is coming in.
struct Come {
    head: [u8; HEADER_BYTES],
    head_got: usize,
    header: Option<Header>,
    payload_got: usize,
}

impl Link {
    pub(crate) fn new(peer: u32, pipe: Box<dyn Pipe>, shared: Option<Shared>, generation: u32) -> Self {
        let head = [0; HEADER_BYTES];
        let out = Out { head, head_left: 0, in_frame: false, payload_sent: 0, credits_due: 0 };
        let come = Come { head, head_got: 0, header: None, payload_got: 0 };
        Self { peer, pipe, shared, generation, out, come, scratch: Scratch::default() }
    }

    pub(crate) fn pipe(&self) -> &dyn Pipe {
        &*self.pipe
    }

    /// Whether payloads go through shared memory.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether the next payload has a place in shared memory.
    pub(crate) fn has_free_slot(&self) -> bool {
        self.shared.as_ref().is_some_and(Shared::has_free_slot)
    }

    /// Whether a frame of [`begin`](Self::begin) is not through yet.
    pub(crate) fn is_sending(&self) -> bool {
        self.out.in_frame
    }

    /// Whether there are bytes that only wait for room in the socket.
    pub(crate) fn has_unsent(&self) -> bool {
        self.out.head_left > 0 || self.out.in_frame || self.out.credits_due > 0 || self.pipe.holds_bytes()
    }

    /// Starts a frame. Through shared memory the payload is copied now, and `false` says that no slot is free.
    pub(crate) fn begin(&mut self, mut header: Header, payload: &[u8]) -> Result<bool, Trouble> {
        // A notice that is half out goes first.
        if self.out.head_left > 0 && !self.push_notice()? {
            return Ok(false);
        }
        if let Some(shared) = &mut self.shared {
            let Some(slot) = shared.put(payload) else { return Ok(false) };
            header.flags |= SHARED;
            header.slot = slot;
        }
        self.out.head = header.encode();
        self.out.head_left = HEADER_BYTES;
        self.out.in_frame = true;
        self.out.payload_sent = 0;
        Ok(true)
    }

    /// Moves the frame on; `true` when it is through. `payload` as given to [`begin`](Self::begin).
    pub(crate) fn push(&mut self, payload: &[u8]) -> Result<bool, Trouble> {
        let payload = if self.is_shared() { &[] } else { payload };
        loop {
            let head = &self.out.head[HEADER_BYTES - self.out.head_left..];
            let rest = &payload[self.out.payload_sent..];
            if head.is_empty() && rest.is_empty() {
                self.out.in_frame = false;
                return self.flush();
            }
            let written = self.pipe.write(&[IoSlice::new(head), IoSlice::new(rest)]);
            let Some(written) = self.ok(written)? else { return Ok(false) };
            let of_head = written.min(self.out.head_left);
            self.out.head_left -= of_head;
            self.out.payload_sent += written - of_head;
        }
    }

    /// Whether so many slots were emptied that the peer should hear of it before this side waits.
    pub(crate) fn owes_notice(&self) -> bool {
        self.out.credits_due as usize >= NUM_SLOTS / 2
    }

    /// Tells the peer which slots were emptied; `true` when nothing is left to tell.
    pub(crate) fn push_notice(&mut self) -> Result<bool, Trouble> {
        if self.out.in_frame {
            return Ok(false);
        }
        loop {
            if self.out.head_left == 0 {
                if self.out.credits_due == 0 {
                    return self.flush();
                }
                let bytes = std::mem::take(&mut self.out.credits_due);
                let notice =
                    Header { flags: CREDIT, generation: self.generation, bytes, ..Header::default() };
                self.out.head = notice.encode();
                self.out.head_left = HEADER_BYTES;
            }
            let head = &self.out.head[HEADER_BYTES - self.out.head_left..];
            let written = self.pipe.write(&[IoSlice::new(head)]);
            let Some(written) = self.ok(written)? else { return Ok(false) };
            self.out.head_left -= written;
        }
    }

    /// Hands on what an encrypting pipe keeps; that it may keep some does not hold a frame up.
    fn flush(&mut self) -> Result<bool, Trouble> {
        let flushed = self.pipe.flush();
        self.ok(flushed)?;
        Ok(true)
    }

    /// The header of the frame that is coming in, if it is here.
    pub(crate) fn header(&mut self) -> Result<Option<Header>, Trouble> {
        loop {
            if let Some(header) = self.come.header {
                return Ok(Some(header));
            }
            let read = self.pipe.read(&mut self.come.head[self.come.head_got..]);
            let Some(read) = self.some(read)? else { return Ok(None) };
            self.come.head_got += read;
            if self.come.head_got < HEADER_BYTES {
                continue;
            }
            self.come.head_got = 0;
            let header = Header::decode(&self.come.head).map_err(|bad: BadHeader| self.corrupt(bad))?;
            if header.generation != self.generation {
                return Err(self.corrupt(format!(
                    "a frame of generation {}, this job is generation {}",
                    header.generation, self.generation
                )));
            }
            if header.flags & CREDIT != 0 {
                let freed = self.shared.as_mut().is_some_and(|shared| shared.freed(header.bytes));
                if !freed {
                    return Err(
                        self.corrupt(format!("{} slots said to be free that were not taken", header.bytes))
                    );
                }
                continue;
            }
            self.come.payload_got = 0;
            self.come.header = Some(header);
        }
    }

    /// Whether the header of a frame is here that was not dealt with yet.
    pub(crate) fn has_header(&self) -> bool {
        self.come.header.is_some()
    }

    /// Reads the payload of the frame that is coming in; `true` when all of it is here.
    pub(crate) fn read_payload(&mut self, into: &mut [u8]) -> Result<bool, Trouble> {
        while self.come.payload_got < into.len() {
            let read = self.pipe.read(&mut into[self.come.payload_got..]);
            let Some(read) = self.some(read)? else { return Ok(false) };
            self.come.payload_got += read;
        }
        Ok(true)
    }

    /// The payload of a frame whose header says that it is in shared memory.
    pub(crate) fn slot(&self, header: &Header) -> Result<&[u8], Trouble> {
        let slot = self.shared.as_ref().and_then(|shared| shared.get(header.slot, header.bytes));
        slot.ok_or_else(|| self.corrupt(format!("slot {} of shared memory, which is not there", header.slot)))
    }

    /// Done with the frame that came in.
    pub(crate) fn finish(&mut self) {
        if self.come.header.take().is_some_and(|header| header.flags & SHARED != 0) {
            self.out.credits_due += 1;
        }
    }

    /// Whether every slot that this side filled was emptied.
    pub(crate) fn is_settled(&self) -> bool {
        self.shared.as_ref().is_none_or(Shared::is_settled)
    }

    pub(crate) fn corrupt(&self, why: impl std::fmt::Display) -> Trouble {
        Trouble::Corrupt { peer: self.peer, why: why.to_string() }
    }

    /// What a read or write gave, without what only means "later".
    fn ok<T>(&self, result: io::Result<T>) -> Result<Option<T>, Trouble> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(error) => Err(Trouble::Broke { peer: self.peer, why: error.to_string() }),
        }
    }

    /// The same for a read, where nothing means the end.
    fn some(&self, result: io::Result<usize>) -> Result<Option<usize>, Trouble> {
        match self.ok(result)? {
            Some(0) => Err(Trouble::Broke { peer: self.peer, why: "the peer closed the connection".into() }),
            other => Ok(other),
        }
    }
}
