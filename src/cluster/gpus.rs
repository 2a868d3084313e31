//! Which of a machine's NVIDIA GPUs a launch may use, and which one a rank takes. No call of CUDA: that would make a context
//! in a process that trains nothing, and before `CUDA_VISIBLE_DEVICES` is set for those that do.
//!
//! The driver lists GPUs below `/proc/driver/nvidia/gpus`, in a container those that it was given. What
//! `CUDA_VISIBLE_DEVICES` means is NVIDIA's: numbers or UUIDs that may be cut short, in the order in which a process is to
//! count them (CUDA C++ Programming Guide, "CUDA Environment Variables").

use std::{env, fs, io, path::Path};

use super::launch::LaunchError;

/// What a process may use.
pub(super) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
const DRIVER: &str = "/proc/driver/nvidia/gpus";

/// A GPU for each rank of a launch on this machine, as `CUDA_VISIBLE_DEVICES` takes it.
///
/// # Errors
/// [`LaunchError::Usage`]: there is none; the variable names what is not there.
pub fn visible_gpus() -> Result<Vec<String>, LaunchError> {
    let found = found(Path::new(DRIVER))
        .map_err(|source| LaunchError::System { what: "read /proc/driver/nvidia/gpus", source })?;
    let variable = env::var_os(VISIBLE).map(|value| value.to_string_lossy().into_owned());
    visible(&found, variable.as_deref()).map_err(LaunchError::Usage)
}

/// The number of the GPU, as CUDA counts them in this process, that a rank takes which was not told: the one of its place
/// on the machine, unless its launcher left it only one to see.
///
/// ```
/// use burn_sprint::cluster::gpu_of_rank;
/// assert_eq!(gpu_of_rank(None, None), 0);
/// assert_eq!(gpu_of_rank(Some(3), None), 3);
/// assert_eq!(gpu_of_rank(Some(3), Some("4,5,6,7")), 3);
/// assert_eq!(gpu_of_rank(Some(3), Some("GPU-8f1c")), 0);
/// ```
pub fn gpu_of_rank(local_rank: Option<u32>, visible: Option<&str>) -> usize {
    let is_narrowed = visible.is_some_and(|visible| !visible.trim().is_empty() && !visible.contains(','));
    if is_narrowed { 0 } else { local_rank.unwrap_or(0) as usize }
}

/// The UUIDs of the driver's GPUs; empty for one that does not tell it.
fn found(driver: &Path) -> io::Result<Vec<String>> {
    let mut folders = match fs::read_dir(driver) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    folders.sort();
    let uuid = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("GPU UUID:"));
        line.map(|uuid| uuid.trim().to_owned()).unwrap_or_default()
    };
    Ok(folders
        .iter()
        .map(|gpu| fs::read_to_string(gpu.join("information")).map(uuid).unwrap_or_default())
        .collect())
}

/// The GPUs among `found`, by UUID, that a process with such a variable may use.
fn visible(found: &[String], variable: Option<&str>) -> Result<Vec<String>, String> {
    if found.is_empty() {
        return Err(format!(
            "--nproc gpu: the driver lists no NVIDIA GPU on this machine ({DRIVER}): expected at least one; or say the \
             number of ranks"
        ));
    }
    let Some(variable) = variable else { return Ok((0..found.len()).map(|gpu| gpu.to_string()).collect()) };
    let mut gpus: Vec<(usize, String)> = Vec::new();
    for (place, word) in variable.split(',').map(str::trim).enumerate() {
        // What stands behind a wrong number is not seen by CUDA; -1 is the usual one to say so.
        if word.is_empty() || word == "-1" || word == "NoDevFiles" {
            break;
        }
        let gpu = match word.parse::<usize>() {
            Ok(number) if number < found.len() => number,
            // A part of a GPU: only CUDA knows them; each is one of its own.
            Err(_) if word.starts_with("MIG-") => found.len() + place,
            Err(_) if word.starts_with("GPU-") => of_uuid(found, word)?,
            _ => {
                return Err(format!(
                    "--nproc gpu: {VISIBLE} has {word}: expected numbers of this machine's {} GPUs, from 0, or UUIDs \
                     (GPU-..., MIG-...)",
                    found.len()
                ));
            }
        };
        if gpus.iter().any(|(other, _)| *other == gpu) {
            return Err(format!("--nproc gpu: {VISIBLE}={variable} names a GPU twice: CUDA would see none"));
        }
        gpus.push((gpu, word.to_owned()));
    }
    if gpus.is_empty() {
        return Err(format!("--nproc gpu: {VISIBLE}={variable} hides all {} GPUs", found.len()));
    }
    Ok(gpus.into_iter().map(|(_, word)| word).collect())
}

