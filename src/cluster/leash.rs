//! The rank's end of the leash: it does not outlive the process that launched it, even one killed without a word.

use std::env;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, test_kill_process};

use super::{launch::LaunchError, layout::LAUNCHER_PID};

/// Has the kernel kill this process when the one that launched it dies. Does nothing in a process that no
/// [`Launch`](super::Launch) started, and in one that a rank started. Call it first of all, in the rank's program.
///
/// A launcher that dies by a signal it can see ends its ranks itself, and lets them save their state before.
///
/// # Errors
/// [`LaunchError::Orphan`] if the launcher is dead already.
pub fn end_with_launcher() -> Result<(), LaunchError> {
    launcher().map_or(Ok(()), bind_to)
}

/// Whether a [`Launch`](super::Launch) started this process as a rank, and so ends it if need be.
pub fn has_launcher() -> bool {
    launcher().is_some_and(|launcher| getppid() == Some(launcher))
}

fn launcher() -> Option<Pid> {
    env::var(LAUNCHER_PID).ok().and_then(|pid| Pid::from_raw(pid.parse().ok()?))
}

fn bind_to(launcher: Pid) -> Result<(), LaunchError> {
    if getppid() == Some(launcher) {
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| LaunchError::System { what: "follow the launcher", source: error.into() })?;
        // It may have died just before the kernel knew whom to tell.
        if getppid() == Some(launcher) { Ok(()) } else { Err(LaunchError::Orphan) }
    } else if test_kill_process(launcher).is_err() {
        Err(LaunchError::Orphan)
    } else {
        // A rank's own child: its life is the rank's business.
        Ok(())
    }
}
