//! Frames between two processes of one machine: a file in memory that both map, with slots for payloads, their headers,
//! and two counters. The connection between the two stays, for what memory cannot do: wake who sleeps, and tell that the
//! peer is gone.
//!
//! ```text
//! words, each in a cache line of its own: frames written, frames read, the receiver sleeps, the sender sleeps
//! headers, 64 bytes each                   payloads, a segment each
//! ```
//! Frame k is in slot k modulo the number of slots. Who goes to sleep says so first and then looks once more; who writes
//! or reads a frame counts first and then looks whether the other sleeps. Both in sequential order, so that at least one
//! sees the other (Dekker's pattern).
//!
//! Holds the crate's only `unsafe` code: access to the mapping.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, fallocate};

use crate::wire::header::HEADER_BYTES;

/// Slots of one direction.
const NUM_SLOTS: usize = 8;

/// The words at the beginning.
#[derive(Clone, Copy)]
enum Word {
    Written,
    Read,
    ReceiverSleeps,
    SenderSleeps,
}

const LINE_BYTES: usize = 64;
const HEADERS_AT: usize = 4 * LINE_BYTES;
/// Payloads begin on a page.
const PAYLOADS_AT: usize = 4096;
/// Where files that are memory live.
const FOLDER: &str = "/dev/shm";

/// The whole of one direction, with slots of so many bytes.
const fn region_bytes(slot_bytes: usize) -> usize {
    PAYLOADS_AT + NUM_SLOTS * slot_bytes
}

/// The slots of one direction, mapped.
pub(crate) struct Region {
    map: MmapRaw,
    slot_bytes: usize,
}

/// A file of one direction that its receiver has yet to open.
pub(crate) struct Offered {
    name: Name,
    region: Region,
}

/// The name of a file, which is taken away in the end, whoever made it.
pub(crate) struct Name(PathBuf);

impl Name {
    /// Of the file with the payloads from one rank to another, which need not be there.
    pub(crate) fn new(session: &[u8; 16], from: u32, to: u32, stream: u16) -> Self {
        let session: String = session.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(PathBuf::from(format!("{FOLDER}/burn-dist-{session}-{from}-{to}-{stream}")))
    }
}

impl Region {
    fn map(file: &File, slot_bytes: usize) -> io::Result<Self> {
        let bytes = region_bytes(slot_bytes);
        let got = file.metadata()?.len();
        if got != bytes as u64 {
            return Err(io::Error::other(format!("shared memory of {got} bytes, expected {bytes}")));
        }
        Ok(Self { map: MmapOptions::new().len(bytes).map_raw(file)?, slot_bytes })
    }

    /// Maps what the peer offered under `name`.
    pub(crate) fn open(name: &Name, slot_bytes: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&name.0)?;
        Self::map(&file, slot_bytes)
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        // SAFETY: the mapping is longer than its words, begins on a page, and lives as long as `self`; both processes
        // touch this place as an atomic only.
        #[expect(unsafe_code, reason = "memory that two processes share has no safe access")]
        unsafe {
            &*self.map.as_ptr().add(word as usize * LINE_BYTES).cast::<AtomicU32>()
        }
    }

    /// The place of a slot's header and that of its payload, `bytes` long.
    fn slot(&mut self, slot: usize, bytes: usize) -> (&mut [u8], &mut [u8]) {
        assert!(slot < NUM_SLOTS && bytes <= self.slot_bytes, "a payload fits its slot");
        // SAFETY: the mapping has `region_bytes(slot_bytes)` bytes with NUM_SLOTS headers before PAYLOADS_AT, and
        // the assertion keeps both places inside of one slot's, which do not overlap. They are borrowed from `self` alone.
        // The peer does not touch a slot before it was counted as written.
        #[expect(unsafe_code, reason = "memory that two processes share has no safe access")]
        unsafe {
            let start = self.map.as_mut_ptr();
            let header = start.add(HEADERS_AT + slot * HEADER_BYTES);
            let payload = start.add(PAYLOADS_AT + slot * self.slot_bytes);
            (
                std::slice::from_raw_parts_mut(header, HEADER_BYTES),
                std::slice::from_raw_parts_mut(payload, bytes),
            )
        }
    }

    /// `bytes` from `at` on, if they are inside the mapping.
    fn read(&self, at: usize, bytes: usize) -> Option<&[u8]> {
        let end = region_bytes(self.slot_bytes);
        if at.checked_add(bytes).is_none_or(|last| last > end) {
            return None;
        }
        // SAFETY: inside the mapping by the check above, which lives as long as `self`. The peer, which has proved that it
        // belongs to the job, leaves a slot alone from when it counted it as written until this side counted it as
        // read, and that happens after this borrow.
        #[expect(unsafe_code, reason = "memory that two processes share has no safe access")]
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(at), bytes) })
    }
}

