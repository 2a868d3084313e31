//! Settings of a communicator from variables. A name that is nearly right is an error: a secret or a timeout that was
//! meant and not set must not go unnoticed.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::Vars;
use crate::{
    config::{Agreed, Config, Timeouts, TlsFiles, Trust, Wire},
    error::{DistError, Result},
    limits::MAX_SECRET_BYTES,
};

const PREFIX: &str = "BURN_DIST_";
/// Every variable of ours, without [`PREFIX`].
const KNOWN: [&str; 23] = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "GENERATION",
    "SECRET_FILE",
    "SECRET",
    "INSECURE",
    "IFNAME",
    "TLS_CA",
    "TLS_CERT",
    "TLS_KEY",
    "STREAMS",
    "WIRE",
    "CHECKSUM",
    "TIMEOUT_S",
    "STARTUP_TIMEOUT_S",
    "FLIGHT_DIR",
    "TRACE_DIR",
    "SHARED_MEMORY",
    "NCCL",
];

impl Config {
    /// The settings that variables give; the default for what they do not. `vars` gives a variable's value, `names` are
    /// those of all variables there are.
    ///
    /// | `BURN_DIST_` | |
    /// |---|---|
    /// | `SECRET_FILE`, `SECRET` | What all ranks prove to each other to have; the file readable by its owner only, or root's and readable by a group. |
    /// | `INSECURE=1` | No secret, on any network. |
    /// | `TLS_CA`, `TLS_CERT`, `TLS_KEY` | Mutual TLS 1.3: PEM files. |
    /// | `IFNAME` | Interfaces to use; `NCCL_SOCKET_IFNAME` and `GLOO_SOCKET_IFNAME` are read too. |
    /// | `STREAMS`, `WIRE`, `CHECKSUM`, `SHARED_MEMORY`, `NCCL` | Alike on all ranks: see [`Agreed`]. |
    /// | `TIMEOUT_S`, `STARTUP_TIMEOUT_S` | Seconds for an operation, for all ranks to come together. |
    /// | `FLIGHT_DIR`, `TRACE_DIR` | Where flight records and traces go. |
    ///
    /// # Errors
    /// A value that cannot be; a secret's file that others may read; a variable of ours that there is not, with the one
    /// that was likely meant.
    pub fn from_vars(
        vars: &dyn Fn(&str) -> Option<String>,
        names: impl IntoIterator<Item = String>,
    ) -> Result<Self> {
        for name in names {
            check_name(&name)?;
        }
        let vars = Vars(vars);
        let defaults = Self::default();
        let Agreed { streams, wire, checksum, shared_memory, nccl, .. } = defaults.agreed;
        let Timeouts { startup, operation, .. } = defaults.timeouts;
        let config = Self {
            agreed: Agreed {
                streams: vars.parsed("BURN_DIST_STREAMS", "a number of connections")?.unwrap_or(streams),
                wire: wire_format(&vars)?.unwrap_or(wire),
                checksum: switch(&vars, "BURN_DIST_CHECKSUM")?.unwrap_or(checksum),
                shared_memory: switch(&vars, "BURN_DIST_SHARED_MEMORY")?.unwrap_or(shared_memory),
                nccl: switch(&vars, "BURN_DIST_NCCL")?.unwrap_or(nccl),
                ..defaults.agreed
            },
            timeouts: Timeouts {
                startup: seconds(&vars, "BURN_DIST_STARTUP_TIMEOUT_S")?.unwrap_or(startup),
                operation: seconds(&vars, "BURN_DIST_TIMEOUT_S")?.unwrap_or(operation),
                ..defaults.timeouts
            },
            trust: trust(&vars)?,
            tls: tls(&vars)?,
            interface: interface(&vars),
            flight_dir: vars.text("BURN_DIST_FLIGHT_DIR").map(PathBuf::from),
            trace_dir: vars.text("BURN_DIST_TRACE_DIR").map(PathBuf::from),
        };
        config.agreed.check()?;
        Ok(config)
    }
}

fn check_name(name: &str) -> Result<()> {
    let Some(end) = name.strip_prefix(PREFIX) else { return Ok(()) };
    if KNOWN.contains(&end) {
        return Ok(());
    }
    let nearest = KNOWN.iter().min_by_key(|known| strsim::levenshtein(end, known)).unwrap_or(&KNOWN[0]);
    Err(DistError::config(format!(
        "there is no variable {name}: is {PREFIX}{nearest} meant? (all: {PREFIX}{{{}}})",
        KNOWN.join(",")
    )))
}

