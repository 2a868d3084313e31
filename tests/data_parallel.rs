//! Goal: many ranks train as one. The same update as of the whole batch, the same bits on all ranks, whatever gradients
//! exist, however they come, and one decision for all where a rank's model, data or gradients are not as they should be.
//!
//! Method: ranks as threads of this process over a local mesh, each with a model of its own, on flex and on ndarray; a
//! job of one rank is the reference.

#![allow(clippy::unwrap_used)]

#[path = "common/by_library.rs"]
mod by_library;
mod common;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig},
    optim::{GradientsAccumulator, GradientsParams, SgdConfig, momentum::MomentumConfig},
    tensor::{DType, Device, Tensor, TensorData, activation::tanh},
};
use burn_dist::{
    Agreed, BucketConfig, Communicator, Config, DataParallel, DataParallelConfig, DistError, NonFinite,
    Packing, Wire,
};

use common::devices;

const INPUTS: usize = 5;

/// Two layers that every loss uses, and one that only some do.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    second: Linear,
    sometimes: Linear,
}

impl Net {
    /// With weights that are a function of `seed`.
    fn new(seed: f32, device: &Device) -> Self {
        let layer = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        let net = Self { first: layer(INPUTS, 7), second: layer(7, 2), sometimes: layer(7, 2) };
        net.map(&mut Set { seed, count: 0.0 })
    }

    fn loss(&self, (inputs, targets): (Tensor<2>, Tensor<2>)) -> Tensor<1> {
        let outputs = self.second.forward(tanh(self.first.forward(inputs)));
        (outputs - targets).powi_scalar(2).mean()
    }
}

/// Sets every value to a sine of its place.
struct Set {
    seed: f32,
    count: f32,
}

impl ModuleMapper for Set {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (seed, start) = (self.seed, self.count);
        self.count += param.val().shape().num_elements() as f32;
        param.map(|tensor| {
            let value = |at| 0.6 * (seed + 1.7 * (start + at as f32)).sin();
            let values: Vec<f32> = (0..tensor.shape().num_elements()).map(value).collect();
            let device = tensor.device().without_autodiff();
            let plain = Tensor::from_data(TensorData::new(values, tensor.shape()), &device);
            Tensor::from_inner(plain).set_require_grad(tensor.is_require_grad())
        })
    }
}

/// Samples `from..to` of an endless set.
fn samples(from: usize, to: usize, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let matrix = |columns: usize, scale: f32| {
        let values: Vec<f32> = (from * columns..to * columns).map(|at| (scale * at as f32).cos()).collect();
        Tensor::from_data(TensorData::new(values, [to - from, columns]), device)
    };
    (matrix(INPUTS, 1.3), matrix(2, 0.7))
}

fn gradients(net: &Net, from: usize, to: usize, device: &Device) -> GradientsParams {
    GradientsParams::from_grads(net.loss(samples(from, to, device)).backward(), net)
}

/// Every value of the module, in order.
fn values<M: Module>(module: &M) -> Vec<f32> {
    struct Read(Vec<f32>);
    impl ModuleVisitor for Read {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut read = Read(Vec::new());
    module.visit(&mut read);
    read.0
}

/// Every gradient's values, in the order of the parameters; `None` for a parameter without one.
fn gradient_values<M: Module>(module: &M, gradients: &GradientsParams) -> Vec<Option<Vec<f32>>> {
    struct Read<'a>(&'a GradientsParams, Vec<Option<Vec<f32>>>);
    impl ModuleVisitor for Read<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id);
            self.1.push(gradient.map(|gradient| gradient.into_data().iter::<f32>().collect()));
        }
    }
    let mut read = Read(gradients, Vec::new());
    module.visit(&mut read);
    read.1
}

/// Runs `work` on every rank of a job of `world` on a device of every backend, and gives each backend's results to `check`.
fn on_ranks<T: Send>(
    world: u32,
    work: impl Fn(Communicator, Device) -> T + Sync,
    check: impl Fn(&str, Vec<T>),
) {
    for (name, device) in devices() {
        check(name, by_library::on_ranks(world, |comm| work(comm, device.clone().autodiff())));
    }
}

/// Several buckets for a network of some 80 parameters.
fn small_buckets() -> DataParallelConfig {
    let buckets = BucketConfig { first_bytes: 32, cap_bytes: 100 };
    DataParallelConfig { buckets, ..DataParallelConfig::default() }
}

