//! How many file descriptors a rank needs, and that it may have so many: rank 0 of a thousand has more connections than
//! most systems allow a process at first.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    collective::doubling,
    config::Agreed,
    error::{DistError, Result},
    rank::Rank,
};

/// For whatever else the process has open: its files, its listeners.
const SPARE: usize = 64;
/// Of a data connection: the one that carries, and the one that ends it from another thread.
const PER_LINK: usize = 2;

/// Raises the soft limit to the hard one if this rank needs more than the soft one allows.
///
/// # Errors
/// The hard limit does not suffice, or the system refuses.
pub(crate) fn reserve(rank: Rank, agreed: &Agreed) -> Result<()> {
    match raised(rank, agreed, getrlimit(Resource::Nofile)).map_err(DistError::config)? {
        Some(limit) => setrlimit(Resource::Nofile, limit)
            .map_err(|error| DistError::io("raise the limit of file descriptors")(error.into())),
        None => Ok(()),
    }
}

/// What to raise a limit to; `None` if it suffices.
fn raised(rank: Rank, agreed: &Agreed, limit: Rlimit) -> Result<Option<Rlimit>, String> {
    let needed = needed(rank, agreed) as u64;
    let allows = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    match limit {
        Rlimit { current, .. } if allows(current) => Ok(None),
        Rlimit { maximum, .. } if allows(maximum) => Ok(Some(Rlimit { current: maximum, maximum })),
        Rlimit { maximum, .. } => Err(format!(
            "rank {rank} needs {needed} file descriptors, the system allows this process {}: raise its hard limit \
             (ulimit -Hn, LimitNOFILE of a service), or lower BURN_DIST_STREAMS",
            maximum.unwrap_or(u64::MAX)
        )),
    }
}

/// Descriptors of a rank at most, whoever shares a machine with whom.
fn needed(rank: Rank, agreed: &Agreed) -> usize {
    let world_size = rank.world_size().count();
    let others = world_size - 1;
    let control = if rank.is_main() { others } else { 1 };
    // Two neighbours in the ring of all, in that of its machine, in that across machines.
    let neighbours = others.min(6) * agreed.streams;
    let partners = doubling::partners(rank.index() as u32, world_size as u32).len();
    let singles = if agreed.full_mesh { others } else { partners };
    control + PER_LINK * (neighbours + singles) + SPARE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rank::WorldSize,
        rendezvous::{Member, Roster},
        topology::Topology,
    };

    fn rank(index: u32, world_size: u32) -> Rank {
        Rank::new(index, WorldSize::new(world_size).unwrap()).unwrap()
    }

    fn limit(current: u64, maximum: u64) -> Rlimit {
        Rlimit { current: Some(current), maximum: Some(maximum) }
    }

    #[test]
    fn no_rank_has_more_than_it_said() {
        let member = |rank, host_id| Member {
            rank,
            host: "a".into(),
            host_id,
            pid: 1,
            data_addr: ([127, 0, 0, 1], 1).into(),
        };
        for world_size in [2, 3, 7, 24, 64] {
            for per_host in [1, 3, 8, 64] {
                for (streams, full_mesh) in [(1, false), (4, false), (64, false), (4, true)] {
                    let agreed = Agreed { streams, full_mesh, shared_memory: false, ..Agreed::default() };
                    let members = (0..world_size).map(|rank| member(rank, u64::from(rank / per_host)));
                    let roster = Roster { generation: 0, session: [0; 16], members: members.collect() };
                    for index in 0..world_size {
                        let control = if index == 0 { world_size as usize - 1 } else { 1 };
                        let links = Topology::new(index, &roster).links(&agreed).len();
                        let needed = needed(rank(index, world_size), &agreed);
                        assert!(control + PER_LINK * links + SPARE <= needed, "{index} of {world_size}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_soft_limit_rises_only_where_it_must() {
        let agreed = Agreed::default();
        let raised = |index, world_size, limit| raised(rank(index, world_size), &agreed, limit);
        assert_eq!(raised(0, 64, limit(1024, 4096)), Ok(None));
        assert_eq!(raised(1, 1024, limit(1024, 4096)), Ok(None));
        assert_eq!(raised(0, 1024, limit(1024, 4096)), Ok(Some(limit(4096, 4096))));
        let endless = Rlimit { current: None, maximum: None };
        assert_eq!(raised(0, 1024, endless), Ok(None));
        assert_eq!(raised(0, 1024, Rlimit { current: Some(1024), ..endless }), Ok(Some(endless)));
        let error = raised(0, 1024, limit(256, 1024)).unwrap_err();
        assert!(error.starts_with("rank 0 of 1024 needs 1"), "{error}");
        assert!(error.contains("allows this process 1024: raise its hard limit"), "{error}");
    }
}
