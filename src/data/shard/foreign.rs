//! WebDataset tars that others wrote, which have no index: it is made when they are first opened, and kept.
//!
//! It is kept beside the tar or among the user's caches (`data::kept`), under a name that no other program gives; one that
//! is older than its tar or of another length is made anew. Classes have no names in such tars: a class is called by its number.
//!
//! # Cost
//!
//! To make an index, every byte of the tar is read once, tars side by side on all cores.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
};

use super::{
    super::{
        archive::{Index, Place, headers, read_exact_at},
        cores::in_parallel,
        decode::{MAX_FILE_BYTES, dimensions},
        error::DataError,
        folder::subfolders,
        kept::{self, user_caches},
        layout::{EXTENSIONS, TRAIN_NAMES, VAL_NAMES},
        open::Split,
    },
    catalog::index_file,
    disk::{Disk, load_index},
    index::{Entry, MAX_ENTRIES, ShardIndex},
    key,
    source::Shards,
};

/// Classes are numbers below this: each takes a name.
const MAX_CLASSES: u32 = 1 << 20;
/// Digits of a class.
const MAX_CLASS_BYTES: u64 = 20;

/// The tars of a data set, sorted by path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tars {
    Whole(Vec<PathBuf>),
    Divided { train: Vec<PathBuf>, val: Vec<PathBuf> },
}

impl Tars {
    /// Those in a folder, or in its folders train and val, if they begin as shards do. A name with `train` in it, or `val` or `test`, as a word, says
    /// which part a tar is of; if none or not all have one, they are one whole.
    pub(crate) fn find(folder: &Path) -> Option<Self> {
        let named = |names: &[&str]| {
            let tars = names.iter().map(|name| tars_in(&folder.join(name)));
            { tars }.find(|tars| !tars.is_empty())
        };
        if let (Some(train), Some(val)) = (named(&TRAIN_NAMES), named(&VAL_NAMES)) {
            return may_be_shard(&train[0]).then_some(Self::Divided { train, val });
        }
        let tars = tars_in(folder);
        if !tars.first().is_some_and(|tar| may_be_shard(tar)) {
            return None;
        }
        let of = |names: &[&str]| -> Vec<PathBuf> {
            tars.iter().filter(|tar| has_word(tar, names)).cloned().collect()
        };
        let (train, val) = (of(&TRAIN_NAMES), of(&VAL_NAMES));
        if !train.is_empty() && !val.is_empty() && train.len() + val.len() == tars.len() {
            return Some(Self::Divided { train, val });
        }
        Some(Self::Whole(tars))
    }

    pub(crate) fn is_divided(&self) -> bool {
        matches!(self, Self::Divided { .. })
    }

    pub(crate) fn part(&self, split: Split) -> &[PathBuf] {
        match (self, split) {
            (Self::Whole(tars), _) | (Self::Divided { train: tars, .. }, Split::Train) => tars,
            (Self::Divided { val, .. }, Split::Val) => val,
        }
    }
}

/// Whether a tar has files that are a class, as shards have and tars of folders have not.
pub(crate) fn is_shard(index: &Index) -> bool {
    index.files().iter().any(|file| is_class(&file.path))
}

/// Whether a tar in a folder is one, or, so that what is wrong with it is told, may have been one before it was damaged. A
/// tar that lies about beside class folders is none.
fn may_be_shard(tar: &Path) -> bool {
    let is_alone =
        || tar.parent().is_some_and(|folder| subfolders(folder).is_ok_and(|names| names.is_empty()));
    begins_as_shard(tar).unwrap_or_else(|_| is_alone())
}

/// Whether there is a class among a tar's first files.
///
/// # Errors
///
/// A tar that is damaged before one comes.
pub(crate) fn begins_as_shard(tar: &Path) -> io::Result<bool> {
    const NUM_FILES: usize = 32;
    let mut archive = headers(BufReader::new(File::open(tar)?));
    for entry in archive.entries_with_seek()?.take(NUM_FILES) {
        if is_class(&String::from_utf8_lossy(&entry?.path_bytes())) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_class(path: &str) -> bool {
    key::split(path).is_some_and(|(_, rest)| rest == "cls")
}

/// Opens tars, indexing those that have no index.
pub(crate) fn open(tars: &[PathBuf]) -> Result<Shards<Disk>, DataError> {
    let caches = user_caches();
    let indexes = in_parallel(tars.len(), |_: &mut (), tar| index(&tars[tar], caches.as_deref()))?;
    let labels = indexes.iter().flat_map(|index| &index.entries).map(|entry| entry.label);
    let num_classes = labels.max().map_or(0, |label| label + 1);
    let class_names = (0..num_classes).map(|class| class.to_string()).collect();
    Shards::new(Disk::new(tars.to_vec()), class_names, indexes.into_iter().map(Ok))
}

fn tars_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_tar =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "tar") && path.is_file();
    let mut tars: Vec<PathBuf> = entries.filter(is_tar).collect();
    tars.sort();
    tars
}

