//! Gradients that leave the device while the backward pass still runs: the same step with a second rank, which has no
//! work of its own and waits for every bucket. Both are threads of this process, so what is measured is the way off the
//! device, through shared memory and back, by the code of a job of many ranks; not a network.

use std::thread;

use burn::tensor::Device;
use burn_dist::{Communicator, Config, DataParallel, DistError, WorldSize};
use burn_resnet::ResNetConfig;

use super::{
    case::Case,
    page::{Exchange, StepRow},
    steps::{Training, data_parallel, rounds, warm_up},
};
use crate::error::{Error, Result};

/// Fills in what the step takes when its gradients are exchanged.
///
/// # Errors
/// The device or one of the ranks fails.
pub(super) fn measure(
    config: &ResNetConfig,
    case: Case,
    device: &Device,
    host: &Device,
    row: &mut StepRow,
) -> Result<()> {
    let world_size = WorldSize::new(2).expect("two is not zero");
    let mut ranks = Communicator::local_mesh(world_size, &Config::default())?;
    let idle = ranks.pop().expect("a job of two has two");
    let busy = ranks.pop().expect("a job of two has two");
    thread::scope(|scope| {
        // Ends when the other one's half is dropped.
        let waiting = scope.spawn(|| wait_for_gradients(config, case, host, idle));
        let measured = busy_rank(config, case, device, busy);
        let waited = waiting.join().unwrap_or_else(|_| Err(Error::run("the second rank panicked")));
        row.exchange = Some(measured?);
        waited
    })
}

fn busy_rank(config: &ResNetConfig, case: Case, device: &Device, comm: Communicator) -> Result<Exchange> {
    let vote = comm.clone();
    let mut training = Training::new(config, case, device, comm)?;
    let mut num_steps = 0;
    let mut comm_wait_s = 0.0;
    let mut step = || {
        more(&vote, true)?;
        comm_wait_s += training.step()?;
        num_steps += 1;
        Ok(())
    };
    let outcome = warm_up(device, &mut step)
        .and_then(|warm_up| rounds(device, warm_up.last().copied().unwrap_or_default(), &mut step));
    let told = more(&vote, false);
    let step = outcome?;
    told?;
    Ok(Exchange { step, comm_wait_s: comm_wait_s / f64::from(num_steps.max(1)) })
}

/// A rank whose gradients are zeros: it takes part in every step, and computes none.
fn wait_for_gradients(config: &ResNetConfig, case: Case, host: &Device, comm: Communicator) -> Result<()> {
    let vote = comm.clone();
    let model = config.init(0, &host.clone().autodiff());
    let segments = model.segments();
    let (mut ddp, model) = DataParallel::staged(comm, model, &segments, data_parallel(case.precision))?;
    while more(&vote, false)? {
        ddp.sink().finish(&model)?;
    }
    Ok(())
}

/// Whether there is another step: the busy rank's word.
fn more(comm: &Communicator, mine: bool) -> Result<bool, DistError> {
    comm.vote(mine, burn_dist::Vote::Any)
}
