//! CIFAR-10 and CIFAR-100, binary version, from its folder or from the `.tar` or `.tar.gz` it is published as.
//!
//! Source: A. Krizhevsky, "The CIFAR-10 and CIFAR-100 datasets", "binary version": records of a label byte (two for
//! CIFAR-100: coarse, fine) and 32x32 pixels, plane after plane.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use super::{
    error::{CifarFault, DataError},
    layout,
    memory::InMemory,
    open::Split,
    picture::Channels,
};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// The most bytes of one file: 20 times the largest that is published (CIFAR-100's `train.bin`).
const MAX_FILE_BYTES: u64 = 20 * 50_000 * 3_074;

/// CIFAR-10 or CIFAR-100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Ten,
    Hundred,
}

impl Variant {
    /// The variant that has a file of that name.
    fn of_file(name: &str) -> Option<Self> {
        [Self::Ten, Self::Hundred].into_iter().find(|variant| {
            variant.files(Split::Train).contains(&name) || variant.files(Split::Val).contains(&name)
        })
    }

    fn files(self, split: Split) -> &'static [&'static str] {
        match (self, split) {
            (Self::Ten, Split::Train) => &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            (Self::Ten, Split::Val) => &["test_batch.bin"],
            (Self::Hundred, Split::Train) => &["train.bin"],
            (Self::Hundred, Split::Val) => &["test.bin"],
        }
    }

    fn names_file(self) -> &'static str {
        match self {
            Self::Ten => "batches.meta.txt",
            Self::Hundred => "fine_label_names.txt",
        }
    }

    fn num_classes(self) -> usize {
        match self {
            Self::Ten => 10,
            Self::Hundred => 100,
        }
    }

    /// The bytes before the pixels; the last of them is the label.
    fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }
}

/// Where the binary version is.
#[derive(Debug, Clone)]
pub(crate) struct CifarFiles {
    place: Place,
    variant: Variant,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    Tar { path: PathBuf, gzip: bool },
}

impl CifarFiles {
    /// Finds the binary version in a folder, or in the folder of its published name within.
    pub(crate) fn find_in_folder(folder: &Path) -> Option<Self> {
        for folder in [folder.into(), folder.join("cifar-10-batches-bin"), folder.join("cifar-100-binary")] {
            for variant in [Variant::Ten, Variant::Hundred] {
                let names = [Split::Train, Split::Val].into_iter().flat_map(|split| variant.files(split));
                if names.into_iter().any(|name| folder.join(name).is_file()) {
                    return Some(Self { place: Place::Folder(folder), variant });
                }
            }
        }
        None
    }

    /// Finds the binary version in an uncompressed tar, given whether a file is in it.
    pub(crate) fn find_in_tar(path: &Path, has_file: impl Fn(&str) -> bool) -> Option<Self> {
        let variant = [Variant::Ten, Variant::Hundred].into_iter().find(|variant| {
            [Split::Train, Split::Val].into_iter().flat_map(|s| variant.files(s)).any(|name| has_file(name))
        })?;
        Some(Self { place: Place::Tar { path: path.into(), gzip: false }, variant })
    }

    /// Finds the binary version in a compressed tar, or says that it is a compressed tar of something else.
    pub(crate) fn find_in_tar_gz(path: &Path) -> Result<Self, DataError> {
        let place = Place::Tar { path: path.into(), gzip: true };
        let mut found = None;
        let mut has_pictures = false;
        for_each_file(path, true, &mut |name, _| {
            found = Variant::of_file(name);
            has_pictures = layout::is_picture(name);
            Ok(found.is_none() && !has_pictures)
        })?;
        match found {
            Some(variant) => Ok(Self { place, variant }),
            None if has_pictures => Err(DataError::CompressedTar { path: path.into() }),
            None => Err(DataError::NotRecognised { path: path.into() }),
        }
    }

    /// Reads the files of one part.
    pub(crate) fn load(&self, split: Split) -> Result<InMemory, DataError> {
        let variant = self.variant;
        let wanted = variant.files(split);
        let mut files = self.read(|name| wanted.contains(&name) || name == variant.names_file())?;
        let class_names = match files.remove(variant.names_file()) {
            Some(text) => {
                class_names(variant, &text).map_err(|fault| self.error(variant.names_file(), fault))?
            }
            None => (0..variant.num_classes()).map(|class| class.to_string()).collect(),
        };
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for name in wanted {
            match files.remove(*name) {
                Some(records) => unpack(variant, &records, &mut pixels, &mut labels),
                // Fewer training batches than five make a smaller set of the same kind.
                None if wanted.len() > 1 => Ok(()),
                None => Err(CifarFault::Missing),
            }
            .map_err(|fault| self.error(name, fault))?;
        }
        if labels.is_empty() {
            return Err(self.error(wanted[0], CifarFault::Missing));
        }
        Ok(InMemory {
            origin: wanted.join("+"),
            width: SIDE,
            height: SIDE,
            channels: Channels::Rgb,
            pixels,
            labels,
            class_names,
        })
    }

