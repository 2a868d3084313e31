//! Memory, rehearsed before the clock starts: a step without its update, and an evaluation, of every shape that the run
//! will meet. A device that is too small for the last phase then says so in the first minute, on every rank, and not in
//! the middle of the night. It also lets a GPU's library choose and compile its kernels for these shapes.
//!
//! Not a check of numbers. The network is another one of the same shape, on black images, so nothing of the run is
//! touched: no weight, running statistic, generator or metric. It takes the room of the velocities, which only the first
//! update makes, and more such networks that of LAMB's second mean and of the running average of the weights.

use std::fmt;

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{Device, Int, Tensor},
};
use burn_dist::{Communicator, Rank};

use super::{
    input::Normalizer,
    step::{StepConfig, pass},
    validation::Validation,
};
use crate::{
    config::{OptimizerConfig, OptimizerRule, Plan},
    error::{Error, Result, caught},
    recipe::Phase,
};

/// What a batch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Training,
    Evaluating,
}

/// A batch that a phase will bring to each rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// The first phase that has it, from 0.
    phase: usize,
    usage: Use,
    batch_size: usize,
    /// In pixels.
    height: usize,
    width: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, usage, batch_size, height, width } = self;
        let usage = match usage {
            Use::Training => "training on",
            Use::Evaluating => "evaluating",
        };
        write!(f, "phase {}: {usage} {batch_size} images of {width} x {height} px", phase + 1)
    }
}

/// Each shape once, in the order in which the run comes to it. `evaluated` gives width and height of the images that a
/// phase is evaluated on.
fn shapes(phases: &[Phase], evaluated: impl Fn(&Phase) -> Vec<(usize, usize)>) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Vec::new();
    for (number, phase) in phases.iter().enumerate() {
        let side = phase.size as usize;
        let trained = (Use::Training, (side, side));
        let evaluated = evaluated(phase).into_iter().map(|shape| (Use::Evaluating, shape));
        for (usage, (width, height)) in [trained].into_iter().chain(evaluated) {
            let shape = Shape { phase: number, usage, batch_size: phase.batch_size, height, width };
            let is_new = shapes.iter().all(|known| Shape { phase: number, ..*known } != shape);
            shapes.extend(is_new.then_some(shape));
        }
    }
    shapes
}

/// Tries every shape of `plan` on `device`, on all ranks; returns how many there are.
///
/// # Errors
/// [`Error::Run`] names the shape that failed, and what to do; on the other ranks [`Error::Dist`] says whose it was.
///
/// # Cost
/// A step and an evaluation of a batch for each, and a second network for as long.
pub(super) fn rehearse(
    plan: &Plan,
    validation: &Validation<'_>,
    normalizer: &Normalizer,
    device: &Device,
    comm: &Communicator,
) -> Result<usize> {
    let config = StepConfig::new(&plan.config.optimizer, 1.0);
    let training = device.clone().autodiff();
    let model = plan.model.init(0, &training);
    let OptimizerConfig { rule, ema, .. } = plan.config.optimizer;
    let num_more = usize::from(rule == OptimizerRule::Lamb) + usize::from(ema.is_some());
    let _room: Vec<_> = (0..num_more).map(|_| plan.model.init(0, device)).collect();
    let attempt = |shape: &Shape| {
        let Shape { batch_size, height, width, .. } = *shape;
        let pixels = [batch_size, height, width, plan.model.channels()];
        let images = normalizer.images(&vec![0; pixels.iter().product()], pixels);
        match shape.usage {
            Use::Training => {
                let mut gradients: Vec<GradientsParams> = Vec::new();
                let targets = Tensor::<1, Int>::zeros([batch_size], device);
                let seen = pass(&model, (images, targets), config, |segment| gradients.push(segment));
                device.sync().map_err(|error| error.to_string())?;
                drop((seen, gradients));
            }
            Use::Evaluating => {
                let logits = model.valid().forward(images);
                device.sync().map_err(|error| error.to_string())?;
                drop(logits);
            }
        }
        Ok(())
    };
    all(&shapes(&plan.config.phase, |phase| validation.shapes(phase)), comm, attempt)
}

