//! A tar of class folders, read in place: the archive is indexed once, and each picture read at its offset.
//! Nothing is unpacked, so no name in the archive becomes a path on this machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    hash::{Hash, Hasher},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use super::{
    decode::{MAX_FILE_BYTES, dimensions_by},
    error::{DataError, SampleError, SampleFault},
    layout::{self, Classes},
    picture::Channels,
    source::Source,
};

/// The most files an archive may have: an index entry takes some 100 bytes.
const MAX_FILES: u64 = 100_000_000;

/// The most bytes that extend a header: a long name, or POSIX attributes.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// The most bytes of a path: as many as Linux takes (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4096;

/// Where a file's bytes are in the archive.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The path in the archive, `/` between names.
    pub(super) path: String,
    pub(super) offset: u64,
    pub(super) num_bytes: u64,
}

/// An archive's table of contents: regular files and folders. Links are left out.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    files: Vec<Place>,
    /// Those that have an entry of their own; a file's folders need none.
    folders: Vec<String>,
}

impl Index {
    /// Reads the headers of a tar, skipping over the contents.
    pub(crate) fn read(path: &Path) -> Result<Self, DataError> {
        let num_bytes =
            fs::metadata(path).map_err(|source| DataError::Unreadable { path: path.into(), source })?.len();
        Self::read_part(path, 0, num_bytes)
    }

    /// As [`read`](Self::read), of a tar that is a part of a file; its contents' offsets are from the file's start.
    pub(super) fn read_part(path: &Path, start: u64, num_bytes: u64) -> Result<Self, DataError> {
        let unreadable = |source: io::Error| DataError::Unreadable { path: path.into(), source };
        let refused = |reason: String| DataError::Tar { path: path.into(), reason };
        let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
        file.seek(SeekFrom::Start(start)).map_err(unreadable)?;
        let file_bytes = start.saturating_add(num_bytes);
        let mut archive = headers(file.take(num_bytes));
        let (mut files, mut folders): (Vec<Place>, Vec<String>) = Default::default();
        let after = |files: &[Place]| match files.last() {
            Some(last) => format!("after {}", last.path),
            None => "at its start".into(),
        };
        let damaged = |e: io::Error, files: &[Place]| refused(format!("damaged {}: {e}", after(files)));
        for entry in archive.entries_with_seek().map_err(|e| damaged(e, &[]))? {
            let entry = entry.map_err(|e| damaged(e, &files))?;
            if entry.path_bytes().len() > MAX_PATH_BYTES {
                let place = after(&files);
                return Err(refused(format!("a path of more than {MAX_PATH_BYTES} bytes {place}")));
            }
            let entry_path = entry.path().map_err(|e| damaged(e, &files))?;
            let Some(name) = normal(&entry_path) else {
                return Err(refused(format!("entry {} leads out of the archive", entry_path.display())));
            };
            let kind = entry.header().entry_type();
            if kind.is_dir() {
                folders.push(name);
            } else if kind.is_file() || kind.is_contiguous() {
                let (offset, num_bytes) = (start + entry.raw_file_position(), entry.size());
                if offset.checked_add(num_bytes).is_none_or(|end| end > file_bytes) {
                    return Err(refused(format!("{name} ends after the archive does: it is truncated")));
                }
                if files.len() as u64 == MAX_FILES {
                    return Err(refused(format!("more than {MAX_FILES} files")));
                }
                files.push(Place { path: name, offset, num_bytes });
            }
        }
        Ok(Self { path: path.into(), files, folders })
    }

    /// The names of the folders in a folder of the archive.
    pub(crate) fn subfolders(&self, folder: &str) -> Vec<String> {
        let of_files =
            self.files.iter().filter_map(|file| Some(below(&file.path, folder)?.split_once('/')?.0));
        let explicit = self.folders.iter().filter_map(|path| below(path, folder)?.split('/').next());
        let names: BTreeSet<&str> = of_files.chain(explicit.filter(|name| !name.is_empty())).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// The regular files, in the archive's order.
    pub(super) fn files(&self) -> &[Place] {
        &self.files
    }

    /// Whether there is a file of that name, in whatever folder.
    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.path.rsplit('/').next() == Some(name))
    }
}

/// A path below a folder; `""` is the root.
fn below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    if folder.is_empty() { Some(path) } else { path.strip_prefix(folder)?.strip_prefix('/') }
}

/// A tar of which only headers are read, by `entries_with_seek`, and no more of each than has a limit.
pub(super) fn headers<R: Read + Seek>(tar: R) -> tar::Archive<HeadersOnly<R>> {
    tar::Archive::new(HeadersOnly { inner: tar, since_seek_bytes: 0 })
}

