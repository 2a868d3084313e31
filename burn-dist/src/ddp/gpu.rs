//! Buckets that never leave the GPU: from a tensor to the memory that NCCL averages, and back. Whether it is done is the
//! matter of `group`, the calls are `nccl`'s.
//!
//! Streams are kept in order by the host. A reader waits until a bucket is there, the data thread launches NCCL on a stream of
//! NCCL's own and waits for that, and only then does anybody get the tensor: what the host saw to be done before a launch
//! is done for every stream. The backward pass is waited for by nobody, since a reader's wait is on a stream of its own.

use burn::{
    backend::{
        Cube,
        fusion::{Fusion, FusionBackend},
    },
    cubecl,
    tensor::{DType, Tensor},
};

use super::{
    buffer::words,
    flight::{Checked, first_bad},
    pack::{Packed, Packer, in_f32},
};
use crate::{
    Communicator, Pending,
    config::Wire,
    error::{DistError, Result},
    nccl::{
        ffi::{Functions, Id, Number, Region, gpu_uuid},
        operation::{Average, Join, Shared},
        vote::Word,
    },
    outside::Outside,
};

/// The backend below the fusion of operations.
trait Fused {
    type Plain: FusionBackend;
}

impl<B: FusionBackend> Fused for Fusion<B> {
    type Plain = B;
}

type Plain = <Cube as Fused>::Plain;
type Primitive = burn::backend::tensor::FloatTensor<Plain>;

/// The tensor as CubeCL has it, with all that leads to it on its way to the device; `None` if it is no such tensor.
fn primitive(tensor: Tensor<1>) -> Option<Primitive> {
    let fused = tensor.try_into_primitive::<Cube>().ok()?;
    let client = fused.client.clone();
    Some(client.resolve_tensor_float::<Plain>(fused))
}

/// A rank that could go by NCCL.
pub(super) struct Offer {
    ordinal: usize,
    gpu: [u8; 16],
    /// Rank 0's: for all.
    id: Id,
    number: Number,
}

impl Offer {
    /// What this rank has to offer, or its word why it has nothing.
    pub(super) fn of(comm: &Communicator, packer: &Packer) -> Result<Self, Word> {
        let probe = primitive(Tensor::zeros([1], (&packer.device, DType::F32)));
        let Some(cubecl::Device::Cuda(device)) = probe.map(|probe| probe.device) else {
            return Err(Word::Unconcerned("its model is not on a CUDA GPU".into()));
        };
        if comm.is_encrypted() {
            return Err(Word::Cannot("TLS was asked for, and NCCL does not encrypt".into()));
        }
        let ordinal = device.index;
        let functions = Functions::get().map_err(Word::Cannot)?;
        let gpu = gpu_uuid(ordinal).map_err(Word::Cannot)?;
        let id = if comm.rank().is_main() { functions.new_id().map_err(Word::Cannot)? } else { [0; 128] };
        let number = match packer.wire {
            Wire::F32 => Number::F32,
            Wire::F16 => Number::F16,
            Wire::Bf16 => Number::Bf16,
        };
        Ok(Self { ordinal, gpu, id, number })
    }

    pub(super) fn gpu(&self) -> [u8; 16] {
        self.gpu
    }

    /// Joins all ranks' GPUs; a collective call.
    pub(super) fn join(self, comm: &Communicator) -> Result<Group> {
        let Self { ordinal, mut id, number, .. } = self;
        // Over connections that prove the job's secret: who does not have the number cannot take part.
        comm.broadcast(&mut id, 0)?;
        let (rank, world_size) = (comm.rank().index(), comm.rank().world_size().count());
        let join = Join { ordinal, id, rank, world_size, joined: None };
        let what = format!("NCCL communicator of {world_size} ranks");
        let join = comm.start_outside(what, 0, join).wait()?.data;
        let comm = join.joined.ok_or_else(|| DistError::usage("NCCL gave no communicator"))?;
        Ok(Group { comm, number })
    }
}

/// The GPUs of all ranks.
pub(super) struct Group {
    comm: Shared,
    number: Number,
}

