//! The devices that numeric tests run on: every backend that is compiled in, GPUs where there are any. All crates' tests
//! take them from here.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
use burn::tensor::DeviceType;

/// A device and its name as `--device` takes it.
pub type Named = (&'static str, Device);

/// CPU backends.
pub fn cpus() -> Vec<Named> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated, reason = "a second opinion for tests")]
        ("ndarray", Device::ndarray()),
    ]
}

/// One device of each GPU backend; a visible word where there is none for it. Tests run on several threads, which CubeCL's
/// own database does not bear.
pub fn gpus() -> Vec<Named> {
    if let Err(error) = burn_kernels::kernel_cache::open() {
        eprintln!("kernels are chosen anew: {error}");
    }
    let found: Vec<(&'static str, Option<Device>)> = vec![
        #[cfg(feature = "cuda")]
        ("cuda", first(DeviceType::Cuda).map(|_| Device::cuda(0))),
        #[cfg(feature = "wgpu")]
        ("wgpu", first(DeviceType::Wgpu).map(|_| Device::wgpu(Default::default()))),
        #[cfg(feature = "vulkan")]
        ("vulkan", first(DeviceType::Vulkan).map(|_| Device::vulkan(Default::default()))),
    ];
    let there = |(name, device): (&'static str, Option<Device>)| {
        if device.is_none() {
            eprintln!("SKIP: there is no device for {name}");
        }
        Some((name, device?))
    };
    found.into_iter().filter_map(there).collect()
}

/// Those that burn-kernels has kernels of its own for.
#[cfg(feature = "flex")]
pub fn own() -> Vec<Named> {
    [("flex", Device::flex())].into_iter().chain(gpus()).collect()
}

/// All of them.
pub fn devices() -> Vec<Named> {
    let mut all = cpus();
    all.extend(gpus());
    all
}

#[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
fn first(kind: DeviceType) -> Option<Device> {
    Device::enumerate(kind).into_vec().into_iter().next()
}

/// The relative error that a device may make in f32: what the test demands of a CPU, and of a GPU, whose products may be
/// of TF32 numbers and whose sums are in another order, no more than 1e-3.
pub fn tolerance(name: &str, on_cpu: f64) -> f64 {
    if is_gpu(name) { on_cpu.max(1e-3) } else { on_cpu }
}

pub fn is_gpu(name: &str) -> bool {
    !matches!(name, "flex" | "ndarray")
}
