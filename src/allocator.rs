//! How the allocator mimalloc is set for training. Not the choice of it, which is each program's own.

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

/// `mi_option_purge_delay` of mimalloc.h, whose numbers stay when options go; the binding leaves it out.
const PURGE_DELAY: mi_option_t = 15;

/// From here on freed memory stays with the process, for the next step, which asks for as much: given back to the system, it
/// comes anew page by page and cleared. The environment's `MIMALLOC_PURGE_DELAY` comes before this.
///
/// # Example
/// ```
/// #[global_allocator]
/// static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
///
/// fn main() {
///     burn_sprint::allocator::keep_freed_memory();
/// }
/// ```
///
/// # Cost
/// What was in use at once stays taken until the process ends. Nothing where mimalloc is not the allocator.
#[expect(unsafe_code, reason = "a C function")]
pub fn keep_freed_memory() {
    // SAFETY: sets a number; an option that there is not is left alone.
    unsafe { mi_option_set_default(PURGE_DELAY, -1) }
}
