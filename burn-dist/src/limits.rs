//! Every bound on what comes from outside, in one place. Each is checked before memory is taken.

use std::time::Duration;

/// Most ranks of a job.
pub const MAX_WORLD_SIZE: u32 = 1024;
/// Most TCP connections between two ranks that exchange bulk data.
pub const MAX_STREAMS: usize = 64;
/// Largest segment: what is sent, checked and reduced at a time.
pub const MAX_SEGMENT_BYTES: usize = 1 << 20;
/// A stranger's first message.
pub(crate) const MAX_HELLO_BYTES: usize = 256;
/// How long a stranger may take over it.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have not proved anything yet and are served at once; older ones give way.
pub(crate) const MAX_UNPROVED: usize = 256;
/// A message between ranks that know each other, on the control connection: a roster of 1,024 fits.
pub(crate) const MAX_CONTROL_BYTES: usize = 1 << 20;
/// A secret, from a file or a variable.
pub(crate) const MAX_SECRET_BYTES: u64 = 4096;
/// Operations that each rank remembers.
pub(crate) const FLIGHT_RECORDS: usize = 2000;