fn has_word(tar: &Path, words: &[&str]) -> bool {
    let name = tar.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    name.split(|c: char| !c.is_ascii_alphabetic()).any(|word| words.contains(&word))
}

/// The kept index of a tar, or one made now and kept where that can be.
fn index(tar: &Path, caches: Option<&Path>) -> Result<ShardIndex, DataError> {
    let name = index_file(&tar.file_name().unwrap_or_default().to_string_lossy());
    let places = kept::places(tar, tar.parent(), &name, caches);
    if let Some(index) = places.iter().find_map(|place| load(place, tar)) {
        return Ok(index);
    }
    let index = make(tar)?;
    kept::save(&places, &index.to_bytes());
    Ok(index)
}

/// An index that was made of the tar as it is now.
fn load(place: &Path, tar: &Path) -> Option<ShardIndex> {
    let (made, tar) = (fs::metadata(place).ok()?, fs::metadata(tar).ok()?);
    if made.modified().ok()? < tar.modified().ok()? {
        return None;
    }
    load_index(place).ok().filter(|index| index.tar_bytes == tar.len())
}

/// Reads a whole tar: a picture and a class of each key.
fn make(tar: &Path) -> Result<ShardIndex, DataError> {
    let unreadable = |source| DataError::Unreadable { path: tar.into(), source };
    let refused = |reason| DataError::Shard { path: tar.display().to_string(), reason };
    let contents = Index::read(tar)?;
    let file = File::open(tar).map_err(unreadable)?;
    let tar_bytes = file.metadata().map_err(unreadable)?.len();
    let (mut entries, mut bytes) = (Vec::new(), Vec::new());
    for (key, files) in samples(contents.files()) {
        let (class, picture) = members(files).map_err(|reason| refused(format!("has {key} {reason}")))?;
        bytes.resize(class.num_bytes as usize, 0);
        read_exact_at(&file, &mut bytes, class.offset).map_err(unreadable)?;
        let label = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
        let Some(label) = label.filter(|&label| label < MAX_CLASSES) else {
            let got = String::from_utf8_lossy(&bytes);
            let reason = format!("has {key}.cls with {got:?}, expected a class' number below {MAX_CLASSES}");
            return Err(refused(reason));
        };
        if entries.len() as u64 == MAX_ENTRIES {
            return Err(refused(format!("has more than {MAX_ENTRIES} pictures")));
        }
        bytes.resize(picture.num_bytes as usize, 0);
        read_exact_at(&file, &mut bytes, picture.offset).map_err(unreadable)?;
        // A picture has at most `MAX_PIXELS` pixels, so neither side is cut off.
        let (width, height) =
            dimensions(&bytes).map_or((0, 0), |(width, height)| (width as u32, height as u32));
        entries.push(Entry {
            offset: picture.offset,
            num_bytes: picture.num_bytes as u32,
            label,
            width,
            height,
            crc32c: crc32c::crc32c(&bytes),
        });
    }
    Ok(ShardIndex { tar_bytes, entries })
}

/// The files of each key, which stand side by side. `__words__` are about the shard and no pictures.
fn samples(files: &[Place]) -> impl Iterator<Item = (&str, &[Place])> {
    let key = |place: &Place| key::split(&place.path).map(|(key, _)| key.to_owned());
    files
        .chunk_by(move |a, b| key(a) == key(b))
        .filter_map(|files| Some((key::split(&files[0].path)?.0, files)))
        .filter(|(key, _)| !(key.starts_with("__") && key.ends_with("__")))
}

/// The class and the picture among a key's files, whose lengths are bounded here.
fn members(files: &[Place]) -> Result<(&Place, &Place), String> {
    let extension =
        |place: &Place| key::split(&place.path).map(|(_, rest)| format!(".{}", rest.to_lowercase()));
    let with = |extensions: &[&str]| -> Vec<&Place> {
        let among = |place: &&Place| extension(place).is_some_and(|got| extensions.contains(&got.as_str()));
        files.iter().filter(among).collect()
    };
    let (classes, pictures) = (with(&[".cls"]), with(&EXTENSIONS));
    let (&[class], &[picture]) = (&*classes, &*pictures) else {
        let (classes, pictures) = (classes.len(), pictures.len());
        return Err(format!("with {pictures} pictures and {classes} classes (.cls), expected one of each"));
    };
    for (place, limit) in [(class, MAX_CLASS_BYTES), (picture, MAX_FILE_BYTES)] {
        if place.num_bytes > limit {
            return Err(format!("with a file of {} bytes, {limit} are the limit", place.num_bytes));
        }
    }
    Ok((class, picture))
}
