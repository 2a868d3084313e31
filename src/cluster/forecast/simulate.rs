//! The run in simulated time: every step, evaluation and start of one rank, and where its seconds went.

use std::collections::BTreeSet;

use burn_dist::limits::MAX_WORLD_SIZE;
use serde::Serialize;

use super::{
    ForecastError, Job, JobPhase, Kind, Lever, MAX_MACHINES, Throughput,
    kind::in_range,
    loader::{Batches, Loader},
    step::Buckets,
    throughput::{BACKWARD_SHARE, Speed},
    wrong,
};

/// Mean of the longer side over the shorter one of ImageNet's pictures: what a rectangle has more than a square.
const RECT_AREA: f64 = 1.3;
/// More steps than any epoch has: beyond it the batch is a slip.
const MAX_STEPS_PER_EPOCH: u64 = 2_000_000;
/// More images than any rank takes in a step.
const MAX_BATCH_SIZE: f64 = 1e6;

/// Seconds by what they went to. They add up to the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Times {
    /// The images of training steps on the device.
    pub compute_s: f64,
    /// What every step costs whatever its batch, and lines of the log.
    pub fixed_s: f64,
    /// Waiting for gradients of other ranks.
    pub all_reduce_s: f64,
    /// Waiting for training batches.
    pub input_s: f64,
    /// Evaluations, with their own waits for batches.
    pub evaluation_s: f64,
    /// The start of the run, of epochs, and first uses of a shape.
    pub start_s: f64,
}

impl Times {
    /// All of them.
    pub fn total_s(&self) -> f64 {
        let Self { compute_s, fixed_s, all_reduce_s, input_s, evaluation_s, start_s } = *self;
        compute_s + fixed_s + all_reduce_s + input_s + evaluation_s + start_s
    }

    fn add(&mut self, other: &Self, times: f64) {
        for (sum, term) in [
            (&mut self.compute_s, other.compute_s),
            (&mut self.fixed_s, other.fixed_s),
            (&mut self.all_reduce_s, other.all_reduce_s),
            (&mut self.input_s, other.input_s),
            (&mut self.evaluation_s, other.evaluation_s),
            (&mut self.start_s, other.start_s),
        ] {
            *sum += times * term;
        }
    }
}

/// A phase as it will go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseForecast {
    /// Its first epoch, and the one after its last.
    pub epochs: [u32; 2],
    /// Side of the training images, in pixels.
    pub size: u32,
    /// Images of a rank in a step.
    pub batch_size: u64,
    /// Images of all ranks in a step.
    pub global_batch_size: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Seconds of its first epoch.
    pub first_epoch_s: f64,
    /// Seconds of every other one; of the first if it is the only one.
    pub epoch_s: f64,
    /// Images a second of all ranks, in such an epoch.
    pub images_per_s: f64,
    /// The whole phase.
    pub times: Times,
}

/// A run as it will go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// Machines.
    pub machines: u32,
    /// Ranks of all of them.
    pub world_size: u32,
    /// Seconds before the run's clock starts.
    pub setup_s: f64,
    /// Its phases.
    pub phases: Vec<PhaseForecast>,
    /// The whole run by its own clock.
    pub times: Times,
    /// What it rests on that nobody measured.
    pub assumed: Vec<String>,
}

impl Forecast {
    /// Seconds for which the machines are needed.
    pub fn total_s(&self) -> f64 {
        self.setup_s + self.times.total_s()
    }
}

