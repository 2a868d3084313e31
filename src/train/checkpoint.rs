//! The whole state of a run in a folder, there whole or not at all, and found again by its newest whole one.
//!
//! ```text
//! RUN/checkpoints/step-120/model.safetensors      weights and running statistics; usable by itself
//!                          trained.safetensors    the same before averaging, if the run averages them
//!                          optimizer.safetensors  the optimizer's state by parameter name
//!                          state.json             counters, and length and CRC-32C of the others
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
use serde::{Deserialize, Serialize};

use super::{
    classifier::{About, Classifier},
    ema::Average,
    optimizer::Optimizer,
    scaler::Scaler,
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
const STATE: &str = "state.json";
const LATEST: &str = "latest";
/// A state file is a few hundred bytes.
const MAX_STATE_BYTES: u64 = 1 << 20;

/// How far a run has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Updates made.
    pub step: u64,
    /// Epochs whose evaluation is recorded.
    pub epochs_done: u32,
    /// Training images seen over all ranks.
    pub images: u64,
    /// Seconds on the run's clock.
    pub elapsed_s: f64,
    /// Bad files that training replaced and evaluation left out.
    pub skipped_images: u64,
    /// The epoch under way.
    pub epoch: EpochTotals,
    /// The loss scale, and the steps skipped on its account.
    #[serde(default)]
    pub scaler: Scaler,
    /// The evaluation recorded last, as (top-1, top-5) in percent.
    pub last_accuracy: Option<(f64, f64)>,
    /// The length of `metrics.jsonl`.
    pub metrics_bytes: u64,
}

impl Progress {
    /// Whether this is the same point of the same run; clocks may differ.
    fn is_same_point_as(&self, other: &Self) -> bool {
        let point = |progress: &Self| (progress.step, progress.epochs_done, progress.metrics_bytes);
        point(self) == point(other)
    }
}

/// Sums over the steps of an epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochTotals {
    /// Images.
    pub images: u64,
    /// The sum of their losses.
    #[serde(with = "bits")]
    pub loss: f64,
    /// How many had their class first.
    pub top1: u64,
    /// How many had it among the first five.
    pub top5: u64,
    /// Seconds of training.
    pub train_s: f64,
    /// Seconds of them that were spent waiting for a batch; the mean over all ranks.
    pub data_wait_s: f64,
    /// Seconds of them that were spent waiting for other ranks' gradients; the mean over all ranks.
    #[serde(default)]
    pub comm_wait_s: f64,
    /// Seconds for which gradients were on their way; the mean over all ranks.
    #[serde(default)]
    pub comm_s: f64,
}

/// A number as its bits: read as a decimal it may come back off by the last one.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    progress: Progress,
    files: Vec<FileSum>,
}

impl State {
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

/// Saves the state under `run`, keeps the newest `keep` checkpoints, and returns the folder.
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
    model: &ResNet,
    average: Option<&Average>,
    about: &About,
    optimizer: &Optimizer,
    progress: &Progress,
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
        Classifier::save(average.map_or(model, Average::model), about, &dir.join(MODEL))?;
        if average.is_some() {
            Classifier::save(model, about, &dir.join(TRAINED))?;
            names.push(TRAINED);
        }
        let path = dir.join(OPTIMIZER);
        let bytes = optimizer.to_bytes().map_err(Error::run)?;
        fs::write(&path, bytes).map_err(|error| RecordError::io("write", &path, error))?;
        let files = names.into_iter().map(|name| sum(dir, name)).collect::<Result<_>>()?;
        let state = State { progress: progress.clone(), files };
        let json = serde_json::to_vec_pretty(&state).map_err(Error::run)?;
        let path = dir.join(STATE);
        Ok(fs::write(&path, json).map_err(|error| RecordError::io("write", &path, error))?)
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

/// Restores the newest whole checkpoint under `run` into `model`, `average` and `optimizer`.
///
/// Returns what it holds and the damaged ones that were passed over, or `None` if there is no checkpoint at all.
///
/// # Errors
/// [`Error::Run`] if all of them are damaged; [`Error::Weights`] if the weights are not this model's, or the
/// optimizer's state not this optimizer's.
pub(super) fn restore(
    run: &Path,
    model: &mut ResNet,
    average: Option<&mut Average>,
    optimizer: &mut Optimizer,
) -> Result<Option<(Progress, Vec<String>)>> {
    let mut damaged = Vec::new();
    for (_, folder) in all(run)? {
        match verify(&folder) {
            Ok(state) => {
                let trained = if state.has(TRAINED) { TRAINED } else { MODEL };
                load(&folder.join(trained), model)?;
                if let Some(average) = average {
                    load(&folder.join(MODEL), &mut average.model)?;
                }
                let path = folder.join(OPTIMIZER);
                let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
                optimizer.restore(&bytes, model).map_err(of_another)?;
                return Ok(Some((state.progress, damaged)));
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

/// Gives all ranks rank 0's progress and optimizer: what [`DataParallel`](burn_dist::DataParallel) does for the
/// parameters. Ranks need no common disk.
///
/// # Errors
/// [`Error::Dist`] if the job is over; [`Error::Run`] if the state is not this optimizer's.
pub(super) fn share(
    comm: &Communicator,
    progress: Progress,
    model: &ResNet,
    optimizer: &mut Optimizer,
) -> Result<Progress> {
    if comm.rank().world_size() == WorldSize::ONE {
        return Ok(progress);
    }
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

/// Whether every byte is the one that was written.
fn verify(folder: &Path) -> Result<State, String> {
    let path = folder.join(STATE);
    let length = fs::metadata(&path).map_err(|error| format!("{STATE}: {error}"))?.len();
    if length > MAX_STATE_BYTES {
        return Err(format!("{STATE} has {length} bytes, expected at most {MAX_STATE_BYTES}"));
    }
    let json = fs::read(&path).map_err(|error| format!("{STATE}: {error}"))?;
    let state: State = serde_json::from_slice(&json).map_err(|error| format!("{STATE}: {error}"))?;
    for expected in [MODEL, OPTIMIZER, TRAINED] {
        let Some(file) = state.files.iter().find(|file| file.name == expected) else {
            if expected == TRAINED {
                continue;
            }
            return Err(format!("{STATE} does not mention {expected}"));
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
    Ok(state)
}

fn sum(folder: &Path, name: &str) -> Result<FileSum> {
    let path = folder.join(name);
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    Ok(FileSum { name: name.into(), bytes: bytes.len() as u64, crc32c: crc32c::crc32c(&bytes) })
}
