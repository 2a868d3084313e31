//! The one place that names a backend: from the words of `--device` to a device that works.

use burn::tensor::{Device, Tensor};

use crate::error::{Error, Result, caught};

/// Every device that some build knows.
const KINDS: &[&str] = &["flex", "ndarray", "cuda", "wgpu", "vulkan"];

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
    match kind {
        #[cfg(feature = "flex")]
        "flex" => tried(name, Device::flex),
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "upstream will remove it; until then it checks flex's numbers")]
        "ndarray" => tried(name, Device::ndarray),
        #[cfg(feature = "cuda")]
        "cuda" => tried(name, || Device::cuda(index.unwrap_or_else(local_gpu))),
        #[cfg(feature = "wgpu")]
        "wgpu" => tried(name, || Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "vulkan")]
        "vulkan" => tried(name, || Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        _ if KINDS.contains(&kind) => Err(Error::usage(format!(
            "this program was built without {kind}: build it with `--features {kind}`, or choose --device flex"
        ))),
        _ => Err(Error::usage(format!(
            "there is no device `{name}`; expected one of {}, or cuda:N",
            KINDS.join(", ")
        ))),
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

/// A device on which one addition works.
fn tried(name: &str, make: impl Fn() -> Device) -> Result<Device> {
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