    /// The files of wanted names, by name.
    fn read(&self, wanted: impl Fn(&str) -> bool) -> Result<HashMap<String, Vec<u8>>, DataError> {
        let mut files = HashMap::new();
        let mut keep = |name: &str, file: &mut dyn Read, num_bytes: u64| {
            if wanted(name) {
                files.insert(
                    name.to_owned(),
                    read_all(file, num_bytes).map_err(|fault| self.error(name, fault))?,
                );
            }
            Ok(true)
        };
        match &self.place {
            Place::Folder(folder) => {
                let unreadable = |source: io::Error| DataError::Unreadable { path: folder.clone(), source };
                for entry in fs::read_dir(folder).map_err(unreadable)? {
                    let entry = entry.map_err(unreadable)?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if !wanted(&name) || !entry.path().is_file() {
                        continue;
                    }
                    let mut file = File::open(entry.path()).map_err(unreadable)?;
                    let num_bytes = file.metadata().map_err(unreadable)?.len();
                    keep(&name, &mut file, num_bytes)?;
                }
            }
            Place::Tar { path, gzip } => {
                for_each_file(path, *gzip, &mut |name, entry| {
                    let num_bytes = entry.size();
                    keep(name, entry, num_bytes)
                })?;
            }
        }
        Ok(files)
    }

    fn error(&self, name: &str, fault: CifarFault) -> DataError {
        let (Place::Folder(path) | Place::Tar { path, .. }) = &self.place;
        DataError::Cifar { path: path.join(name).display().to_string(), fault }
    }
}

/// Is given a file's last name and the file; says whether to go on.
type EachFile<'a> = dyn FnMut(&str, &mut tar::Entry<'_, Box<dyn Read>>) -> Result<bool, DataError> + 'a;

/// Calls `each` with the last name of every regular file of a tar, until it says `false`. Names are those of the headers
/// themselves: longer ones, which an entry before says, would be read into memory, however long.
fn for_each_file(path: &Path, gzip: bool, each: &mut EachFile<'_>) -> Result<(), DataError> {
    let damaged = |e: io::Error| DataError::Tar { path: path.into(), reason: format!("damaged: {e}") };
    let file = File::open(path).map_err(|source| DataError::Unreadable { path: path.into(), source })?;
    let file = BufReader::new(file);
    let stream: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(damaged)?.file_name().map(|n| n.to_string_lossy().into_owned());
        if !each(&name.unwrap_or_default(), &mut entry)? {
            break;
        }
    }
    Ok(())
}

fn read_all(file: &mut dyn Read, num_bytes: u64) -> Result<Vec<u8>, CifarFault> {
    if num_bytes > MAX_FILE_BYTES {
        return Err(CifarFault::Read(format!("{num_bytes} bytes are above the limit of {MAX_FILE_BYTES}")));
    }
    let mut bytes = Vec::new();
    file.take(num_bytes).read_to_end(&mut bytes).map_err(|e| CifarFault::Read(e.to_string()))?;
    match bytes.len() as u64 == num_bytes {
        true => Ok(bytes),
        false => Err(CifarFault::Read(format!("{} bytes where {num_bytes} were announced", bytes.len()))),
    }
}

/// A name a line; blank lines do not count.
fn class_names(variant: Variant, text: &[u8]) -> Result<Vec<String>, CifarFault> {
    let text = String::from_utf8_lossy(text);
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    let (expected_names, got_names) = (variant.num_classes(), names.len());
    if got_names == expected_names { Ok(names) } else { Err(CifarFault::Names { expected_names, got_names }) }
}

/// Appends a file's records, their planes interleaved.
fn unpack(
    variant: Variant,
    records: &[u8],
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u8>,
) -> Result<(), CifarFault> {
    let record_bytes = variant.label_bytes() + 3 * PLANE;
    if records.is_empty() || !records.len().is_multiple_of(record_bytes) {
        let (record_bytes, got_bytes) = (record_bytes as u64, records.len() as u64);
        return Err(CifarFault::Length { record_bytes, got_bytes });
    }
    pixels.reserve(records.len() / record_bytes * 3 * PLANE);
    for (record, bytes) in records.chunks_exact(record_bytes).enumerate() {
        let (label, planes) = bytes.split_at(variant.label_bytes());
        let (got_label, num_classes) = (label[variant.label_bytes() - 1], variant.num_classes());
        if usize::from(got_label) >= num_classes {
            return Err(CifarFault::Label { record, got_label, num_classes });
        }
        labels.push(got_label);
        pixels.extend((0..PLANE).flat_map(|i| [planes[i], planes[PLANE + i], planes[2 * PLANE + i]]));
    }
    Ok(())
}
