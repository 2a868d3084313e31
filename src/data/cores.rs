//! How many threads may work in this process at a time.

use std::{env, num::NonZeroUsize, thread};

/// What `RAYON_NUM_THREADS` says, where it does: a launcher gives each rank its share of the machine's cores with it,
/// and pictures are decoded beside the computation, by as many. Else the machine's cores.
pub(crate) fn cores() -> usize {
    let given = env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    // Rayon takes 0 for no answer, too.
    let given = given.filter(|n: &usize| *n > 0);
    given.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZeroUsize::get))
}