/// The one GPU whose UUID begins so.
fn of_uuid(found: &[String], word: &str) -> Result<usize, String> {
    let mut those = (0..found.len()).filter(|&gpu| found[gpu].starts_with(word));
    match (those.next(), those.next()) {
        (Some(gpu), None) => Ok(gpu),
        (None, _) => Err(format!("--nproc gpu: {VISIBLE} has {word}, which is none of this machine's GPUs")),
        (Some(_), Some(_)) => {
            Err(format!("--nproc gpu: {VISIBLE} has {word}, which is the beginning of several"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four() -> Vec<String> {
        ["GPU-aa11-1", "GPU-aa22-2", "GPU-bb33-3", ""].map(str::to_owned).into()
    }

    #[test]
    fn without_the_variable_all_are_used_by_number() {
        assert_eq!(visible(&four(), None).unwrap(), ["0", "1", "2", "3"]);
    }

    #[test]
    fn the_variable_says_which_and_in_which_order() {
        for (variable, expected) in [
            ("2,0", &["2", "0"][..]),
            (" 1 , 3 ", &["1", "3"]),
            ("GPU-bb,GPU-aa22-2,0", &["GPU-bb", "GPU-aa22-2", "0"]),
            ("MIG-1,MIG-2", &["MIG-1", "MIG-2"]),
            ("1,-1,2", &["1"]),
            ("1,,2", &["1"]),
        ] {
            assert_eq!(visible(&four(), Some(variable)).unwrap(), expected, "{variable}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        for (variable, expected) in [
            ("4", "has 4: expected numbers of this machine's 4 GPUs"),
            ("0,one", "has one: expected numbers"),
            ("GPU-cc", "GPU-cc, which is none of this machine's GPUs"),
            ("GPU-aa", "GPU-aa, which is the beginning of several"),
            ("0,0", "names a GPU twice"),
            ("0,GPU-aa11", "names a GPU twice"),
            ("", "hides all 4 GPUs"),
            ("-1", "hides all 4 GPUs"),
            ("NoDevFiles", "hides all 4 GPUs"),
        ] {
            let error = visible(&four(), Some(variable)).unwrap_err();
            assert!(error.contains(expected), "{variable}: {error}");
        }
        assert!(visible(&[], None).unwrap_err().contains("lists no NVIDIA GPU on this machine"));
        assert!(visible(&[], Some("0")).unwrap_err().contains("lists no NVIDIA GPU"));
    }

    #[test]
    fn the_driver_s_folders_are_read() {
        let driver = tempfile::tempdir().unwrap();
        assert_eq!(found(&driver.path().join("gpus")).unwrap(), [""; 0]);
        for (bus, text) in [
            ("0000:b1:00.0", "Model: \t\t Tesla V100\nGPU UUID: \t GPU-b1\nDevice Minor: \t 1\n"),
            ("0000:3b:00.0", "Model: \t\t Tesla V100\nGPU UUID: \t GPU-3b\nDevice Minor: \t 0\n"),
            ("0000:d8:00.0", "Model: \t\t unknown\n"),
        ] {
            let folder = driver.path().join(bus);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("information"), text).unwrap();
        }
        assert_eq!(found(driver.path()).unwrap(), ["GPU-3b", "GPU-b1", ""]);
    }
}
