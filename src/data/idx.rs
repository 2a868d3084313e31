//! IDX files, as MNIST and its family come in, gzip or not.
//!
//! Source: Y. LeCun, "THE MNIST DATABASE", "file formats": big-endian `u32` magic number (0x0803: bytes in three
//! dimensions; 0x0801: in one), the dimensions, the bytes.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use super::{
    error::{DataError, IdxFault},
    memory::{InMemory, MAX_BYTES},
    open::Split,
    picture::Channels,
};

const IMAGES_MAGIC: u32 = 0x0000_0803;
const LABELS_MAGIC: u32 = 0x0000_0801;

/// Deflate's greatest ratio of output to input is 1032 (RFC 1951: 258 bytes for 2 bits).
const MAX_DEFLATE_RATIO: u64 = 1032;

/// The pair of files of one part of a data set.
#[derive(Debug, Clone)]
pub(crate) struct IdxFiles {
    pub(crate) images: PathBuf,
    pub(crate) labels: PathBuf,
}

impl IdxFiles {
    /// Finds MNIST's files of `split` in `folder`, if either of them is there.
    pub(crate) fn find(folder: &Path, split: Split) -> Option<Self> {
        let part = match split {
            Split::Train => "train",
            Split::Val => "t10k",
        };
        let find = |kind: &str| {
            let names =
                [format!("{part}-{kind}-ubyte"), format!("{part}-{kind}-ubyte").replace("-idx", ".idx")];
            let mut paths = names.iter().flat_map(|n| [folder.join(n), folder.join(format!("{n}.gz"))]);
            paths.find(|path| path.is_file())
        };
        let missing = |kind: &str| folder.join(format!("{part}-{kind}-ubyte"));
        match (find("images-idx3"), find("labels-idx1")) {
            (None, None) => None,
            (images, labels) => Some(Self {
                images: images.unwrap_or_else(|| missing("images-idx3")),
                labels: labels.unwrap_or_else(|| missing("labels-idx1")),
            }),
        }
    }

    /// Reads both files. The classes are called `0`, `1` and so on.
    pub(crate) fn load(&self) -> Result<InMemory, DataError> {
        let read = |path: &Path| {
            let fault = |e: io::Error| DataError::Unreadable { path: path.to_owned(), source: e };
            let file = File::open(path).map_err(fault)?;
            let file_bytes = file.metadata().map_err(fault)?.len();
            Ok::<_, DataError>((path.display().to_string(), io::BufReader::new(file), file_bytes))
        };
        let (images_name, images, images_bytes) = read(&self.images)?;
        let (labels_name, labels, labels_bytes) = read(&self.labels)?;
        load((&images_name, images, images_bytes), (&labels_name, labels, labels_bytes), None)
    }
}

/// Reads a pair of IDX streams, each with its name and its (compressed) size; both gzip or not.
pub(crate) fn load<R: Read>(
    (images_name, images, images_bytes): (&str, R, u64),
    (labels_name, labels, labels_bytes): (&str, R, u64),
    class_names: Option<Vec<String>>,
) -> Result<InMemory, DataError> {
    let ([num_images, height, width], pixels) = parse::<3>(images_name, images, images_bytes, IMAGES_MAGIC)?;
    if num_images == 0 || height == 0 || width == 0 {
        let fault = IdxFault::Nothing { num_images, height, width };
        return Err(DataError::Idx { path: images_name.into(), fault });
    }
    let ([num_labels], labels) = parse::<1>(labels_name, labels, labels_bytes, LABELS_MAGIC)?;
    if num_labels != num_images {
        let fault = IdxFault::Count { num_images, num_labels };
        return Err(DataError::Idx { path: labels_name.into(), fault });
    }
    let num_classes = usize::from(labels.iter().copied().max().unwrap_or(0)) + 1;
    let class_names =
        class_names.unwrap_or_else(|| (0..num_classes).map(|class| class.to_string()).collect());
    if num_classes > class_names.len() {
        let fault = IdxFault::Label { got_label: num_classes - 1, num_classes: class_names.len() };
        return Err(DataError::Idx { path: labels_name.into(), fault });
    }
    let origin =
        Path::new(images_name).file_name().map_or(images_name.into(), |n| n.to_string_lossy().into_owned());
    Ok(InMemory {
        origin,
        width: width as usize,
        height: height as usize,
        channels: Channels::Grey,
        pixels,
        labels,
        class_names,
    })
}

/// The dimensions and the bytes of one file. Memory is taken for what the header says only if the file can hold it.
fn parse<const N: usize>(
    name: &str,
    mut file: impl Read,
    file_bytes: u64,
    expected_magic: u32,
) -> Result<([u32; N], Vec<u8>), DataError> {
    let idx = |fault| DataError::Idx { path: name.into(), fault };
    let unreadable = |e: io::Error| idx(IdxFault::Read(e.to_string()));
    let mut start = Vec::with_capacity(2);
    file.by_ref().take(2).read_to_end(&mut start).map_err(unreadable)?;
    let gzip = start == [0x1F, 0x8B];
    let whole = io::Cursor::new(start).chain(file);
    let (mut stream, most_bytes): (Box<dyn Read + '_>, u64) = if gzip {
        (Box::new(MultiGzDecoder::new(whole)), file_bytes.saturating_mul(MAX_DEFLATE_RATIO))
    } else {
        (Box::new(whole), file_bytes)
    };

    let header_bytes = 4 * (N as u64 + 1);
    let mut header = Vec::new();
    stream.by_ref().take(header_bytes).read_to_end(&mut header).map_err(unreadable)?;
    let mut words = header.chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    match words.next() {
        Some(got_magic) if got_magic != expected_magic => {
            return Err(idx(IdxFault::Magic { expected_magic, got_magic }));
        }
        _ if (header.len() as u64) < header_bytes => {
            let got_bytes = header.len() as u64;
            return Err(idx(IdxFault::Length { expected_bytes: header_bytes, got_bytes, more: false }));
        }
        _ => {}
    }
    let dimensions: [u32; N] = std::array::from_fn(|_| words.next().unwrap_or(0));
    let expected = dimensions.iter().try_fold(1u64, |product, &n| product.checked_mul(n.into()));
    let expected = expected.unwrap_or(u64::MAX);
    if expected > MAX_BYTES {
        return Err(DataError::TooLarge {
            path: name.into(),
            what: "bytes",
            got: expected,
            limit: MAX_BYTES,
        });
    }
    let expected_bytes = header_bytes + expected;
    if expected_bytes > most_bytes {
        let got_bytes = file_bytes;
        return Err(idx(match gzip {
            true => IdxFault::Read(format!("{got_bytes} bytes of gzip cannot hold {expected_bytes} bytes")),
            false => IdxFault::Length { expected_bytes, got_bytes, more: false },
        }));
    }
    // Compressed bytes may hold less than their number allows: then memory grows with what really comes out.
    let mut bytes = Vec::with_capacity(if gzip { 0 } else { expected as usize + 1 });
    stream.take(expected + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 != expected {
        let got_bytes = header_bytes + bytes.len() as u64;
        return Err(idx(IdxFault::Length { expected_bytes, got_bytes, more: bytes.len() as u64 > expected }));
    }
    Ok((dimensions, bytes))
}
