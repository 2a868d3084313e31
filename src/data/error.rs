//! What can be wrong with a data set ([`DataError`]) and with one picture of it ([`SampleError`]).
//!
//! A data set's error ends the run. A picture's error names the picture, and the loader's policy decides.

use std::{fmt, io, path::PathBuf, time::Duration};

use super::{open::Split, picture::MAX_PIXELS};

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The path does not exist.
    #[error("data {path} does not exist: check the path")]
    NotFound {
        /// The path that was given.
        path: PathBuf,
    },
    /// The operating system refuses to list or read it.
    #[error("data {path} cannot be read: {source}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A file of no kind that is known.
    #[error(
        "data {path} is not recognised: expected a folder of class folders, a tar of one, shards, a folder of IDX \
         files, or CIFAR's binary version (folder, .tar, .tar.gz)"
    )]
    NotRecognised {
        /// The path that was given.
        path: PathBuf,
    },
    /// A compressed tar of pictures: it has no random access.
    #[error(
        "data {path} is a compressed tar of pictures, which has no random access: unpack it, or gunzip it"
    )]
    CompressedTar {
        /// The archive.
        path: PathBuf,
    },
    /// An archive that cannot be parsed.
    #[error("tar {path} cannot be used: {reason}")]
    Tar {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A store that cannot be asked: settings in the environment, its cache on disk.
    #[error("store {0}")]
    StoreSetting(String),
    /// A store that does not give what the data set consists of.
    #[error("{0}")]
    Away(#[from] Away),
    /// A shard, its index or the catalogue of shards that contradicts the format or the others.
    #[error("{path} {reason}")]
    Shard {
        /// The file.
        path: String,
        /// What is wrong, as the end of the sentence.
        reason: String,
    },
    /// Nothing in it.
    #[error("data folder {path} is empty")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// Files but no class folders.
    #[error(
        "data folder {path} has {num_files} files but no class folders: put each class's pictures in a folder named \
         after the class"
    )]
    NoClassFolders {
        /// The folder.
        path: PathBuf,
        /// The files seen in it.
        num_files: usize,
    },
    /// Class folders without a picture, as in torchvision an error.
    #[error(
        "data folder {path}: no picture for the classes {}: supported extensions are {}",
        classes.join(", "), super::layout::EXTENSIONS.join(", ")
    )]
    EmptyClasses {
        /// The folder of class folders.
        path: PathBuf,
        /// The classes that have no picture.
        classes: Vec<String>,
    },
    /// One class: nothing to tell apart.
    #[error("data {path} has only one class, {class}: a classifier needs at least 2")]
    OneClass {
        /// The data set.
        path: PathBuf,
        /// The only class.
        class: String,
    },
    /// Validation data of classes that training data lack.
    #[error(
        "validation data {path} has {} classes that the training data lack: {}", classes.len(),
        classes.join(", ")
    )]
    UnknownClasses {
        /// The validation data.
        path: PathBuf,
        /// The classes' names.
        classes: Vec<String>,
    },
    /// Divided data without the part that was asked for.
    #[error("data {path} has no {split} part")]
    NoSuchSplit {
        /// The data set.
        path: PathBuf,
        /// The part that was asked for.
        split: Split,
    },
    /// A copy in another size that cannot stand for the data set.
    #[error("data copy {path} {reason}")]
    Copy {
        /// The copy's folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An IDX file that contradicts itself or its partner.
    #[error("IDX file {path}: {fault}")]
    Idx {
        /// The file.
        path: String,
        /// What is wrong.
        fault: IdxFault,
    },
    /// A CIFAR file that contradicts the format.
    #[error("CIFAR file {path}: {fault}")]
    Cifar {
        /// The file.
        path: String,
        /// What is wrong.
        fault: CifarFault,
    },
    /// More of something than is held in memory or counted in 32 bits.
    #[error("data {path}: {got} {what} is above the limit of {limit}")]
    TooLarge {
        /// The data set.
        path: String,
        /// What is counted.
        what: &'static str,
        /// How many there are.
        got: u64,
        /// How many there may be.
        limit: u64,
    },
    /// A setting that makes no sense.
    #[error("data setting {field}: {reason}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// What is wrong, and what is right.
        reason: String,
    },
    /// A picture that cannot be used, under [`OnBadFile::Fail`](super::OnBadFile::Fail).
    #[error("picture {0}")]
    Sample(#[from] SampleError),
    /// Skipping bad pictures left nothing to train on or to evaluate.
    #[error(
        "{num_tried} pictures in a row cannot be used, so the data set is taken to be bad; the first: {first}"
    )]
    NothingReadable {
        /// The pictures tried.
        num_tried: usize,
        /// Why the first of them was refused.
        first: SampleError,
    },
}

impl DataError {
    /// Whether a store, and no picture in it, is to blame: it may be back later.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Sample(SampleError { fault: SampleFault::Away(_), .. }))
    }
}