impl Group {
    /// Waits until a bucket is there, and looks at it. `target` is where its average goes.
    pub(super) fn prepare(
        &self,
        Packed { values, sum }: Packed,
        target: Tensor<1>,
        lens: &[usize],
    ) -> Result<Checked<Exchange>, String> {
        let (from, to) = (region(&values)?, region(&target)?);
        let is_finite = sum.try_into_data().map_err(words)?.iter::<f32>().all(f32::is_finite);
        let bad = if is_finite {
            None
        } else {
            let values = in_f32(values.clone()).try_into_data().map_err(words)?;
            first_bad(lens, values.as_slice().map_err(words)?)
        };
        let average = Average::new(&self.comm, from, to, lens.iter().sum(), self.number);
        Ok((Exchange { average, target }, bad))
    }
}

/// The memory of a tensor, once all of it is there.
fn region(tensor: &Tensor<1>) -> Result<Region, String> {
    let bytes = tensor.shape().num_elements() * tensor.dtype().size();
    let primitive = primitive(tensor.clone()).ok_or("a bucket is not on a GPU")?;
    Region::of(&primitive.client, primitive.handle.clone(), bytes)
}

/// A bucket on its way.
pub(super) struct Exchange {
    average: Average,
    target: Tensor<1>,
}

impl Exchange {
    pub(super) fn start(self, comm: &Communicator, bucket: usize) -> Pending<Self> {
        let shape = self.target.shape().num_elements();
        let bytes = shape * self.target.dtype().size();
        let what =
            format!("all-reduce (mean) of {shape} {} by NCCL, bucket {bucket}", self.target.dtype().name());
        comm.start_outside(what, bytes, self)
    }

    /// The average, once it is there.
    pub(super) fn into_tensor(self) -> Tensor<1> {
        in_f32(self.target)
    }
}

impl Outside for Exchange {
    fn begin(&mut self) -> Result<(), String> {
        self.average.begin()
    }

    fn is_done(&mut self) -> Result<bool, String> {
        self.average.is_done()
    }

    fn abort(&mut self) {
        self.average.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;

    use super::*;

    /// Waits for an operation as a job would.
    fn drive(operation: &mut dyn Outside) {
        operation.begin().unwrap();
        while !operation.is_done().unwrap() {
            std::thread::yield_now();
        }
    }

    /// The way of a bucket on a GPU: with itself, a rank averages to what it has.
    #[test]
    fn a_communicator_of_one_rank_gives_back_what_it_takes() {
        if !Path::new("/proc/driver/nvidia/gpus").exists() {
            eprintln!("SKIP: no NVIDIA GPU");
            return;
        }
        let functions = match Functions::get() {
            Ok(functions) => functions,
            Err(why) => {
                eprintln!("SKIP: {why}");
                return;
            }
        };
        let device = Device::cuda(0);
        let id = functions.new_id().unwrap();
        let mut join = Join { ordinal: 0, id, rank: 0, world_size: 1, joined: None };
        drive(&mut join);
        let comm = join.joined.unwrap();
        for (wire, number) in [(Wire::F32, Number::F32), (Wire::F16, Number::F16)] {
            let group = Group { comm: Shared::clone(&comm), number };
            let packer = Packer { device: device.clone(), wire };
            let lens = [3, 2, 4];
            for (value, expected) in [(-0.75, None), (f32::NAN, Some(2)), (f32::INFINITY, Some(2))] {
                let gradients = vec![
                    Ok(Tensor::from_data([1.0, 2.0, -4.0], &device)),
                    Err(2),
                    Ok(Tensor::from_data([8.0, value, 0.5, 0.0], &device)),
                ];
                let packed = packer.pack(gradients, 0.5);
                let (mut exchange, bad) = group.prepare(packed, packer.room(9), &lens).unwrap();
                assert_eq!(bad, expected, "{wire:?}");
                drive(&mut exchange);
                let average: Vec<f32> = exchange.into_tensor().into_data().iter::<f32>().collect();
                let given = [0.5, 1.0, -2.0, 0.0, 0.0, 4.0, value / 2.0, 0.25, 0.0];
                assert_eq!(average.map_bits(), given.to_vec().map_bits(), "{wire:?}");
            }
        }
        // An abort of what does not run comes back, and again does nothing.
        let mut ended = comm.lock().unwrap();
        assert!(ended.abort() && ended.abort());
        assert!(ended.is_idle().unwrap_err().contains("was aborted"));
    }

    /// For values among which there is NaN.
    trait MapBits {
        fn map_bits(self) -> Vec<u32>;
    }

    impl MapBits for Vec<f32> {
        fn map_bits(self) -> Vec<u32> {
            self.into_iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
        }
    }
}
