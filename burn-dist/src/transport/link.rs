//! Frames to and from one peer, over one connection, with the payload behind the header or in shared memory. Knows
//! what a frame is, not what it is for.

use std::io::{self, IoSlice};

use super::{Pipe, poll::is_for_later, shared::Shared};
use crate::wire::header::{BELL, BadHeader, HEADER_BYTES, Header, SHARED};

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

/// The first `bytes` of a buffer that is aligned for every number.
pub(crate) fn room(buffer: &mut Vec<u64>, bytes: usize) -> &mut [u8] {
    let words = bytes.div_ceil(8);
    if buffer.len() < words {
        buffer.resize(words, 0);
    }
    &mut bytemuck::cast_slice_mut(buffer)[..bytes]
}

/// The frame that is on its way out.
struct Out {
    /// A header, or a bell.
    head: [u8; HEADER_BYTES],
    /// The bytes of it that are still to go.
    head_left: usize,
    /// Whether that is a frame of [`Link::begin`] whose payload follows.
    in_frame: bool,
    payload_sent: usize,
    /// Whether the peer sleeps and is to be woken.
    bell_due: bool,
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
        let out = Out { head, head_left: 0, in_frame: false, payload_sent: 0, bell_due: false };
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
        self.out.head_left > 0 || self.out.in_frame || self.out.bell_due || self.pipe.holds_bytes()
    }

    /// Starts a frame; `false` if it cannot be now. Through shared memory it is through at once, if a slot is free.
    pub(crate) fn begin(&mut self, header: Header, payload: &[u8]) -> Result<bool, Trouble> {
        if self.is_shared() {
            return self.put(header, |slot| slot.copy_from_slice(payload));
        }
        self.out.head = header.encode();
        self.out.head_left = HEADER_BYTES;
        self.out.in_frame = true;
        self.out.payload_sent = 0;
        Ok(true)
    }

    /// Sends a frame through shared memory whose payload `fill` makes in its place; `false` if no slot is free.
    pub(crate) fn put(&mut self, mut header: Header, fill: impl FnOnce(&mut [u8])) -> Result<bool, Trouble> {
        let Some(shared) = self.shared.as_mut().filter(|shared| shared.has_free_slot()) else {
            return Ok(false);
        };
        header.flags |= SHARED;
        self.out.bell_due |= shared.put(&header.encode(), header.bytes as usize, fill);
        self.ring()?;
        Ok(true)
    }

    /// Moves the frame on; `true` when it is through. `payload` as given to [`begin`](Self::begin).
    pub(crate) fn push(&mut self, payload: &[u8]) -> Result<bool, Trouble> {
        if self.is_shared() {
            return Ok(true);
        }
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

    /// Wakes a peer that sleeps before its memory, and sends what is kept back; `true` when nothing is left.
    pub(crate) fn ring(&mut self) -> Result<bool, Trouble> {
        loop {
            if self.out.head_left == 0 || self.out.in_frame {
                if !std::mem::take(&mut self.out.bell_due) {
                    return self.flush();
                }
                let bell = Header { flags: BELL, generation: self.generation, ..Header::default() };
                self.out.head = bell.encode();
                self.out.head_left = HEADER_BYTES;
            }
            let head = &self.out.head[HEADER_BYTES - self.out.head_left..];
            match self.pipe.write(&[IoSlice::new(head)]) {
                Ok(written) => self.out.head_left -= written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody to wake: who waits for the peer hears that it is gone, who does not need not.
                Err(_) => self.out.head_left = 0,
            }
        }
    }

    /// Whether this side may sleep until a frame comes, or a slot is free; the peer then knows to wake it.
    pub(crate) fn may_sleep(&self, for_frame: bool, for_slot: bool) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.may_sleep(for_frame, for_slot))
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
            if let Some(head) = self.shared.as_ref().and_then(Shared::header) {
                let header = self.decode(&head)?;
                self.come.header = Some(header);
                continue;
            }
            let read = self.pipe.read(&mut self.come.head[self.come.head_got..]);
            let Some(read) = self.some(read)? else { return Ok(None) };
            self.come.head_got += read;
            if self.come.head_got < HEADER_BYTES {
                continue;
            }
            self.come.head_got = 0;
            let head = self.come.head;
            let header = self.decode(&head)?;
            if header.flags & BELL != 0 {
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

    fn decode(&self, head: &[u8; HEADER_BYTES]) -> Result<Header, Trouble> {
        let header = Header::decode(head).map_err(|bad: BadHeader| self.corrupt(bad))?;
        if header.generation == self.generation {
            return Ok(header);
        }
        let (theirs, ours) = (header.generation, self.generation);
        Err(self.corrupt(format!("a frame of generation {theirs}, this job is generation {ours}")))
    }

    /// The payload of a frame that came through shared memory.
    pub(crate) fn shared_payload(&self, header: &Header) -> Result<&[u8], Trouble> {
        let payload = self.shared.as_ref().and_then(|shared| shared.payload(header.bytes));
        payload.ok_or_else(|| {
            self.corrupt(format!("{} bytes in shared memory, where they have no place", header.bytes))
        })
    }

    /// Done with the frame that came in.
    pub(crate) fn finish(&mut self) -> Result<(), Trouble> {
        if self.come.header.take().is_some_and(|header| header.flags & SHARED != 0)
            && let Some(shared) = &mut self.shared
        {
            self.out.bell_due |= shared.take();
            self.ring()?;
        }
        Ok(())
    }

    pub(crate) fn corrupt(&self, why: impl std::fmt::Display) -> Trouble {
        Trouble::Corrupt { peer: self.peer, why: why.to_string() }
    }

    /// What a read or write gave, without what only means "later".
    fn ok<T>(&self, result: io::Result<T>) -> Result<Option<T>, Trouble> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_for_later(&error) => Ok(None),
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