const _: () = assert!(HEADERS_AT + NUM_SLOTS * HEADER_BYTES <= PAYLOADS_AT);

impl Offered {
    /// Makes the slots, and the memory behind them: a full `/dev/shm` is an error here, not a crash later.
    pub(crate) fn new(name: Name, slot_bytes: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&name.0)?;
        fallocate(&file, FallocateFlags::empty(), 0, region_bytes(slot_bytes) as u64)?;
        Ok(Self { name, region: Region::map(&file, slot_bytes)? })
    }

    /// Takes the file's name away and keeps the memory, which now goes when both processes are gone.
    pub(crate) fn accepted(self) -> Region {
        drop(self.name);
        self.region
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Gone already if somebody cleaned up.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Both directions.
pub(crate) struct Shared {
    out: Region,
    come: Region,
    /// Frames that this side wrote, modulo 2^32.
    written: u32,
    /// Frames that this side read.
    read: u32,
}

impl Shared {
    pub(crate) fn new(out: Region, come: Region) -> Self {
        Self { out, come, written: 0, read: 0 }
    }

    /// Whether a frame has a place.
    pub(crate) fn has_free_slot(&self) -> bool {
        self.written.wrapping_sub(self.out.word(Word::Read).load(SeqCst)) < NUM_SLOTS as u32
    }

    /// Writes a frame into a free slot, with the payload that `fill` makes; whether the peer sleeps and must be woken.
    pub(crate) fn put(
        &mut self,
        header: &[u8; HEADER_BYTES],
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        debug_assert!(self.has_free_slot());
        let (head, payload) = self.out.slot(self.written as usize % NUM_SLOTS, bytes);
        fill(payload);
        head.copy_from_slice(header);
        self.written = self.written.wrapping_add(1);
        self.out.word(Word::Written).store(self.written, SeqCst);
        self.out.word(Word::ReceiverSleeps).swap(0, SeqCst) != 0
    }

    /// Whether the peer wrote a frame that was not read yet.
    fn has_frame(&self) -> bool {
        self.come.word(Word::Written).load(SeqCst) != self.read
    }

    /// The header of the next frame, if it is there.
    pub(crate) fn header(&self) -> Option<[u8; HEADER_BYTES]> {
        let at = HEADERS_AT + self.read as usize % NUM_SLOTS * HEADER_BYTES;
        let header = self.has_frame().then(|| self.come.read(at, HEADER_BYTES)).flatten()?;
        header.try_into().ok()
    }

    /// The payload of the next frame; `None` for a length that no slot has.
    pub(crate) fn payload(&self, bytes: u32) -> Option<&[u8]> {
        let (slot, bytes) = (self.read as usize % NUM_SLOTS, bytes as usize);
        if bytes > self.come.slot_bytes {
            None
        } else {
            self.come.read(PAYLOADS_AT + slot * self.come.slot_bytes, bytes)
        }
    }

    /// Done with the next frame; whether the peer sleeps and must be woken.
    pub(crate) fn take(&mut self) -> bool {
        self.read = self.read.wrapping_add(1);
        self.come.word(Word::Read).store(self.read, SeqCst);
        self.come.word(Word::SenderSleeps).swap(0, SeqCst) != 0
    }

    /// Says that this side is going to sleep until a frame comes, or a slot is free; `false` if that is so already.
    pub(crate) fn may_sleep(&self, for_frame: bool, for_slot: bool) -> bool {
        if for_frame {
            self.come.word(Word::ReceiverSleeps).store(1, SeqCst);
        }
        if for_slot {
            self.out.word(Word::SenderSleeps).store(1, SeqCst);
        }
        let is_here = (for_frame && self.has_frame()) || (for_slot && self.has_free_slot());
        !is_here
    }
}
