//! `metrics.jsonl` as a file: rows are appended whole, cut back at a resume, and read back.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{RecordError, Row};

/// No row comes near this; a longer line is damage, and is refused before it fills the memory.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Appends rows to `metrics.jsonl`; each row is one write, so a kill leaves at most the last line half written.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    position: u64,
}

impl MetricsLog {
    /// Starts a new file.
    ///
    /// # Errors
    /// [`RecordError::Exists`] if the file is there already: two runs are not mixed. [`RecordError::Io`].
    pub fn create(path: &Path) -> Result<Self, RecordError> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        let file = file.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => RecordError::Exists { path: path.to_path_buf() },
            _ => RecordError::io("create", path, source),
        })?;
        Ok(Self { path: path.to_path_buf(), file, position: 0 })
    }

    /// Goes on from `position`, dropping what the run wrote after its last checkpoint.
    ///
    /// # Errors
    /// [`RecordError::Missing`], [`RecordError::MetricsShorter`], [`RecordError::MetricsMisaligned`] if the file
    /// cannot be the one that the checkpoint was taken beside; [`RecordError::Io`]. The file is then untouched.
    pub fn resume(path: &Path, position: u64) -> Result<Self, RecordError> {
        let fail = |source| RecordError::io("read", path, source);
        let mut file = OpenOptions::new().read(true).append(true).open(path).map_err(fail)?;
        let got_bytes = file.metadata().map_err(fail)?.len();
        if got_bytes < position {
            let path = path.to_path_buf();
            return Err(RecordError::MetricsShorter { path, expected_bytes: position, got_bytes });
        }
        if let Some(before) = position.checked_sub(1) {
            let mut byte = [0];
            file.seek(SeekFrom::Start(before)).and_then(|_| file.read_exact(&mut byte)).map_err(fail)?;
            if byte != *b"\n" {
                return Err(RecordError::MetricsMisaligned { path: path.to_path_buf(), position });
            }
        }
        file.set_len(position).map_err(|source| RecordError::io("truncate", path, source))?;
        Ok(Self { path: path.to_path_buf(), file, position })
    }

    /// Adds a row; when this returns, the row outlives the process (for the machine, see [`Self::sync`]).
    ///
    /// # Errors
    /// [`RecordError::DiskFull`], [`RecordError::Io`]. A part that was written is taken back.
    pub fn append(&mut self, row: &Row) -> Result<(), RecordError> {
        let mut line =
            serde_json::to_vec(row).expect("a row holds numbers and strings only, which JSON can write");
        line.push(b'\n');
        match self.file.write_all(&line) {
            Ok(()) => {
                self.position += line.len() as u64;
                Ok(())
            }
            Err(source) => {
                // Best effort: half a line would spoil the next row; the reader forgives it at the end of the file.
                let _ = self.file.set_len(self.position);
                Err(RecordError::io("write", &self.path, source))
            }
        }
    }

    /// The file's length in bytes: what a checkpoint remembers, after [`Self::sync`], for [`Self::resume`].
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Waits until all rows are on the disk.
    ///
    /// # Errors
    /// [`RecordError::DiskFull`], [`RecordError::Io`].
    pub fn sync(&self) -> Result<(), RecordError> {
        self.file.sync_data().map_err(|source| RecordError::io("write", &self.path, source))
    }
}

/// Reads all rows of a run. Keys that are not known are passed over, and so is a last line that a kill cut short.
///
/// # Errors
/// [`RecordError::Missing`], [`RecordError::Io`]; [`RecordError::BadLine`] naming the line that is no row.
pub fn read_rows(path: &Path) -> Result<Vec<Row>, RecordError> {
    let fail = |source| RecordError::io("read", path, source);
    let mut reader = BufReader::new(File::open(path).map_err(fail)?);
    let (mut rows, mut line) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(fail)?;
        let whole = line.ends_with(b"\n");
        let bad = |reason| RecordError::BadLine { path: path.to_path_buf(), line: number, reason };
        if line.len() as u64 == LINE_BYTES_MAX && !whole {
            return Err(bad(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        match serde_json::from_slice(&line) {
            Ok(row) => rows.push(row),
            Err(_) if !whole => break,
            Err(error) => return Err(bad(format!("not a row of metrics: {error}"))),
        }
    }
    Ok(rows)
}
