//! Where a backward pass puts gradients as they become ready, and where their averages come out.

use std::{sync::Arc, time::Instant};

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{DType, FloatDType, Tensor},
};

use super::{
    data_parallel::{DataParallel, NonFinite},
    flight::{Content, Flight, Load},
    pack::in_f32,
};
use crate::{
    Vote, agree,
    error::{DistError, Result},
};

/// Averaged gradients, and how they came about.
#[derive(Debug, Default)]
pub struct Synced {
    /// The averages, the same bits on all ranks. Empty if the step is to be skipped: an optimizer then moves nothing.
    pub gradients: GradientsParams,
    /// Why the step is to be skipped, the same on all ranks: who had a gradient that is no number, and which.
    pub skipped: Option<String>,
    /// Seconds for which this rank stood still for want of other ranks, or of its own last bucket.
    pub comm_wait_s: f64,
    /// Seconds for which buckets were on the wire, added up; more than `comm_wait_s` where computing hid it.
    pub wire_s: f64,
}

/// Takes the gradients of one step, in as many parts as they come. Made by [`DataParallel::sink`].
///
/// A bucket's all-reduce starts once its last gradient is there and the buckets before it have started. Until
/// [`finish`](Self::finish) returns, the communicator must not be used for anything else: ranks would do so at
/// different points between the buckets.
#[derive(Debug)]
pub struct GradientSink<'a> {
    ddp: &'a mut DataParallel,
    scale: f32,
    /// `None` in a job of one process, where gradients pass through.
    flight: Option<Arc<Flight>>,
    passed: GradientsParams,
    /// By parameter.
    given: Vec<Option<Tensor<1>>>,
    /// By bucket: gradients that are not there yet.
    missing: Vec<usize>,
}

impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flight")
    }
}

impl<'a> GradientSink<'a> {
    pub(super) fn new(ddp: &'a mut DataParallel, scale: f32) -> Self {
        let flight = ddp.readers.is_some().then(|| Arc::new(Flight::new(ddp.comm.clone())));
        let missing = ddp.plan.buckets.iter().map(|bucket| bucket.params.len()).collect();
        let given = vec![None; ddp.trainable.len()];
        Self { ddp, scale, flight, passed: GradientsParams::new(), given, missing }
    }

    /// Takes the gradients of some parameters of `model`; each of them once in a step.
    ///
    /// # Errors
    /// [`DistError::Usage`] for gradients that are not this model's, came already, or belong to a parameter that
    /// required none when the [`DataParallel`] was made.
    ///
    /// # Cost
    /// On an accelerator one copy on the device for each complete bucket, on a CPU none; nothing is waited for.
    pub fn ready<M: Module>(&mut self, model: &M, mut gradients: GradientsParams) -> Result<()> {
        let mut take =
            Take { sink: self, gradients: &mut gradients, at: 0, complete: Vec::new(), wrong: None };
        model.visit(&mut take);
        let Take { at, complete, wrong, .. } = take;
        if let Some(wrong) = wrong {
            return Err(DistError::usage(wrong));
        }
        if at != self.ddp.entries.len() || !gradients.is_empty() {
            return Err(DistError::usage(format!(
                "{} gradients belong to no parameter that was to be trained when the model with {} tensors was made \
                 data-parallel; this one has {at}",
                gradients.len(),
                self.ddp.entries.len()
            )));
        }
        complete.into_iter().for_each(|bucket| self.hand_over(bucket));
        Ok(())
    }

    /// Waits for the averages. A parameter whose gradient no call to [`ready`](Self::ready) brought counts as zeros.
    ///
    /// # Errors
    /// [`DistError::Fault`] if the job is over, with no parameter changed; [`DistError::NonFinite`] on all ranks if one
    /// has a gradient that is no number and the policy is [`NonFinite::Fail`].
    pub fn finish<M: Module>(mut self, model: &M) -> Result<Synced> {
        let Some(flight) = self.flight.clone() else { return self.finish_alone(model) };
        for bucket in 0..self.missing.len() {
            if self.missing[bucket] > 0 {
                self.hand_over(bucket);
            }
        }
        let (mut comm_wait_s, mut wire_s, mut not_finite) = (0.0, 0.0, false);
        let mut averages = Vec::with_capacity(self.ddp.plan.buckets.len());
        for _ in &self.ddp.plan.buckets {
            let waiting = Instant::now();
            let landed = flight.next()?;
            comm_wait_s += waiting.elapsed().as_secs_f64();
            wire_s += landed.seconds;
            not_finite |= landed.not_finite;
            averages.push(landed.average.into_tensor(&self.ddp.device));
        }
        if self.ddp.group.is_some() {
            not_finite = self.ddp.comm.vote(flight.bad().is_some(), Vote::Any)?;
        }
        if not_finite {
            let why = self.ddp.name_bad(flight.bad())?;
            return match self.ddp.config.non_finite {
                NonFinite::Fail => Err(DistError::NonFinite(why)),
                NonFinite::SkipStep => {
                    Ok(Synced { skipped: Some(why), comm_wait_s, wire_s, ..Synced::default() })
                }
            };
        }
        let gradients = self.ddp.distribute(model, &averages);
        Ok(Synced { gradients, skipped: None, comm_wait_s, wire_s })
    }

    /// A job of one process: what came is the average.
    fn finish_alone<M: Module>(self, model: &M) -> Result<Synced> {
        if self.ddp.config.non_finite == NonFinite::SkipStep
            && let Some(name) = first_bad(self.ddp, model, &self.passed)
        {
            let skipped = Some(agree::say(&self.ddp.comm, &format!("gradient of {name} is not finite"))?);
            return Ok(Synced { skipped, ..Synced::default() });
        }
        Ok(Synced { gradients: self.passed, ..Synced::default() })
    }

