//! Who this process is, from the variables that launchers set. Several may be set at once, for one launcher may have
//! started another: the first of burn-dist's own, torchrun, Open MPI, Slurm, PMI (MPICH, Intel MPI) and Kubernetes'
//! indexed jobs that is there is taken, and taken whole. Pure: variables come in as a function.
//!
//! | Launcher | Rank, world size | Rank 0's address and port |
//! |---|---|---|
//! | own | `BURN_DIST_RANK`, `BURN_DIST_WORLD_SIZE` (`_LOCAL_RANK`, `_LOCAL_WORLD_SIZE`) | `BURN_DIST_MASTER_ADDR`, `BURN_DIST_MASTER_PORT` |
//! | torchrun | `RANK`, `WORLD_SIZE` (`LOCAL_RANK`, `LOCAL_WORLD_SIZE`) | `MASTER_ADDR`, `MASTER_PORT`; the port after it where torchrun's own store has that one |
//! | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE` (`_LOCAL_RANK`, `_LOCAL_SIZE`) | `MASTER_ADDR`, port 29500 |
//! | Slurm, a task of a step | `SLURM_PROCID`, `SLURM_NTASKS` (`SLURM_LOCALID`, `SLURM_STEP_TASKS_PER_NODE`) | the first node; 15000 and the job's last four digits |
//! | PMI | `PMI_RANK`, `PMI_SIZE` (`MPI_LOCALRANKID`, `MPI_LOCALNRANKS`) | `MASTER_ADDR`, port 29500 |
//! | Kubernetes | `JOB_COMPLETION_INDEX`, `WORLD_SIZE` | `MASTER_ADDR`, port 29500 |
//!
//! `BURN_DIST_MASTER_ADDR`, `BURN_DIST_MASTER_PORT` and `BURN_DIST_GENERATION` override what any launcher says, and
//! `MASTER_ADDR` and `MASTER_PORT` what Slurm's node list does.

use std::str::FromStr;

use crate::{
    error::{DistError, Result},
    limits::MAX_WORLD_SIZE,
    rank::{Rank, WorldSize},
};

mod nodes;
mod settings;
#[cfg(test)]
mod tests;

/// Rank 0's port where the launcher names none: PyTorch's.
const DEFAULT_PORT: u16 = 29500;
/// Slurm's jobs get a port from here on, as in Lightning.
const SLURM_PORT_FIRST: u16 = 15000;
/// Steps from here on are none that srun started: a batch script, a shell (`slurm.h`, SLURM_MAX_NORMAL_STEP_ID).
const SLURM_SPECIAL_STEPS: u32 = 0xffff_fff0;

/// Who a process is, where rank 0 is, and which start of the job this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its rank in the job.
    pub rank: Rank,
    /// Its rank among the processes of its machine, if the launcher said.
    pub local_rank: Option<u32>,
    /// Processes on its machine, if the launcher said.
    pub local_world_size: Option<u32>,
    /// Rank 0's name or address.
    pub master_addr: String,
    /// Rank 0's port.
    pub master_port: u16,
    /// Which start of the job this is, from 0.
    pub generation: u32,
    /// Where all this came from: `torchrun`, `Slurm`, ...
    pub source: &'static str,
}

/// Who this process is, or `None` if no launcher said anything. `vars` gives a variable's value.
///
/// # Errors
/// A launcher set only some of its variables: which are missing. A value that cannot be: a rank outside the job, more
/// ranks than [`MAX_WORLD_SIZE`].
///
/// ```
/// let vars = |name: &str| match name {
///     "RANK" => Some("1".to_owned()),
///     "WORLD_SIZE" => Some("2".to_owned()),
///     "MASTER_ADDR" => Some("node0".to_owned()),
///     "MASTER_PORT" => Some("29400".to_owned()),
///     _ => None,
/// };
/// let identity = burn_dist::env::identity(&vars)?.expect("torchrun's variables are set");
/// assert_eq!(identity.rank.to_string(), "1 of 2");
/// # Ok::<(), burn_dist::DistError>(())
/// ```
pub fn identity(vars: &dyn Fn(&str) -> Option<String>) -> Result<Option<Identity>> {
    let vars = Vars(vars);
    for launcher in [own, torchrun, open_mpi, slurm, pmi, kubernetes] {
        if let Some(launched) = launcher(&vars)? {
            return launched.identity(&vars).map(Some);
        }
    }
    // Nobody gave this process a rank, but somebody meant it to have one.
    let signs = [
        "BURN_DIST_LOCAL_RANK",
        "BURN_DIST_LOCAL_WORLD_SIZE",
        "BURN_DIST_MASTER_ADDR",
        "BURN_DIST_MASTER_PORT",
    ];
    vars.whole("burn-dist", &signs, &["BURN_DIST_RANK", "BURN_DIST_WORLD_SIZE"])?;
    vars.whole("torchrun", &["WORLD_SIZE"], &["RANK", "MASTER_ADDR", "MASTER_PORT"])?;
    Ok(None)
}

