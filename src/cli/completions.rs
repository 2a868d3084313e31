//! `sprint completions`: what a shell has to know to complete the command's words.

use clap_complete::Shell;

use crate::error::Result;

/// Print completions for a shell, to be sourced by it.
///
/// bash: source <(sprint completions bash)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn completions(args: &Args, command: &mut clap::Command) -> Result<()> {
    clap_complete::generate(args.shell, command, "sprint", &mut std::io::stdout());
    Ok(())
}