/// Refuses to be read far without a seek. The crate seeks before each header and over contents, but reads what extends a
/// header into memory, as long as the archive says it is.
pub(super) struct HeadersOnly<R> {
    inner: R,
    since_seek_bytes: u64,
}

impl<R: Read> Read for HeadersOnly<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let num_bytes = self.inner.read(into)?;
        self.since_seek_bytes += num_bytes as u64;
        if self.since_seek_bytes > MAX_EXTENSION_BYTES {
            let why = format!("a name or attributes of more than {MAX_EXTENSION_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(num_bytes)
    }
}

impl<R: Seek> Seek for HeadersOnly<R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.since_seek_bytes = 0;
        self.inner.seek(to)
    }
}

/// A path's names joined by `/`, or `None` if it is absolute or goes up.
fn normal(path: &Path) -> Option<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(names.join("/"))
}

/// Pictures in the class folders of a tar.
#[derive(Debug)]
pub(crate) struct Tar {
    path: PathBuf,
    file: File,
    class_names: Vec<String>,
    pictures: Vec<(u32, Place)>,
}

impl Tar {
    /// The class folders in folder `root` of the archive.
    pub(crate) fn open(index: &Index, root: &str) -> Result<Self, DataError> {
        let path = index.path.as_path();
        let mut folders: BTreeMap<String, Vec<(String, Place)>> =
            index.subfolders(root).into_iter().map(|name| (name, Vec::new())).collect();
        if folders.is_empty() {
            return Err(match index.files.len() {
                0 => DataError::Empty { path: path.into() },
                num_files => DataError::NoClassFolders { path: path.into(), num_files },
            });
        }
        for file in &index.files {
            let Some((class, name)) = below(&file.path, root).and_then(|path| path.split_once('/')) else {
                continue;
            };
            if let (true, Some(pictures)) = (layout::is_picture(name), folders.get_mut(class)) {
                pictures.push((name.to_owned(), file.clone()));
            }
        }
        Self::of_folders(path, folders)
    }

    /// Pictures in folders, which may be of any make: each comes with its path below the folder.
    pub(super) fn of_folders(
        path: &Path,
        folders: BTreeMap<String, Vec<(String, Place)>>,
    ) -> Result<Self, DataError> {
        let Classes { names, pictures, empty } = Classes::sort(folders);
        if !empty.is_empty() {
            return Err(DataError::EmptyClasses { path: path.into(), classes: empty });
        }
        let file = File::open(path).map_err(|source| DataError::Unreadable { path: path.into(), source })?;
        Ok(Self { path: path.into(), file, class_names: names, pictures })
    }

    /// The first `limit_bytes` of a picture's file, or all of it if it is shorter.
    fn bytes(&self, index: usize, limit_bytes: u64) -> Result<Vec<u8>, SampleFault> {
        let mut bytes = Vec::new();
        self.read_bytes(index, limit_bytes, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`bytes`](Self::bytes), over what `into` held.
    fn read_bytes(&self, index: usize, limit_bytes: u64, into: &mut Vec<u8>) -> Result<(), SampleFault> {
        let place = &self.pictures[index].1;
        if place.num_bytes > MAX_FILE_BYTES {
            return Err(SampleFault::FileTooLarge {
                got_bytes: place.num_bytes,
                limit_bytes: MAX_FILE_BYTES,
            });
        }
        into.resize(place.num_bytes.min(limit_bytes) as usize, 0);
        Ok(read_exact_at(&self.file, into, place.offset)?)
    }
}

impl Source for Tar {
    fn num_images(&self) -> usize {
        self.pictures.len()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn label(&self, index: usize) -> u32 {
        self.pictures[index].0
    }

    fn name(&self, index: usize) -> String {
        format!("{}#{}", self.path.display(), self.pictures[index].1.path)
    }

    fn channels(&self) -> Channels {
        Channels::Rgb
    }

    fn read_file(&self, index: usize, into: &mut Vec<u8>) -> Result<bool, SampleError> {
        let named = |fault| SampleError { name: self.name(index), fault };
        self.read_bytes(index, MAX_FILE_BYTES, into).map_err(named)?;
        Ok(true)
    }

    fn dimensions(&self, index: usize) -> Result<(usize, usize), SampleError> {
        let named = |fault| SampleError { name: self.name(index), fault };
        dimensions_by(|limit_bytes| self.bytes(index, limit_bytes)).map_err(named)
    }

    fn home(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn fingerprint(&self, index: usize, mut into: &mut dyn Hasher) {
        let Place { path, offset, num_bytes } = &self.pictures[index].1;
        let changed = self.file.metadata().and_then(|metadata| metadata.modified()).ok();
        (path, offset, num_bytes, changed).hash(&mut into);
    }
}

/// Reads at an offset without moving the file's position, which all threads share.
#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Reads at an offset; Windows moves the file's position, but nothing here depends on it.
#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
