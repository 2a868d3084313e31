//! An operation that runs while its rank does something else: what goes in beside the numbers, and what comes back.

use std::sync::mpsc::{self, Receiver, Sender};

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
pub struct Reduced<B> {
    /// The buffer that was given, with the result.
    pub data: B,
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
pub struct Pending<B>(Receiver<Result<Reduced<B>>>);

impl<B> Pending<B> {
    /// An operation, and where its result goes.
    pub(crate) fn new() -> (Sender<Result<Reduced<B>>>, Self) {
        let (answer, pending) = mpsc::channel();
        (answer, Self(pending))
    }

    /// An operation that was through at once.
    pub(crate) fn done(result: Result<Reduced<B>>) -> Self {
        let (answer, pending) = Self::new();
        // The receiver is here.
        let _ = answer.send(result);
        pending
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// The [`Fault`](crate::Fault) that ended the job.
    pub fn wait(self) -> Result<Reduced<B>> {
        // The thread that answers holds the sender until it has: without an answer it panicked.
        self.0
            .recv()
            .unwrap_or_else(|_| Err(DistError::usage("the data thread of this communicator is gone")))
    }
}
