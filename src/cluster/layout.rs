//! Which ranks a machine runs, and what each of them is told through its environment.
//!
//! The variables are `burn-dist`'s own, which it prefers to those of other launchers: a launch inside a Slurm job or
//! under torchrun means what it says.

use std::{env, io, net::TcpListener, num::NonZeroUsize, thread};

use burn_dist::limits::MAX_WORLD_SIZE;

use super::{gpus::VISIBLE, launch::LaunchError};

/// Where a rank reads the number of the process that started it; see [`super::end_with_launcher`].
pub(super) const LAUNCHER_PID: &str = "SPRINT_LAUNCHER_PID";
const SECRET: &str = "BURN_DIST_SECRET";
/// Any of these says whom to trust: then no secret is drawn.
const TRUST: [&str; 3] = [SECRET, "BURN_DIST_SECRET_FILE", "BURN_DIST_INSECURE"];
/// The pool that Burn's CPU backends and our kernels compute in.
const THREADS: &str = "RAYON_NUM_THREADS";
const LOOPBACK: &str = "127.0.0.1";

/// The ranks of one machine in a job of one or several, all of which run equally many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    num_local: u32,
    num_nodes: u32,
    node_rank: u32,
    /// Host and port of rank 0, where the user gave them.
    master: Option<(String, u16)>,
    /// What each rank of this machine may see of its GPUs; empty if that is left as it is.
    gpus: Vec<String>,
}

impl Layout {
    /// The ranks `node_rank * num_local ..` of `num_nodes * num_local`, rank 0 of which listens at `master`
    /// (`HOST:PORT`). On a single machine `master` may be left out.
    ///
    /// # Errors
    /// [`LaunchError::Usage`] names the number that cannot be.
    ///
    /// ```
    /// use burn_sprint::cluster::Layout;
    /// let layout = Layout::new(8, 16, 15, Some("10.0.0.1:29400"))?;
    /// assert_eq!((layout.world_size(), layout.rank(7)), (128, 127));
    /// assert!(Layout::new(8, 16, 16, Some("10.0.0.1:29400")).is_err());
    /// # Ok::<(), burn_sprint::cluster::LaunchError>(())
    /// ```
    pub fn new(
        num_local: u32,
        num_nodes: u32,
        node_rank: u32,
        master: Option<&str>,
    ) -> Result<Self, LaunchError> {
        let usage = |message: String| Err(LaunchError::Usage(message));
        if num_local == 0 {
            return usage("--nproc is 0: expected the number of ranks on this machine, at least 1".into());
        }
        if num_nodes == 0 {
            return usage("--nnodes is 0: expected the number of machines, at least 1".into());
        }
        if node_rank >= num_nodes {
            return usage(format!(
                "--node-rank is {node_rank}: expected this machine's place among the {num_nodes} of --nnodes, from 0"
            ));
        }
        if num_local.checked_mul(num_nodes).is_none_or(|size| size > MAX_WORLD_SIZE) {
            return usage(format!(
                "{num_nodes} machines of {num_local} ranks: expected at most {MAX_WORLD_SIZE} ranks in all"
            ));
        }
        let master = match master {
            Some(master) => Some(parse_master(master)?),
            None if num_nodes > 1 => {
                return usage(format!(
                    "{num_nodes} machines need --master HOST:PORT, where rank 0 can be reached from all of them"
                ));
            }
            None => None,
        };
        Ok(Self { num_local, num_nodes, node_rank, master, gpus: Vec::new() })
    }

    /// As [`new`](Self::new), with a rank for each of `gpus`, which sees only that one.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn on_gpus(
        gpus: Vec<String>,
        num_nodes: u32,
        node_rank: u32,
        master: Option<&str>,
    ) -> Result<Self, LaunchError> {
        let num_local = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
        Ok(Self { gpus, ..Self::new(num_local, num_nodes, node_rank, master)? })
    }

    /// The ranks of this machine.
    pub fn num_local(&self) -> u32 {
        self.num_local
    }

    /// The ranks of all machines.
    pub fn world_size(&self) -> u32 {
        self.num_local * self.num_nodes
    }

    /// The rank of the `local`-th process of this machine.
    pub fn rank(&self, local: u32) -> u32 {
        self.node_rank * self.num_local + local
    }

    /// Where rank 0 of this start listens: as given, or a port that is free now.
    ///
    /// Between here and rank 0's own bind another process may take the port. Rank 0 then fails and names it, and a
    /// restart chooses another; ports are handed out in turn, so it takes much bad luck.
    fn meeting_point(&self) -> Result<(String, u16), LaunchError> {
        if let Some(master) = &self.master {
            return Ok(master.clone());
        }
        let port = TcpListener::bind((LOOPBACK, 0)).and_then(|listener| listener.local_addr());
        match port {
            Ok(address) => Ok((LOOPBACK.into(), address.port())),
            Err(source) => Err(LaunchError::System { what: "find a free port on 127.0.0.1", source }),
        }
    }

    /// What one start of the job tells all its ranks alike.
    pub(super) fn start(&self, generation: u32) -> Result<Start, LaunchError> {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let shared =
            self.shared(generation, self.meeting_point()?, cores, |name| env::var_os(name).is_some());
        shared.map(|shared| Start { shared })
    }

    /// The variables that all ranks have alike, beyond those that the user has given.
    fn shared(
        &self,
        generation: u32,
        (host, port): (String, u16),
        cores: usize,
        given: impl Fn(&str) -> bool,
    ) -> Result<Variables, LaunchError> {
        let mut shared = vec![
            ("BURN_DIST_WORLD_SIZE", self.world_size().to_string()),
            ("BURN_DIST_LOCAL_WORLD_SIZE", self.num_local.to_string()),
            ("BURN_DIST_MASTER_ADDR", host),
            ("BURN_DIST_MASTER_PORT", port.to_string()),
            ("BURN_DIST_GENERATION", generation.to_string()),
            (LAUNCHER_PID, std::process::id().to_string()),
        ];
        // The launchers of other machines could not learn of it.
        if self.num_nodes == 1 && !TRUST.iter().any(|name| given(name)) {
            shared.push((SECRET, draw_secret()?));
        }
        if !given(THREADS) {
            shared.push((THREADS, share(cores, self.num_local).to_string()));
        }
        Ok(shared)
    }
}

