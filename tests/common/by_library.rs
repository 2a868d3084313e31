//! Runs by the library: the ranks of a job as threads, and what each of them trains.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part of this")]

use std::{path::Path, thread};

use burn::tensor::Device;
use burn_dist::{Communicator, Config, WorldSize};
use burn_sprint::{
    Result,
    config::{DataFacts, Plan, Sources},
    data::Copies,
    record::{ProgressMode, RunInfo},
    train::{Job, Outcome, Stop, run},
};

use crate::common::TINY;

/// `work` on every rank of a job, each a thread.
pub fn on_ranks<T: Send>(world_size: u32, work: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    on_ranks_with(&Config::default(), world_size, work)
}

/// The same in a job with such settings.
pub fn on_ranks_with<T: Send>(
    config: &Config,
    world_size: u32,
    work: impl Fn(Communicator) -> T + Sync,
) -> Vec<T> {
    let mesh = Communicator::local_mesh(WorldSize::new(world_size).unwrap(), config).unwrap();
    thread::scope(|scope| {
        let ranks: Vec<_> = mesh.into_iter().map(|comm| scope.spawn(|| work(comm))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// A rank's run of the recipe [`TINY`] with `set` on top, on flex; `tell` changes what it is told.
pub fn train_rank(
    comm: Communicator,
    data: &Path,
    out: &Path,
    set: &[&str],
    tell: impl FnOnce(&mut Job<'_>),
) -> Result<Outcome> {
    let set = TINY.iter().chain(set).map(|&word| word.to_owned()).collect();
    let sources =
        Sources { preset: Some("default".into()), set, data: Some(data.into()), ..Sources::default() };
    let config = sources.resolve()?;
    let location = config.data.location()?.expect("it was said");
    let copies = config.phase.iter().filter_map(|phase| phase.data.as_deref());
    let pictures = Copies::open(&location, copies, config.data.val_fraction)?;
    let plan = Plan::new(config, DataFacts::of(&pictures.main().train), comm.rank().world_size())?;
    let mut job = Job {
        plan: &plan,
        data: &pictures,
        device: &Device::flex(),
        comm,
        out,
        resume: false,
        rehearse: false,
        stop: &Stop::new(),
        progress: ProgressMode::Silent,
        info: RunInfo::default(),
        now_s: 0.0,
    };
    tell(&mut job);
    run(job)
}
