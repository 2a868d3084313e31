//! A Burn module trained by many processes as by one: the same parameters everywhere, gradients averaged.

use std::{fmt::Write as _, sync::Arc};

use burn::{
    module::{Module, ParamId},
    optim::GradientsParams,
    tensor::{Device, TensorData},
};

use super::{
    bucket::{BucketConfig, BucketPlan, Part},
    flight::Readers,
    gpu::Group,
    group,
    pack::{Packer, Packing},
    sink::GradientSink,
    walk::{self, Entry},
};
use crate::{
    Communicator, ReduceOp, Vote, agree,
    error::{DistError, Result},
    rank::WorldSize,
};

/// What all ranks do where a gradient of one of them is no number (NaN or infinite). A job of one process looks for such
/// only if it may skip: looking waits for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NonFinite {
    /// Return an error that names rank, bucket and parameter.
    #[default]
    Fail,
    /// Give no gradients for this step, so that no parameter moves.
    SkipStep,
}

/// How gradients travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataParallelConfig {
    /// How much travels at once.
    pub buckets: BucketConfig,
    /// What becomes of a step whose gradients are no numbers.
    pub non_finite: NonFinite,
    /// Where gradients are put together.
    pub packing: Packing,
}

/// One rank's half of a data-parallel model: it knows the model's tensors and how their gradients travel. The model
/// itself stays with its owner.
///
/// Every method but [`parameter_hash`](Self::parameter_hash) is collective: all ranks call it, in the same order.
/// Gradients travel as [`Wire`](crate::Wire) says. Tensors of integers and truth values are not looked at.
pub struct DataParallel {
    pub(super) comm: Communicator,
    pub(super) config: DataParallelConfig,
    /// All float tensors of the model.
    pub(super) entries: Vec<Entry>,
    /// Those that require a gradient, as places in `entries`.
    pub(super) trainable: Vec<usize>,
    /// For each of `entries` its place in `trainable`.
    pub(super) place: Vec<Option<usize>>,
    pub(super) plan: BucketPlan,
    /// `None` in a job of one process.
    pub(super) readers: Option<Readers>,
    /// The model's.
    pub(super) device: Device,
    /// `None` where buckets are put together on the host.
    pub(super) packer: Option<Packer>,
    /// Where buckets go from GPU to GPU.
    pub(super) group: Option<Arc<Group>>,
}

impl std::fmt::Debug for DataParallel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let num_buckets = self.plan.buckets.len();
        write!(
            f,
            "DataParallel({}, {} parameters, {num_buckets} buckets)",
            self.comm.rank(),
            self.trainable.len()
        )
    }
}

impl DataParallel {
    /// Checks that all ranks have the same model, and gives them rank 0's values: parameters and buffers.
    ///
    /// # Errors
    /// [`DistError::Disagreement`] names the ranks whose model or buckets differ, and the first parameter that does;
    /// [`DistError::Config`] for bucket sizes that make no sense; [`DistError::Usage`] if nothing is to be trained;
    /// [`DistError::Fault`] if the job is over, also where all ranks have NCCL and it does not connect them.
    ///
    /// # Cost
    /// One broadcast of the model, and one more copy of it in memory meanwhile; a vote on NCCL, and its start.
    pub fn new<M: Module>(comm: Communicator, model: M, config: DataParallelConfig) -> Result<(Self, M)> {
        Self::staged(comm, model, &[], config)
    }

