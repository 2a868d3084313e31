//! Two machines on one network, each a network namespace with a name, a `/dev/shm` and a link of its own; and programs
//! that stand for a cluster's. Needs root and `ip`; without them it says that it was skipped.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part of this")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::word;

/// A folder of programs that are found before the system's.
pub struct Bin(tempfile::TempDir);

impl Bin {
    /// With `sprint` in it.
    pub fn new() -> Self {
        let bin = Self(tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sprint"), bin.0.path().join("sprint")).unwrap();
        bin
    }

    /// Adds a program that is a Bash script.
    pub fn add(&self, name: &str, script: &str) {
        let path = self.0.path().join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What `PATH` is to be.
    pub fn path(&self) -> String {
        format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap())
    }
}

/// A file of `deploy`.
pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// Two machines, `node0` and `node1`, and the switch between them; gone when it is dropped, with all that runs on them.
pub struct Machines {
    tag: String,
    /// Holds the file that is each machine's `/etc/hosts`.
    folder: tempfile::TempDir,
    /// A machine of this computer's few cores is enough: not two networks at a time.
    _alone: MutexGuard<'static, ()>,
}

fn ip(words: &str) -> Result<String, String> {
    let output = Command::new("ip").args(words.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Machines {
    /// `None`, and why, where the system does not allow it.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let tag = format!("sp{:x}{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let machines = Self { tag, folder: tempfile::tempdir().unwrap(), _alone: alone };
        match machines.build() {
            Ok(()) => Some(machines),
            Err(why) => {
                eprintln!("SKIP: no network namespaces here: {why}");
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let Self { tag, .. } = self;
        ip(&format!("netns add {tag}s"))?;
        ip(&format!("-n {tag}s link add sw type bridge"))?;
        ip(&format!("-n {tag}s link set sw up"))?;
        for node in 0..2 {
            let name = self.namespace(node);
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {tag}s link add v{node} type veth peer name eth0 netns {name}"))?;
            ip(&format!("-n {tag}s link set v{node} master sw up"))?;
            ip(&format!("-n {name} addr add 10.84.0.{}/24 dev eth0", node + 1))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
        }
        let hosts = "127.0.0.1 localhost\n10.84.0.1 node0 sprint-0.sprint\n10.84.0.2 node1 sprint-1.sprint\n";
        fs::write(self.folder.path().join("hosts"), hosts).unwrap();
        let tried = self.command(0, ["true"]).stdin(Stdio::null()).output();
        match tried.map_err(|error| error.to_string())? {
            output if output.status.success() => Ok(()),
            output => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    pub fn namespace(&self, node: u32) -> String {
        format!("{}n{node}", self.tag)
    }

    /// The words before a command that bring it onto a machine.
    pub fn on(&self, node: u32) -> Vec<String> {
        const SET_UP: &str = "echo \"$0\" >/proc/sys/kernel/hostname && mount --bind \"$1\" /etc/hosts && \
                              mount -t tmpfs -o size=256m tmpfs /dev/shm && shift && exec \"$@\"";
        let hosts = word(&self.folder.path().join("hosts"));
        let (namespace, name) = (self.namespace(node), format!("node{node}"));
        let words =
            ["ip", "netns", "exec", &namespace, "unshare", "--uts", "sh", "-c", SET_UP, &name, &hosts];
        words.map(ToOwned::to_owned).into()
    }

    pub fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        node: u32,
        words: impl IntoIterator<Item = S>,
    ) -> Command {
        let on = self.on(node);
        let mut command = Command::new(&on[0]);
        command.args(&on[1..]).args(words).stdin(Stdio::null());
        command
    }

    /// Pulls the cable of a machine: nobody gets a FIN.
    pub fn cut(&self, node: u32) {
        ip(&format!("-n {}s link set v{node} down", self.tag)).unwrap();
    }

    pub fn mend(&self, node: u32) {
        ip(&format!("-n {}s link set v{node} up", self.tag)).unwrap();
    }

    /// The processes of a machine.
    pub fn pids(&self, node: u32) -> Vec<i32> {
        let list = ip(&format!("netns pids {}", self.namespace(node))).unwrap_or_default();
        list.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for pid in (0..2).flat_map(|node| self.pids(node)) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for name in [self.namespace(0), self.namespace(1), format!("{}s", self.tag)] {
            // What was not made cannot be deleted.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}
