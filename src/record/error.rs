//! What can go wrong while a run is being recorded or its record is read back. Each message is one line that
//! says which file, what was expected, what came, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a run's files could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The disk that holds the run folder has no room left.
    #[error("{path}: the disk is full; free some space there and resume the run")]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
    },
    /// The operating system refused an operation on a file.
    #[error("{path}: cannot {op}: {source}")]
    Io {
        /// What was attempted, as a verb: `read`, `create`, `write`.
        op: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of the run is not there.
    #[error("{path}: no such file; is its folder the folder of a run?")]
    Missing {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// A new run was to be recorded where another one is.
    #[error("{path}: a run is recorded here already; resume it, or choose another folder")]
    Exists {
        /// The file that is there.
        path: PathBuf,
    },
    /// A checkpoint remembers more metrics than the file still has.
    #[error(
        "{path}: {got_bytes} bytes long, but the checkpoint was taken at byte {expected_bytes}; \
         the file was cut or belongs to another run"
    )]
    MetricsShorter {
        /// The metrics file.
        path: PathBuf,
        /// Its length when the checkpoint was taken.
        expected_bytes: u64,
        /// Its length now.
        got_bytes: u64,
    },
    /// A checkpoint's position falls inside a line, so the file is not the one the checkpoint belongs to.
    #[error("{path}: byte {position} is not the start of a line; the file belongs to another run")]
    MetricsMisaligned {
        /// The metrics file.
        path: PathBuf,
        /// The position that the checkpoint remembers.
        position: u64,
    },
    /// A line of a text file is not what its format allows.
    #[error("{path}: line {line}: {reason}")]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A TensorBoard event file is damaged.
    #[error("{path}: byte {offset}: {reason}")]
    BadEvents {
        /// The event file.
        path: PathBuf,
        /// Where the damaged record starts.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The curves could not be drawn.
    #[error("cannot draw the curves: {reason}")]
    Drawing {
        /// The drawing library's reason.
        reason: String,
    },
}

impl RecordError {
    /// Sorts an error of the operating system into the variant that tells the user what to do.
    pub fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::NotFound if op == "read" => Self::Missing { path },
            _ => Self::Io { op, path, source },
        }
    }
}
