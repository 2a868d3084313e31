//! Payloads between two processes of one machine: a file in memory that both map, cut into slots. The sender fills a
//! slot and says so in a frame header over the connection; the receiver empties it and says that back. So waiting,
//! checks and the peer's death are those of the connection, and only the bytes take the short way.
//!
//! Holds the crate's only `unsafe` code: reading and writing the mapping.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, fallocate};

/// Slots of one direction.
pub(crate) const NUM_SLOTS: usize = 4;
/// Where files that are memory live.
const FOLDER: &str = "/dev/shm";

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
        let bytes = NUM_SLOTS * slot_bytes;
        let got = file.metadata()?.len();
        if got != bytes as u64 {
            return Err(io::Error::other(format!("shared memory of {got} bytes, expected {bytes}")));
        }
        Ok(Self { map: MmapOptions::new().len(bytes).map_raw(file)?, slot_bytes })
    }

    /// Maps what the peer offered.
    pub(crate) fn open(
        session: &[u8; 16],
        from: u32,
        to: u32,
        stream: u16,
        slot_bytes: usize,
    ) -> io::Result<Self> {
        let name = Name::new(session, from, to, stream);
        let file = OpenOptions::new().read(true).write(true).open(&name.0)?;
        Self::map(&file, slot_bytes)
    }

    fn write(&mut self, slot: usize, payload: &[u8]) {
        assert!(slot < NUM_SLOTS && payload.len() <= self.slot_bytes, "a payload fits its slot");
        // SAFETY: the mapping has NUM_SLOTS * slot_bytes bytes, and the assertion keeps the copy inside of one slot. The
        // source is a borrowed slice outside the mapping. The peer does not touch a slot that it was not told of.
        #[expect(unsafe_code, reason = "memory that two processes share has no safe access")]
        unsafe {
            let to = self.map.as_mut_ptr().add(slot * self.slot_bytes);
            std::ptr::copy_nonoverlapping(payload.as_ptr(), to, payload.len());
        }
    }

    fn read(&self, slot: usize, bytes: usize) -> Option<&[u8]> {
        if slot >= NUM_SLOTS || bytes > self.slot_bytes {
            return None;
        }
        // SAFETY: inside the mapping by the check above, which lives as long as `self`. The peer, which has proved that it
        // belongs to the job, leaves a slot alone from its frame until it was told that the slot is free, and that happens
        // after this borrow.
        #[expect(unsafe_code, reason = "memory that two processes share has no safe access")]
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(slot * self.slot_bytes), bytes) })
    }
}

impl Offered {
    /// Makes the slots from `from` to `to`, and the memory behind them: a full `/dev/shm` is an error here, not a
    /// crash later.
    pub(crate) fn new(
        session: &[u8; 16],
        from: u32,
        to: u32,
        stream: u16,
        slot_bytes: usize,
    ) -> io::Result<Self> {
        let name = Name::new(session, from, to, stream);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&name.0)?;
        fallocate(&file, FallocateFlags::empty(), 0, (NUM_SLOTS * slot_bytes) as u64)?;
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
    free: VecDeque<u32>,
    taken: VecDeque<u32>,
}

impl Shared {
    pub(crate) fn new(out: Region, come: Region) -> Self {
        Self { out, come, free: (0..NUM_SLOTS as u32).collect(), taken: VecDeque::new() }
    }

    /// Copies a payload into a free slot.
    pub(crate) fn put(&mut self, payload: &[u8]) -> Option<u32> {
        let slot = self.free.pop_front()?;
        self.out.write(slot as usize, payload);
        self.taken.push_back(slot);
        Some(slot)
    }

    /// What the peer put into a slot.
    pub(crate) fn get(&self, slot: u32, bytes: u32) -> Option<&[u8]> {
        self.come.read(slot as usize, bytes as usize)
    }

    /// The peer emptied the oldest slots; `false` if there are not so many.
    pub(crate) fn freed(&mut self, count: u32) -> bool {
        if count as usize > self.taken.len() {
            return false;
        }
        self.free.extend(self.taken.drain(..count as usize));
        true
    }

    /// Whether a payload has a place.
    pub(crate) fn has_free_slot(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether all slots are empty.
    pub(crate) fn is_settled(&self) -> bool {
        self.taken.is_empty()
    }
}
