//! Shards in a folder.
//!
//! Pictures are read at their place into memory of ours rather than from a map of the tar: a tar that somebody cuts
//! short is an error then and not the end of the process, no `unsafe` is needed, and to copy a compressed picture is little
//! beside decoding it.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{
    super::{
        archive::read_exact_at,
        error::{DataError, SampleFault},
        open::Split,
        slot::lock,
    },
    catalog::{CATALOG, Catalog, MAX_CATALOG_BYTES, ShardFile, index_file},
    index::ShardIndex,
    source::{Shards, Store},
};

/// The most files that are held open at a time; a process has 1,024 on many systems.
const MAX_OPEN: usize = 256;

/// Tars that lie on disk, some of which are open.
#[derive(Debug)]
pub(crate) struct Disk {
    paths: Vec<PathBuf>,
    /// Shard `n` has the place `n % MAX_OPEN`, of which the one asked for last is open.
    open: Vec<Mutex<Opened>>,
}

/// A shard and its file.
type Opened = Option<(usize, Arc<File>)>;

impl Disk {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        let open = (0..paths.len().min(MAX_OPEN)).map(|_| Mutex::new(None)).collect();
        Self { paths, open }
    }

    fn file(&self, shard: usize) -> io::Result<Arc<File>> {
        let mut place = lock(&self.open[shard % self.open.len()]);
        match &*place {
            Some((open, file)) if *open == shard => Ok(file.clone()),
            _ => {
                let file = Arc::new(File::open(&self.paths[shard])?);
                *place = Some((shard, file.clone()));
                Ok(file)
            }
        }
    }
}

impl Store for Disk {
    fn name(&self, shard: usize) -> String {
        self.paths[shard].display().to_string()
    }

    fn read(&self, shard: usize, offset: u64, into: &mut [u8]) -> Result<(), SampleFault> {
        Ok(read_exact_at(&*self.file(shard)?, into, offset)?)
    }
}

/// Reads a folder's catalogue; `None` if it has none.
pub(crate) fn catalog(folder: &Path) -> Result<Option<Catalog>, DataError> {
    let path = folder.join(CATALOG);
    let bytes = match read_bounded(&path, MAX_CATALOG_BYTES) {
        Ok(bytes) => bytes,
        Err(DataError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    Catalog::parse(&bytes).map(Some).map_err(|reason| refused(&path, reason))
}

/// Opens a part of the folder's shards.
pub(crate) fn open(folder: &Path, catalog: &Catalog, split: Split) -> Result<Shards<Disk>, DataError> {
    let Some(shards) = catalog.shards(split) else {
        return Err(DataError::NoSuchSplit { path: folder.into(), split });
    };
    let paths = shards.iter().map(|shard| folder.join(&shard.file)).collect();
    let indexes = shards.iter().map(|shard| index(folder, shard));
    Shards::new(Disk::new(paths), catalog.classes.clone(), indexes)
}

/// A shard as it lies there, with its index, of which the tar has the length.
pub(crate) fn shard(folder: &Path, tar: &str) -> Result<(ShardFile, ShardIndex), DataError> {
    let index = load_index(&folder.join(index_file(tar)))?;
    let path = folder.join(tar);
    let (got, expected) = (fs::metadata(&path).map_err(unreadable(&path))?.len(), index.tar_bytes);
    if got != expected {
        return Err(other_length(&path, got, "its index", expected));
    }
    Ok((ShardFile { file: tar.into(), num_bytes: got, num_images: index.entries.len() as u64 }, index))
}

/// The index of a shard that is as the catalogue says.
fn index(folder: &Path, listed: &ShardFile) -> Result<ShardIndex, DataError> {
    let (ShardFile { num_bytes, num_images, .. }, index) = shard(folder, &listed.file)?;
    if num_images != listed.num_images {
        let reason = format!("has {num_images} pictures, {CATALOG} has {}", listed.num_images);
        return Err(refused(&folder.join(listed.index_file()), reason));
    }
    if num_bytes != listed.num_bytes {
        return Err(other_length(&folder.join(&listed.file), num_bytes, CATALOG, listed.num_bytes));
    }
    Ok(index)
}

fn other_length(tar: &Path, got: u64, whose: &str, expected: u64) -> DataError {
    refused(tar, format!("has {got} bytes, {whose} says {expected}: it was cut short or replaced"))
}

/// Reads an index file.
pub(crate) fn load_index(path: &Path) -> Result<ShardIndex, DataError> {
    let bytes = read_bounded(path, ShardIndex::file_bytes(super::index::MAX_ENTRIES))?;
    ShardIndex::from_bytes(&bytes).map_err(|reason| refused(path, reason))
}

/// A regular file of at most so many bytes.
fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, DataError> {
    let metadata = fs::metadata(path).map_err(unreadable(path))?;
    if !metadata.is_file() {
        return Err(refused(path, "is not a regular file"));
    }
    let got = metadata.len();
    if got > limit {
        let path = path.display().to_string();
        return Err(DataError::TooLarge { path, what: "bytes", got, limit });
    }
    let mut bytes = Vec::with_capacity(got as usize);
    File::open(path).and_then(|file| file.take(got).read_to_end(&mut bytes)).map_err(unreadable(path))?;
    Ok(bytes)
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> DataError {
    move |source| match source.kind() {
        io::ErrorKind::NotFound => DataError::NotFound { path: path.into() },
        _ => DataError::Unreadable { path: path.into(), source },
    }
}

fn refused(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::Shard { path: path.display().to_string(), reason: reason.into() }
}
