//! An operation that runs while its rank does something else: what goes in beside the numbers, and what comes back.

use std::sync::mpsc::Receiver;

use crate::error::{DistError, Result};

/// What a rank says of the numbers that it gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Note {
    /// Their number among several buffers that are under way at once; for messages.
    pub bucket: u32,
    /// Some of them are NaN or infinite. It travels with them: all ranks hear of it.
    pub not_finite: bool,
}

/// Numbers that came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Reduced<T> {
    /// The buffer that was given, with the result.
    pub data: Vec<T>,
    /// Some rank's [`Note`] said that its numbers are not finite.
    pub not_finite: bool,
    /// How long the operation was under way, in seconds.
    pub seconds: f64,
    /// How much of that was waiting for other ranks.
    pub wait_s: f64,
}

/// An operation under way. Dropping it does not end the operation.
#[derive(Debug)]
#[must_use = "the result is lost with it"]
pub struct Pending<T>(Receiver<Result<Reduced<T>>>);

impl<T> Pending<T> {
    pub(crate) fn new(answer: Receiver<Result<Reduced<T>>>) -> Self {
        Self(answer)
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// The [`Fault`](crate::Fault) that ended the job.
    pub fn wait(self) -> Result<Reduced<T>> {
        // The thread that answers holds the sender until it has: without an answer it panicked.
        self.0
            .recv()
            .unwrap_or_else(|_| Err(DistError::usage("the data thread of this communicator is gone")))
    }
}