/// Where buckets may be put together.
const PACKINGS: [Packing; 2] = [Packing::Host, Packing::Device];

/// [`small_buckets`], put together there.
fn packed(packing: Packing) -> DataParallelConfig {
    DataParallelConfig { packing, ..small_buckets() }
}

/// Trains on batches of `batch` a rank; returns all parameters and their hash.
fn train(comm: Communicator, device: &Device, batch: usize) -> (Vec<f32>, u64) {
    let (rank, world) = (comm.rank().index(), comm.rank().world_size().count());
    let net = Net::new(rank as f32, device);
    let (mut ddp, mut net) = DataParallel::new(comm, net, small_buckets()).unwrap();
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    for step in 0..8 {
        let start = (step * world + rank) * batch;
        let gradients = gradients(&net, start, start + batch, device);
        let gradients = ddp.average(gradients, &net).unwrap();
        net = optimizer.step(0.1, net, gradients);
    }
    let hash = ddp.verify_same(&net).unwrap();
    (values(&net), hash)
}

#[test]
fn ranks_with_parts_of_a_batch_train_as_one_with_the_whole() {
    for (world, batch) in [(2, 6), (3, 4), (4, 3)] {
        let whole = |_: Communicator, device: Device| train(Communicator::single(), &device, 12);
        on_ranks(1, whole, |backend, mut whole| {
            let (expected, _) = whole.remove(0);
            let start = values(&Net::new(0.0, &Device::flex().autodiff()));
            assert!(expected.iter().zip(&start).any(|(a, b)| (a - b).abs() > 0.1), "nothing is learnt");
            on_ranks(
                world,
                |comm, device| train(comm, &device, batch),
                |name, ranks| {
                    if name != backend {
                        return;
                    }
                    for (got, hash) in &ranks {
                        assert_eq!((got, hash), (&ranks[0].0, &ranks[0].1), "{name}: ranks differ");
                    }
                    // Values below 1 and 8 updates, each off by a few roundings of 6e-8.
                    for (a, b) in ranks[0].0.iter().zip(&expected) {
                        assert!((a - b).abs() < 2e-6, "{name}, {world} ranks: {a} {b}");
                    }
                },
            );
        });
    }
}

#[test]
fn gradients_that_come_in_parts_average_to_the_same_bits() {
    let work = |comm: Communicator, device: Device| {
        let rank = comm.rank().index();
        let (mut ddp, net) = DataParallel::new(comm, Net::new(1.0, &device), small_buckets()).unwrap();
        let mine = || net.loss(samples(rank * 4, rank * 4 + 4, &device)).backward();
        let whole = ddp.average(GradientsParams::from_grads(mine(), &net), &net).unwrap();
        let mut raw = mine();
        let mut sink = ddp.sink();
        // Ranks need not agree on how the parts come.
        if rank == 0 {
            sink.ready(&net, GradientsParams::from_module(&mut raw, &net.second)).unwrap();
            sink.ready(&net, GradientsParams::new()).unwrap();
        }
        sink.ready(&net, GradientsParams::from_grads(raw, &net)).unwrap();
        let parts = sink.finish(&net).unwrap();
        assert_eq!(parts.skipped, None);
        (gradient_values(&net, &whole), gradient_values(&net, &parts.gradients))
    };
    on_ranks(2, work, |name, ranks| {
        for (whole, parts) in &ranks {
            assert_eq!(whole, parts, "{name}");
            assert_eq!(whole, &ranks[0].0, "{name}");
        }
    });
}

