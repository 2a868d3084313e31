//! The command `sprint`: one file a command. Words become typed values here, errors one line and an exit status.

mod bench;
mod completions;
mod device;
mod devices;
mod dist;
mod dry_run;
mod eval;
mod export;
mod launch;
mod pictures;
mod plan;
mod predict;
mod prepare;
mod report;
mod run_folder;
mod train;

use std::{process::ExitCode, sync::Arc};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use signal_hook::consts::SIGUSR1;

use crate::{
    cluster::{end_with_launcher, has_launcher},
    error::Error,
};

/// Train image classifiers on a cluster in minutes.
///
/// Without a command it trains the embedded default: ResNet-8 on 10,000 pictures of clothes, in a minute on
/// two cores.
#[derive(Debug, Parser)]
#[command(name = "sprint", version, max_term_width = 100, after_help = EXAMPLES)]
struct Words {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  sprint train                                      the embedded default run
  sprint train --data photos/                       your own pictures, a folder for each class
  sprint train --set optimizer.momentum=0.95 --set phase.0.epochs=5
  sprint train --preset imagenet18-16 --dry-run     the phases of a recipe as a table
  sprint train --out runs/mine --resume             go on after a stop or a crash
  sprint launch --nproc 2 -- train                  two processes, which average their gradients
  sprint plan --preset imagenet18-16 --cluster h100-400g
  sprint prepare --data photos/ --out ready/ --shards
  sprint bench data --data photos/ --preset photos  how fast pictures become batches, and whether that will do
  sprint eval --checkpoint runs/mine --data photos/
  sprint predict --checkpoint runs/mine cat.jpg dog.png

Exit status: 0 done; 1 the run failed; 2 the words were wrong; 130 stopped by the user, state saved.";

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Launch(launch::Args),
    Dist(dist::Args),
    Plan(plan::Args),
    Prepare(prepare::Args),
    Bench(bench::Args),
    /// List what `--device` can be here, and what is missing where a device cannot be used.
    Devices,
    Eval(eval::Args),
    Predict(predict::Args),
    Export(export::Args),
    Report(report::Args),
    Completions(completions::Args),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    crate::allocator::keep_freed_memory();
    if let Err(error) = end_with_launcher() {
        eprintln!("error: {error}");
        return ExitCode::from(error.exit_status());
    }
    if has_launcher() {
        // Until a rank listens for it, it means nothing: on its own, it would end the process.
        let _ = signal_hook::flag::register(SIGUSR1, Arc::default());
    }
    let words = match Words::try_parse() {
        Ok(words) => words,
        Err(error) => {
            // Help and version are results; the rest is the user's slip.
            let status = if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                0
            } else {
                2
            };
            let _ = error.print();
            return ExitCode::from(status);
        }
    };
    let done = match words.command.unwrap_or_else(|| Command::Train(train::Args::default())) {
        Command::Train(args) => train::train(args),
        Command::Launch(args) => launch::launch(args),
        Command::Dist(args) => dist::dist(args),
        Command::Plan(args) => plan::plan(&args),
        Command::Prepare(args) => prepare::prepare(args),
        Command::Bench(args) => bench::bench(&args),
        Command::Devices => {
            devices::devices();
            Ok(())
        }
        Command::Eval(args) => eval::eval(&args),
        Command::Predict(args) => predict::predict(&args),
        Command::Export(args) => export::export(&args),
        Command::Report(args) => report::report(&args),
        Command::Completions(args) => completions::completions(&args, &mut Words::command()),
    };
    device::keep_kernels();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Stopped(message)) => {
            if !message.is_empty() {
                eprintln!("{message}");
            }
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