    /// As [`new`](Self::new), for a backward pass that gives gradients in segments.
    ///
    /// `segments` lists the parameters of each in forward order; the last one's gradients come first. Buckets then end
    /// where segments do, so that none waits longer than it must. Parameters in none of them count as the first's.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn staged<M: Module>(
        comm: Communicator,
        model: M,
        segments: &[Vec<ParamId>],
        config: DataParallelConfig,
    ) -> Result<(Self, M)> {
        config.buckets.check()?;
        let entries = walk::entries(&model);
        let trainable: Vec<usize> = (0..entries.len()).filter(|&at| entries[at].trains).collect();
        if trainable.is_empty() {
            return Err(DistError::usage(
                "no parameter requires a gradient: make the model on a device with autodiff",
            ));
        }
        let mut place = vec![None; entries.len()];
        trainable.iter().enumerate().for_each(|(param, &at)| place[at] = Some(param));
        let segment_of = |id| segments.iter().position(|segment| segment.contains(&id)).unwrap_or(0);
        let part = |&at: &usize| Part { len: entries[at].len(), segment: segment_of(entries[at].id) };
        let parts: Vec<Part> = trainable.iter().map(part).collect();
        let plan = BucketPlan::new(&parts, &config.buckets);

        agree::same_lines(&comm, "the models", &describe(&entries, &plan, &config))?;
        let is_single = comm.rank().world_size() == WorldSize::ONE;
        let readers = (!is_single).then(Readers::start);
        let device = model.devices().into_iter().next().unwrap_or_default().without_autodiff();
        let packer = Packer::new(config.packing, &device, comm.wire());
        let group = group::form(&comm, packer.as_ref())?.map(Arc::new);
        let ddp = Self { comm, config, entries, trainable, place, plan, readers, device, packer, group };
        let model = ddp.broadcast(model)?;
        Ok((ddp, model))
    }

    /// Gives all ranks rank 0's values of a module with the tensors of this one, such as an average of its weights.
    ///
    /// # Errors
    /// [`DistError::Fault`] if the job is over.
    ///
    /// # Cost
    /// One broadcast of the module, and one more copy of it in memory meanwhile.
    pub fn broadcast<M: Module>(&self, model: M) -> Result<M> {
        if self.readers.is_none() { Ok(model) } else { broadcast(&self.comm, model, &self.entries) }
    }

    /// The communicator, for what else ranks have to say to each other between steps.
    pub fn communicator(&self) -> &Communicator {
        &self.comm
    }

    /// Averages the gradients of a whole backward pass over all ranks, each rank counting the same.
    ///
    /// A parameter without a gradient on this rank counts as zeros. After micro-batches whose gradients were added up
    /// (Burn's `GradientsAccumulator`) it is called once, with the sum. In a job of one process nothing is copied, and
    /// nothing checked but under [`NonFinite::SkipStep`]. Empty if the step is to be skipped.
    ///
    /// # Errors
    /// As [`GradientSink::ready`] and [`GradientSink::finish`].
    ///
    /// # Cost
    /// An all-reduce of all gradients, a copy from the device and one back; by NCCL no copy, and a vote.
    pub fn average<M: Module>(&mut self, gradients: GradientsParams, model: &M) -> Result<GradientsParams> {
        let mut sink = self.sink();
        sink.ready(model, gradients)?;
        Ok(sink.finish(model)?.gradients)
    }

    /// Averages gradients of batches of different sizes: each rank's, which is the mean over its `num_samples`, counts
    /// as many times. `None` once no rank has samples.
    ///
    /// For inputs of different lengths: a rank that has none left goes on calling this with no gradients and 0 until
    /// it gets `None`, so that nobody waits for it.
    ///
    /// # Errors
    /// As [`average`](Self::average).
    ///
    /// # Cost
    /// As [`average`](Self::average), and a small all-reduce before.
    pub fn average_weighted<M: Module>(
        &mut self,
        gradients: GradientsParams,
        model: &M,
        num_samples: usize,
    ) -> Result<Option<GradientsParams>> {
        let mut total = [num_samples as f64];
        self.comm.all_reduce(&mut total, ReduceOp::Sum)?;
        if total[0] == 0.0 {
            return Ok(None);
        }
        let share = num_samples as f64 * self.comm.rank().world_size().count() as f64 / total[0];
        let mut sink = GradientSink::new(self, share as f32);
        sink.ready(model, gradients)?;
        Ok(Some(sink.finish(model)?.gradients))
    }

    /// Begins a step whose gradients come in parts, while the backward pass is running.
    pub fn sink(&mut self) -> GradientSink<'_> {
        self.scaled_sink(1.0)
    }

    /// As [`sink`](Self::sink), and multiplies every gradient by `factor`, in 32 bits and before ranks are added up: the
    /// inverse of what the loss was multiplied by.
    pub fn scaled_sink(&mut self, factor: f32) -> GradientSink<'_> {
        GradientSink::new(self, factor)
    }

    /// Whether every rank has another batch: where inputs have different lengths, all end with the shortest.
    ///
    /// ```
    /// # use burn_dist::{Communicator, DataParallel, Result};
    /// # fn train(ddp: &DataParallel, mut batches: impl Iterator<Item = u32>) -> Result<()> {
    /// loop {
    ///     let batch = batches.next();
    ///     if !ddp.all_have_a_batch(batch.is_some())? {
    ///         break;
    ///     }
    ///     // a step with `batch`
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`DistError::Fault`] if the job is over.
    ///
    /// # Cost
    /// A message of a byte to all ranks and back.
    pub fn all_have_a_batch(&self, mine: bool) -> Result<bool> {
        self.comm.vote(mine, Vote::All)
    }

    /// Replaces every buffer (running statistics of batch norm) by its mean over all ranks: to be called before an
    /// evaluation and before the model is saved. Frozen parameters, the same on all ranks, come back unchanged.
    ///
    /// # Errors
    /// [`DistError::Fault`] if the job is over.
    ///
    /// # Cost
    /// An all-reduce of the buffers, in 64 bits.
    pub fn average_buffers<M: Module>(&self, model: M) -> Result<M> {
        if self.readers.is_none() {
            return Ok(model);
        }
        let mut values: Vec<f64> = Vec::new();
        walk::read(&model, |at, data| {
            if self.place.get(at).is_some_and(Option::is_none) {
                values.extend(data.iter::<f64>());
            }
        });
        // In 64 bits the mean of equal numbers of 32 is that number.
        self.comm.all_reduce(&mut values, ReduceOp::Mean)?;
        let mut rest = &values[..];
        Ok(walk::write(model, |at| {
            let entry = self.entries.get(at).filter(|_| self.place[at].is_none())?;
            let (mine, others) = rest.split_at_checked(entry.len())?;
            rest = others;
            Some(TensorData::new(mine.to_vec(), entry.shape.clone()).convert_dtype(entry.dtype))
        }))
    }

    /// A number that is the same on two ranks if all float tensors of their models have the same bits (and else, but
    /// for one time in 2^64, another).
    ///
    /// # Cost
    /// A read of the whole model from the device.
    pub fn parameter_hash<M: Module>(&self, model: &M) -> u64 {
        let mut hashes = Vec::new();
        walk::read(model, |_, data| hashes.extend(agree::hash([data.as_bytes()]).to_le_bytes()));
        agree::hash([hashes.as_slice()])
    }

    /// Checks that the model has the same bits on all ranks, and returns its [hash](Self::parameter_hash).
    ///
    /// Running statistics differ between ranks until [`average_buffers`](Self::average_buffers) was called.
    ///
    /// # Errors
    /// [`DistError::Disagreement`] names the ranks that differ from most.
    ///
    /// # Cost
    /// As [`parameter_hash`](Self::parameter_hash), and 8 bytes to every rank.
    pub fn verify_same<M: Module>(&self, model: &M) -> Result<u64> {
        let hash = self.parameter_hash(model);
        agree::same_number(&self.comm, "the parameters", hash)?;
        Ok(hash)
    }

    pub(super) fn trainable_entry(&self, param: usize) -> &Entry {
        &self.entries[self.trainable[param]]
    }
}

