//! What a process can say about where it runs.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use sha2::{Digest, Sha256};

/// The name of this machine, as [`Fault`](crate::Fault)s and [`Member`](super::Member)s give it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A number that two processes have in common exactly if they can share memory: one kernel since one start, one
/// network namespace, one `/dev/shm`. Where the system does not tell, the process stands alone.
pub(super) fn host_id() -> u64 {
    let facts = || {
        let boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        let network = fs::metadata("/proc/self/ns/net").ok()?;
        let memory = fs::metadata(Path::new("/dev/shm")).ok()?;
        Some((boot, [network.dev(), network.ino(), memory.dev()]))
    };
    let mut hash = Sha256::new();
    match facts() {
        Some((boot, numbers)) => {
            hash.update(boot);
            numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
        }
        None => {
            hash.update(host_name());
            hash.update(std::process::id().to_le_bytes());
        }
    }
    let hash = hash.finalize();
    u64::from_le_bytes(std::array::from_fn(|byte| hash[byte]))
}
