//! The work itself: pictures read once, made into all copies that lack them, and written by all cores.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    Settings, folder,
    picture::{Make, Maker},
    plan::{Output, Part, Unit, per_unit},
    shards::{self, Shard},
    space, state,
};
use crate::{
    data::{
        Location, Picture, SampleError, SampleFault, check, cores::in_parallel, decode::decode, open_parts,
    },
    error::{Error, Result},
};

/// Tars begin a file on blocks of 512 bytes, after a header; a class takes two more. An index entry is smaller.
const SHARD_OVERHEAD_BYTES: u64 = 4 * 512;
/// File systems store whole blocks of so many bytes.
const BLOCK_BYTES: u64 = 4096;

/// A data set that is being made ready. The folder is taken for as long as this lives.
#[derive(Debug)]
pub struct Preparation {
    settings: Settings,
    parts: Vec<Part>,
    outputs: Vec<Output>,
    units: Vec<Unit>,
    _lock: File,
}

/// What [`Preparation::write`] did.
#[derive(Debug, Default)]
pub struct Written {
    /// Pictures that were left out, as they cannot be read.
    pub skipped: Vec<SampleError>,
}

/// A thread's own memory.
#[derive(Debug, Default)]
struct Own {
    file: Vec<u8>,
    picture: Picture,
    maker: Maker,
}

impl Preparation {
    /// Opens the data set, takes the folder, and lays out what is to be written; nothing is.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] if the data cannot be opened, [`Error::Usage`] if they cannot be made into that.
    pub fn open(settings: Settings) -> Result<Self> {
        let Settings { data, out, shards, .. } = &settings;
        let parts = open_parts(&Location::Path(data.clone()))?;
        let in_place = data.is_dir() && fs::canonicalize(data).ok() == fs::canonicalize(out).ok();
        let is_divided = parts.len() > 1;
        let is_inside = !is_divided && !in_place && lies_in(out, data);
        let data = data.display();
        if is_inside {
            return Err(Error::usage(format!(
                "{} lies in {data}, which is not divided into train/ and val/, and would become one of its classes: give \
                 an --out beside it",
                out.display()
            )));
        }
        if !is_divided && !settings.sizes.is_empty() && (in_place || !shards) {
            return Err(Error::usage(format!(
                "{data} is not divided into train/ and val/, so that copies would lie among its class folders: divide \
                 it, or give --shards and another --out"
            )));
        }
        if in_place && (settings.sizes.is_empty() || settings.max_side.is_some()) {
            return Err(Error::usage(
                "--out is the folder of the data: only copies can be added to it, by --sizes without --max-side",
            ));
        }
        if in_place && settings.skip_bad_files {
            return Err(Error::usage(
                "--skip-bad-files would make copies that lack pictures of the data, which training refuses: remove the \
                 bad ones first (sprint prepare --check names them)",
            ));
        }
        for (_, source) in &parts {
            if source.num_images() > 0 && matches!(source.read_file(0, &mut Vec::new()), Ok(false)) {
                return Err(Error::usage(format!(
                    "{data} has no picture files: expected a folder or tar of class folders, shards, or ImageNet's archives"
                )));
            }
        }
        let shuffle = shards.then_some(settings.seed);
        let parts = parts.into_iter().map(|(split, source)| Part::new(split, source, shuffle));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let lock = state::claim(&settings, &parts, in_place)?;
        let main = settings.max_side.map_or(Make::Same, Make::LongSide);
        let main = (!in_place).then(|| Output { folder: settings.out.clone(), make: main });
        let copy =
            |&size: &u32| Output { folder: settings.out.join(size.to_string()), make: Make::ShortSide(size) };
        let outputs = main.into_iter().chain(settings.sizes.iter().map(copy)).collect();
        let units = parts.iter().enumerate().flat_map(|(at, part)| {
            part.units(at, per_unit(part.keys.len(), settings.shards, settings.per_shard))
        });
        let units = units.collect();
        Ok(Self { settings, parts, outputs, units, _lock: lock })
    }

    /// The pictures of all parts.
    pub fn num_images(&self) -> u64 {
        self.parts.iter().map(|part| part.keys.len() as u64).sum()
    }