type Variables = Vec<(&'static str, String)>;

/// One start of a job: the variables of its ranks. Not printed, for one of them is the secret.
pub(super) struct Start {
    shared: Variables,
}

impl Start {
    /// The variables of the `local`-th process.
    pub(super) fn environment(&self, layout: &Layout, local: u32) -> Variables {
        let own = [("BURN_DIST_RANK", layout.rank(local)), ("BURN_DIST_LOCAL_RANK", local)];
        let own = own.into_iter().map(|(name, value)| (name, value.to_string()));
        // In the rank's environment, so it is there before CUDA is called first.
        let gpu = layout.gpus.get(local as usize).map(|gpu| (VISIBLE, gpu.clone()));
        self.shared.iter().cloned().chain(own).chain(gpu).collect()
    }
}

/// Each rank's share of a machine's cores.
fn share(cores: usize, num_local: u32) -> usize {
    (cores / num_local as usize).max(1)
}

/// 256 bits that nobody can guess, in hexadecimal digits.
fn draw_secret() -> Result<String, LaunchError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| LaunchError::System {
        what: "draw a secret",
        source: io::Error::other(error.to_string()),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `host:29400`, `[::1]:29400`.
fn parse_master(text: &str) -> Result<(String, u16), LaunchError> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| {
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.or_else(|| (!host.contains(':')).then_some(host))?;
        Some((host, port.parse().ok()?))
    });
    match parts {
        Some((host, port)) if !host.is_empty() && port != 0 => Ok((host.to_owned(), port)),
        _ => Err(LaunchError::Usage(format!(
            "--master {text}: expected HOST:PORT, such as 10.0.0.1:29400 or [fd00::1]:29400"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_a_machine_follow_those_of_the_machines_before_it() {
        let layout = Layout::new(3, 4, 2, Some("a:1")).unwrap();
        assert_eq!((0..3).map(|local| layout.rank(local)).collect::<Vec<_>>(), [6, 7, 8]);
        assert_eq!(layout.world_size(), 12);
    }

    #[test]
    fn a_master_is_a_host_and_a_port() {
        let parsed = |text| parse_master(text).ok();
        assert_eq!(parsed("node-1:29400"), Some(("node-1".into(), 29_400)));
        assert_eq!(parsed("[fd00::1]:1"), Some(("fd00::1".into(), 1)));
        for wrong in ["", "node", "node:", ":5", "node:0", "node:65536", "fd00::1", "fd00::1:80", "[]:80"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn cores_are_divided_and_nobody_goes_without() {
        assert_eq!([share(8, 1), share(8, 3), share(8, 8), share(2, 5)], [8, 2, 1, 1]);
    }

    #[test]
    fn a_rank_on_a_gpu_sees_only_that_one() {
        let gpus = ["GPU-1", "0", "5"].map(String::from);
        let layout = Layout::on_gpus(gpus.into(), 2, 1, Some("a:1")).unwrap();
        assert_eq!((layout.num_local(), layout.world_size(), layout.rank(2)), (3, 6, 5));
        let start = Start { shared: Vec::new() };
        let seen = |layout: &Layout, local| {
            let variables = start.environment(layout, local);
            variables.into_iter().find(|(name, _)| *name == VISIBLE).map(|(_, gpu)| gpu)
        };
        let all: Vec<_> = (0..3).filter_map(|local| seen(&layout, local)).collect();
        assert_eq!(all, ["GPU-1", "0", "5"]);
        assert_eq!(seen(&Layout::new(3, 1, 0, None).unwrap(), 0), None);
        assert!(Layout::on_gpus(Vec::new(), 1, 0, None).is_err());
    }

    #[test]
    fn what_the_user_gave_stays_as_it_is() {
        let names = |num_nodes: u32, given: &[&str]| -> Vec<&str> {
            let layout = Layout::new(2, num_nodes, 0, Some("a:1")).unwrap();
            let shared = layout.shared(0, ("a".into(), 1), 4, |name| given.contains(&name)).unwrap();
            shared.into_iter().map(|(name, _)| name).filter(|name| [SECRET, THREADS].contains(name)).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(names(1, &[]), [SECRET, THREADS]);
        assert_eq!(names(1, &[THREADS]), [SECRET]);
        for trust in TRUST {
            assert_eq!(names(1, &[trust, THREADS]), none, "{trust}");
        }
        assert_eq!(names(2, &[]), [THREADS], "no other machine would know it");
    }

    #[test]
    fn secrets_are_drawn_anew() {
        let (a, b) = (draw_secret().unwrap(), draw_secret().unwrap());
        assert!(a.len() == 64 && a.bytes().all(|digit| digit.is_ascii_hexdigit()), "{a}");
        assert_ne!(a, b);
    }

    #[test]
    fn too_many_ranks_are_refused_without_overflow() {
        assert!(Layout::new(512, 2, 0, Some("a:1")).is_ok());
        for (num_local, num_nodes) in [(513, 2), (u32::MAX, 2), (1 << 16, 1 << 16)] {
            assert!(Layout::new(num_local, num_nodes, 0, Some("a:1")).is_err());
        }
    }
}