/// Rank 1 alone uses the third layer: its gradient counts as zeros elsewhere, and the layout is everybody's.
#[test]
fn a_parameter_without_gradient_counts_as_zeros() {
    let work = |comm: Communicator, device: Device| {
        let rank = comm.rank().index();
        let (mut ddp, net) = DataParallel::new(comm, Net::new(1.0, &device), small_buckets()).unwrap();
        let mut loss = net.loss(samples(0, 4, &device));
        if rank == 1 {
            let hidden = tanh(net.first.forward(samples(0, 4, &device).0));
            loss = loss + net.sometimes.forward(hidden).mean();
        }
        // A step before, whose values must not be taken for this one's.
        let all = |net: &Net| net.sometimes.forward(net.first.forward(samples(0, 4, &device).0)).sum();
        let all = GradientsParams::from_grads(all(&net).backward(), &net);
        let _ = ddp.average(all, &net).unwrap();
        let own = GradientsParams::from_grads(loss.backward(), &net);
        let before = gradient_values(&net, &own);
        (before, gradient_values(&net, &ddp.average(own, &net).unwrap()))
    };
    on_ranks(2, work, |name, ranks| {
        let (rank0, rank1) = (&ranks[0], &ranks[1]);
        assert_eq!(rank0.1, rank1.1, "{name}");
        assert_eq!(rank0.0.iter().filter(|gradient| gradient.is_none()).count(), 2);
        for (at, got) in rank0.1.iter().enumerate() {
            let got = got.as_ref().expect("every parameter gets an average");
            let theirs = rank1.0[at].as_ref().unwrap();
            let zeros = vec![0.0; got.len()];
            let own = rank0.0[at].as_ref().unwrap_or(&zeros);
            for ((got, a), b) in got.iter().zip(own).zip(theirs) {
                assert!((got - (a + b) / 2.0).abs() <= 1e-7, "{name}: {got} {a} {b}");
            }
        }
    });
}

#[test]
fn accumulated_micro_batches_average_as_the_whole_batch() {
    let work = |comm: Communicator, device: Device| {
        let start = comm.rank().index() * 8;
        let (mut ddp, net) = DataParallel::new(comm, Net::new(1.0, &device), small_buckets()).unwrap();
        let mut sum = GradientsAccumulator::new();
        for micro in 0..4 {
            let at = start + 2 * micro;
            let loss = net.loss(samples(at, at + 2, &device)).div_scalar(4.0);
            sum.accumulate(&net, GradientsParams::from_grads(loss.backward(), &net));
        }
        let micro = ddp.average(sum.grads(), &net).unwrap();
        let whole = ddp.average(gradients(&net, start, start + 8, &device), &net).unwrap();
        (gradient_values(&net, &micro), gradient_values(&net, &whole))
    };
    on_ranks(2, work, |name, ranks| {
        for (micro, whole) in ranks {
            for (a, b) in micro.iter().flatten().flatten().zip(whole.iter().flatten().flatten()) {
                assert!((a - b).abs() < 1e-6, "{name}: {a} {b}");
            }
        }
    });
}

/// Gradients of which one value of `second.bias` is not a number.
fn ruined(net: &Net, device: &Device) -> GradientsParams {
    let mut gradients = gradients(net, 0, 4, device);
    let id = net.second.bias.as_ref().unwrap().id;
    let plain = device.clone().without_autodiff();
    gradients.register(id, Tensor::<1>::from_data([1.0, f32::NAN], &plain));
    gradients
}

#[test]
fn all_ranks_stop_alike_at_a_gradient_that_is_no_number_and_name_it() {
    let work = |packing, comm: Communicator, device: Device| {
        let rank = comm.rank().index();
        let (mut ddp, net) = DataParallel::new(comm, Net::new(1.0, &device), packed(packing)).unwrap();
        let bad = if rank == 1 { ruined(&net, &device) } else { gradients(&net, 0, 4, &device) };
        ddp.average(bad, &net).unwrap_err()
    };
    let check = |name: &str, errors: Vec<DistError>| {
        for error in errors {
            assert!(matches!(error, DistError::NonFinite(_)), "{name}: {error:?}");
            // Buckets of 100 bytes: `sometimes` is in 0 and 1, `second.bias` in 1.
            let error = error.to_string();
            assert!(error.starts_with("rank 1 on "), "{error}");
            assert!(error.ends_with(": gradient of second.bias (bucket 1) is not finite"), "{error}");
            assert_eq!(error.matches("rank ").count(), 1);
        }
    };
    for packing in PACKINGS {
        on_ranks(3, |comm, device| work(packing, comm, device), check);
    }
}

