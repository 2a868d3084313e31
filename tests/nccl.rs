//! Goal: gradients that go from GPU to GPU by NCCL train as those over TCP do: the same averages to a few roundings, the same
//! bits on all ranks, the same decision at a gradient that is no number, and an end for all when a rank fails.
//!
//! Method: ranks as threads of this process, each with a GPU of its own; the job over TCP is the reference. Where there are no
//! two GPUs, or no NCCL, a line says so. A communicator of one rank is tested in burn-dist's `ddp/gpu.rs`.

#![cfg(feature = "nccl")]
#![allow(clippy::unwrap_used)]

#[path = "common/by_library.rs"]
mod by_library;
mod common;

use burn::{
    module::{Module, ModuleVisitor, Param},
    nn::{Linear, LinearConfig},
    optim::GradientsParams,
    tensor::{Device, Distribution, Tensor},
};
use burn_dist::{Agreed, Communicator, Config, DataParallel, DataParallelConfig, DistError, NonFinite};
use burn_sprint::cluster::visible_gpus;

/// Ranks of these tests at most.
const MAX_RANKS: usize = 4;

/// Ranks that can have a GPU each; `None`, with a line that says so, if there are no two.
fn num_ranks() -> Option<u32> {
    match visible_gpus() {
        Ok(gpus) if gpus.len() >= 2 => Some(gpus.len().min(MAX_RANKS) as u32),
        Ok(gpus) => {
            eprintln!("SKIP: {} GPU, expected at least 2", gpus.len());
            None
        }
        Err(why) => {
            eprintln!("SKIP: {why}");
            None
        }
    }
}

/// A network of several buckets.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    second: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        let layer = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        Self { first: layer(600, 1000), second: layer(1000, 10) }
    }
}

/// Of a batch of this rank's own.
fn gradients(net: &Net, rank: usize, device: &Device) -> GradientsParams {
    device.seed(rank as u64);
    let images = Tensor::<2>::random([8, 600], Distribution::Normal(0.0, 1.0), device);
    let loss = net.second.forward(net.first.forward(images)).powi_scalar(2).mean();
    GradientsParams::from_grads(loss.backward(), net)
}

fn values(net: &Net, gradients: &GradientsParams) -> Vec<f32> {
    struct Read<'a>(&'a GradientsParams, Vec<f32>);
    impl ModuleVisitor for Read<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.extend(self.0.get::<D>(param.id).unwrap().into_data().iter::<f32>());
        }
    }
    let mut read = Read(gradients, Vec::new());
    net.visit(&mut read);
    read.1
}

fn device(comm: &Communicator) -> Device {
    Device::cuda(comm.rank().index()).autodiff()
}

#[test]
fn averages_are_those_over_tcp() {
    let Some(num_ranks) = num_ranks() else { return };
    let averages = [true, false].map(|nccl| {
        let config = Config { agreed: Agreed { nccl, ..Agreed::default() }, ..Config::default() };
        let ranks = by_library::on_ranks_with(&config, num_ranks, |comm| {
            let (rank, device) = (comm.rank().index(), device(&comm));
            let (mut ddp, net) =
                DataParallel::new(comm, Net::new(&device), DataParallelConfig::default()).unwrap();
            // Again: what is kept between steps must not be an earlier step's.
            let mut twice = [0, 1].map(|step| {
                let mine = gradients(&net, rank + 10 * step, &device);
                values(&net, &ddp.average(mine, &net).unwrap())
            });
            std::mem::take(&mut twice[1])
        });
        assert!(ranks.iter().all(|rank| rank == &ranks[0]), "ranks differ");
        ranks.into_iter().next().unwrap()
    });
    let [by_nccl, by_tcp] = averages;
    let largest = by_tcp.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    for (a, b) in by_nccl.iter().zip(&by_tcp) {
        assert!((a - b).abs() <= 1e-5 * largest, "{a} {b}");
    }
}

#[test]
fn a_step_with_a_gradient_that_is_no_number_is_skipped_by_all() {
    let Some(num_ranks) = num_ranks() else { return };
    let skipped = by_library::on_ranks(num_ranks, |comm| {
        let (rank, device) = (comm.rank().index(), device(&comm));
        let config = DataParallelConfig { non_finite: NonFinite::SkipStep, ..DataParallelConfig::default() };
        let (mut ddp, net) = DataParallel::new(comm, Net::new(&device), config).unwrap();
        let mut mine = gradients(&net, rank, &device);
        if rank == 1 {
            let id = net.second.bias.as_ref().unwrap().id;
            mine.register(id, Tensor::<1>::full([10], f32::NAN, &device.clone().without_autodiff()));
        }
        let mut sink = ddp.sink();
        sink.ready(&net, mine).unwrap();
        let skipped = sink.finish(&net).unwrap();
        assert!(skipped.gradients.is_empty());
        let next = ddp.average(gradients(&net, rank, &device), &net).unwrap();
        assert!(values(&net, &next).iter().all(|value| value.is_finite()));
        skipped.skipped.unwrap()
    });
    for why in skipped {
        assert!(why.starts_with("rank 1 on ") && why.contains("gradient of second.bias"), "{why}");
    }
}

/// Rank 1 fails while the others wait for it inside NCCL, where without an abort they would stay.
#[test]
fn a_rank_that_fails_ends_the_others_operations() {
    let Some(num_ranks) = num_ranks() else { return };
    let errors = by_library::on_ranks(num_ranks, |comm| {
        let (rank, device) = (comm.rank().index(), device(&comm));
        let (mut ddp, net) =
            DataParallel::new(comm.clone(), Net::new(&device), DataParallelConfig::default()).unwrap();
        if rank == 1 {
            comm.fail("its GPU fell off the bus");
            return None;
        }
        Some(ddp.average(gradients(&net, rank, &device), &net).unwrap_err())
    });
    for error in errors.into_iter().flatten() {
        let DistError::Fault(fault) = error else { panic!("{error}") };
        assert_eq!(fault.culprits[0].rank, 1, "{fault}");
        assert!(fault.detail.contains("fell off the bus"), "{fault}");
    }
}
