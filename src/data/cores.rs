//! How many threads may work in this process at a time, and work shared out among them.

use std::{
    env,
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::slot::lock;

/// What `RAYON_NUM_THREADS` says, where it does: a launcher gives each rank its share of the machine's cores with it,
/// and pictures are decoded beside the computation, by as many. Else the machine's cores.
pub(crate) fn cores() -> usize {
    let given = env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    // Rayon takes 0 for no answer, too.
    let given = given.filter(|n: &usize| *n > 0);
    given.unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

/// What `work` makes of the numbers below `num_items`, in order, by all cores; each thread has a `T` of its own.
///
/// # Errors
///
/// That of the lowest number which has one; after an error no more are begun.
pub(crate) fn in_parallel<T: Default, R: Send, E: Send>(
    num_items: usize,
    work: impl Fn(&mut T, usize) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    in_threads(cores(), num_items, work)
}

/// As [`in_parallel`], by so many threads: for work that waits more than it computes.
pub(crate) fn in_threads<T: Default, R: Send, E: Send>(
    num_threads: usize,
    num_items: usize,
    work: impl Fn(&mut T, usize) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..num_threads.min(num_items) {
            scope.spawn(|| {
                let mut own = T::default();
                loop {
                    let item = next.fetch_add(1, Ordering::Relaxed);
                    if item >= num_items {
                        return;
                    }
                    let result = work(&mut own, item);
                    if result.is_err() {
                        next.store(num_items, Ordering::Relaxed);
                    }
                    lock(&done).push((item, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(item, _)| *item);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_errors_the_first() {
        let squares = in_parallel(1000, |_: &mut (), n| Ok::<_, ()>(n * n)).unwrap();
        assert!(squares.iter().enumerate().all(|(n, square)| *square == n * n) && squares.len() == 1000);
        let error = in_parallel(1000, |_: &mut (), n| if n == 3 || n == 700 { Err(n) } else { Ok(()) });
        assert_eq!(error, Err(3));
    }

    #[test]
    fn threads_end_at_the_first_error() {
        let num_begun = AtomicUsize::new(0);
        let result = in_threads(16, 1000, |_: &mut (), _| {
            num_begun.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(())
        });
        assert!(result.is_err() && num_begun.into_inner() <= 16);
    }
}
