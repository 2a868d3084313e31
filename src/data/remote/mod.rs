//! Shards in object stores and behind HTTP: fetched whole into a cache on local disk, ahead of their use, and read there.
//!
//! ```text
//! client   a store's objects as bytes; the asynchronous part, on a thread of its own
//! cache    whole shards on disk under a limit, shared by the ranks of a machine
//! fetch    what is waited for, and what will be wanted, from the one to the other
//! retry    when to ask again; fault: what came instead
//! ```
//!
//! The catalogue and the indexes are read at the start and kept in memory. A store that stays away is [`Away`] after its
//! time limit, and never a bad picture that could be skipped.

mod cache;
mod client;
mod fault;
mod fetch;
mod retry;

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
};

use self::{
    cache::Cache,
    client::Client,
    fetch::{Fetcher, Object},
};
use super::{
    address::Remote,
    archive::read_exact_at,
    cores::in_threads,
    error::{DataError, SampleFault},
    open::Split,
    shard::{
        CATALOG, Catalog, ShardFile,
        catalog::MAX_CATALOG_BYTES,
        index::MAX_ENTRIES,
        index::ShardIndex,
        source::{Shards, Store},
    },
    slot::lock,
};

/// Indexes that are asked for at the same time.
const INDEXES_AT_ONCE: usize = 16;

/// A folder of shards in a store, and what lies in it.
#[derive(Debug)]
pub(super) struct Folder {
    client: Arc<Client>,
    remote: Remote,
    catalog: Catalog,
}

/// The shards of a part, in a cache.
#[derive(Debug)]
pub(super) struct Cached {
    client: Arc<Client>,
    files: Vec<String>,
    fetcher: Fetcher,
    /// Shards that were found damaged and thrown away.
    forgotten: Mutex<BTreeSet<usize>>,
}

impl Folder {
    /// Reads the catalogue.
    pub(super) fn open(remote: &Remote) -> Result<Self, DataError> {
        let client = Client::open(&remote.address, remote.patience).map_err(DataError::StoreSetting)?;
        let bytes = client.read(CATALOG, MAX_CATALOG_BYTES)?;
        let refused = |reason| DataError::Shard { path: client.name(CATALOG), reason };
        let catalog = Catalog::parse(&bytes).map_err(refused)?;
        Ok(Self { client: Arc::new(client), remote: remote.clone(), catalog })
    }

    pub(super) fn is_divided(&self) -> bool {
        self.catalog.is_divided()
    }

    /// Reads the indexes of a part, and makes its shards ready to be fetched.
    pub(super) fn load(&self, split: Split) -> Result<Shards<Cached>, DataError> {
        let Self { client, remote, catalog } = self;
        let Some(shards) = catalog.shards(split) else {
            return Err(DataError::NoSuchSplit { path: remote.address.to_string().into(), split });
        };
        // Once one was waited for in vain, the others are not.
        let indexes = in_threads(INDEXES_AT_ONCE, shards.len(), |_: &mut (), at| self.index(&shards[at]))?;
        let setting = |error: std::io::Error| {
            DataError::StoreSetting(format!("cache {}: {error}", remote.cache_dir.display()))
        };
        let cache = Cache::open(&remote.cache_dir, remote.cache_bytes).map_err(setting)?;
        let objects = shards.iter().zip(&indexes).map(|(shard, index)| self.object(shard, index));
        let fetcher = Fetcher::start(client.clone(), cache, objects.collect(), split == Split::Train)
            .map_err(setting)?;
        let files = shards.iter().map(|shard| shard.file.clone()).collect();
        let store = Cached { client: client.clone(), files, fetcher, forgotten: Mutex::default() };
        Shards::new(store, catalog.classes.clone(), indexes.into_iter().map(Ok))
    }

    /// An index speaks of the bytes of every picture: a shard that was written anew is another object.
    fn object(&self, shard: &ShardFile, index: &ShardIndex) -> Object {
        let mut hasher = DefaultHasher::new();
        self.client.name(&shard.file).hash(&mut hasher);
        index.entries.iter().for_each(|entry| entry.crc32c.hash(&mut hasher));
        Object {
            path: shard.file.clone(),
            num_bytes: shard.num_bytes,
            key: format!("{:016x}", hasher.finish()),
        }
    }

    /// Reads an index, and sees whether it and the catalogue speak of the same.
    fn index(&self, shard: &ShardFile) -> Result<ShardIndex, DataError> {
        let file = shard.index_file();
        let refused = |reason: String| DataError::Shard { path: self.client.name(&file), reason };
        let bytes = self.client.read(&file, ShardIndex::file_bytes(shard.num_images.min(MAX_ENTRIES)))?;
        let index = ShardIndex::from_bytes(&bytes).map_err(refused)?;
        let (got, expected) = (index.entries.len() as u64, shard.num_images);
        if (got, index.tar_bytes) != (expected, shard.num_bytes) {
            let ShardIndex { tar_bytes, .. } = index;
            return Err(refused(format!(
                "is of {got} pictures in {tar_bytes} bytes, {CATALOG} says {expected} in {}: one of them is old",
                shard.num_bytes
            )));
        }
        Ok(index)
    }
}

impl Store for Cached {
    fn name(&self, shard: usize) -> String {
        self.client.name(&self.files[shard])
    }

    fn read(&self, shard: usize, offset: u64, into: &mut [u8]) -> Result<(), SampleFault> {
        let file = self.fetcher.wait(shard)?;
        Ok(read_exact_at(&file, into, offset)?)
    }

    fn peek(&self, shard: usize, offset: u64, into: &mut [u8]) -> bool {
        self.fetcher.peek(shard).is_some_and(|file| read_exact_at(&file, into, offset).is_ok())
    }

    fn forget(&self, shard: usize) -> bool {
        // Held meanwhile: whoever comes second reads of the new one.
        let mut forgotten = lock(&self.forgotten);
        if forgotten.insert(shard) {
            self.fetcher.forget(shard);
        }
        true
    }

    fn read_ahead(&self, shards: &mut dyn Iterator<Item = usize>) {
        self.fetcher.announce(shards);
    }
}
