//! The sizes of a source's pictures, read from their headers once and remembered in a file.
//!
//! The file lies in the data's folder, or in the user's for caches (`kept`), where it does if the data are one archive. It
//! is taken only if its checksum is right and it was made of these very pictures: names, lengths and times of change are
//! compared by a hash, whose function may differ in another build, for which the sizes are then read anew.
//!
//! # Format
//!
//! Little-endian: 8 bytes `BSsizes1`, `u64` hash, `u64` number of pictures, a `u32` width and height each (0 where the
//! picture cannot be used), `u32` CRC-32C of all before.
//!
//! # Cost
//!
//! To read sizes, the first 64 KiB of each file; to take remembered ones, a look at each file's metadata.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hasher},
    io::Read,
    path::{Path, PathBuf},
    thread,
};

use super::{
    cores::cores,
    error::{DataError, SampleError},
    kept,
    pass::OnBadFile,
    rect::PictureSize,
    source::Source,
};

const MAGIC: [u8; 8] = *b"BSsizes1";
const HEADER_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 4;
/// Of a width and a height.
const SIZE_BYTES: usize = 8;

/// The sizes of all of a source's pictures, in order: the remembered ones, or else read and remembered in `caches` or
/// beside the data. `note` is called before many files are read.
///
/// A picture without a readable header has the size 0 under [`OnBadFile::Skip`].
///
/// # Errors
///
/// Under [`OnBadFile::Fail`] the first picture that has none; under `Skip` [`DataError::NothingReadable`] if all are so.
pub fn of(
    source: &dyn Source,
    on_bad_file: OnBadFile,
    caches: Option<&Path>,
    note: impl FnOnce(&str),
) -> Result<Vec<PictureSize>, DataError> {
    let places = places(source, caches);
    let hash = if places.is_empty() { 0 } else { hash(source) };
    let remembered = places.iter().find_map(|place| load(place, hash, source.num_images()));
    let mut sizes = remembered.unwrap_or_else(|| {
        if !places.is_empty() {
            note(&format!("reading the sizes of {} pictures", source.num_images()));
        }
        let sizes = read_all(source);
        kept::save(&places, &encode(hash, &sizes));
        sizes
    });
    // Looked at again: what failed before may have been the disk.
    let mut first = None;
    for (index, size) in sizes.iter_mut().enumerate().filter(|(_, size)| **size == (0, 0)) {
        match read(source, index) {
            Ok(found) => *size = found,
            Err(error) => first = first.or(Some(error)),
        }
    }
    match first {
        Some(error) if on_bad_file == OnBadFile::Fail => Err(error.into()),
        Some(first) if sizes.iter().all(|&size| size == (0, 0)) => {
            Err(DataError::NothingReadable { num_tried: sizes.len(), first })
        }
        _ => Ok(sizes),
    }
}

/// Sizes as bytes that [`from_bytes`] takes.
pub fn to_bytes(sizes: &[PictureSize]) -> Vec<u8> {
    sizes.iter().flat_map(|&(width, height)| [width, height]).flat_map(u32::to_le_bytes).collect()
}

/// The sizes of so many pictures; `None` if there are not as many bytes.
pub fn from_bytes(bytes: &[u8], num_images: usize) -> Option<Vec<PictureSize>> {
    let (sizes, rest) = bytes.as_chunks::<SIZE_BYTES>();
    let size = |&[a, b, c, d, e, f, g, h]: &[u8; SIZE_BYTES]| {
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    };
    (sizes.len() == num_images && rest.is_empty()).then(|| sizes.iter().map(size).collect())
}

/// Where sizes may be remembered, the best place first; nowhere for pictures in memory.
fn places(source: &dyn Source, caches: Option<&Path>) -> Vec<PathBuf> {
    let Some(home) = source.home() else { return Vec::new() };
    // By number, so that a part of a set does not take the whole one's place.
    let name = format!("picture-sizes-{}", source.num_images());
    kept::places(home, home.is_dir().then_some(home), &name, caches)
}

/// What tells these pictures from others, and from what they were before a change.
fn hash(source: &dyn Source) -> u64 {
    let mut hasher = DefaultHasher::new();
    (0..source.num_images()).for_each(|index| source.fingerprint(index, &mut hasher));
    hasher.finish()
}

/// Reads every picture's size, by all cores; 0 where there is none.
fn read_all(source: &dyn Source) -> Vec<PictureSize> {
    let mut sizes = vec![(0, 0); source.num_images()];
    let share = sizes.len().div_ceil(cores()).max(1);
    thread::scope(|scope| {
        for (part, sizes) in sizes.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                for (index, size) in (part * share..).zip(sizes) {
                    *size = read(source, index).unwrap_or((0, 0));
                }
            });
        }
    });
    sizes
}

/// Reads a picture's size.
fn read(source: &dyn Source, index: usize) -> Result<PictureSize, SampleError> {
    let (width, height) = source.dimensions(index)?;
    // A picture has at most `MAX_PIXELS` pixels, so neither side is cut off.
    Ok((width as u32, height as u32))
}

fn encode(hash: u64, sizes: &[PictureSize]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(hash.to_le_bytes());
    bytes.extend((sizes.len() as u64).to_le_bytes());
    bytes.extend(to_bytes(sizes));
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The sizes in the file, if there is one, it is whole, and it is of these pictures.
fn load(path: &Path, hash: u64, num_images: usize) -> Option<Vec<PictureSize>> {
    let expected_bytes = HEADER_BYTES + num_images * SIZE_BYTES + CHECKSUM_BYTES;
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() != expected_bytes as u64 {
        return None;
    }
    let mut bytes = Vec::with_capacity(expected_bytes);
    File::open(path).ok()?.take(expected_bytes as u64).read_to_end(&mut bytes).ok()?;
    let sizes = from_bytes(bytes.get(HEADER_BYTES..expected_bytes - CHECKSUM_BYTES)?, num_images)?;
    // Magic, hash, number and checksum at once.
    (encode(hash, &sizes) == bytes).then_some(sizes)
}