/// Variables; an empty one counts as not set.
struct Vars<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Vars<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn parsed<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = |_| DistError::config(format!("{name} is {text:?}: expected {expected}"));
        text.parse().map(Some).map_err(wrong)
    }

    fn number(&self, name: &str) -> Result<Option<u32>> {
        self.parsed(name, "a whole number")
    }

    /// A number that [`Vars::whole`] found to be there.
    fn needed(&self, name: &str) -> Result<u32> {
        self.number(name)?.ok_or_else(|| DistError::config(format!("{name} is not set")))
    }

    /// Whether `launcher` is there, known by one of `signs`; then it must have set all of `needed`.
    fn whole(&self, launcher: &str, signs: &[&str], needed: &[&str]) -> Result<bool> {
        let Some(sign) = signs.iter().find(|name| self.text(name).is_some()) else { return Ok(false) };
        let missing: Vec<_> = needed.iter().copied().filter(|name| self.text(name).is_none()).collect();
        if missing.is_empty() {
            return Ok(true);
        }
        Err(DistError::config(format!(
            "{sign} is set, but {} not: a job of {launcher} needs all of them, a single process none",
            match missing.as_slice() {
                [one] => format!("{one} is"),
                several => format!("{} are", several.join(", ")),
            }
        )))
    }
}

/// What a launcher said, before it is checked.
struct Launched {
    source: &'static str,
    rank: u32,
    world_size: u32,
    local_rank: Option<u32>,
    local_world_size: Option<u32>,
    /// Rank 0's address and port, unless a variable says otherwise.
    master_addr: Option<String>,
    master_port: u16,
    generation: u32,
}

