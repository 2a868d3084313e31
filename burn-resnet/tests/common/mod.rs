//! What the tests share: the devices they run on, the fixtures, and the networks, images and labels that PyTorch was
//! given when the fixtures were made (`fixtures/make_fixtures.py` has the same hash).
#![allow(dead_code)]

use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_resnet::weights::{HeadPolicy, NamedTensor, apply_named, to_named};
use burn_resnet::{ResNet, ResNetConfig};
use safetensors::SafeTensors;

#[path = "../../../burn-kernels/tests/common/devices.rs"]
mod devices;
#[allow(unused_imports)]
pub(crate) use devices::{is_gpu, tolerance};

/// Calls `test` with a device of every backend that is compiled in, those on GPUs where there are any.
pub(crate) fn for_each_device(test: impl Fn(&str, Device)) {
    devices::devices().into_iter().for_each(|(name, device)| test(name, device));
}

/// The CPU backend that is compiled in, the faster one of two.
pub(crate) fn cpu() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    #[allow(deprecated)]
    return Device::ndarray();
}

pub(crate) fn fixture_path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name].iter().collect()
}

/// A safetensors fixture, read whole.
pub(crate) struct Fixture(Vec<u8>);

impl Fixture {
    pub(crate) fn open(name: &str) -> Self {
        Self::at(fixture_path(name))
    }

    pub(crate) fn at(path: PathBuf) -> Self {
        Self(std::fs::read(path).unwrap())
    }

    /// A tensor's values, from f32 or f64.
    pub(crate) fn get(&self, name: &str) -> Vec<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        match tensor.dtype() {
            safetensors::Dtype::F32 => tensor
                .data()
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                .collect(),
            _ => tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.names().into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn metadata(&self, key: &str) -> String {
        let (_, header) = SafeTensors::read_metadata(&self.0).unwrap();
        header.metadata().as_ref().unwrap()[key].clone()
    }
}

/// 24 random bits: FNV-1a of the name, SplitMix64 of the index.
pub(crate) fn bits(name: &str, count: usize) -> impl Iterator<Item = u64> {
    let fnv = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (1..=count as u64).map(move |i| {
        let z = fnv.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 40
    })
}

/// Uniform in [0, 1), exact in f32.
fn uniform(name: &str, count: usize) -> impl Iterator<Item = f32> {
    bits(name, count).map(|bits| bits as f32 / (1u64 << 24) as f32)
}

/// The values of the tensor `name` in every network of the tests.
pub(crate) fn hashed(name: &str, shape: &[usize]) -> Vec<f32> {
    let u = uniform(name, shape.iter().product());
    let (scale, offset) = match *shape {
        _ if name.ends_with("running_var") => return u.map(|u| 0.5 + u).collect(),
        _ if name.ends_with("bn3.weight") => return u.map(|u| 0.1 + 0.1 * u).collect(),
        [_] if name.ends_with("weight") => return u.map(|u| 0.5 + 0.5 * u).collect(),
        [_] if name == "fc.bias" => (0.02, 0.5),
        [_] => (0.2, 0.5),
        [_, input] => ((2.0 * (0.3 / input as f64).sqrt()) as f32, 0.5),
        [output, _, height, width] => ((2.0 * (6.0 / (output * height * width) as f64).sqrt()) as f32, 0.5),
        _ => unreachable!(),
    };
    u.map(|u| scale * (u - offset)).collect()
}

/// The network with the values that PyTorch's had.
pub(crate) fn hashed_model(config: &ResNetConfig, device: &Device) -> ResNet {
    let mut model = config.init(0, device);
    let tensors = model.params().into_iter().map(|info| NamedTensor {
        data: hashed(&info.name, &info.shape),
        name: info.name,
        shape: info.shape,
    });
    let tensors = tensors.collect();
    apply_named(&mut model, tensors, HeadPolicy::Strict).unwrap();
    model
}

/// The generator's checksum of a network's values.
pub(crate) fn checksum(model: &ResNet) -> String {
    let of = |values: &[f32]| {
        let terms = values.iter().zip(1u64..).map(|(v, i)| u64::from(v.to_bits()).wrapping_mul(i));
        terms.fold(0u64, u64::wrapping_add)
    };
    let sum = to_named(model).iter().map(|tensor| of(&tensor.data)).fold(0u64, u64::wrapping_add);
    format!("{sum:016x}")
}

pub(crate) fn images(name: &str, shape: [usize; 4], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = uniform(name, shape.iter().product()).map(|u| 4.0 * (u - 0.5)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

pub(crate) fn labels(name: &str, count: usize, classes: usize, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = bits(name, count).map(|bits| (bits % classes as u64) as i64).collect();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// Mean cross-entropy, in the number type of the logits.
pub(crate) fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let picked = log_softmax(logits, 1).gather(1, labels.unsqueeze_dim(1));
    picked.mean().neg()
}

/// The same network with everything in f64.
pub(crate) fn to_f64(model: ResNet) -> ResNet {
    struct Cast;
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let grad = param.is_require_grad();
            param.map(|t| t.detach().cast(FloatDType::F64).detach().set_require_grad(grad))
        }
    }
    model.map(&mut Cast)
}

/// Every gradient by name; empty where there is none.
pub(crate) fn named_gradients(model: &ResNet, grads: &GradientsParams) -> Vec<(String, Vec<f64>)> {
    struct Walk<'a> {
        grads: &'a GradientsParams,
        found: Vec<Vec<f64>>,
    }
    impl ModuleVisitor for Walk<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = self.grads.get::<D>(param.id).map(values);
            self.found.push(values.unwrap_or_default());
        }
    }
    let mut walk = Walk { grads, found: Vec::new() };
    model.visit(&mut walk);
    model.params().into_iter().map(|info| info.name).zip(walk.found).collect()
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    match tensor.dtype() {
        DType::F64 => tensor.into_data().try_to_vec::<f64>().unwrap(),
        _ => {
            let values: Vec<f32> = tensor.into_data().convert::<f32>().try_to_vec().unwrap();
            values.into_iter().map(f64::from).collect()
        }
    }
}

/// `|a - b| / |b|` in the Euclidean norm.
pub(crate) fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}
