//! A folder of class folders on disk. The layout's rules are in `layout`.

use std::{
    collections::BTreeMap,
    fs,
    hash::{Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    decode::{MAX_FILE_BYTES, decode, dimensions_by},
    error::{DataError, SampleError, SampleFault},
    layout::{self, Classes},
    picture::{Channels, Picture},
    source::Source,
};

/// How deep folders are followed below a class folder.
const MAX_DEPTH: usize = 64;

/// Pictures in class folders.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    class_names: Vec<String>,
    pictures: Vec<(u32, PathBuf)>,
}

impl Folder {
    /// Lists the pictures of the class folders in `root`. Links are followed, as torchvision does.
    pub(crate) fn open(root: &Path) -> Result<Self, DataError> {
        let mut folders = BTreeMap::new();
        let mut num_files = 0;
        for entry in list(root)? {
            if entry.is_folder {
                let mut pictures = Vec::new();
                walk(&entry.path, "", &mut Vec::new(), &mut pictures)?;
                folders.insert(entry.name, pictures);
            } else {
                num_files += 1;
            }
        }
        if folders.is_empty() {
            return Err(match num_files {
                0 => DataError::Empty { path: root.into() },
                _ => DataError::NoClassFolders { path: root.into(), num_files },
            });
        }
        let Classes { names, pictures, empty } = Classes::sort(folders);
        if !empty.is_empty() {
            return Err(DataError::EmptyClasses { path: root.into(), classes: empty });
        }
        Ok(Self { root: root.into(), class_names: names, pictures })
    }
}

impl Source for Folder {
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
        self.pictures[index].1.display().to_string()
    }

    fn channels(&self) -> Channels {
        Channels::Rgb
    }

    fn read_file(&self, index: usize, into: &mut Vec<u8>) -> Result<bool, SampleError> {
        let path = &self.pictures[index].1;
        let named = |fault| SampleError { name: path.display().to_string(), fault };
        read_bytes(path, MAX_FILE_BYTES, into).map_err(named)?;
        Ok(true)
    }

    fn dimensions(&self, index: usize) -> Result<(usize, usize), SampleError> {
        let path = &self.pictures[index].1;
        let named = |fault| SampleError { name: path.display().to_string(), fault };
        dimensions_by(|limit_bytes| bytes(path, limit_bytes)).map_err(named)
    }

    fn home(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn fingerprint(&self, index: usize, mut into: &mut dyn Hasher) {
        let path = &self.pictures[index].1;
        path.strip_prefix(&self.root).unwrap_or(path).hash(&mut into);
        // Of a file without metadata the name must do: reading it will fail.
        if let Ok(metadata) = fs::metadata(path) {
            (metadata.len(), metadata.modified().ok()).hash(&mut into);
        }
    }
}

/// Reads and decodes one picture file.
///
/// # Errors
///
/// A [`SampleError`] that names the file.
pub fn read_file(path: &Path, into: &mut Picture) -> Result<(), SampleError> {
    let named = |fault| SampleError { name: path.display().to_string(), fault };
    decode(&bytes(path, MAX_FILE_BYTES).map_err(named)?, into).map_err(named)
}

/// The first `limit_bytes` of a file, or all of it if it is shorter.
fn bytes(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, SampleFault> {
    let mut bytes = Vec::new();
    read_bytes(path, limit_bytes, &mut bytes)?;
    Ok(bytes)
}

/// As [`bytes`], over what `into` held.
fn read_bytes(path: &Path, limit_bytes: u64, into: &mut Vec<u8>) -> Result<(), SampleFault> {
    // Asked before opening: opening a pipe waits for somebody to write to it.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(SampleFault::NotAFile);
    }
    let got_bytes = metadata.len();
    if got_bytes > MAX_FILE_BYTES {
        return Err(SampleFault::FileTooLarge { got_bytes, limit_bytes: MAX_FILE_BYTES });
    }
    into.clear();
    into.reserve(got_bytes.min(limit_bytes) as usize);
    fs::File::open(path)?.take(limit_bytes).read_to_end(into)?;
    Ok(())
}

/// The names of the folders in a folder, sorted.
pub(crate) fn subfolders(folder: &Path) -> Result<Vec<String>, DataError> {
    Ok(list(folder)?.into_iter().filter(|entry| entry.is_folder).map(|entry| entry.name).collect())
}

/// What is in a folder, links followed.
struct Entry {
    name: String,
    path: PathBuf,
    is_folder: bool,
}

/// A folder's entries, sorted by name.
fn list(folder: &Path) -> Result<Vec<Entry>, DataError> {
    let unreadable = |source: io::Error| DataError::Unreadable { path: folder.into(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let kind = entry.file_type().map_err(unreadable)?;
        // A link to nothing counts as a file, so that reading it names it.
        let is_folder = kind.is_dir() || (kind.is_symlink() && path.is_dir());
        entries.push(Entry { name: entry.file_name().to_string_lossy().into_owned(), path, is_folder });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Collects the pictures below `folder`, whose path below the class folder is `relative`.
fn walk(
    folder: &Path,
    relative: &str,
    above: &mut Vec<PathBuf>,
    pictures: &mut Vec<(String, PathBuf)>,
) -> Result<(), DataError> {
    let unreadable = |source: io::Error| DataError::Unreadable { path: folder.into(), source };
    // A link to a folder above would lead round for ever.
    let real = fs::canonicalize(folder).map_err(unreadable)?;
    if above.contains(&real) || above.len() == MAX_DEPTH {
        return Ok(());
    }
    above.push(real);
    for entry in list(folder)? {
        let below =
            if relative.is_empty() { entry.name.clone() } else { format!("{relative}/{}", entry.name) };
        if entry.is_folder {
            walk(&entry.path, &below, above, pictures)?;
        } else if layout::is_picture(&entry.name) {
            pictures.push((below, entry.path));
        }
    }
    above.pop();
    Ok(())
}
