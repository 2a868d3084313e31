//! Who a process is in a job: [`Rank`] of [`WorldSize`]. Numbers only; finding the peers is the rendezvous' work.
//!
//! The names are those of MPI, torchrun and NCCL.

use std::{fmt, num::NonZeroU32};

/// The number of processes in a job, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorldSize(NonZeroU32);

impl WorldSize {
    /// A job of one process.
    pub const ONE: Self = Self(NonZeroU32::MIN);

    /// A job of `num_processes`, or `None` for 0.
    pub const fn new(num_processes: u32) -> Option<Self> {
        match NonZeroU32::new(num_processes) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The number of processes.
    pub const fn count(self) -> usize {
        self.0.get() as usize
    }
}

impl fmt::Display for WorldSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of one process in a job: an index below the job's [`WorldSize`], which it carries along, so that
/// the two can never disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rank {
    index: u32,
    world_size: WorldSize,
}

impl Rank {
    /// The only rank of a job of one process.
    pub const SINGLE: Self = Self { index: 0, world_size: WorldSize::ONE };

    /// Rank `index` of `world_size`, or `None` if it is not below it.
    ///
    /// ```
    /// use burn_dist::rank::{Rank, WorldSize};
    /// let world_size = WorldSize::new(4).unwrap();
    /// assert!(Rank::new(3, world_size).is_some());
    /// assert!(Rank::new(4, world_size).is_none());
    /// ```
    pub const fn new(index: u32, world_size: WorldSize) -> Option<Self> {
        if index < world_size.0.get() { Some(Self { index, world_size }) } else { None }
    }

    /// The index, from 0.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// The job's size.
    pub const fn world_size(self) -> WorldSize {
        self.world_size
    }

    /// Whether this is rank 0, the one that writes files and talks to the user.
    pub const fn is_main(self) -> bool {
        self.index == 0
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.index, self.world_size)
    }
}