/// Simulates `job` on machines of `kind`, devices as fast as `throughput`, with one thing infinitely fast if `free`.
///
/// # Errors
/// A number of machines out of range, pictures or image sizes that nothing is known of, a phase without steps.
///
/// # Cost
/// Two epochs a phase; the machines that there are make no difference.
pub fn forecast(
    job: &Job,
    kind: &Kind,
    throughput: &Throughput,
    free: Option<Lever>,
) -> Result<Forecast, ForecastError> {
    in_range("machines", job.machines.into(), 1.0, MAX_MACHINES.into())?;
    let network = &kind.network;
    let buckets =
        Buckets::new(&job.layers, network.value_bytes, network.first_bucket_bytes, network.bucket_bytes);
    let exposed_s = |machines: Option<u32>, backward_s: f64| match machines {
        Some(machines) => {
            buckets.exposed_s(backward_s, |bytes| network.all_reduce_s(bytes, machines, kind.machine.ranks))
        }
        None => 0.0,
    };
    let speed = Speed::new(throughput, |backward_s| exposed_s(throughput.machines, backward_s))?;
    let exposed_s = |backward_s: f64| exposed_s(Some(job.machines), backward_s);
    let world_size = job.machines * kind.machine.ranks;
    let mut run =
        Run { job, kind, throughput, free, speed: &speed, exposed_s: &exposed_s, used: BTreeSet::new() };
    let mut whole = Forecast {
        machines: job.machines,
        world_size,
        setup_s: if free == Some(Lever::Start) { 0.0 } else { kind.program.setup_s },
        phases: Vec::new(),
        times: Times::default(),
        assumed: Vec::new(),
    };
    let mut first_epoch = 0;
    for (index, phase) in job.phases.iter().enumerate() {
        let done = run
            .phase(phase, index == 0, first_epoch)
            .or_else(|ForecastError(why)| wrong(format!("phase {}: {why}", index + 1)))?;
        first_epoch = done.epochs[1];
        whole.times.add(&done.times, 1.0);
        for size in [phase.size, phase.val_size] {
            let note = format!("{size} px is not in the throughput: scaled by pixels from the nearest");
            if !speed.measured(size) && !whole.assumed.contains(&note) {
                whole.assumed.push(note);
            }
        }
        whole.phases.push(done);
    }
    if world_size > MAX_WORLD_SIZE {
        whole.assumed.push(format!("burn-dist would take {world_size} ranks: it takes {MAX_WORLD_SIZE}"));
    }
    Ok(whole)
}

struct Run<'a> {
    job: &'a Job,
    kind: &'a Kind,
    throughput: &'a Throughput,
    free: Option<Lever>,
    speed: &'a Speed,
    exposed_s: &'a dyn Fn(f64) -> f64,
    /// Shapes that were used: whether in training, pixels, images, and of a rectangle which one.
    used: BTreeSet<(bool, u32, u64, u64)>,
}

