//! The trainer's one handle on everything that a run writes but its checkpoints. Only rank 0 has one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dawn::{DawnInfo, DawnRow, dawn_json, dawn_rows, dawn_tsv};
use super::log::{MetricsLog, read_rows};
use super::metrics::{EndRow, EpochRow, PhaseRow, Row, StepRow};
use super::tensorboard::TensorBoard;
use super::{RecordError, write_atomic, write_report};

/// What the record says of a run besides its rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunInfo {
    /// Number of processes.
    pub world_size: u32,
    /// Facts about machine and program for the report, as `cpu` or `version`.
    pub environment: BTreeMap<String, String>,
    /// What `dawn.json` asks for.
    pub dawn: DawnInfo,
}

/// Writes a run's record into its folder: `metrics.jsonl` and `tb/` row by row, `dawn.tsv` after each epoch, and
/// `dawn.json`, `curve.png`, `report.html` at the end.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    info: RunInfo,
    metrics: MetricsLog,
    board: TensorBoard,
    dawn: Vec<DawnRow>,
}

impl Recorder {
    /// Starts the record of a new run in `folder`; `now_s` is seconds since 1970.
    ///
    /// # Errors
    /// [`RecordError::Exists`] if the folder has the `metrics.jsonl` of another run; [`RecordError::Io`].
    pub fn create(folder: &Path, info: RunInfo, now_s: f64) -> Result<Self, RecordError> {
        std::fs::create_dir_all(folder).map_err(|source| RecordError::io("create", folder, source))?;
        let metrics = MetricsLog::create(&folder.join("metrics.jsonl"))?;
        let board = TensorBoard::create(&folder.join("tb"), now_s, None, info.world_size)?;
        Self::open(folder, info, metrics, board, Vec::new())
    }

    /// Takes up the record of a run that was checkpointed at [`Self::position`] `position`; what it wrote after that
    /// is dropped, so the rows become those of a run that never stopped.
    ///
    /// # Errors
    /// Those of [`MetricsLog::resume`] and [`read_rows`]; [`RecordError::Io`].
    pub fn resume(folder: &Path, position: u64, info: RunInfo, now_s: f64) -> Result<Self, RecordError> {
        let path = folder.join("metrics.jsonl");
        let metrics = MetricsLog::resume(&path, position)?;
        let rows = read_rows(&path)?;
        let moment = rows.last().map(|row| *row.at()).unwrap_or_default();
        let board = TensorBoard::create(&folder.join("tb"), now_s, Some(moment), info.world_size)?;
        Self::open(folder, info, metrics, board, dawn_rows(&rows))
    }

    fn open(
        folder: &Path,
        info: RunInfo,
        metrics: MetricsLog,
        board: TensorBoard,
        dawn: Vec<DawnRow>,
    ) -> Result<Self, RecordError> {
        let environment = serde_json::to_string_pretty(&info.environment).expect("a map of strings is JSON");
        write_atomic(&folder.join("environment.json"), environment.as_bytes())?;
        let recorder = Self { folder: folder.to_path_buf(), info, metrics, board, dawn };
        recorder.write_dawn_tsv()?;
        Ok(recorder)
    }

    /// The position that a checkpoint remembers for [`Self::resume`]; all rows before it are on the disk.
    ///
    /// # Errors
    /// [`RecordError::DiskFull`], [`RecordError::Io`].
    ///
    /// # Cost
    /// One fsync.
    pub fn position(&self) -> Result<u64, RecordError> {
        self.metrics.sync()?;
        Ok(self.metrics.position())
    }

    /// Records a step.
    ///
    /// # Errors
    /// [`RecordError::DiskFull`], [`RecordError::Io`].
    pub fn step(&mut self, row: &StepRow) -> Result<(), RecordError> {
        self.row(Row::Step(row.clone()))
    }

    /// Records the end of an epoch and brings `dawn.tsv` up to it.
    ///
    /// # Errors
    /// [`RecordError::DiskFull`], [`RecordError::Io`].
    pub fn epoch(&mut self, row: &EpochRow) -> Result<(), RecordError> {
        let row = Row::Epoch(row.clone());
        self.dawn.extend(dawn_rows(std::slice::from_ref(&row)));
        self.row(row)?;
        self.write_dawn_tsv()
    }

    /// Records the start of a phase.
    ///
    /// # Errors
    /// [`RecordError::DiskFull`], [`RecordError::Io`].
    pub fn phase(&mut self, row: &PhaseRow) -> Result<(), RecordError> {
        self.row(Row::Phase(row.clone()))
    }

    /// Records the end of the run and writes what is made from the whole of it.
    ///
    /// # Errors
    /// [`RecordError::DiskFull`], [`RecordError::Io`], [`RecordError::Drawing`].
    pub fn end(mut self, row: &EndRow) -> Result<(), RecordError> {
        self.row(Row::End(row.clone()))?;
        self.metrics.sync()?;
        let rows = read_rows(&self.folder.join("metrics.jsonl"))?;
        write_atomic(&self.folder.join("dawn.json"), dawn_json(&rows, &self.info.dawn).as_bytes())?;
        write_report(&self.folder)
    }

    fn row(&mut self, row: Row) -> Result<(), RecordError> {
        self.metrics.append(&row)?;
        self.board.row(&row)
    }

    fn write_dawn_tsv(&self) -> Result<(), RecordError> {
        write_atomic(&self.folder.join("dawn.tsv"), dawn_tsv(&self.dawn).as_bytes())
    }
}