impl Launched {
    fn identity(self, vars: &Vars<'_>) -> Result<Identity> {
        let Self { source, rank, world_size, local_rank, local_world_size, .. } = self;
        let size = WorldSize::new(world_size).filter(|_| world_size <= MAX_WORLD_SIZE).ok_or_else(|| {
            DistError::config(format!("{source}: {world_size} ranks: expected 1 to {MAX_WORLD_SIZE}"))
        })?;
        let rank = Rank::new(rank, size).ok_or_else(|| {
            DistError::config(format!(
                "{source}: rank {rank}: expected one below the world size {world_size}"
            ))
        })?;
        // A script that mixes two launchers' variables most likely means one job.
        if let Some(other) =
            vars.number("WORLD_SIZE")?.filter(|other| source != "burn-dist" && *other != world_size)
        {
            return Err(DistError::config(format!(
                "WORLD_SIZE is {other}, but {source} says {world_size}: unset the wrong one, or set all of RANK, \
                 WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            )));
        }
        if let (Some(local), Some(size)) = (local_rank, local_world_size)
            && local >= size
        {
            return Err(DistError::config(format!(
                "{source}: local rank {local}: expected one below {size}"
            )));
        }
        let master_addr = vars.text("BURN_DIST_MASTER_ADDR").or(self.master_addr);
        let master_addr = match master_addr {
            Some(address) => address,
            None if world_size == 1 => "localhost".to_owned(),
            None => {
                return Err(DistError::config(format!(
                    "{source} started {world_size} ranks, but does not say where rank 0 is: set MASTER_ADDR to the \
                     name or address of its machine"
                )));
            }
        };
        let port = vars.parsed::<u16>("BURN_DIST_MASTER_PORT", "a port")?.unwrap_or(self.master_port);
        if port == 0 && world_size > 1 {
            return Err(DistError::config("port 0 for rank 0: expected 1 to 65535"));
        }
        let generation = vars.number("BURN_DIST_GENERATION")?.unwrap_or(self.generation);
        Ok(Identity {
            rank,
            local_rank,
            local_world_size,
            master_addr,
            master_port: port,
            generation,
            source,
        })
    }
}

fn own(vars: &Vars<'_>) -> Result<Option<Launched>> {
    let (rank, size) = ("BURN_DIST_RANK", "BURN_DIST_WORLD_SIZE");
    if !vars.whole("burn-dist", &[rank, size], &[rank, size])? {
        return Ok(None);
    }
    let world_size = vars.needed(size)?;
    if world_size > 1 {
        vars.whole("burn-dist", &[rank], &["BURN_DIST_MASTER_ADDR", "BURN_DIST_MASTER_PORT"])?;
    }
    Ok(Some(Launched {
        source: "burn-dist",
        rank: vars.needed(rank)?,
        world_size,
        local_rank: vars.number("BURN_DIST_LOCAL_RANK")?,
        local_world_size: vars.number("BURN_DIST_LOCAL_WORLD_SIZE")?,
        master_addr: None,
        master_port: DEFAULT_PORT,
        generation: 0,
    }))
}

fn torchrun(vars: &Vars<'_>) -> Result<Option<Launched>> {
    if !vars.whole("torchrun", &["RANK"], &["WORLD_SIZE"])? {
        return Ok(None);
    }
    let world_size = vars.needed("WORLD_SIZE")?;
    // Ours override each of these.
    let mut needed = vec![("MASTER_ADDR", "BURN_DIST_MASTER_ADDR"), ("MASTER_PORT", "BURN_DIST_MASTER_PORT")];
    needed.retain(|(_, own)| world_size > 1 && vars.text(own).is_none());
    vars.whole("torchrun", &["RANK"], &needed.into_iter().map(|(name, _)| name).collect::<Vec<_>>())?;
    let port = master_port(vars)?.unwrap_or(DEFAULT_PORT);
    // Then the agent's own store listens at that port, and all ranks know it.
    let is_taken = vars.text("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
    Ok(Some(Launched {
        source: "torchrun",
        rank: vars.needed("RANK")?,
        world_size,
        local_rank: vars.number("LOCAL_RANK")?,
        local_world_size: vars.number("LOCAL_WORLD_SIZE")?,
        master_addr: vars.text("MASTER_ADDR"),
        master_port: if is_taken { port.checked_add(1).unwrap_or(DEFAULT_PORT) } else { port },
        generation: vars.number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
    }))
}

fn slurm(vars: &Vars<'_>) -> Result<Option<Launched>> {
    // What is started in a shell of an allocation, or by Slurm for another launcher, is no task of a job.
    if !is_task(vars)? || is_started_by_pmi(vars)? {
        return Ok(None);
    }
    let nodes =
        if vars.text("SLURM_STEP_NODELIST").is_some() { "SLURM_STEP_NODELIST" } else { "SLURM_JOB_NODELIST" };
    let (needs_address, needs_port) =
        (vars.text("MASTER_ADDR").is_none(), vars.text("MASTER_PORT").is_none());
    let mut needed = vec!["SLURM_NTASKS"];
    needed.extend(needs_address.then_some(nodes));
    needed.extend(needs_port.then_some("SLURM_JOB_ID"));
    if !vars.whole("Slurm", &["SLURM_PROCID"], &needed)? {
        return Ok(None);
    }
    let first_node = || {
        let list = vars.text(nodes).unwrap_or_default();
        let wrong = |why| DistError::config(format!("{nodes} is {list:?}: {why}"));
        nodes::expand(&list, 1).map_err(wrong).map(|nodes| nodes.into_iter().next())
    };
    let port = match master_port(vars)? {
        Some(port) => port,
        None => {
            let job: u64 = vars.parsed("SLURM_JOB_ID", "a whole number")?.unwrap_or_default();
            SLURM_PORT_FIRST + (job % 10_000) as u16
        }
    };
    Ok(Some(Launched {
        source: "Slurm",
        rank: vars.needed("SLURM_PROCID")?,
        world_size: vars.needed("SLURM_NTASKS")?,
        local_rank: vars.number("SLURM_LOCALID")?,
        local_world_size: tasks_here(vars)?,
        master_addr: if needs_address { first_node()? } else { vars.text("MASTER_ADDR") },
        master_port: port,
        generation: vars.number("SLURM_RESTART_COUNT")?.unwrap_or(0),
    }))
}

/// Whether srun started this process as a task. Batch scripts and shells have a task's variables too.
fn is_task(vars: &Vars<'_>) -> Result<bool> {
    if matches!(vars.text("SLURM_JOB_NAME").as_deref(), Some("bash" | "interactive")) {
        return Ok(false);
    }
    match vars.number("SLURM_STEP_ID")? {
        Some(step) => Ok(step < SLURM_SPECIAL_STEPS),
        // A batch script: one process, unless it was to be many.
        None => match (vars.text("SLURM_PROCID"), vars.number("SLURM_NTASKS")?) {
            (Some(_), Some(tasks)) if tasks > 1 => Err(DistError::config(format!(
                "SLURM_NTASKS is {tasks}, but this process is the batch script's, not one of them: put srun before the \
                 command, or unset SLURM_NTASKS for a single process"
            ))),
            _ => Ok(false),
        },
    }
}

/// Whether Slurm started only the proxies of an MPI, and these started this process. Where Slurm speaks PMI itself, the
/// numbers agree.
fn is_started_by_pmi(vars: &Vars<'_>) -> Result<bool> {
    let [rank, size, task, tasks] =
        ["PMI_RANK", "PMI_SIZE", "SLURM_PROCID", "SLURM_NTASKS"].map(|name| vars.number(name));
    Ok(matches!((rank?, size?), (Some(rank), Some(size)) if (Some(rank), Some(size)) != (task?, tasks?)))
}

/// The tasks on this node: srun may have dealt them out unevenly.
fn tasks_here(vars: &Vars<'_>) -> Result<Option<u32>> {
    let name = "SLURM_STEP_TASKS_PER_NODE";
    match (vars.text(name), vars.number("SLURM_NODEID")?) {
        (Some(list), Some(node)) => nodes::tasks_on(&list, node)
            .map(Some)
            .ok_or_else(|| DistError::config(format!("{name} is {list:?}: expected tasks on node {node}"))),
        _ => vars.number("SLURM_NTASKS_PER_NODE"),
    }
}

fn open_mpi(vars: &Vars<'_>) -> Result<Option<Launched>> {
    let (rank, size) = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
    let local = ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
    plain(vars, "Open MPI", (rank, size), Some(local))
}

fn pmi(vars: &Vars<'_>) -> Result<Option<Launched>> {
    plain(vars, "PMI", ("PMI_RANK", "PMI_SIZE"), Some(("MPI_LOCALRANKID", "MPI_LOCALNRANKS")))
}

fn kubernetes(vars: &Vars<'_>) -> Result<Option<Launched>> {
    // Kubernetes says which pod this is, but not how many there are. Without that the job is one of single processes.
    if vars.text("WORLD_SIZE").is_none() {
        return Ok(None);
    }
    plain(vars, "Kubernetes", ("JOB_COMPLETION_INDEX", "WORLD_SIZE"), None)
}

/// A launcher that gives ranks and nothing else.
fn plain(
    vars: &Vars<'_>,
    source: &'static str,
    (rank, size): (&str, &str),
    local: Option<(&str, &str)>,
) -> Result<Option<Launched>> {
    if !vars.whole(source, &[rank], &[rank, size])? {
        return Ok(None);
    }
    let (local_rank, local_world_size) = match local {
        Some((rank, size)) => (vars.number(rank)?, vars.number(size)?),
        None => (None, None),
    };
    Ok(Some(Launched {
        source,
        rank: vars.needed(rank)?,
        world_size: vars.needed(size)?,
        local_rank,
        local_world_size,
        master_addr: vars.text("MASTER_ADDR"),
        master_port: master_port(vars)?.unwrap_or(DEFAULT_PORT),
        generation: 0,
    }))
}

fn master_port(vars: &Vars<'_>) -> Result<Option<u16>> {
    vars.parsed("MASTER_PORT", "a port")
}
