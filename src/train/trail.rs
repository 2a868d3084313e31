//! The numbers of the steps made last, on their way from the device, between the ranks, and into the record.
//!
//! They are read one step late, so that a device which works ahead of the host is never waited for, and added up over
//! the ranks while the step after that is computed. The wish to stop goes along, so all ranks stop after the same step.

use burn_dist::{Note, Pending, ReduceOp, agree};

use super::{loss, run::Run, session::Session, step::StepResult};
use crate::{
    error::{Error, Result},
    record::{Moment, StepRow},
};

/// A step whose numbers may still be on their way from the device.
pub(super) struct Launched {
    pub(super) result: StepResult,
    pub(super) moment: Moment,
    pub(super) lr: f64,
    /// Over all ranks.
    pub(super) num_images: u64,
    /// Of this rank, as all below.
    pub(super) num_skipped: u64,
    /// What its loss was multiplied by, and how many steps were skipped so far: the same on all ranks.
    pub(super) scaling: (f64, u64),
    pub(super) data_wait_s: f64,
    /// Since the step before was launched.
    pub(super) seconds: f64,
}

/// A step whose numbers are on their way between the ranks.
struct Sent {
    moment: Moment,
    lr: f64,
    scaling: (f64, u64),
    num_images: u64,
    seconds: f64,
    /// This rank's own.
    loss: f64,
    sums: Pending<Vec<f64>>,
}

/// Steps that are not on record yet.
#[derive(Default)]
pub(super) struct Trail {
    on_device: Option<Launched>,
    among_ranks: Option<Sent>,
    /// Whether a rank was asked to stop: the same on all ranks after the same step.
    pub(super) stopped: bool,
    /// Whether rank 0's clock says that it is time for a checkpoint: likewise.
    pub(super) overdue: bool,
}

impl Trail {
    /// Adds the step just launched, and records the one whose numbers have come.
    pub(super) fn add(&mut self, run: &mut Run<'_>, session: &mut Session, launched: Launched) -> Result<()> {
        let sent = self.on_device.replace(launched).map(|before| send(run, session, before));
        let arrived = std::mem::replace(&mut self.among_ranks, sent);
        self.record(run, session, arrived)?;
        if run.is_alone() {
            let sent = self.among_ranks.take();
            self.record(run, session, sent)?;
        }
        Ok(())
    }

    /// Waits for all of them.
    pub(super) fn settle(&mut self, run: &mut Run<'_>, session: &mut Session) -> Result<()> {
        let arrived = self.among_ranks.take();
        self.record(run, session, arrived)?;
        let sent = self.on_device.take().map(|last| send(run, session, last));
        self.record(run, session, sent)?;
        // What the device took beyond the last launch.
        session.progress.epoch.train_s += session.lap();
        Ok(())
    }

    /// Waits for a step's numbers, refuses a loss that is none, and records the rest.
    fn record(&mut self, run: &mut Run<'_>, session: &mut Session, sent: Option<Sent>) -> Result<()> {
        let Some(Sent { moment, lr, scaling, num_images, seconds, loss: own_loss, sums }) = sent else {
            return Ok(());
        };
        let sums = sums.wait()?.data;
        let [loss, top1, top5, skipped, stops, overdue, data_wait_s, comm_wait_s, comm_s] = sums[..] else {
            return Err(Error::run("the ranks' sums are not what was sent"));
        };
        let world_size = run.rank().world_size().count() as f64;
        let loss = loss / world_size;
        if !loss.is_finite() {
            return Err(Error::Diverged {
                loss,
                whose: whose(run, own_loss)?,
                step: moment.step,
                epoch: moment.epoch,
                phase: moment.phase + 1,
                lr,
                checkpoint: session.last_checkpoint_in_words(),
            });
        }
        self.stopped |= stops > 0.0;
        self.overdue |= overdue > 0.0;
        session.progress.skipped_images += skipped as u64;
        let totals = &mut session.progress.epoch;
        totals.images += num_images;
        totals.loss += loss * num_images as f64;
        totals.top1 += top1 as u64;
        totals.top5 += top5 as u64;
        totals.train_s += seconds;
        totals.data_wait_s += data_wait_s / world_size;
        totals.comm_wait_s += comm_wait_s / world_size;
        totals.comm_s += comm_s / world_size;

        let percent = |count: f64| Some(100.0 * count / num_images as f64);
        let skipped = session.progress.skipped_images;
        let (loss_scale, skipped_steps) = scaling;
        run.observer.step(&StepRow {
            at: moment,
            lr,
            train_loss: loss,
            train_top1: percent(top1),
            train_top5: percent(top5),
            images_per_s: Some(num_images as f64 / seconds),
            data_wait_s: Some(data_wait_s / world_size),
            comm_wait_s: run.among_many(comm_wait_s / world_size),
            comm_s: run.among_many(comm_s / world_size),
            skipped_images: (skipped > 0).then_some(skipped),
            loss_scale: (loss_scale != 1.0).then_some(loss_scale),
            skipped_steps: (skipped_steps > 0).then_some(skipped_steps),
            ..StepRow::default()
        })
    }
}

/// Reads a step's numbers from the device and sends them to the other ranks. Every rank's batch has the same size.
fn send(run: &Run<'_>, session: &Session, launched: Launched) -> Sent {
    let Launched { result, moment, lr, num_images, num_skipped, scaling, data_wait_s, seconds } = launched;
    let loss = f64::from(result.loss.into_scalar::<f32>());
    let (top1, top5) = loss::count_top(result.target_ranks);
    let stop = u64::from(run.stop.requested());
    let overdue = run.rank().is_main() && session.checkpoint_overdue(&run.plan.config.checkpoint);
    let counts = [top1, top5, num_skipped, stop, u64::from(overdue)].map(|count| count as f64);
    let seconds_of = [data_wait_s, result.comm_wait_s, result.comm_s];
    let mine = [loss].into_iter().chain(counts).chain(seconds_of).collect();
    let sums = run.comm.start_all_reduce(mine, ReduceOp::Sum, Note::default());
    Sent { moment, lr, scaling, num_images, seconds, loss, sums }
}

/// Whose loss is none, in words; nothing in a job of one.
fn whose(run: &Run<'_>, loss: f64) -> Result<String> {
    if run.is_alone() {
        return Ok(String::new());
    }
    let mine = if loss.is_finite() { String::new() } else { loss.to_string() };
    Ok(format!(" ({})", agree::say(&run.comm, &mine)?))
}
