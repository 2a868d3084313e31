//! The one place that names a backend: from the words of `--device` to a device that works, or to one line that says
//! what is missing.

mod cuda;
mod libraries;

use burn::tensor::{Device, Tensor};
#[cfg(any(feature = "wgpu", feature = "vulkan"))]
use burn::tensor::{DeviceKind, DeviceType};
use burn_kernels::kernel_cache;

use crate::error::{Error, Result, caught};

/// Every device that some build knows, and whether this one does.
const KINDS: &[(&str, bool)] = &[
    ("flex", cfg!(feature = "flex")),
    ("ndarray", cfg!(feature = "ndarray")),
    ("cuda", cfg!(feature = "cuda")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
];

/// Finds the device that `name` means and tries it once.
///
/// # Errors
/// [`Error::Usage`] for a name that is none, or a backend that this program was built without; [`Error::Run`] for a
/// device that is not there or does not work.
pub(super) fn find(name: &str) -> Result<Device> {
    let (kind, index) = match name.split_once(':') {
        None => (name, None),
        Some((kind, index)) => {
            let wrong =
                || Error::usage(format!("--device {name}: expected a number after the colon, as in cuda:0"));
            (kind, Some(index.parse::<usize>().map_err(|_| wrong())?))
        }
    };
    if index.is_some() && kind != "cuda" {
        return Err(Error::usage(format!("--device {name}: only cuda takes a number, as in cuda:0")));
    }
    if is_gpu(kind)
        && let Err(error) = kernel_cache::open()
    {
        eprintln!("kernels will be chosen anew: {error}");
    }
    match kind {
        #[cfg(feature = "flex")]
        "flex" => tried(name, Ok(()), Device::flex),
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "upstream will remove it; until then it checks flex's numbers")]
        "ndarray" => tried(name, Ok(()), Device::ndarray),
        #[cfg(feature = "cuda")]
        "cuda" => {
            let index = index.unwrap_or_else(local_gpu);
            tried(name, cuda::choose(&libraries::look(), index).map(drop), || Device::cuda(index))
        }
        #[cfg(feature = "wgpu")]
        "wgpu" => tried(name, has_adapter(DeviceType::Wgpu), || Device::wgpu(DeviceKind::DefaultDevice)),
        #[cfg(feature = "vulkan")]
        "vulkan" => {
            tried(name, has_adapter(DeviceType::Vulkan), || Device::vulkan(DeviceKind::DefaultDevice))
        }
        _ if KINDS.iter().any(|(known, _)| *known == kind) => Err(Error::usage(format!(
            "this program was built without {kind}: build it with `--features {kind}`, or choose --device flex"
        ))),
        _ => Err(Error::usage(format!(
            "there is no device `{name}`; expected one of {}, or cuda:N",
            KINDS.iter().map(|(kind, _)| *kind).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// Keeps what a GPU's library has chosen so far, for the next process.
pub(super) fn keep_kernels() {
    if let Err(error) = kernel_cache::keep() {
        eprintln!("the next process will choose its kernels anew: {error}");
    }
}

/// The GPU of this process' place on its machine, if a launcher gave it one. Whoever is told wrongly hears of it when it
/// meets the other ranks.
#[cfg(feature = "cuda")]
fn local_gpu() -> usize {
    let variable = |name: &str| std::env::var(name).ok();
    let local_rank =
        burn_dist::env::identity(&variable).ok().flatten().and_then(|identity| identity.local_rank);
    crate::cluster::gpu_of_rank(local_rank, variable("CUDA_VISIBLE_DEVICES").as_deref())
}

/// Whether a device of this name has a memory of its own.
pub(super) fn is_gpu(name: &str) -> bool {
    !matches!(name, "flex" | "ndarray")
}

/// What a device is, in words.
pub(super) fn description(device: &Device) -> String {
    #[cfg(any(feature = "cuda", feature = "wgpu", feature = "vulkan"))]
    if let Some(identity) = device.identity() {
        return identity.name;
    }
    let _ = device;
    format!("{} cores", std::thread::available_parallelism().map_or(1, usize::from))
}

/// Every kind of device, and what this build on this machine can do with it, in words.
pub(super) fn survey() -> Vec<(String, String)> {
    let mut rows = Vec::new();
    for &(kind, built) in KINDS {
        let without = format!("not in this build, which takes --features {kind}");
        if kind == "cuda" {
            let found = libraries::look();
            let count = found.driver.as_ref().map_or(1, |driver| driver.cards.len().max(1));
            for index in 0..count {
                let card = cuda::choose(&found, index).map(|card| cuda::in_words(card, &found));
                let words = match (built, card) {
                    (true, Ok(card)) => works(&format!("cuda:{index}")).map_or_else(|why| why, |()| card),
                    (true, Err(why)) => why,
                    (false, Ok(card)) => format!("{without}; here is {card}"),
                    (false, Err(why)) => format!("{without}; here: {why}"),
                };
                rows.push((format!("cuda:{index}"), words));
            }
            continue;
        }
        let words = match built {
            true => works(kind).map_or_else(|why| why, |()| "works".into()),
            false => without,
        };
        rows.push((kind.into(), words));
    }
    rows
}

fn works(name: &str) -> Result<(), String> {
    find(name).map(drop).map_err(|error| error.to_string())
}

/// wgpu's library panics where it finds nothing to compute on.
#[cfg(any(feature = "wgpu", feature = "vulkan"))]
fn has_adapter(kind: DeviceType) -> Result<(), String> {
    match caught(|| Device::enumerate(kind).into_vec().len()) {
        Ok(0) => Err("there is no GPU with a driver for Vulkan: install the card's driver, or, to compute on the CPU by \
                      way of Vulkan, Mesa's (Debian: mesa-vulkan-drivers)"
            .into()),
        Ok(_) => Ok(()),
        Err(why) => Err(why),
    }
}

/// A device on which one addition works, if what it takes `is_there`; Burn is not asked before.
fn tried(name: &str, is_there: Result<(), String>, make: impl Fn() -> Device) -> Result<Device> {
    is_there
        .map_err(|why| Error::run(format!("device {name} cannot be used: {why}; or choose --device flex")))?;
    let device = caught(|| {
        let device = make();
        let two = Tensor::<1>::ones([1], &device) + 1.0;
        (two.into_scalar::<f32>() == 2.0).then_some(device)
    });
    match device {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(Error::run(format!("device {name} computes 1 + 1 wrongly: do not use it"))),
        Err(cause) => Err(Error::run(format!(
            "device {name} cannot be used: {cause}; is there such a device, and its driver?"
        ))),
    }
}
