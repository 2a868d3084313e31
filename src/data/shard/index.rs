//! A shard's index: where each picture lies in the tar, its class, its size and its checksum, a fixed width each.
//!
//! # Format
//!
//! Little-endian: 8 bytes `BSindex1`, `u64` bytes of the tar, `u64` number of pictures; for each the `u64` offset of its
//! file in the tar and, as `u32`, its length, class, width, height (0 and 0 where its header cannot be read) and the
//! CRC-32C of its bytes; at the end a `u32` CRC-32C of all before. The digit of the first 8 bytes is the version.
//!
//! # Cost
//!
//! 28 bytes a picture in the file, 32 in memory: ImageNet's 1,281,167 take 41 MB.

use super::super::{decode::MAX_FILE_BYTES, picture::check_num_pixels};

const MAGIC: [u8; 8] = *b"BSindex1";
const HEADER_BYTES: usize = 24;
const ENTRY_BYTES: usize = 28;
const CHECKSUM_BYTES: usize = 4;

/// The most pictures of one shard.
pub(crate) const MAX_ENTRIES: u64 = 1 << 24;
/// Of a tar's header, which is before each file.
pub(crate) const TAR_HEADER_BYTES: u64 = 512;

/// A picture of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Of the file's first byte, from the tar's.
    pub(crate) offset: u64,
    pub(crate) num_bytes: u32,
    pub(crate) label: u32,
    /// In pixels; both 0 where the picture has no header that can be read.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Of the file's bytes.
    pub(crate) crc32c: u32,
}

/// The pictures of a shard, in the tar's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardIndex {
    pub(crate) tar_bytes: u64,
    pub(crate) entries: Vec<Entry>,
}

impl ShardIndex {
    /// The length of an index file of so many pictures.
    pub(crate) const fn file_bytes(num_images: u64) -> u64 {
        (HEADER_BYTES + CHECKSUM_BYTES) as u64 + num_images * ENTRY_BYTES as u64
    }

    /// The index file's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.tar_bytes.to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            let Entry { offset, num_bytes, label, width, height, crc32c } = *entry;
            bytes.extend(offset.to_le_bytes());
            bytes.extend([num_bytes, label, width, height, crc32c].into_iter().flat_map(u32::to_le_bytes));
        }
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Reads an index file that is wholly in memory, and takes no more of it than as much again.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence about the file.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let Some((magic, rest)) = bytes.split_first_chunk() else {
            return Err(format!("is no index: it has {} bytes", bytes.len()));
        };
        if *magic != MAGIC {
            return Err(match magic.strip_prefix(b"BSindex") {
                Some(_) => "is an index of another version: prepare the data anew".into(),
                None => "is no index of a shard".into(),
            });
        }
        let short = || format!("is cut off: it has {} bytes", bytes.len());
        let (tar_bytes, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (num_images, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (entries, checksum) = rest.split_last_chunk().ok_or_else(short)?;
        let (tar_bytes, num_images) = (u64::from_le_bytes(*tar_bytes), u64::from_le_bytes(*num_images));
        let (entries, left_over) = entries.as_chunks::<ENTRY_BYTES>();
        if entries.len() as u64 != num_images || !left_over.is_empty() || num_images > MAX_ENTRIES {
            return Err(format!("speaks of {num_images} pictures and has {} bytes", bytes.len()));
        }
        let expected = crc32c::crc32c(&bytes[..bytes.len() - CHECKSUM_BYTES]);
        if u32::from_le_bytes(*checksum) != expected {
            return Err("is damaged: its checksum is wrong".into());
        }
        let entries: Vec<Entry> = entries.iter().map(Entry::from_bytes).collect();
        match entries.iter().position(|entry| !entry.is_within(tar_bytes)) {
            Some(at) => Err(format!("is wrong: its picture {at} cannot lie in a tar of {tar_bytes} bytes")),
            None => Ok(Self { tar_bytes, entries }),
        }
    }
}

