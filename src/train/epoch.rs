//! One pass over the training data, or what is left of it after a resume.

use std::time::Instant;

use super::{
    checkpoint::EpochTotals,
    input::train_transform,
    loss,
    run::Run,
    session::Session,
    step::{StepResult, step},
};
use crate::{
    data::{Loader, LoaderConfig, Pass},
    error::{Error, Result},
    recipe::Position,
    record::{Moment, StepRow},
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
///
/// Losses are read one step late, so that a device which works ahead of the host is never waited for.
pub(super) fn train(run: &mut Run<'_>, session: &mut Session, first: Position) -> Result<Pace> {
    let phase = run.plan.schedule.phase(first.phase);
    let last_step =
        session.progress.step + run.plan.schedule.steps_per_epoch(first.phase) - first.step_in_epoch;
    let mut loader = Loader::new(
        run.data.train.clone(),
        LoaderConfig {
            start_batch: first.step_in_epoch as usize,
            pass: Pass::Train {
                seed: run.plan.config.seed,
                epoch: first.epoch.into(),
                tail: crate::config::TAIL,
            },
            ..run.loader_config(train_transform(phase), phase.batch_size)
        },
    )?;
    if first.step_in_epoch == 0 {
        session.progress.epoch = EpochTotals::default();
    }

    let mut in_flight = None;
    while session.progress.step < last_step {
        let waiting = Instant::now();
        let batch = loader.next().ok_or_else(|| Error::run("the loader ended before the epoch"))??;
        let data_wait_s = waiting.elapsed().as_secs_f64();
        let at = session.next_position(&run.plan.schedule)?;

        let optimizer = &run.plan.config.optimizer;
        let result = step(
            &mut session.model,
            &mut session.optimizer,
            session.normalizer.tensors(&batch),
            at.lr,
            optimizer.label_smoothing,
            optimizer.micro_batches,
        );

        let num_images = (batch.len() * run.rank.world_size().count()) as u64;
        session.progress.step += 1;
        session.progress.images += num_images;
        session.progress.skipped_images += batch.skipped.len() as u64;
        let launched = Launched { result, moment: session.moment(at), lr: at.lr, num_images, data_wait_s };
        if let Some(before) = in_flight.replace(launched) {
            settle(run, session, before)?;
        }
        let stopped = run.stop.requested();
        // At the epoch's last step the state is saved after the evaluation, so that a step has one state.
        let due = session.progress.step < last_step && session.checkpoint_due(&run.plan.config.checkpoint);
        if stopped || due {
            settle(run, session, in_flight.take().expect("just put there"))?;
            session.save(run)?;
        }
        if stopped {
            return Ok(Pace::Stopped);
        }
    }
    if let Some(last) = in_flight {
        settle(run, session, last)?;
    }
    Ok(Pace::Through)
}

/// A step whose numbers may still be on their way.
struct Launched {
    result: StepResult,
    moment: Moment,
    lr: f64,
    num_images: u64,
    data_wait_s: f64,
}

/// Waits for a step's numbers, refuses a loss that is none, and records the rest.
fn settle(run: &mut Run<'_>, session: &mut Session, launched: Launched) -> Result<()> {
    let Launched { result, moment, lr, num_images, data_wait_s } = launched;
    let loss = f64::from(result.loss.into_scalar::<f32>());
    let (top1, top5) = loss::count_top(result.target_ranks);
    if !loss.is_finite() {
        return Err(Error::Diverged {
            loss,
            step: moment.step,
            epoch: moment.epoch,
            phase: moment.phase + 1,
            lr,
            checkpoint: session.last_checkpoint_in_words(),
        });
    }
    let seconds = session.lap();
    let totals = &mut session.progress.epoch;
    totals.images += num_images;
    totals.loss += loss * num_images as f64;
    totals.top1 += top1;
    totals.top5 += top5;
    totals.train_s += seconds;
    totals.data_wait_s += data_wait_s;

    let percent = |count: u64| Some(100.0 * count as f64 / num_images as f64);
    let skipped = session.progress.skipped_images;
    let row = StepRow {
        at: moment,
        lr,
        train_loss: loss,
        train_top1: percent(top1),
        train_top5: percent(top5),
        images_per_s: Some(num_images as f64 / seconds),
        data_wait_s: Some(data_wait_s),
        skipped_images: (skipped > 0).then_some(skipped),
        ..StepRow::default()
    };
    run.observer.step(&row)
}