#[test]
fn a_step_is_skipped_by_all_ranks_and_the_next_one_is_not() {
    let work = |packing, comm: Communicator, device: Device| {
        let rank = comm.rank().index();
        let config = DataParallelConfig { non_finite: NonFinite::SkipStep, ..packed(packing) };
        let (mut ddp, net) = DataParallel::new(comm, Net::new(1.0, &device), config).unwrap();
        let bad = if rank == 1 { ruined(&net, &device) } else { gradients(&net, 0, 4, &device) };
        let mut sink = ddp.sink();
        sink.ready(&net, bad).unwrap();
        let skipped = sink.finish(&net).unwrap();
        assert!(skipped.gradients.is_empty());
        assert!(skipped.skipped.unwrap().ends_with(": gradient of second.bias (bucket 1) is not finite"));
        let before = values(&net);
        let net = SgdConfig::new().init().step(0.1, net, skipped.gradients);
        assert_eq!(values(&net), before);
        let next = ddp.average(gradients(&net, 0, 4, &device), &net).unwrap();
        gradient_values(&net, &next)
    };
    for packing in PACKINGS {
        on_ranks(
            2,
            |comm, device| work(packing, comm, device),
            |name, ranks| {
                assert_eq!(ranks[0], ranks[1], "{name}");
                assert!(ranks[0].iter().flatten().flatten().all(|value| value.is_finite()));
            },
        );
    }
}

/// Every gradient rounded to `dtype`; the same values in 32 bits.
fn rounded(net: &Net, mut gradients: GradientsParams, dtype: DType) -> GradientsParams {
    struct Round<'a>(&'a mut GradientsParams, DType);
    impl ModuleVisitor for Round<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.0.remove::<D>(param.id) else { return };
            let device = gradient.device();
            let data = gradient.into_data().convert_dtype(self.1).convert_dtype(DType::F32);
            self.0.register(param.id, Tensor::<D>::from_data(data, &device));
        }
    }
    net.visit(&mut Round(&mut gradients, dtype));
    gradients
}

/// What a GPU does, done on a CPU: the same bits as by the host's way. With 16 bits on the wire that holds for gradients
/// that fit into them; others are rounded on the device, and averaged as if they had been so before.
#[test]
fn buckets_put_together_on_the_device_average_to_the_bits_of_the_host_s() {
    for (wire, dtype) in [(Wire::F32, DType::F32), (Wire::F16, DType::F16), (Wire::Bf16, DType::BF16)] {
        for (world, shared_memory) in [(2, true), (3, false)] {
            let agreed = Agreed { wire, shared_memory, ..Agreed::default() };
            let config = Config { agreed, ..Config::default() };
            for (name, device) in devices() {
                let device = device.autodiff();
                let ranks = by_library::on_ranks_with(&config, world, |comm| {
                    let start = 4 * comm.rank().index();
                    let average = |packing, round: bool| {
                        let net = Net::new(1.0, &device);
                        let (mut ddp, net) = DataParallel::new(comm.clone(), net, packed(packing)).unwrap();
                        let raw = gradients(&net, start, start + 4, &device);
                        let mine = if round { rounded(&net, raw, dtype) } else { raw };
                        // A power of two, so that rounding before and after it is the same.
                        let mut sink = ddp.scaled_sink(0.25);
                        sink.ready(&net, mine).unwrap();
                        gradient_values(&net, &sink.finish(&net).unwrap().gradients)
                    };
                    let host = average(Packing::Host, true);
                    assert_eq!(host, average(Packing::Device, true), "{name}, {wire:?}");
                    // ndarray has no numbers of 16 bits: what it cannot round it sends as it is.
                    let rounds = device.supports_dtype(dtype);
                    let expected = if rounds { host } else { average(Packing::Host, false) };
                    let device = average(Packing::Device, false);
                    assert_eq!(device, expected, "{name}, {wire:?}");
                    device
                });
                assert!(ranks[0].iter().flatten().flatten().any(|value| *value != 0.0));
                assert!(ranks.iter().all(|rank| rank == &ranks[0]), "{name}, {wire:?}");
            }
        }
    }
}

/// Finite in 32 bits, but not in the 16 in which it would leave the device.
#[test]
fn what_the_wire_cannot_hold_is_named_before_it_is_sent() {
    let agreed = Agreed { wire: Wire::F16, ..Agreed::default() };
    let config = Config { agreed, ..Config::default() };
    let device = Device::flex().autodiff();
    let errors = by_library::on_ranks_with(&config, 2, |comm| {
        let rank = comm.rank().index();
        let net = Net::new(1.0, &device);
        let (mut ddp, net) = DataParallel::new(comm, net, packed(Packing::Device)).unwrap();
        let mut mine = gradients(&net, 0, 4, &device);
        if rank == 0 {
            let large = Tensor::<1>::from_data([1.0, -7e4], &Device::flex());
            mine.register(net.second.bias.as_ref().unwrap().id, large);
        }
        ddp.average(mine, &net).unwrap_err().to_string()
    });
    for error in errors {
        assert!(error.starts_with("rank 0 on "), "{error}");
        assert!(error.ends_with(": gradient of second.bias (bucket 1) is not finite"), "{error}");
    }
}

