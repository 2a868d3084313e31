//! A training step of several ranks, beside what it is made of: the same step without communication (of which the
//! backward pass), and the same communication without a step. `ratio` is the step over the larger of the two: 1 is
//! perfect overlap.
//!
//! `benches/peers/ddp_step.sh RATE` runs it on two ranks over a link of that rate, and PyTorch's DDP on the same. Without a
//! launcher's variables it is a try with two tiny ranks inside this process.

use std::{error::Error, time::Instant};

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use burn_dist::{
    BucketConfig, Communicator, Config, DataParallel, DataParallelConfig, Note, ReduceOp, WorldSize,
    measure::Timing,
};
use burn_resnet::{Depth, ResNet, ResNetConfig, backward_staged};
use burn_sprint::{
    config::OptimizerConfig,
    train::{self, StepConfig},
};
use serde_json::json;

/// The allocator of the program `sprint`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What is timed.
#[derive(Debug, Clone, Copy)]
struct Case {
    depth: Depth,
    width: usize,
    size: usize,
    batch_size: usize,
    repeats: usize,
    buckets: BucketConfig,
}

fn main() -> Result<()> {
    burn_sprint::allocator::keep_freed_memory();
    let builder = Communicator::builder().from_env()?;
    if !builder.was_launched() {
        let (repeats, buckets) = (1, BucketConfig::default());
        let tiny = Case { depth: Depth::D18, width: 8, size: 32, batch_size: 2, repeats, buckets };
        let two = WorldSize::new(2).ok_or("two is a world size")?;
        let ranks = Communicator::local_mesh(two, &Config::default())?;
        return std::thread::scope(|scope| {
            let ranks: Vec<_> = ranks.into_iter().map(|comm| scope.spawn(move || time(comm, tiny))).collect();
            ranks.into_iter().try_for_each(|rank| rank.join().map_err(|_| "a rank panicked")?)
        });
    }
    // The words are numbers: the cap of a bucket in MiB, the network's layers, the pictures' side, pictures a rank.
    // cargo's own word `--bench` is none.
    let mut words = std::env::args().filter_map(|word| word.parse::<usize>().ok());
    let cap_mib = words.next().unwrap_or(25);
    let depth = words.next().map_or(Ok(Depth::D18), |layers| Depth::try_from(layers as u64))?;
    let (size, batch_size) = (words.next().unwrap_or(64), words.next().unwrap_or(16));
    let buckets = BucketConfig { cap_bytes: cap_mib << 20, ..BucketConfig::default() };
    let case = Case { depth, width: 64, size, batch_size, repeats: 11, buckets };
    time(builder.connect()?, case)
}

fn time(comm: Communicator, case: Case) -> Result<()> {
    let Case { depth, width, size, batch_size, repeats, buckets } = case;
    let device = Device::flex();
    let model = || -> Result<ResNet> {
        let config = ResNetConfig::new(depth, 1000)?.with_width(width)?;
        Ok(config.init(0, &device.clone().autodiff()))
    };
    let optimizer = OptimizerConfig::default();
    let images = Tensor::<4>::random([batch_size, 3, size, size], Distribution::Normal(0.0, 1.0), &device);
    let targets: Vec<i64> = (0..batch_size as i64).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::from(targets.as_slice()), &device);
    let batch = || (images.clone(), targets.clone());
    let settings = DataParallelConfig { buckets, ..DataParallelConfig::default() };
    // A rate at which nothing moves far: what is timed is the work.
    let (lr, config) = (1e-4, StepConfig::new(&optimizer, 1.0));

    let (mut together, mut model_together) = {
        let model = model()?;
        let segments = model.segments();
        DataParallel::staged(comm.clone(), model, &segments, settings)?
    };
    let (mut alone, mut model_alone) = DataParallel::new(Communicator::single(), model()?, settings)?;
    let mut sgd_together = train::Optimizer::new(&optimizer, &model_together);
    let mut sgd_alone = train::Optimizer::new(&optimizer, &model_alone);
    let num_params = model_alone.config().num_params() as usize;

    // In turns, so that drift meets all alike, and each twice, the first time uncounted, as one step follows another: a
    // step after another kind of work finds its memory gone back to the system. All ranks begin together, and the
    // slower one's time counts.
    let turn = |work: &mut dyn FnMut() -> Result<f64>| -> Result<f64> {
        work()?;
        comm.barrier()?;
        let mut seconds = [work()?];
        comm.all_reduce(&mut seconds, ReduceOp::Max)?;
        Ok(seconds[0])
    };
    let mut bytes = {
        let (mut left, mut limit) = (num_params, buckets.first_bytes / 4);
        let bucket = || {
            let count = left.min(limit);
            (left, limit) = (left - count, buckets.cap_bytes / 4);
            (count > 0).then(|| vec![1f32; count])
        };
        std::iter::from_fn(bucket).collect::<Vec<_>>()
    };
    let (mut backward, mut compute, mut communicate) = (vec![], vec![], vec![]);
    let (mut step, mut wait) = (vec![], vec![]);
    for _ in 0..repeats {
        compute.push(turn(&mut || {
            let started = Instant::now();
            let result = train::step(&mut model_alone, &mut sgd_alone, &mut alone, batch(), lr, config)?;
            result.loss.into_scalar::<f32>();
            Ok(started.elapsed().as_secs_f64())
        })?);
        backward.push(turn(&mut || {
            let (images, on_graph) =
                (Tensor::from_inner(images.clone()), Tensor::from_inner(targets.clone()));
            let mut started = Instant::now();
            let loss = |logits| {
                let loss = train::cross_entropy(logits, on_graph, 0.0);
                started = Instant::now();
                loss
            };
            backward_staged(&model_alone, images, loss, |_, _| {});
            Ok(started.elapsed().as_secs_f64())
        })?);
        communicate.push(turn(&mut || {
            let started = Instant::now();
            let pending: Vec<_> = bytes
                .drain(..)
                .enumerate()
                .map(|(index, bucket)| {
                    let note = Note { bucket: index as u32, not_finite: false };
                    comm.start_all_reduce(bucket, ReduceOp::Mean, note)
                })
                .collect();
            for bucket in pending {
                bytes.push(bucket.wait()?.data);
            }
            Ok(started.elapsed().as_secs_f64())
        })?);
        let mut comm_wait_s = 0.0;
        step.push(turn(&mut || {
            let started = Instant::now();
            let result =
                train::step(&mut model_together, &mut sgd_together, &mut together, batch(), lr, config)?;
            comm_wait_s = result.comm_wait_s;
            result.loss.into_scalar::<f32>();
            Ok(started.elapsed().as_secs_f64())
        })?);
        wait.push(comm_wait_s);
    }
    let model_together = together.average_buffers(model_together)?;
    together.verify_same(&model_together)?;
    if comm.rank().is_main() {
        let timing = |mut seconds: Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            Timing { seconds, cores: 0.0 }
        };
        let figure = |timing: &Timing| json!({ "median": timing.median(), "range": timing.range() });
        let (backward, compute, communicate) = (timing(backward), timing(compute), timing(communicate));
        let (step, wait) = (timing(step), timing(wait));
        let ratio = step.median() / compute.median().max(communicate.median());
        println!(
            "{}",
            json!({
                "ranks": comm.rank().world_size().count(), "gradient_bytes": 4 * num_params,
                "bucket_bytes": buckets.cap_bytes, "compute_s": figure(&compute), "backward_s": figure(&backward),
                "communicate_s": figure(&communicate), "step_s": figure(&step), "comm_wait_s": figure(&wait),
                "ratio": ratio,
            })
        );
    }
    Ok(())
}
