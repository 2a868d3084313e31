//! A run's rows as TensorBoard events.
//!
//! The tags and their units are those of the 2018 ImageNet run, and as there the x axis counts training images, so runs
//! of different batch sizes lie over each other, and over that run; only that here a step's own images are counted.
//! Its `memory/*` and `net/*` are left out: a CUDA allocator's and a network card's counters, which no row has.
//! `times/comm`, `losses/val_xent` and `cost/usd` are ours. Source: `training/logger.py` of `diux-dev/imagenet18`;
//! TensorBoard's `event_accumulator.py` for what a restart does.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::events::{Content, Event};
use super::metrics::{Moment, Row};
use super::{EpochRow, PhaseRow, RecordError, StepRow};

/// Writes a run's rows as TensorBoard events into the run's folder `tb`.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
    /// The wall time at which the run's clock stood at zero, pauses between resumes left out.
    origin_s: f64,
    world_size: u32,
    /// The last row since which only training went on, for the time of a step.
    previous: Option<Moment>,
}

impl TensorBoard {
    /// Starts a file in `folder`, which is made if need be; `now_s` is seconds since 1970. `resumed_at` says where a
    /// run goes on: TensorBoard then forgets what the files before say of later images.
    ///
    /// # Errors
    /// [`RecordError::DiskFull`], [`RecordError::Io`].
    pub fn create(
        folder: &Path,
        now_s: f64,
        resumed_at: Option<Moment>,
        world_size: u32,
    ) -> Result<Self, RecordError> {
        let fail = |source| RecordError::io("create", folder, source);
        fs::create_dir_all(folder).map_err(fail)?;
        let num_before = fs::read_dir(folder).map_err(fail)?.count();
        // Readers take the files in the order of their names.
        let path = folder.join(format!("events.out.tfevents.{:010}.{num_before:04}", now_s.max(0.0) as u64));
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.map_err(|source| RecordError::io("create", &path, source))?;
        let origin_s = now_s - resumed_at.map_or(0.0, |moment| moment.elapsed_s);
        let mut board = Self { path, file, origin_s, world_size, previous: None };
        board.write(now_s, 0, Content::FileVersion("brain.Event:2".into()))?;
        let mut scalars = vec![("sizes/world".into(), world_size as f32)];
        match resumed_at {
            // Points at the checkpoint's own image count stay; training only adds points beyond it.
            Some(moment) => board.write(now_s, moment.images + 1, Content::SessionStart)?,
            None => scalars.push(("first".into(), now_s as f32)),
        }
        let images = resumed_at.map_or(0, |moment| moment.images);
        board.write(now_s, images, Content::Scalars(scalars))?;
        Ok(board)
    }

    /// Writes what a row says, as one event.
    ///
    /// # Errors
    /// [`RecordError::DiskFull`], [`RecordError::Io`].
    pub fn row(&mut self, row: &Row) -> Result<(), RecordError> {
        let scalars = match row {
            Row::Step(row) => step_scalars(row, self.previous, self.world_size),
            Row::Epoch(row) => epoch_scalars(row),
            Row::Phase(row) => phase_scalars(row),
            Row::End(_) => return Ok(()),
        };
        let at = *row.at();
        self.previous = matches!(row, Row::Step(_)).then_some(at);
        let scalars =
            scalars.into_iter().filter_map(|(tag, value)| Some((tag.into(), value? as f32))).collect();
        self.write(self.origin_s + at.elapsed_s, at.images, Content::Scalars(scalars))
    }

    fn write(&mut self, wall_time: f64, images: u64, content: Content) -> Result<(), RecordError> {
        let record = Event { wall_time, step: images as i64, content }.to_record();
        self.file.write_all(&record).map_err(|source| RecordError::io("write", &self.path, source))
    }
}

type Scalars = Vec<(&'static str, Option<f64>)>;

fn step_scalars(row: &StepRow, previous: Option<Moment>, world_size: u32) -> Scalars {
    let step_s = previous
        .filter(|previous| previous.step < row.at.step)
        .map(|previous| (row.at.elapsed_s - previous.elapsed_s) / (row.at.step - previous.step) as f64);
    let milliseconds = |seconds: Option<f64>| seconds.map(|seconds| 1e3 * seconds);
    let rank_images_per_s = row.images_per_s.map(|speed| speed / f64::from(world_size.max(1)));
    vec![
        ("losses/xent", Some(row.train_loss)),
        ("losses/train_1", row.train_top1),
        ("losses/train_5", row.train_top5),
        ("sizes/lr", Some(row.lr)),
        ("times/step", milliseconds(step_s)),
        ("times/data", milliseconds(row.data_wait_s)),
        ("times/comm", milliseconds(row.comm_wait_s)),
        ("times/1gpu_images_per_sec", rank_images_per_s),
        // Of one machine of that run, not of all.
        ("times/8gpu_images_per_sec", rank_images_per_s.map(|speed| 8.0 * speed)),
        ("cost/usd", row.cost_usd),
    ]
}

fn epoch_scalars(row: &EpochRow) -> Scalars {
    vec![
        ("epoch", Some(f64::from(row.at.epoch))),
        ("losses/val_xent", row.val_loss),
        ("losses/test_1", row.val_top1),
        ("losses/test_5", row.val_top5),
        ("times/eval_sec", row.eval_s),
        ("cost/usd", row.cost_usd),
    ]
}

fn phase_scalars(row: &PhaseRow) -> Scalars {
    vec![
        ("sizes/image", row.size.map(f64::from)),
        ("sizes/batch", row.batch_size.map(f64::from)),
        ("sizes/batch_total", row.global_batch_size.map(f64::from)),
        ("sizes/momentum", row.momentum),
    ]
}