/// Their sum overflows, which is looked into: each of them is a number.
#[test]
fn large_gradients_are_no_fault() {
    let device = Device::flex().autodiff();
    let averages = by_library::on_ranks(2, |comm| {
        let net = Net::new(1.0, &device);
        let (mut ddp, net) = DataParallel::new(comm, net, packed(Packing::Device)).unwrap();
        let mut mine = gradients(&net, 0, 4, &device);
        let large = Tensor::<2>::full([7, 2], 1.5e38, &Device::flex());
        mine.register(net.second.weight.id, large);
        gradient_values(&net, &ddp.average(mine, &net).unwrap())
    });
    for average in averages {
        assert!(average.contains(&Some(vec![1.5e38; 14])), "{average:?}");
    }
}

#[test]
fn a_job_of_one_looks_for_what_is_no_number_only_if_it_may_skip() {
    let work = |comm: Communicator, device: Device| {
        let config = DataParallelConfig { non_finite: NonFinite::SkipStep, ..small_buckets() };
        let (mut ddp, net) = DataParallel::new(comm.clone(), Net::new(1.0, &device), config).unwrap();
        let mut sink = ddp.sink();
        sink.ready(&net, ruined(&net, &device)).unwrap();
        let skipped = sink.finish(&net).unwrap();
        let good = ddp.average(gradients(&net, 0, 4, &device), &net).unwrap();
        let (mut ddp, net) = DataParallel::new(comm, net, small_buckets()).unwrap();
        let passed = ddp.average(ruined(&net, &device), &net).unwrap();
        let raw = gradient_values(&net, &gradients(&net, 0, 4, &device));
        (skipped, gradient_values(&net, &good), raw, gradient_values(&net, &passed))
    };
    on_ranks(1, work, |name, ranks| {
        let [(skipped, good, raw, passed)] = &ranks[..] else { panic!("{name}") };
        assert!(skipped.gradients.is_empty());
        let why = skipped.skipped.as_deref().unwrap();
        assert!(
            why.starts_with("rank 0") && why.ends_with(": gradient of second.bias is not finite"),
            "{why}"
        );
        assert_eq!(good, raw, "{name}");
        assert!(passed.iter().flatten().flatten().any(|value| value.is_nan()), "{name}");
    });
}

/// Gradients of a loss times 2^k are the loss' gradients times 2^k, and scaling back gives their bits.
#[test]
fn a_scaled_loss_gives_the_same_bits() {
    for world_size in [1, 3] {
        let work = |comm: Communicator, device: Device| {
            let start = comm.rank().index() * 4;
            let (mut ddp, net) = DataParallel::new(comm, Net::new(1.0, &device), small_buckets()).unwrap();
            [1.0, 1024.0].map(|scale: f32| {
                let loss = net.loss(samples(start, start + 4, &device)).mul_scalar(scale);
                let gradients = GradientsParams::from_grads(loss.backward(), &net);
                let mut sink = ddp.scaled_sink(scale.recip());
                sink.ready(&net, gradients).unwrap();
                gradient_values(&net, &sink.finish(&net).unwrap().gradients)
            })
        };
        on_ranks(world_size, work, |name, ranks| {
            for [plain, scaled] in ranks {
                assert_eq!(plain, scaled, "{name}");
                assert!(plain.iter().flatten().flatten().any(|value| *value != 0.0));
            }
        });
    }
}