    fn hand_over(&mut self, bucket: usize) {
        let (Some(readers), Some(flight)) = (&self.ddp.readers, &self.flight) else { return };
        self.missing[bucket] = 0;
        let params = &self.ddp.plan.buckets[bucket].params;
        let lens: Vec<_> = params.iter().map(|&param| self.ddp.trainable_entry(param).len()).collect();
        let gradients = params.iter().map(|&param| self.given[param].take());
        let content = match &self.ddp.packer {
            Some(packer) => {
                let gradients = gradients.zip(&lens).map(|(gradient, &len)| gradient.ok_or(len)).collect();
                let packed = packer.pack(gradients, self.scale);
                match &self.ddp.group {
                    Some(group) => {
                        let room = packer.room(lens.iter().sum());
                        Content::Stays(Box::new((packed, room)), Arc::clone(group))
                    }
                    None => Content::Packed(Box::new(packed), packer.wire),
                }
            }
            None => Content::Apart(gradients.collect(), self.scale),
        };
        readers.hand_over(flight, Load { bucket, lens, content });
    }
}

/// Moves gradients out of a container into the sink's places.
struct Take<'a, 'b> {
    sink: &'a mut GradientSink<'b>,
    gradients: &'a mut GradientsParams,
    at: usize,
    complete: Vec<usize>,
    wrong: Option<String>,
}

impl ModuleVisitor for Take<'_, '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let place = self.sink.ddp.place.get(self.at).copied().flatten();
        self.at += 1;
        let Some(place) = place else { return };
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return };
        if self.sink.flight.is_none() {
            let scale = self.sink.scale;
            let gradient = if scale == 1.0 { gradient } else { gradient.mul_scalar(scale) };
            return self.sink.passed.register(param.id, gradient);
        }
        let entry = self.sink.ddp.trainable_entry(place);
        let bucket = self.sink.ddp.plan.bucket_of[place];
        if gradient.dims()[..] != entry.shape[..] {
            self.wrong = Some(format!(
                "the gradient of {} has the shape {:?}, expected {:?}",
                entry.name,
                gradient.dims(),
                entry.shape
            ));
        } else if self.sink.given[place].is_some() || self.sink.missing[bucket] == 0 {
            self.wrong = Some(format!("the gradient of {} came twice in a step", entry.name));
        } else {
            self.sink.given[place] = Some(in_f32(gradient.reshape([-1])));
            self.sink.missing[bucket] -= 1;
            if self.sink.missing[bucket] == 0 {
                self.complete.push(bucket);
            }
        }
    }
}

/// The name of the first parameter whose gradient has a value that is no number.
fn first_bad<M: Module>(ddp: &DataParallel, model: &M, gradients: &GradientsParams) -> Option<String> {
    struct Probe<'a> {
        ddp: &'a DataParallel,
        gradients: &'a GradientsParams,
        at: usize,
        names: Vec<&'a str>,
        probes: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Probe<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let place = self.ddp.place.get(self.at).copied().flatten();
            self.at += 1;
            let Some(place) = place else { return };
            let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
            self.names.push(&self.ddp.trainable_entry(place).name);
            // Zero times a number is zero, and NaN times anything else.
            self.probes.push(in_f32(gradient.mul_scalar(0.0).sum()));
        }
    }
    let mut probe = Probe { ddp, gradients, at: 0, names: Vec::new(), probes: Vec::new() };
    model.visit(&mut probe);
    if probe.probes.is_empty() {
        return None;
    }
    let bad = Tensor::cat(probe.probes, 0).into_data().iter::<f32>().position(|probe| !probe.is_finite());
    bad.map(|place| probe.names[place].to_owned())
}

impl DataParallel {
    /// Cuts averaged buckets into the gradients of `model`'s parameters.
    fn distribute<M: Module>(&self, model: &M, averages: &[Tensor<1>]) -> GradientsParams {
        struct Distribute<'a> {
            ddp: &'a DataParallel,
            averages: &'a [Tensor<1>],
            starts: Vec<usize>,
            at: usize,
            gradients: GradientsParams,
        }
        impl ModuleVisitor for Distribute<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let place = self.ddp.place.get(self.at).copied().flatten();
                self.at += 1;
                let Some(place) = place else { return };
                let entry = self.ddp.trainable_entry(place);
                let start = self.starts[place];
                let values = self.averages[self.ddp.plan.bucket_of[place]].clone();
                let gradient = values.narrow(0, start, entry.len()).reshape(param.base().dims());
                let gradient: Tensor<D> = if entry.dtype == DType::F32 {
                    gradient
                } else {
                    gradient.cast(FloatDType::from(entry.dtype))
                };
                self.gradients.register(param.id, gradient);
            }
        }
        let mut starts = vec![0; self.trainable.len()];
        for bucket in &self.plan.buckets {
            let mut start = 0;
            for &param in &bucket.params {
                starts[param] = start;
                start += self.trainable_entry(param).len();
            }
        }
        let mut distribute =
            Distribute { ddp: self, averages, starts, at: 0, gradients: GradientsParams::new() };
        model.visit(&mut distribute);
        distribute.gradients
    }

    /// Tells all ranks whose gradient is no number; a collective call.
    fn name_bad(&self, bad: Option<(usize, usize)>) -> Result<String> {
        let mine = bad.map_or_else(String::new, |(bucket, piece)| {
            let param = self.plan.buckets[bucket].params[piece];
            format!("gradient of {} (bucket {bucket}) is not finite", self.trainable_entry(param).name)
        });
        agree::say(&self.comm, &mine)
    }
}
