//! Shards as a source: an index in memory, and a store that gives the bytes it speaks of.

use std::{fmt::Debug, hash::Hasher, ops::Range};

use super::{
    super::{
        blocks::Blocks,
        decode::dimensions,
        error::{DataError, SampleError, SampleFault},
        picture::Channels,
        source::Source,
    },
    index::{Entry, ShardIndex, TAR_HEADER_BYTES},
    key,
};

/// Where shards are: on disk, behind a network, in memory. Shared by threads.
pub(crate) trait Store: Send + Sync + Debug {
    /// What shard `shard` is called in messages.
    fn name(&self, shard: usize) -> String;

    /// Fills `into` with a shard's bytes from `offset` on. The index has bounded both by the shard's length.
    ///
    /// # Errors
    ///
    /// A [`SampleFault`], also if the shard ends before `into` is full.
    fn read(&self, shard: usize, offset: u64, into: &mut [u8]) -> Result<(), SampleFault>;

    /// As [`read`](Self::read), of what is at hand: a message is not worth waiting for. Returns whether it is.
    fn peek(&self, shard: usize, offset: u64, into: &mut [u8]) -> bool {
        self.read(shard, offset, into).is_ok()
    }

    /// Throws away its own copy of a shard that was found damaged, once at most. Returns whether it has such copies, so that
    /// reading again may give other bytes.
    fn forget(&self, shard: usize) -> bool {
        let _ = shard;
        false
    }

    /// Hears which shards will be read from next, in that order; see [`Source::read_ahead`].
    fn read_ahead(&self, shards: &mut dyn Iterator<Item = usize>) {
        let _ = shards;
    }
}

/// The pictures of shards, in the shards' order.
#[derive(Debug)]
pub(crate) struct Shards<S> {
    store: S,
    class_names: Vec<String>,
    /// Where each shard's entries end.
    ends: Vec<usize>,
    entries: Vec<Entry>,
}

impl<S: Store> Shards<S> {
    /// `indexes` are those of the store's shards, in order.
    ///
    /// # Errors
    ///
    /// The first that came, or [`DataError::Shard`] for a label beyond the classes.
    pub(crate) fn new(
        store: S,
        class_names: Vec<String>,
        indexes: impl IntoIterator<Item = Result<ShardIndex, DataError>>,
    ) -> Result<Self, DataError> {
        let (mut ends, mut entries) = (Vec::new(), Vec::new());
        for (shard, index) in indexes.into_iter().enumerate() {
            let index = index?;
            let (expected, got) = (class_names.len(), index.entries.iter().map(|entry| entry.label).max());
            if let Some(got) = got.filter(|&label| label as usize >= expected) {
                let reason = format!("has the label {got}, expected below {expected}, the number of classes");
                return Err(DataError::Shard { path: store.name(shard), reason });
            }
            entries.extend(index.entries);
            ends.push(entries.len());
        }
        entries.shrink_to_fit();
        Ok(Self { store, class_names, ends, entries })
    }

    /// The pictures of each shard, as ranges of indices.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| start..end)
    }

    /// The shard that picture `index` is in.
    fn shard(&self, index: usize) -> usize {
        self.ends.partition_point(|&end| end <= index)
    }

    /// What a picture's file is called in its tar, up to the dot, if that is at hand.
    fn key(&self, index: usize) -> Option<String> {
        let mut header = tar::Header::new_old();
        // Just before the file, whatever long names come before that.
        let offset = self.entries[index].offset - TAR_HEADER_BYTES;
        if !self.store.peek(self.shard(index), offset, header.as_mut_bytes()) {
            return None;
        }
        let path = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        Some(key::split(&path).map_or(path.as_str(), |(key, _)| key).to_owned())
    }

    fn bytes(&self, index: usize, into: &mut Vec<u8>) -> Result<(), SampleFault> {
        let Entry { offset, num_bytes, crc32c: expected, .. } = self.entries[index];
        let shard = self.shard(index);
        into.resize(num_bytes as usize, 0);
        self.store.read(shard, offset, into)?;
        let mut got = crc32c::crc32c(into);
        if got != expected && self.store.forget(shard) {
            self.store.read(shard, offset, into)?;
            got = crc32c::crc32c(into);
        }
        if got == expected { Ok(()) } else { Err(SampleFault::Checksum { expected, got }) }
    }
}

impl<S: Store> Source for Shards<S> {
    fn num_images(&self) -> usize {
        self.entries.len()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn label(&self, index: usize) -> u32 {
        self.entries[index].label
    }

    fn name(&self, index: usize) -> String {
        let shard = self.store.name(self.shard(index));
        let place =
            || (index - self.ranges().nth(self.shard(index)).map_or(0, |range| range.start)).to_string();
        format!("{shard}#{}", self.key(index).unwrap_or_else(place))
    }

    fn channels(&self) -> Channels {
        Channels::Rgb
    }

    fn read_file(&self, index: usize, into: &mut Vec<u8>) -> Result<bool, SampleError> {
        self.bytes(index, into).map_err(|fault| SampleError { name: self.name(index), fault })?;
        Ok(true)
    }

    fn dimensions(&self, index: usize) -> Result<(usize, usize), SampleError> {
        let Entry { width, height, .. } = self.entries[index];
        if (width, height) != (0, 0) {
            return Ok((width as usize, height as usize));
        }
        // No header could be read when the index was made; what is wrong with it is not in there.
        let mut file = Vec::new();
        let read = self.bytes(index, &mut file).and_then(|()| dimensions(&file));
        read.map_err(|fault| SampleError { name: self.name(index), fault })
    }

    /// The shards.
    fn blocks(&self) -> Blocks {
        Blocks::of_lengths(self.ranges().map(|pictures| pictures.len() as u32))
    }

    fn read_ahead(&self, blocks: &[u32]) {
        let here = self.blocks();
        // A shard without pictures is no block.
        let shard = |&block: &u32| self.shard(here.range(block as usize).start as usize);
        self.store.read_ahead(&mut blocks.iter().map(shard));
    }

    fn fingerprint(&self, index: usize, into: &mut dyn Hasher) {
        let Entry { offset, num_bytes, crc32c, .. } = self.entries[index];
        into.write_u64(offset);
        into.write_u32(num_bytes);
        into.write_u32(crc32c);
    }
}