fn trust(vars: &Vars<'_>) -> Result<Trust> {
    let insecure = switch(vars, "BURN_DIST_INSECURE")?.unwrap_or(false);
    // As it is: a secret may begin or end with a space.
    let secret = (vars.0)("BURN_DIST_SECRET").filter(|secret| !secret.is_empty());
    match (vars.text("BURN_DIST_SECRET_FILE"), secret, insecure) {
        (None, None, false) => Ok(Trust::LoopbackOnly),
        (None, None, true) => Ok(Trust::Insecure),
        (Some(path), None, false) => secret_file(Path::new(&path)).map(Trust::Secret),
        (None, Some(secret), false) if secret.len() as u64 <= MAX_SECRET_BYTES => {
            Ok(Trust::Secret(secret.into()))
        }
        (None, Some(_), false) => {
            Err(DistError::config(format!("BURN_DIST_SECRET is longer than {MAX_SECRET_BYTES} bytes")))
        }
        _ => Err(DistError::config(
            "of BURN_DIST_SECRET_FILE, BURN_DIST_SECRET and BURN_DIST_INSECURE=1 at most one can be meant",
        )),
    }
}

/// The secret in a file, without the line's end.
///
/// # Errors
/// It cannot be read; others may read it; it is empty or too long.
pub(crate) fn secret_file(path: &Path) -> Result<Vec<u8>> {
    let wrong =
        |why: &dyn std::fmt::Display| DistError::config(format!("the secret in {}: {why}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| wrong(&error))?;
    if !metadata.is_file() {
        return Err(wrong(&"not a file"));
    }
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let metadata = file.metadata().map_err(|error| wrong(&error))?;
    let mode = metadata.mode() & 0o777;
    if is_open_to_others(metadata.uid(), mode) {
        return Err(wrong(&format!("others than its owner may read it (mode {mode:03o}): chmod 600")));
    }
    let mut secret = Vec::new();
    file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut secret).map_err(|error| wrong(&error))?;
    if secret.len() as u64 > MAX_SECRET_BYTES {
        return Err(wrong(&format!("longer than {MAX_SECRET_BYTES} bytes")));
    }
    while secret.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        secret.pop();
    }
    if secret.is_empty() { Err(wrong(&"empty")) } else { Ok(secret) }
}

/// Whether a file of the user `uid` is open to more than its owner. What root owns may be read by a group, which is how
/// the system hands out secrets that are not the user's own files: Kubernetes' volumes do with `fsGroup`. PostgreSQL
/// has the same rule for its keys.
pub(super) fn is_open_to_others(uid: u32, mode: u32) -> bool {
    mode & if uid == 0 { 0o037 } else { 0o077 } != 0
}

fn tls(vars: &Vars<'_>) -> Result<Option<TlsFiles>> {
    let names = ["BURN_DIST_TLS_CA", "BURN_DIST_TLS_CERT", "BURN_DIST_TLS_KEY"];
    if !vars.whole("TLS", &names, &names)? {
        return Ok(None);
    }
    let [ca, certificate, key] = names.map(|name| vars.text(name).map(PathBuf::from).unwrap_or_default());
    Ok(Some(TlsFiles { ca, certificate, key }))
}

fn interface(vars: &Vars<'_>) -> Option<String> {
    let nccl = || vars.text("NCCL_SOCKET_IFNAME");
    // Gloo knows whole names only.
    let gloo = || vars.text("GLOO_SOCKET_IFNAME").map(|names| format!("={names}"));
    vars.text("BURN_DIST_IFNAME").or_else(nccl).or_else(gloo)
}

fn wire_format(vars: &Vars<'_>) -> Result<Option<Wire>> {
    Ok(match vars.text("BURN_DIST_WIRE").as_deref() {
        None => None,
        Some("f32") => Some(Wire::F32),
        Some("f16") => Some(Wire::F16),
        Some("bf16") => Some(Wire::Bf16),
        Some(other) => {
            return Err(DistError::config(format!("BURN_DIST_WIRE is {other:?}: expected f32, f16 or bf16")));
        }
    })
}

fn switch(vars: &Vars<'_>, name: &str) -> Result<Option<bool>> {
    struct Switch(bool);
    impl FromStr for Switch {
        type Err = ();
        fn from_str(text: &str) -> Result<Self, ()> {
            match text {
                "1" | "true" | "on" => Ok(Self(true)),
                "0" | "false" | "off" => Ok(Self(false)),
                _ => Err(()),
            }
        }
    }
    Ok(vars.parsed::<Switch>(name, "1 or 0")?.map(|Switch(on)| on))
}

fn seconds(vars: &Vars<'_>, name: &str) -> Result<Option<Duration>> {
    let expected = "a whole number of seconds, 1 to 31536000";
    let seconds = vars.parsed::<u64>(name, expected)?;
    if let Some(wrong) = seconds.filter(|seconds| !(1..=31_536_000).contains(seconds)) {
        return Err(DistError::config(format!("{name} is {wrong}: expected {expected}")));
    }
    Ok(seconds.map(Duration::from_secs))
}
