//! The whole state of a run in a folder, there whole or not at all, and found again by its newest whole one.
//!
//! ```text
//! RUN/checkpoints/step-120/model.safetensors      weights and running statistics; usable by itself
//!                          trained.safetensors    the same before averaging, if the run averages them
//!                          optimizer.safetensors  the optimizer's state by parameter name
//!                          statistics.safetensors inside an epoch of several ranks: each one's running statistics
//!                          state.json             counters
//!                          checksums.json         length and CRC-32C of the others
//! RUN/checkpoints/latest                          the name of the newest one
//! ```
//!
//! Neither order nor augmentation has a state to save: both are functions of (seed, epoch, sample). What was saved is
//! verified before anything is restored; a damaged checkpoint is told, and the one before it used.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn_dist::{Communicator, WorldSize};
use burn_resnet::{
    ResNet,
    weights::{self, HeadPolicy, NamedTensor, WeightsFile},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    classifier::{About, Classifier},
    ema::Average,
    optimizer::Optimizer,
    progress::Progress,
    statistics,
};
use crate::{
    error::{Error, Result},
    record::{RecordError, write_atomic, write_dir_atomic},
};

/// The weights to use, in a checkpoint's folder: the average, if the run has one.
pub(super) const MODEL: &str = "model.safetensors";
/// The weights to go on from, if they are others.
const TRAINED: &str = "trained.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATISTICS: &str = "statistics.safetensors";
const STATE: &str = "state.json";
const CHECKSUMS: &str = "checksums.json";
const LATEST: &str = "latest";
/// Neither file in JSON has more than some hundred bytes.
const MAX_STATE_BYTES: u64 = 1 << 20;

/// A checkpoint of which every byte is the one that was written.
#[derive(Debug)]
struct Whole {
    progress: Progress,
    files: Vec<FileSum>,
}

impl Whole {
    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == name)
    }
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileSum {
    name: String,
    bytes: u64,
    crc32c: u32,
}

/// What is saved.
#[derive(Debug)]
pub(super) struct Contents<'a> {
    pub(super) model: &'a ResNet,
    /// Of its weights, if the run has one.
    pub(super) average: Option<&'a ResNet>,
    pub(super) about: &'a About,
    pub(super) optimizer: &'a Optimizer,
    /// Each rank's own, unless all have those of the model.
    pub(super) statistics: &'a [Vec<u8>],
    pub(super) progress: &'a Progress,
}

/// Saves the state under `run`, keeps the newest `keep` checkpoints, and returns the folder. `statistics` are each rank's
/// own ([`statistics`]), or none if all have those of `model`.
///
/// # Errors
/// [`Error::Run`] if a weight is no longer finite; [`Error::Record`] or [`Error::Weights`] if something cannot be
/// written. Earlier checkpoints are untouched.
///
/// # Cost
/// A read from the device of every parameter, its average, and its state in the optimizer, and their size on disk; a dozen
/// fsyncs.
pub(super) fn save(
    run: &Path,
    keep: usize,
    &Contents { model, average, about, optimizer, statistics, progress }: &Contents<'_>,
) -> Result<PathBuf> {
    let is_finite = |tensor: &NamedTensor| tensor.data.iter().all(|value| value.is_finite());
    if let Some(ruined) = weights::to_named(model).into_iter().find(|tensor| !is_finite(tensor)) {
        return Err(Error::run(format!(
            "{} is no longer finite after step {}: the learning rate may be too high; earlier checkpoints are kept",
            ruined.name, progress.step
        )));
    }
    let root = run.join("checkpoints");
    let name = format!("step-{}", progress.step);
    let folder = root.join(&name);
    fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
    if verify(&folder).is_ok_and(|saved| saved.progress.is_same_point_as(progress)) {
        return Ok(folder);
    }
    // Left by a run that was resumed from before it.
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::io("replace", &folder))?;
    }
    write_dir_atomic(&folder, |dir| {
        let mut names = vec![MODEL, OPTIMIZER];
        Classifier::save(average.unwrap_or(model), about, &dir.join(MODEL))?;
        if average.is_some() {
            Classifier::save(model, about, &dir.join(TRAINED))?;
            names.push(TRAINED);
        }
        let path = dir.join(OPTIMIZER);
        let bytes = optimizer.to_bytes().map_err(Error::run)?;
        fs::write(&path, bytes).map_err(|error| RecordError::io("write", &path, error))?;
        if !statistics.is_empty() {
            let path = dir.join(STATISTICS);
            fs::write(&path, statistics::to_bytes(statistics)?)
                .map_err(|error| RecordError::io("write", &path, error))?;
            names.push(STATISTICS);
        }
        write_json(&dir.join(STATE), progress)?;
        names.push(STATE);
        let files: Vec<_> = names.into_iter().map(|name| sum(dir, name)).collect::<Result<_>>()?;
        write_json(&dir.join(CHECKSUMS), &files)
    })
    .map_err(|error: Error| error)?;
    write_atomic(&root.join(LATEST), name.as_bytes())?;
    // What lies further on was damaged, or the run would have gone on from there: it must not count as kept.
    let (further, so_far): (Vec<_>, Vec<_>) =
        all(run)?.into_iter().partition(|(step, _)| *step > progress.step);
    for (_, old) in further.into_iter().chain(so_far.into_iter().skip(keep)) {
        fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
    }
    Ok(folder)
}