impl Run<'_> {
    fn phase(&mut self, phase: &JobPhase, first: bool, from: u32) -> Result<PhaseForecast, ForecastError> {
        let world_size = u64::from(self.job.machines) * u64::from(self.kind.machine.ranks);
        in_range("batch_size", phase.batch_size as f64, 1.0, MAX_BATCH_SIZE)?;
        let train = Batches::new(self.job.train_images, world_size, phase.batch_size, phase.short_tail);
        let global = world_size * phase.batch_size;
        if train.count == 0 || phase.epochs == 0 {
            return wrong(format!("it has no step: {global} images a step of {}", self.job.train_images));
        }
        if train.count > MAX_STEPS_PER_EPOCH {
            return wrong(format!("{} steps an epoch: expected at most {MAX_STEPS_PER_EPOCH}", train.count));
        }
        let mut start = self.epoch(phase, train, world_size)?;
        if first && self.free != Some(Lever::Start) {
            start.start_s += self.kind.program.job_start_s;
        }
        let mut times = start;
        let mut epoch_s = start.total_s();
        if phase.epochs > 1 {
            // Every later epoch is like the second one: nothing is new to it.
            let later = self.epoch(phase, train, world_size)?;
            times.add(&later, f64::from(phase.epochs - 1));
            epoch_s = later.total_s();
        }
        let images = (train.count - 1) * phase.batch_size + train.last;
        Ok(PhaseForecast {
            epochs: [from, from.saturating_add(phase.epochs)],
            size: phase.size,
            batch_size: phase.batch_size,
            global_batch_size: global,
            steps_per_epoch: train.count,
            first_epoch_s: start.total_s(),
            epoch_s,
            images_per_s: (images * world_size) as f64 / epoch_s,
            times,
        })
    }

    /// One epoch with its evaluation.
    fn epoch(&mut self, phase: &JobPhase, train: Batches, world_size: u64) -> Result<Times, ForecastError> {
        let program = &self.kind.program;
        let start_s = self.unless(Lever::Start, program.epoch_start_s);
        let mut times = Times { start_s, ..Times::default() };
        let mut now = times.start_s;
        let mut loader = self.loader(phase, train, phase.size, now)?;
        for step in 0..train.count {
            let images = train.images(step);
            let ready = loader.next(now);
            times.input_s += ready - now;
            let first_s = self.first_use_s(true, phase.size, images, 0);
            let (fixed_s, compute_s) = self.cost(phase.size, images)?;
            let wait_s = self.unless(Lever::AllReduce, (self.exposed_s)(BACKWARD_SHARE * compute_s));
            let logs = program.log_every_steps > 0 && (step + 1) % u64::from(program.log_every_steps) == 0;
            let fixed_s = fixed_s + self.unless(Lever::Fixed, if logs { program.log_s } else { 0.0 });
            times.start_s += first_s;
            times.compute_s += compute_s;
            times.all_reduce_s += wait_s;
            times.fixed_s += fixed_s;
            now = ready + first_s + compute_s + wait_s + fixed_s;
        }
        self.evaluate(phase, world_size, &mut times)?;
        Ok(times)
    }

    fn evaluate(
        &mut self,
        phase: &JobPhase,
        world_size: u64,
        times: &mut Times,
    ) -> Result<(), ForecastError> {
        let batch_size = self.kind.val_batch_size(phase.val_size, phase.batch_size);
        let val = Batches::new(self.job.val_images, world_size, batch_size, true);
        let area = if phase.val_rect { RECT_AREA } else { 1.0 };
        let begin = self.kind.program.eval_start_s;
        let mut loader = self.loader(phase, val, phase.val_size, begin)?;
        let mut now = begin;
        for batch in 0..val.count {
            let images = val.images(batch);
            let shape = if phase.val_rect { batch + 1 } else { 0 };
            let first_s = self.first_use_s(false, phase.val_size, images, shape);
            times.start_s += first_s;
            // A forward pass is one of the three products of a step.
            let (fixed_s, compute_s) = self.cost(phase.val_size, images)?;
            let forward_s = (1.0 - BACKWARD_SHARE) * (fixed_s + area * compute_s);
            now = loader.next(now) + forward_s;
        }
        times.evaluation_s += self.unless(Lever::Evaluation, now);
        Ok(())
    }

    fn loader(
        &self,
        phase: &JobPhase,
        batches: Batches,
        size: u32,
        now: f64,
    ) -> Result<Loader, ForecastError> {
        let pictures = self.kind.pictures(&phase.pictures)?;
        let mpx = f64::from(size).powi(2) / 1e6;
        let image_s = (pictures.decode_ms + self.kind.input.resize_ms_per_mpx * mpx) / 1e3;
        let kb = self.unless(Lever::Input, pictures.kb);
        Ok(Loader::new(self.kind, batches, self.unless(Lever::Input, image_s), kb, now))
    }

    /// Seconds of a step whatever its batch, and of its images.
    fn cost(&self, size: u32, images: u64) -> Result<(f64, f64), ForecastError> {
        let (fixed_s, compute_s) = self.speed.step(size, images)?;
        Ok((self.unless(Lever::Fixed, fixed_s), self.unless(Lever::Compute, compute_s)))
    }

    /// What the first use of a shape costs more; nothing the second time.
    fn first_use_s(&mut self, trains: bool, size: u32, images: u64, shape: u64) -> f64 {
        if !self.used.insert((trains, size, images, shape)) {
            return 0.0;
        }
        let share = if trains { 1.0 } else { self.throughput.first_use_forward };
        self.unless(Lever::Start, share * self.throughput.first_use_s(size, images))
    }

    fn unless(&self, lever: Lever, seconds: f64) -> f64 {
        if self.free == Some(lever) { 0.0 } else { seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::forecast::{FirstUse, Layer, Program, Row};

    /// A step is 0.1 s and 0.01 s an image at 100 px; pictures cost nothing.
    fn job() -> (Job, Kind, Throughput) {
        let phase = JobPhase {
            epochs: 3,
            size: 100,
            batch_size: 10,
            short_tail: true,
            pictures: "full".into(),
            val_size: 100,
            val_rect: false,
        };
        let layers = vec![Layer { num_params: 1_000_000, num_macs: 1 }; 2];
        let job = Job { machines: 1, train_images: 24, val_images: 12, layers, phases: vec![phase] };
        let mut kind = Kind::find("h100-400g").unwrap();
        (kind.machine.ranks, kind.program) = (1, Program::default());
        kind.input.resize_ms_per_mpx = 0.0;
        kind.input.pictures[0].decode_ms = 0.0;
        let row = |batch_size: u64| Row {
            size: 100,
            batch_size,
            images_per_s: batch_size as f64 / (0.1 + 0.01 * batch_size as f64),
        };
        (job, kind, Throughput::of_one_rank("a test".into(), vec![row(10), row(20)]))
    }

    #[track_caller]
    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9, "{got} {expected}");
    }

    #[test]
    fn every_step_and_evaluation_is_counted() {
        let (job, kind, throughput) = job();
        let whole = forecast(&job, &kind, &throughput, None).unwrap();
        let phase = &whole.phases[0];
        assert_eq!((phase.epochs, phase.steps_per_epoch, phase.global_batch_size), ([0, 3], 3, 10));
        close(whole.times.compute_s, 3.0 * 0.24);
        close(whole.times.fixed_s, 3.0 * 0.3);
        // 10 and 2 images, forward alone.
        close(whole.times.evaluation_s, 3.0 * (0.2 + 0.12) / 3.0);
        close(whole.times.total_s(), 3.0 * phase.epoch_s);
        close(phase.images_per_s, 24.0 / phase.epoch_s);
        assert_eq!((whole.times.all_reduce_s, whole.times.input_s, whole.times.start_s), (0.0, 0.0, 0.0));
        assert!(whole.assumed.is_empty());
    }

    #[test]
    fn what_is_left_over_may_be_left_out() {
        let (mut job, kind, throughput) = job();
        job.phases[0].short_tail = false;
        let whole = forecast(&job, &kind, &throughput, None).unwrap();
        assert_eq!(whole.phases[0].steps_per_epoch, 2);
        close(whole.times.compute_s, 3.0 * 0.2);
    }

    #[test]
    fn starts_logs_and_first_uses_cost_what_they_are_said_to() {
        let (mut job, mut kind, mut throughput) = job();
        kind.program = Program {
            setup_s: 7.0,
            job_start_s: 5.0,
            epoch_start_s: 0.5,
            eval_start_s: 0.25,
            log_every_steps: 2,
            log_s: 0.125,
            evaluation: Vec::new(),
        };
        throughput.first_use_forward = 0.5;
        throughput.first_use = vec![FirstUse { size: 100, batch_size: 10, seconds: 2.0 }];
        let whole = forecast(&job, &kind, &throughput, None).unwrap();
        // Training on 10 and on 4 images, evaluation of 10 and of 2, each once.
        close(whole.times.start_s, 5.0 + 3.0 * 0.5 + 2.0 + 2.0 + 1.0 + 1.0);
        close(whole.times.fixed_s, 3.0 * (0.3 + 0.125));
        close(whole.times.evaluation_s, 3.0 * (0.25 + 0.32 / 3.0));
        close(whole.total_s(), 7.0 + whole.times.total_s());
        close(whole.phases[0].first_epoch_s - whole.phases[0].epoch_s, 5.0 + 6.0);
        close(whole.phases[0].images_per_s, 24.0 / whole.phases[0].epoch_s);
        // Two batches of evaluation alike are one shape; rectangles are larger, and a shape each.
        job.val_images = 20;
        let squares = forecast(&job, &kind, &throughput, None).unwrap();
        close(squares.times.start_s, whole.times.start_s - 1.0);
        job.phases[0].val_rect = true;
        let rect = forecast(&job, &kind, &throughput, None).unwrap();
        close(rect.times.start_s, squares.times.start_s + 1.0);
        close(rect.times.evaluation_s, 3.0 * (0.25 + (0.2 + 0.2 * RECT_AREA) / 3.0));
        // A second phase of the same shapes finds them used.
        job.phases[0].val_rect = false;
        job.phases.push(job.phases[0].clone());
        let twice = forecast(&job, &kind, &throughput, None).unwrap();
        close(twice.phases[1].times.start_s, 1.5);
    }

    #[test]
    fn gradients_are_waited_for_where_there_are_others() {
        let (mut job, mut kind, throughput) = job();
        job.machines = 2;
        kind.network.latency_us = 1000.0;
        let whole = forecast(&job, &kind, &throughput, None).unwrap();
        // 12 images each, 10 and 2; two buckets of 4 MB, of which the last leaves when the backward pass is through.
        let one = kind.network.all_reduce_s(4e6, 2, 1);
        let wait = |images: f64| {
            let backward = BACKWARD_SHARE * 0.01 * images;
            let first = 0.5 * backward + one;
            (first.max(backward) + one) - backward
        };
        close(whole.phases[0].images_per_s, 24.0 / whole.phases[0].epoch_s);
        close(whole.times.all_reduce_s, 3.0 * (wait(10.0) + wait(2.0)));
        let free = forecast(&job, &kind, &throughput, Some(Lever::AllReduce)).unwrap();
        close(whole.total_s() - free.total_s(), whole.times.all_reduce_s);
    }

    #[test]
    fn slow_pictures_are_waited_for() {
        let (job, mut kind, throughput) = job();
        (kind.machine.cores, kind.input.workers) = (1, 1);
        kind.input.pictures[0].decode_ms = 100.0;
        let whole = forecast(&job, &kind, &throughput, None).unwrap();
        // 24 pictures take 2.4 s; the last step, of 4 images, begins then.
        close(whole.phases[0].times.input_s, 3.0 * (2.4 - 0.4));
        let free = forecast(&job, &kind, &throughput, Some(Lever::Input)).unwrap();
        assert_eq!(free.times.input_s, 0.0);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let (good, kind, throughput) = job();
        let fails = |change: &dyn Fn(&mut Job)| {
            let mut job = good.clone();
            change(&mut job);
            forecast(&job, &kind, &throughput, None).unwrap_err().to_string()
        };
        assert!(fails(&|job| job.machines = 0).contains("`machines` is 0: expected 1 to 4096"));
        assert!(fails(&|job| job.machines = 5000).contains("expected 1 to 4096"));
        assert!(fails(&|job| job.phases[0].batch_size = 0).contains("phase 1: `batch_size` is 0"));
        assert!(fails(&|job| job.train_images = 0).contains("phase 1: it has no step"));
        assert!(fails(&|job| job.phases[0].pictures = "96".into()).contains("pictures `96`, it knows full"));
        assert!(fails(&|job| job.phases[0].val_size = 900).contains("none near 900 px"));
        assert!(fails(&|job| job.train_images = u64::from(u32::MAX)).contains("expected at most"));
    }
}