impl Entry {
    fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, numbers @ ..] = *bytes;
        let (numbers, _) = numbers.as_chunks();
        let number = |at: usize| u32::from_le_bytes(numbers[at]);
        Self {
            offset: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            num_bytes: number(0),
            label: number(1),
            width: number(2),
            height: number(3),
            crc32c: number(4),
        }
    }

    /// Whether the file is one of the tar, and such as is read.
    fn is_within(&self, tar_bytes: u64) -> bool {
        let end = self.offset.checked_add(self.num_bytes.into());
        let unknown = (self.width, self.height) == (0, 0);
        self.offset >= TAR_HEADER_BYTES
            && end.is_some_and(|end| end <= tar_bytes)
            && u64::from(self.num_bytes) <= MAX_FILE_BYTES
            && (unknown || check_num_pixels(self.width.into(), self.height.into()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> ShardIndex {
        let entry = |n: u32| Entry {
            offset: 1024 * u64::from(n + 1),
            num_bytes: 100 + n,
            label: n % 2,
            width: 10 * n,
            height: 20 * n,
            crc32c: 0xDEAD_0000 + n,
        };
        ShardIndex { tar_bytes: 10_240, entries: (0..5).map(entry).collect() }
    }

    #[test]
    fn an_index_comes_back() {
        let bytes = index().to_bytes();
        assert_eq!(bytes.len() as u64, ShardIndex::file_bytes(5));
        assert_eq!(ShardIndex::from_bytes(&bytes), Ok(index()));
        let empty = ShardIndex { tar_bytes: 1024, entries: Vec::new() };
        assert_eq!(ShardIndex::from_bytes(&empty.to_bytes()), Ok(empty));
    }

    /// The first picture's entry, byte by byte: other programs may read it.
    #[test]
    fn the_format_never_changes() {
        let bytes = index().to_bytes();
        assert_eq!(bytes[..24], *b"BSindex1\x00\x28\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
        let second = &bytes[24 + 28..][..28];
        assert_eq!(second, b"\x00\x08\0\0\0\0\0\0\x65\0\0\0\x01\0\0\0\x0A\0\0\0\x14\0\0\0\x01\0\xAD\xDE");
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_seen() {
        let bytes = index().to_bytes();
        for length in 0..bytes.len() {
            assert!(ShardIndex::from_bytes(&bytes[..length]).is_err(), "{length}");
        }
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(ShardIndex::from_bytes(&damaged).is_err(), "bit {at}");
        }
    }

    /// Whoever writes a right checksum under wrong numbers is told as well.
    #[test]
    fn pictures_that_cannot_be_are_refused() {
        let refused = |change: fn(&mut Entry)| {
            let mut index = index();
            change(&mut index.entries[2]);
            ShardIndex::from_bytes(&index.to_bytes()).unwrap_err()
        };
        for change in [
            (|entry| entry.offset = 10_200) as fn(&mut Entry),
            |entry| entry.offset = u64::MAX,
            |entry| entry.offset = 0,
            |entry| (entry.width, entry.height) = (60_000, 60_000),
            |entry| entry.width = 0,
        ] {
            let error = refused(change);
            assert_eq!(error, "is wrong: its picture 2 cannot lie in a tar of 10240 bytes");
        }
        let mut huge = ShardIndex { tar_bytes: u64::MAX, ..index() };
        huge.entries[0].num_bytes = MAX_FILE_BYTES as u32 + 1;
        assert!(ShardIndex::from_bytes(&huge.to_bytes()).is_err());
    }

    #[test]
    fn other_versions_are_told_from_other_files() {
        let mut bytes = index().to_bytes();
        bytes[7] = b'2';
        assert!(ShardIndex::from_bytes(&bytes).unwrap_err().contains("another version"));
        assert!(ShardIndex::from_bytes(&[0; 64]).unwrap_err().contains("no index"));
    }
}
