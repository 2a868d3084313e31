//! What an operation sends and receives, in which order, and the machine that carries it out. Plans are pure; the
//! machine knows [`Link`](crate::transport::link::Link)s, not sockets.
//!
//! | file | job |
//! |---|---|
//! | `schedule` | a rank's sends and receives of one operation, and which waits for which |
//! | `ring`, `doubling`, `hierarchical` | algorithms: they write schedules |
//! | `chunk` | who owns which part of a buffer |
//! | `terms` | what the frames of an operation say, written and compared |
//! | `machine` | carries a schedule out over links, a step at a time, without ever blocking |

pub(crate) mod chunk;
pub(crate) mod doubling;
pub(crate) mod hierarchical;
pub(crate) mod machine;
pub(crate) mod ring;
pub(crate) mod schedule;
pub(crate) mod terms;

#[cfg(test)]
mod tests;
