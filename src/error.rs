//! The one error of the crate, sorted by whose fault it is, and the exit status that follows from it.
//!
//! Messages are one line, lower-case, and say what was expected, what came and what to do.

use std::{
    fmt, io,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{Mutex, PoisonError},
};

use burn_dist::DistError;
use burn_resnet::weights::WeightsError;

use crate::record::RecordError;

/// What went wrong, by whose fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The words of the command line or of a configuration file: nothing was started.
    #[error("{0}")]
    Usage(String),
    /// The pictures, or where they should be.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// A weights file does not fit the model, or is none.
    #[error(transparent)]
    Weights(WeightsError),
    /// A checkpoint or another file of a run cannot be used.
    #[error("{0}")]
    Run(String),
    /// What the run records could not be written or read back.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Ranks could not be launched, or one of them failed.
    #[error(transparent)]
    Launch(#[from] crate::cluster::LaunchError),
    /// The system refused to read or write.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, as a verb: `read`, `create`.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The loss stopped being a number.
    #[error(
        "the loss{whose} is {loss} at step {step} (epoch {epoch}, phase {phase}): the learning rate {lr} may be too high; \
         {checkpoint}"
    )]
    Diverged {
        /// The loss that came.
        loss: f64,
        /// In a job of several, which ranks have one that is none.
        whose: String,
        /// The step, from 1.
        step: u64,
        /// The epoch, from 0.
        epoch: u32,
        /// The phase, from 1 as a person counts the `[[phase]]` tables.
        phase: u32,
        /// The learning rate of that step.
        lr: f64,
        /// What is left of the run.
        checkpoint: String,
    },
    /// The other ranks: one of them failed, or they do not agree.
    #[error(transparent)]
    Dist(#[from] DistError),
    /// The store that the pictures are in stayed away for longer than it may; the state is saved.
    #[error("{cause}; {kept}")]
    Away {
        /// Which object, what came instead, for how long it was tried; of several ranks whose.
        cause: String,
        /// What is left of the run, and how it goes on.
        kept: String,
    },
    /// The user asked to stop; the state is saved.
    #[error("{0}")]
    Stopped(String),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What `work` returns, or the first line of its panic, which is not shown: the libraries of devices panic where another
/// would return an error.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    /// The hook is the whole process', and ranks may be threads of one.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(hook);
    outcome.map_err(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied());
        text.and_then(|text| text.lines().next()).unwrap_or("no reason given").to_owned()
    })
}

impl Error {
    /// Words that cannot be followed.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// A file of a run that cannot be used.
    pub fn run(message: impl fmt::Display) -> Self {
        Self::Run(message.to_string())
    }

    /// For `map_err` on what the system refused.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match is_full(&source) {
            true => RecordError::io(action, path, source).into(),
            false => Self::Io { action, path: path.display().to_string(), source },
        }
    }

    /// The exit status of the command: 1 the run failed, 2 the words were wrong, 130 the user stopped it; of a launch
    /// that failed, the status of the rank that was the cause.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Dist(DistError::Config(_)) => 2,
            Self::Stopped(_) => 130,
            Self::Launch(error) => error.exit_status(),
            _ => 1,
        }
    }
}

impl From<WeightsError> for Error {
    fn from(error: WeightsError) -> Self {
        match error {
            WeightsError::Write { path, source } if is_full(&source) => {
                RecordError::io("write", &path, source).into()
            }
            other => Self::Weights(other),
        }
    }
}

/// A full disk has one message, whatever was being written.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