/// What ranks must have alike, a line for each thing: policy, buckets, tensors.
fn describe(entries: &[Entry], plan: &BucketPlan, config: &DataParallelConfig) -> String {
    let DataParallelConfig { buckets: BucketConfig { first_bytes, cap_bytes }, non_finite, .. } = config;
    let mut lines =
        format!("buckets of {first_bytes} and {cap_bytes} bytes, at non-finite gradients {non_finite:?}\n");
    for entry in entries {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{entry}");
    }
    for (number, bucket) in plan.buckets.iter().enumerate() {
        let _ = writeln!(lines, "bucket {number}: parameters {:?}", bucket.params);
    }
    lines
}

/// Gives all ranks rank 0's values.
fn broadcast<M: Module>(comm: &Communicator, model: M, entries: &[Entry]) -> Result<M> {
    let num_bytes = entries.iter().map(Entry::num_bytes).sum();
    let mut bytes = Vec::with_capacity(num_bytes);
    if comm.rank().is_main() {
        walk::read(&model, |_, data| bytes.extend_from_slice(data.as_bytes()));
    }
    bytes.resize(num_bytes, 0);
    comm.broadcast(&mut bytes, 0)?;
    if comm.rank().is_main() {
        return Ok(model);
    }
    let mut rest = &bytes[..];
    Ok(walk::write(model, |at| {
        let Entry { shape, dtype, .. } = entries.get(at)?;
        let (mine, others) = rest.split_at_checked(entries[at].num_bytes())?;
        rest = others;
        Some(TensorData::from_bytes_vec(mine.to_vec(), shape.clone(), *dtype))
    }))
}