/// Tries one shape after the other, and waits until all ranks are through.
fn all(
    shapes: &[Shape],
    comm: &Communicator,
    mut attempt: impl FnMut(&Shape) -> Result<(), String>,
) -> Result<usize> {
    for shape in shapes {
        let outcome = caught(|| attempt(shape)).unwrap_or_else(Err);
        outcome.map_err(|why| failed(shape, comm.rank(), &why))?;
    }
    comm.barrier()?;
    Ok(shapes.len())
}

fn failed(shape: &Shape, rank: Rank, why: &str) -> Error {
    let remedy = match shape.usage {
        Use::Training => "a smaller `batch_size` or more optimizer.micro_batches",
        Use::Evaluating => "a smaller `batch_size`",
    };
    let why = why.lines().next().unwrap_or("no reason given");
    Error::run(format!("rehearsal of {shape} failed on rank {rank}: {why}; if memory ran out, take {remedy}"))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use burn_dist::{Config, WorldSize};

    use super::*;
    use crate::config::Sources;

    fn recipe(set: &[&str]) -> Vec<Shape> {
        let set = set.iter().map(ToString::to_string).collect();
        let config = Sources { set, ..Sources::default() }.resolve().unwrap();
        shapes(&config.phase, |phase| {
            let side = phase.validation().0 as usize;
            vec![(side, side), (side + 8, side)]
        })
    }

    #[test]
    fn every_shape_comes_once_in_the_order_of_the_run() {
        let words = |set: &[&str]| recipe(set).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            words(&[]),
            [
                "phase 1: training on 128 images of 28 x 28 px",
                "phase 1: evaluating 128 images of 28 x 28 px",
                "phase 1: evaluating 128 images of 36 x 28 px",
            ]
        );
        assert_eq!(
            words(&["phase.1.batch_size=64", "phase.1.val_size=32"]),
            [
                "phase 1: training on 128 images of 28 x 28 px",
                "phase 1: evaluating 128 images of 28 x 28 px",
                "phase 1: evaluating 128 images of 36 x 28 px",
                "phase 2: training on 64 images of 28 x 28 px",
                "phase 2: evaluating 64 images of 32 x 32 px",
                "phase 2: evaluating 64 images of 40 x 32 px",
            ]
        );
    }

    /// A panic and an error on one rank, at its second shape.
    #[test]
    fn a_shape_that_does_not_fit_ends_all_ranks_and_is_named() {
        let shapes = recipe(&[]);
        for panics in [true, false] {
            let mesh = Communicator::local_mesh(WorldSize::new(2).unwrap(), &Config::default()).unwrap();
            let one = |comm: Communicator| {
                let attempt = |shape: &Shape| match (comm.rank().index(), shape.usage) {
                    (1, Use::Evaluating) if panics => panic!("out of memory: 12 GiB\nmore of it"),
                    (1, Use::Evaluating) => Err("out of memory: 12 GiB\nmore of it".to_owned()),
                    _ => Ok(()),
                };
                let outcome = all(&shapes, &comm, attempt);
                if let Err(error) = &outcome {
                    comm.fail(&error.to_string());
                }
                outcome.unwrap_err().to_string()
            };
            let errors: Vec<String> = thread::scope(|scope| {
                let ranks: Vec<_> = mesh.into_iter().map(|comm| scope.spawn(|| one(comm))).collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            let own = "rehearsal of phase 1: evaluating 128 images of 28 x 28 px failed on rank 1 of 2: out of memory: \
                       12 GiB; if memory ran out, take a smaller `batch_size`";
            assert_eq!(errors[1], own);
            assert!(errors[0].starts_with("rank 1 on ") && errors[0].contains(own), "{}", errors[0]);
        }
    }
}