/// What a checkpoint held beside weights and the optimizer's state.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub(super) progress: Progress,
    /// Each rank's own ([`statistics`]); none if all had those of the model.
    pub(super) statistics: Vec<Vec<u8>>,
    /// Newer checkpoints that were passed over, in words.
    pub(super) damaged: Vec<String>,
}

/// Restores the newest whole checkpoint under `run` into `model`, `average` and `optimizer`.
///
/// `None` if there is no checkpoint at all.
///
/// # Errors
/// [`Error::Run`] if all of them are damaged; [`Error::Weights`] if the weights are not this model's, or the
/// optimizer's state not this optimizer's.
pub(super) fn restore(
    run: &Path,
    model: &mut ResNet,
    average: Option<&mut Average>,
    optimizer: &mut Optimizer,
) -> Result<Option<Restored>> {
    let mut damaged = Vec::new();
    for (_, folder) in all(run)? {
        match verify(&folder) {
            Ok(whole) => {
                let trained = if whole.has(TRAINED) { TRAINED } else { MODEL };
                load(&folder.join(trained), model)?;
                if let Some(average) = average {
                    load(&folder.join(MODEL), &mut average.model)?;
                }
                let path = folder.join(OPTIMIZER);
                let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
                optimizer.restore(&bytes, model).map_err(of_another)?;
                let path = folder.join(STATISTICS);
                let statistics = match whole.has(STATISTICS) {
                    true => statistics::from_bytes(&fs::read(&path).map_err(Error::io("read", &path))?)?,
                    false => Vec::new(),
                };
                return Ok(Some(Restored { progress: whole.progress, statistics, damaged }));
            }
            Err(why) => damaged.push(format!("{}: {why}", folder.display())),
        }
    }
    match damaged.as_slice() {
        [] => Ok(None),
        all => Err(Error::run(format!("every checkpoint is damaged: {}", all.join("; ")))),
    }
}

fn load(path: &Path, model: &mut ResNet) -> Result<()> {
    Ok(WeightsFile::open(path)?.load_into(model, HeadPolicy::Strict)?)
}

fn of_another(why: String) -> Error {
    Error::run(format!("the checkpoint's {OPTIMIZER} is of another network or rule: {why}"))
}