    /// The folders that are made, the data set's own first.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.outputs.iter().map(|output| output.folder.as_path())
    }

    /// Makes some of the pictures to see what those take that are not there yet.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] if there is less room.
    pub fn check_space(&self) -> Result<()> {
        let mut needed_bytes = 0.0;
        for (at, part) in self.parts.iter().enumerate() {
            let units = || self.units.iter().filter(|unit| unit.part == at);
            let lacking = self.outputs.iter().map(|output| {
                let lacking = units().filter(|unit| self.lacks(output, unit));
                (output, lacking.map(|unit| unit.places.len()).sum::<usize>())
            });
            let lacking: Vec<_> = lacking.filter(|(_, num_files)| *num_files > 0).collect();
            if lacking.is_empty() {
                continue;
            }
            let places: Vec<usize> = space::samples(part.order.len()).collect();
            let bytes = in_parallel(places.len(), |own: &mut Own, at| {
                // What cannot be read is not a matter of space.
                let index = part.order[places[at]] as usize;
                Ok::<_, Error>(own.read(part, index).map_or(0.0, |()| self.bytes(own, &lacking)))
            })?;
            needed_bytes += bytes.iter().sum::<f64>() / bytes.len() as f64;
        }
        space::check(needed_bytes as u64, space::free_bytes(&self.settings.out)?, &self.settings.out)
    }

    /// Writes what is not there yet. `advance` is told how many more pictures are done.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] for a picture that cannot be read, unless those are skipped; [`Error::Io`] and a full disk. What is
    /// written stays, and the next time goes on from it.
    pub fn write(&self, advance: impl Fn(u64) + Sync) -> Result<Written> {
        let skipped = in_parallel(self.units.len(), |own: &mut Own, at| {
            let unit = &self.units[at];
            let skipped = if self.settings.shards { self.shard(own, unit) } else { self.files(own, unit) }?;
            advance(unit.places.len() as u64);
            Ok::<_, Error>(skipped)
        })?;
        if self.settings.shards {
            let num_units: Vec<usize> = (0..self.parts.len())
                .map(|part| self.units.iter().filter(|unit| unit.part == part).count())
                .collect();
            self.outputs
                .iter()
                .try_for_each(|output| shards::write_catalog(output, &self.parts, &num_units))?;
        }
        Ok(Written { skipped: skipped.into_iter().flatten().collect() })
    }

    /// Reads all that was written as training would, and decodes every picture; but for those that are in shards as they
    /// came, which were decoded before, checksums are compared. `advance` is told how many more. Returns how many
    /// pictures are left out, now or by those who began.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] or [`Error::Run`], naming what is damaged or missing.
    pub fn verify(&self, written: &Written, advance: impl Fn(u64) + Sync) -> Result<u64> {
        let mut most_left_out = 0;
        for output in &self.outputs {
            let folder = output.folder.display();
            let were_decoded = self.settings.shards && output.make == Make::Same;
            let mut num_images = 0;
            for (_, source) in open_parts(&Location::Path(output.folder.clone()))? {
                num_images += source.num_images() as u64;
                let faults = match were_decoded {
                    true => check::changed(&*source, &advance),
                    false => check::damaged(&*source, &advance),
                };
                if let Some(first) = faults.first() {
                    return Err(Error::run(format!(
                        "picture {first}: remove that file, and run the same line again"
                    )));
                }
            }
            let (all, num_skipped) = (self.num_images(), written.skipped.len() as u64);
            // A shard that was there may lack pictures that were skipped then; a file that is not there is tried again.
            let left_out = all.checked_sub(num_images);
            let left_out = left_out.filter(|&left_out| self.settings.shards || left_out == num_skipped);
            let Some(left_out) = left_out else {
                let expected = all - num_skipped;
                return Err(Error::run(format!(
                    "{folder} has {num_images} pictures, expected {expected}: something else wrote there; give \
                     another --out"
                )));
            };
            if left_out > 0 && !self.settings.skip_bad_files {
                return Err(Error::run(format!(
                    "{folder} has {num_images} of {all} pictures, as bad ones were left out when it was begun: give \
                     --skip-bad-files as then, or another --out"
                )));
            }
            most_left_out = most_left_out.max(left_out);
        }
        Ok(most_left_out)
    }

    /// Writes the shards of a unit that are not there, from one reading of its pictures.
    fn shard(&self, own: &mut Own, unit: &Unit) -> Result<Vec<SampleError>> {
        let part = &self.parts[unit.part];
        let lacking: Vec<&Output> = self.outputs.iter().filter(|output| self.lacks(output, unit)).collect();
        let mut skipped = Vec::new();
        if lacking.is_empty() {
            return Ok(skipped);
        }
        let clean_up =
            CleanUp(lacking.iter().map(|to| partial(&to.folder.join(part.shard(unit.number)))).collect());
        let mut shards =
            lacking.iter().map(|output| Shard::create(output, part, unit)).collect::<Result<Vec<_>>>()?;
        for place in unit.places.clone() {
            let index = part.order[place] as usize;
            if let Err(error) = own.read(part, index) {
                skipped.push(self.skip(error)?);
                continue;
            }
            for (output, shard) in lacking.iter().zip(&mut shards) {
                let made = own.maker.make(output.make, self.settings.quality, &own.file, &own.picture);
                shard.append(part, index, &made)?;
            }
        }
        shards.into_iter().try_for_each(Shard::finish)?;
        drop(clean_up);
        Ok(skipped)
    }

    /// Writes the picture files of a unit that are not there.
    fn files(&self, own: &mut Own, unit: &Unit) -> Result<Vec<SampleError>> {
        let part = &self.parts[unit.part];
        let mut skipped = Vec::new();
        for place in unit.places.clone() {
            let index = part.order[place] as usize;
            let lacking = self.outputs.iter().filter(|output| !folder::has(output, part, index));
            let lacking: Vec<&Output> = lacking.collect();
            if lacking.is_empty() {
                continue;
            }
            if let Err(error) = own.read(part, index) {
                skipped.push(self.skip(error)?);
                continue;
            }
            for output in lacking {
                let made = own.maker.make(output.make, self.settings.quality, &own.file, &own.picture);
                folder::write(output, part, index, &made)?;
            }
        }
        Ok(skipped)
    }

    fn skip(&self, error: SampleError) -> Result<SampleError> {
        if self.settings.skip_bad_files { Ok(error) } else { Err(crate::data::DataError::from(error).into()) }
    }

    /// Whether anything of the unit is still to be written.
    fn lacks(&self, output: &Output, unit: &Unit) -> bool {
        let part = &self.parts[unit.part];
        if self.settings.shards {
            return !shards::has(output, part, unit);
        }
        part.order[unit.places.clone()].iter().any(|&index| !folder::has(output, part, index as usize))
    }

    /// The bytes that copies take on disk, each with so many pictures like the one that was read.
    fn bytes(&self, own: &mut Own, lacking: &[(&Output, usize)]) -> f64 {
        let bytes = lacking.iter().map(|(output, num_files)| {
            let made = own.maker.make(output.make, self.settings.quality, &own.file, &own.picture);
            let bytes = made.file.len() as u64;
            let taken = if self.settings.shards {
                bytes + SHARD_OVERHEAD_BYTES
            } else {
                bytes.next_multiple_of(BLOCK_BYTES)
            };
            taken as f64 * *num_files as f64
        });
        bytes.sum()
    }
}