#[test]
fn a_rank_with_another_model_is_named_with_the_first_parameter_that_differs() {
    #[derive(Module, Debug)]
    struct Other {
        first: Linear,
        second: Linear,
        sometimes: Linear,
    }
    let work = |comm: Communicator, device: Device| {
        let layer = |inputs, outputs| LinearConfig::new(inputs, outputs).init(&device);
        if comm.rank().index() == 0 {
            let other = Other { first: layer(INPUTS, 7), second: layer(7, 3), sometimes: layer(7, 2) };
            return DataParallel::new(comm, other, small_buckets()).unwrap_err();
        }
        DataParallel::new(comm, Net::new(0.0, &device), small_buckets()).unwrap_err()
    };
    on_ranks(3, work, |name, errors| {
        for error in errors {
            assert!(matches!(error, DistError::Disagreement(_)), "{name}: {error:?}");
            let error = error.to_string();
            assert!(error.starts_with("the models differ: rank 0 on "), "{error}");
            let difference = "`second.weight [7, 3] f32` where rank 1 has `second.weight [7, 2] f32`";
            assert!(error.contains(difference), "{error}");
            // As the one that differs, once; as the one it differs from, once; and in the remedy.
            assert_eq!(error.matches("rank ").count(), 3, "{error}");
        }
    });
}

#[test]
fn a_rank_with_other_buckets_is_named() {
    let work = |comm: Communicator, device: Device| {
        let config = if comm.rank().index() == 1 { DataParallelConfig::default() } else { small_buckets() };
        DataParallel::new(comm, Net::new(0.0, &device), config).unwrap_err().to_string()
    };
    on_ranks(2, work, |_, errors| {
        assert!(errors[0].contains(": `buckets of 1048576 and 26214400 bytes"), "{}", errors[0]);
        assert_eq!(errors[0], errors[1]);
    });
}

#[test]
fn parameters_that_drift_apart_are_noticed() {
    let work = |comm: Communicator, device: Device| {
        let rank = comm.rank().index();
        // Different at the start, the same once rank 0's are everybody's.
        let (ddp, net) = DataParallel::new(comm, Net::new(rank as f32, &device), small_buckets()).unwrap();
        assert_eq!(values(&net), values(&Net::new(0.0, &device)));
        let hash = ddp.verify_same(&net).unwrap();
        assert_eq!(hash, ddp.parameter_hash(&net));
        let net = if rank == 2 { Net::new(5.0, &device) } else { net };
        ddp.verify_same(&net).unwrap_err().to_string()
    };
    on_ranks(4, work, |name, errors| {
        assert!(errors.iter().all(|error| *error == errors[0]), "{name}");
        assert!(errors[0].starts_with("the parameters differ: rank 2 on "), "{}", errors[0]);
        assert!(errors[0].contains(" where rank 0 has "), "{}", errors[0]);
    });
}

/// Rank 1 has two batches less than rank 0.
#[test]
fn ranks_with_fewer_batches_end_the_training_of_all_by_vote() {
    let work = |comm: Communicator, device: Device| {
        let rank = comm.rank().index();
        let (mut ddp, net) = DataParallel::new(comm, Net::new(1.0, &device), small_buckets()).unwrap();
        let mut batches = 0..5 - 2 * rank;
        let mut steps = 0;
        loop {
            let batch = batches.next();
            if !ddp.all_have_a_batch(batch.is_some()).unwrap() {
                return steps;
            }
            let _ = ddp.average(gradients(&net, 0, 4, &device), &net).unwrap();
            steps += 1;
        }
    };
    on_ranks(2, work, |name, steps| assert_eq!(steps, [3, 3], "{name}"));
}

/// Each mean is that over all samples of the step, and nobody waits for a rank that has none.
#[test]
fn ranks_with_fewer_samples_join_with_their_weight() {
    let steps = [[4, 1], [2, 2], [3, 0], [0, 0]];
    let work = |comm: Communicator, device: Device| {
        let rank = comm.rank().index();
        let (mut ddp, net) = DataParallel::new(comm, Net::new(1.0, &device), small_buckets()).unwrap();
        let (mut got, mut expected) = (Vec::new(), Vec::new());
        for counts in steps {
            let count = |rank: usize| counts[rank];
            let start = if rank == 0 { 0 } else { count(0) };
            let own = match count(rank) {
                0 => GradientsParams::new(),
                n => gradients(&net, start, start + n, &device),
            };
            let Some(average) = ddp.average_weighted(own, &net, count(rank)).unwrap() else {
                return (got, expected);
            };
            got.push(gradient_values(&net, &average));
            let all = gradients(&net, 0, count(0) + count(1), &device);
            expected.push(gradient_values(&net, &all));
        }
        panic!("nobody has samples, and the training goes on")
    };
    on_ranks(2, work, |name, ranks| {
        assert_eq!(ranks[0].0, ranks[1].0, "{name}");
        assert_eq!(ranks[0].0.len(), 3);
        for (got, expected) in ranks[0].0.iter().zip(&ranks[0].1) {
            for (got, expected) in got.iter().zip(expected) {
                // The layer that is never used gets zeros.
                let zeros = || vec![0.0; got.as_ref().unwrap().len()];
                let expected = expected.clone().unwrap_or_else(zeros);
                for (a, b) in got.as_ref().unwrap().iter().zip(&expected) {
                    assert!((a - b).abs() < 1e-6, "{name}: {a} {b}");
                }
            }
        }
    });
}