/// Gives all ranks what rank 0 restored: progress, the optimizer's state, and each its own statistics. The parameters
/// are [`DataParallel`](burn_dist::DataParallel)'s. Ranks need no common disk.
///
/// # Errors
/// [`Error::Dist`] if the job is over; [`Error::Run`] if state or statistics are not this model's.
pub(super) fn share(
    comm: &Communicator,
    Restored { progress, statistics: by_rank, .. }: Restored,
    model: &mut ResNet,
    average: Option<&mut Average>,
    optimizer: &mut Optimizer,
) -> Result<Progress> {
    if comm.rank().world_size() == WorldSize::ONE {
        return Ok(progress);
    }
    let mut networks: Vec<_> = [model].into_iter().chain(average.map(|average| &mut average.model)).collect();
    let mine = statistics::of(networks.iter().map(|network| &**network)).len();
    // Every rank's at most: a byte array of all of them travels once.
    let max = MAX_STATE_BYTES as usize + comm.rank().world_size().count() * (mine + 64);
    let by_rank = if by_rank.is_empty() { Vec::new() } else { statistics::to_bytes(&by_rank)? };
    let by_rank = comm.all_gather_bytes(&by_rank, max)?.swap_remove(0);
    if !by_rank.is_empty() {
        let mine = statistics::from_bytes(&by_rank)?.into_iter().nth(comm.rank().index());
        statistics::set(&mut networks, &mine.unwrap_or_default())?;
    }
    let model = &*networks[0];
    let (mut state, mut moments) = (Vec::new(), Vec::new());
    if comm.rank().is_main() {
        state = serde_json::to_vec(&progress).map_err(Error::run)?;
        moments = optimizer.to_bytes().map_err(Error::run)?;
    }
    let from_main = |mine: &[u8], max| Ok::<_, Error>(comm.all_gather_bytes(mine, max)?.swap_remove(0));
    let state = from_main(&state, MAX_STATE_BYTES as usize)?;
    let moments = from_main(&moments, optimizer.bytes_max(model))?;
    if comm.rank().is_main() {
        return Ok(progress);
    }
    optimizer.restore(&moments, model).map_err(of_another)?;
    serde_json::from_slice(&state).map_err(Error::run)
}

/// The folder of the newest whole checkpoint under `run`.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read.
pub(super) fn newest(run: &Path) -> Result<Option<PathBuf>> {
    Ok(all(run)?.into_iter().map(|(_, folder)| folder).find(|folder| verify(folder).is_ok()))
}

/// The checkpoints under `run`, newest first.
fn all(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let root = run.join("checkpoints");
    if !root.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).map_err(Error::io("read", &root))? {
        let entry = entry.map_err(Error::io("read", &root))?;
        let name = entry.file_name();
        let step =
            name.to_str().and_then(|name| name.strip_prefix("step-")).and_then(|step| step.parse().ok());
        found.extend(step.map(|step: u64| (step, entry.path())));
    }
    found.sort_unstable_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found)
}

/// The checkpoint in `folder`, or in words what of it is not as it was written.
fn verify(folder: &Path) -> Result<Whole, String> {
    let files: Vec<FileSum> = read_json(folder, CHECKSUMS)?;
    for expected in [MODEL, OPTIMIZER, STATE, TRAINED, STATISTICS] {
        let Some(file) = files.iter().find(|file| file.name == expected) else {
            if [TRAINED, STATISTICS].contains(&expected) {
                continue;
            }
            return Err(format!("{CHECKSUMS} does not mention {expected}"));
        };
        let got_bytes =
            fs::metadata(folder.join(expected)).map_err(|error| format!("{expected}: {error}"))?.len();
        if got_bytes != file.bytes {
            return Err(format!("{expected} has {got_bytes} bytes, expected {}", file.bytes));
        }
        let got = sum(folder, expected).map_err(|error| error.to_string())?;
        if got != *file {
            return Err(format!("{expected} has CRC-32C {:08x}, expected {:08x}", got.crc32c, file.crc32c));
        }
    }
    Ok(Whole { progress: read_json(folder, STATE)?, files })
}

fn read_json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T, String> {
    let read = || -> Result<Vec<u8>, String> {
        let path = folder.join(name);
        let length = fs::metadata(&path).map_err(|error| error.to_string())?.len();
        if length > MAX_STATE_BYTES {
            return Err(format!("{length} bytes, expected at most {MAX_STATE_BYTES}"));
        }
        fs::read(&path).map_err(|error| error.to_string())
    };
    let json = read().map_err(|why| format!("{name}: {why}"))?;
    serde_json::from_slice(&json).map_err(|error| format!("{name}: {error}"))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec_pretty(value).map_err(Error::run)?;
    Ok(fs::write(path, json).map_err(|error| RecordError::io("write", path, error))?)
}

fn sum(folder: &Path, name: &str) -> Result<FileSum> {
    let path = folder.join(name);
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    Ok(FileSum { name: name.into(), bytes: bytes.len() as u64, crc32c: crc32c::crc32c(&bytes) })
}