impl Own {
    /// Reads and decodes a picture.
    fn read(&mut self, part: &Part, index: usize) -> Result<(), SampleError> {
        let Self { file, picture, .. } = self;
        let named = |fault| SampleError { name: part.source.name(index), fault };
        if !part.source.read_file(index, file)? {
            return Err(named(SampleFault::NotAFile));
        }
        decode(file, picture).map_err(named)
    }
}

/// Whether a path, of which not all need be there, leads below a folder.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let there = path.ancestors().find_map(|above| fs::canonicalize(above).ok());
    let folder = fs::canonicalize(folder).ok();
    there.zip(folder).is_some_and(|(there, folder)| there.starts_with(folder))
}

/// Files that are removed if they are still there.
struct CleanUp(Vec<PathBuf>);

impl Drop for CleanUp {
    fn drop(&mut self) {
        for path in &self.0 {
            // What cannot be removed is written over by whoever goes on.
            let _ = fs::remove_file(path);
        }
    }
}

/// What a file is called until it is whole.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Moves a file that was written as [`partial`] to its place.
pub(super) fn place(file: &File, path: &Path) -> Result<()> {
    file.sync_all().and_then(|()| fs::rename(partial(path), path)).map_err(Error::io("write", path))
}

/// Writes a file that is there whole or not at all, though a power cut may leave it empty.
pub(super) fn whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = partial(path);
    let clean_up = CleanUp(vec![partial.clone()]);
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    drop(clean_up);
    written.map_err(Error::io("write", path))
}
