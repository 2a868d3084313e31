//! The training batches of a run, from its first step to its last. One loader goes through all epochs and is told of
//! the next one while it is at this one, so an epoch's first batches are made beside the last ones of the epoch before
//! it, and beside the evaluation between them.

use super::{input::train_transform, run::Run};
use crate::{
    data::{Batch, Loader, LoaderConfig, Pass, SharedSource},
    error::{Error, Result},
    recipe::Position,
};

/// The training batches of a run.
#[derive(Debug, Default)]
pub(super) struct Feed {
    loader: Option<Loader>,
    /// The first epoch that the loader was not told of.
    next_epoch: u32,
}

impl Feed {
    /// Waits for the batch of the step at `at`. Steps come in order, from whichever is first.
    ///
    /// # Errors
    /// Those of the loader, which name the picture.
    pub(super) fn next(&mut self, run: &Run<'_>, at: Position) -> Result<Batch> {
        let loader = match &mut self.loader {
            Some(loader) => loader,
            None => {
                let (source, config) = epoch(run, at)?;
                self.next_epoch = at.epoch + 1;
                self.loader.insert(Loader::new(source, config)?)
            }
        };
        // Only now: the threads are at work on this epoch.
        if self.next_epoch == at.epoch + 1 {
            if let Some(first) = run.plan.schedule.at(self.next_epoch, 0) {
                let (source, config) = epoch(run, first)?;
                loader.add(source, config)?;
            }
            self.next_epoch += 1;
        }
        let batch = loader.next().ok_or_else(|| Error::run("the loader ended before the run"))??;
        if batch.number as u64 != at.step_in_epoch {
            return Err(Error::run("the loader has another number of batches than the epoch has steps"));
        }
        Ok(batch)
    }
}

/// What is read in an epoch from the step at `first` on.
fn epoch(run: &Run<'_>, first: Position) -> Result<(SharedSource, LoaderConfig)> {
    let phase = run.plan.schedule.phase(first.phase);
    let source = run.data.get(phase.data.as_deref())?.train.clone();
    let pass = Pass::Train {
        seed: run.plan.config.seed,
        epoch: first.epoch.into(),
        tail: run.plan.config.data.tail,
    };
    let config = LoaderConfig {
        start_batch: first.step_in_epoch as usize,
        pass,
        shuffle: run.plan.config.data.shuffle,
        ..run.loader_config(train_transform(phase), phase.batch_size)
    };
    Ok((source, config))
}