/// An object that a store does not give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Its address.
    pub object: String,
    /// What came instead the last time.
    pub what: String,
    /// For how long it was tried; `None` where trying is of no use.
    pub waited: Option<Duration>,
}

impl std::error::Error for Away {}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, what, waited } = self;
        write!(f, "the store does not give {object}: {what}")?;
        match waited {
            Some(waited) => write!(f, "; tried for {:.1} s", waited.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// What is wrong with an IDX file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdxFault {
    /// The first four bytes are not those of the expected kind.
    #[error("expected magic number {expected_magic:#010x}, got {got_magic:#010x}")]
    Magic {
        /// What the format says.
        expected_magic: u32,
        /// What the file says.
        got_magic: u32,
    },
    /// The header promises another length than the file has.
    #[error("the header says {expected_bytes} bytes, the file has {got_bytes}{}", if *more { " or more" } else { "" })]
    Length {
        /// What the header promises, itself included.
        expected_bytes: u64,
        /// What there is.
        got_bytes: u64,
        /// Whether reading stopped before the end.
        more: bool,
    },
    /// As many labels as images are needed.
    #[error("{num_labels} labels for {num_images} images")]
    Count {
        /// In the images file.
        num_images: u32,
        /// In the labels file.
        num_labels: u32,
    },
    /// No image, or images of no pixel.
    #[error("{num_images} images of {height}x{width} pixels: nothing to read")]
    Nothing {
        /// In the header.
        num_images: u32,
        /// In the header.
        height: u32,
        /// In the header.
        width: u32,
    },
    /// A label beyond the classes.
    #[error("label {got_label}, expected below {num_classes}")]
    Label {
        /// The greatest label in the file.
        got_label: usize,
        /// The classes there are.
        num_classes: usize,
    },
    /// Not gzip, or damaged gzip.
    #[error("cannot be read: {0}")]
    Read(String),
}

/// What is wrong with a CIFAR file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CifarFault {
    /// Not a whole number of records.
    #[error("{got_bytes} bytes are not a whole number of records of {record_bytes} bytes")]
    Length {
        /// The size of a record.
        record_bytes: u64,
        /// The size of the file.
        got_bytes: u64,
    },
    /// A label beyond the classes.
    #[error("record {record} has label {got_label}, expected below {num_classes}")]
    Label {
        /// The record, from 0.
        record: usize,
        /// The label in the file.
        got_label: u8,
        /// The classes there are.
        num_classes: usize,
    },
    /// Another number of names than of classes.
    #[error("expected {expected_names} class names, got {got_names}")]
    Names {
        /// The classes there are.
        expected_names: usize,
        /// The names in the file.
        got_names: usize,
    },
    /// The file is not there.
    #[error("missing")]
    Missing,
    /// The file is there and cannot be read.
    #[error("cannot be read: {0}")]
    Read(String),
}

/// A picture that cannot be used: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {fault}")]
pub struct SampleError {
    /// The picture: a path, or a place in a file such as `t10k-images-idx3-ubyte.gz#17`.
    pub name: String,
    /// Why.
    #[source]
    pub fault: SampleFault,
}

/// Why a picture cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleFault {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The store that it lies in does not give it.
    #[error(transparent)]
    Away(#[from] Away),
    /// A folder, pipe or device.
    #[error("is not a regular file")]
    NotAFile,
    /// No bytes.
    #[error("the file is empty")]
    Empty,
    /// More bytes than any picture needs.
    #[error("the file has {got_bytes} bytes, above the limit of {limit_bytes}")]
    FileTooLarge {
        /// The file's size.
        got_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The bytes in a shard are not those that were written.
    #[error(
        "is damaged: its CRC-32C is {got:08x}, the index says {expected:08x}: copy the shard anew, or prepare it again"
    )]
    Checksum {
        /// In the index.
        expected: u32,
        /// Of what was read.
        got: u32,
    },
    /// The content is of no known picture format.
    #[error("is not a picture: expected a JPEG, PNG or WebP file by its content, whatever its name")]
    NotAPicture,
    /// A picture of a format that is not decoded here.
    #[error("is a {format} picture, which is not decoded here: convert it to JPEG, PNG or WebP")]
    UnsupportedFormat {
        /// The format's name.
        format: &'static str,
    },
    /// More pixels than a picture may have.
    #[error("has {width}x{height} pixels, above the limit of {MAX_PIXELS}")]
    TooManyPixels {
        /// In pixels.
        width: u64,
        /// In pixels.
        height: u64,
    },
    /// Truncated or damaged.
    #[error("damaged or truncated {format}: {reason}")]
    Damaged {
        /// The format by content.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// The decoder panicked, which is its fault, not the file's; the file is not used all the same.
    #[error("the decoder panicked on it")]
    Panicked,
}