/// Burn's own batch norm, whose last update is pending when it is read.
#[derive(Module, Debug)]
struct Normalized {
    norm: BatchNorm,
    frozen: Linear,
}

#[test]
fn running_statistics_become_their_mean_and_frozen_weights_keep_their_bits() {
    let work = |comm: Communicator, device: Device| {
        let rank = comm.rank().index();
        let layer: Linear = LinearConfig::new(2, 2).init(&device);
        let net = Normalized { norm: BatchNormConfig::new(2).init(&device), frozen: layer.no_grad() };
        let (ddp, net) = DataParallel::new(comm, net, DataParallelConfig::default()).unwrap();
        let frozen = values(&net.frozen);
        // Channel means 10 (r + 1) and 1: the running mean goes a tenth of the way.
        let inputs = [[10.0 * (rank + 1) as f32, 0.0], [10.0 * (rank + 1) as f32, 2.0]];
        let _ = net.norm.forward::<2>(Tensor::from_data(inputs, &device));
        let net = ddp.average_buffers(net).unwrap();
        ddp.verify_same(&net).unwrap();
        assert_eq!(values(&net.frozen), frozen);
        net.valid().norm.running_mean.value().into_data().iter::<f32>().collect::<Vec<_>>()
    };
    on_ranks(3, work, |name, ranks| {
        for mean in &ranks {
            assert!((mean[0] - 2.0).abs() < 1e-6 && (mean[1] - 0.1).abs() < 1e-6, "{name}: {mean:?}");
        }
    });
}

#[test]
fn a_job_of_one_hands_gradients_through() {
    let device = Device::flex().autodiff();
    let (mut ddp, net) =
        DataParallel::new(Communicator::single(), Net::new(1.0, &device), small_buckets()).unwrap();
    let own = gradients(&net, 0, 4, &device);
    let before = gradient_values(&net, &own);
    let after = ddp.average(own, &net).unwrap();
    // A parameter without a gradient stays without.
    assert_eq!(gradient_values(&net, &after), before);
    assert_eq!(after.len(), 4);
}

#[test]
fn slips_of_the_caller_are_errors() {
    let work = |comm: Communicator, device: Device| {
        let plain = device.clone().without_autodiff();
        let error = DataParallel::new(comm.clone(), Net::new(1.0, &device).valid(), small_buckets());
        assert!(error.unwrap_err().to_string().contains("on a device with autodiff"));
        let wrong = BucketConfig { first_bytes: 0, cap_bytes: 1 };
        let config = DataParallelConfig { buckets: wrong, ..small_buckets() };
        assert!(DataParallel::new(comm.clone(), Net::new(1.0, &device), config).is_err());

        let (mut ddp, net) = DataParallel::new(comm, Net::new(1.0, &device), small_buckets()).unwrap();
        let mut sink = ddp.sink();
        sink.ready(&net, gradients(&net, 0, 4, &device)).unwrap();
        let twice = sink.ready(&net, gradients(&net, 0, 4, &device)).unwrap_err();
        assert!(twice.to_string().contains("came twice in a step"), "{twice}");
        let _ = sink.finish(&net).unwrap();

        let mut strange = gradients(&net, 0, 4, &device);
        strange.register(burn::module::ParamId::new(), Tensor::<1>::zeros([1], &plain));
        let strange = ddp.sink().ready(&net, strange).unwrap_err();
        assert!(strange.to_string().contains("1 gradients belong to no parameter"), "{strange}");
    };
    on_ranks(2, work, |_, _| {});
}
