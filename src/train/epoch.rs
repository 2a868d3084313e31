//! One pass over the training data, or what is left of it after a resume.

use std::time::Instant;

use burn_dist::DistError;

use super::{
    lost,
    mix::Mix,
    precision,
    progress::EpochTotals,
    run::Run,
    session::Session,
    step::{StepConfig, step},
    trail::{Launched, Trail},
};
use crate::{
    data::random::Stream,
    error::{Error, Result},
    recipe::Position,
};

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// At the epoch's last step.
    Through,
    /// Where the user wanted it to stop.
    Stopped,
}

/// Trains from the session's step to the end of the epoch.
pub(super) fn train(run: &mut Run<'_>, session: &mut Session, first: Position) -> Result<Pace> {
    let last_step =
        session.progress.step + run.plan.schedule.steps_per_epoch(first.phase) - first.step_in_epoch;
    if first.step_in_epoch == 0 {
        session.progress.epoch = EpochTotals::default();
    }

    let optimizer = &run.plan.config.optimizer;
    let rule = precision::loss_scale(&run.plan.config);
    let mut trail = Trail::default();
    while session.progress.step < last_step {
        let at =
            session.next_position(&run.plan.schedule).ok_or_else(|| Error::run("the epoch has ended"))?;
        let waiting = Instant::now();
        let batch = session.feed.next(run, at);
        // Without the wait for other ranks, which is not one for data.
        let data_wait_s = waiting.elapsed().as_secs_f64();
        let batch = match lost::together(run, batch) {
            Err(error @ Error::Away { .. }) => {
                trail.settle(run, session)?;
                return Err(error);
            }
            other => other?,
        };
        session.optimizer.set_momentum(at.momentum.unwrap_or(optimizer.momentum));

        let (images, classes) = session.normalizer.tensors(&batch);
        let [_, _, height, width] = images.dims();
        let rank = run.rank().index() as u32;
        let mut stream = Stream::of_mix(run.plan.config.seed, at.epoch.into(), at.step_in_epoch, rank);
        let mixed = match Mix::draw(optimizer, [height, width], &mut stream) {
            Some(mix) => mix.apply(images, classes),
            None => (images, classes.into()),
        };
        let loss_scale = session.progress.scaler.scale(rule);
        let result = step(
            &mut session.model,
            &mut session.optimizer,
            &mut session.ddp,
            mixed,
            at.lr,
            StepConfig::new(optimizer, loss_scale),
        );
        let result = result.map_err(|error| in_context(error, session, at))?;
        session.progress.scaler.update(rule, result.skipped.is_some());
        if let Some(why) = result.skipped.as_ref().filter(|_| session.progress.scaler.is_stuck()) {
            let why =
                format!("{why}, as in the steps before, at a loss scale of {loss_scale} that goes no lower,");
            return Err(in_context(DistError::NonFinite(why), session, at));
        }
        if let Some(average) = session.average.as_mut().filter(|_| result.skipped.is_none()) {
            average.update(&session.model);
        }

        let num_images = (batch.len() * run.rank().world_size().count()) as u64;
        session.progress.step += 1;
        session.progress.steps_in_epoch += 1;
        session.progress.images += num_images;
        let launched = Launched {
            result,
            moment: session.moment(at),
            lr: at.lr,
            num_images,
            num_skipped: batch.skipped.len() as u64,
            scaling: (loss_scale, session.progress.scaler.skipped_steps()),
            data_wait_s,
            seconds: session.lap(),
        };
        trail.add(run, session, launched)?;
        let stopped = trail.stopped || (run.is_alone() && run.stop.requested());
        // At the epoch's last step the state is saved after the evaluation, so that a step has one state.
        let due = trail.overdue || session.checkpoint_due(&run.plan.config.checkpoint);
        if stopped || (due && session.progress.step < last_step) {
            trail.settle(run, session)?;
            session.save(run)?;
            trail.overdue = false;
        }
        if stopped {
            return Ok(Pace::Stopped);
        }
    }
    trail.settle(run, session)?;
    Ok(Pace::Through)
}

/// A gradient that is no number, with the place in the run.
fn in_context(error: DistError, session: &Session, at: Position) -> Error {
    let DistError::NonFinite(why) = error else { return error.into() };
    Error::run(format!(
        "{why} at step {} (epoch {}, phase {}): the learning rate {} may be too high; {}",
        session.progress.step + 1,
        at.epoch,
        at.phase + 1,
        at.lr,
        session.last_checkpoint_in_words()
    ))
}
