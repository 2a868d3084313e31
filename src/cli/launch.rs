//! `sprint launch`: the words of a launch, and those that its ranks need beyond what the user gave.

use std::{env, ffi::OsString, io, iter, path::Path, str::FromStr, thread, time::Duration};

use clap::Parser;
use signal_hook::{consts::SIGUSR1, iterator::Signals};

use super::{Command, Words, run_folder, train};
use crate::{
    cluster::{End, Launch, Layout, Stopper, stopper, visible_gpus},
    error::{Error, Result},
};

/// Train on several processes: N on this machine, as its share of those on M machines.
///
/// Every line that a rank prints has its number before it. When one fails all end, and the first cause is told.
/// Ctrl-C and SIGTERM save the state and end all ranks; SIGUSR1 has them write down what they did last.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "sprint launch [OPTIONS] -- train ...")]
pub(super) struct Args {
    /// Ranks on this machine, or gpu: one for each of its NVIDIA GPUs; its cores are divided among them
    #[arg(long, value_name = "N", default_value = "1")]
    nproc: NumRanks,
    /// Machines, each with a launch of its own and the same N
    #[arg(long, value_name = "M", default_value_t = 1)]
    nnodes: u32,
    /// This machine's place among them, from 0
    #[arg(long, value_name = "K", default_value_t = 0)]
    node_rank: u32,
    /// Where rank 0 listens, on machine 0 [default on one machine: a free port of 127.0.0.1]
    #[arg(long, value_name = "HOST:PORT")]
    master: Option<String>,
    /// After a failure, start all ranks again from the last checkpoint, up to so many times
    #[arg(long, value_name = "R", default_value_t = 0)]
    max_restarts: u32,
    /// Seconds that the other ranks have to end after one failed, before they are killed
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    grace: u32,
    /// The command that each rank runs
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumRanks {
    Count(u32),
    Gpus,
}

impl FromStr for NumRanks {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        if word == "gpu" {
            return Ok(Self::Gpus);
        }
        word.parse().map(Self::Count).map_err(|_| "expected a number of ranks, or gpu".into())
    }
}

const EXAMPLES: &str = "\
Examples:
  sprint launch --nproc 2 -- train
  sprint launch --nproc gpu -- train --device cuda
  sprint launch --nproc 8 --nnodes 16 --node-rank 3 --master node0:29400 -- train --out /shared/run
  sprint launch --nproc 8 --nnodes 16 --node-rank 3 --master node0:29400 -- dist check

Machines other than this one must know who may join: BURN_DIST_SECRET_FILE names a file with a secret.";

pub(super) fn launch(args: Args) -> Result<()> {
    let mut words = args.command;
    let train = train_words(&words)?;
    let (nnodes, node_rank, master) = (args.nnodes, args.node_rank, args.master.as_deref());
    let layout = match args.nproc {
        NumRanks::Count(num_local) => Layout::new(num_local, nnodes, node_rank, master)?,
        NumRanks::Gpus => {
            if let Some(train) = &train {
                want_cuda(&train.sources().resolve()?.device)?;
            }
            Layout::on_gpus(visible_gpus()?, nnodes, node_rank, master)?
        }
    };
    let out = match train.as_ref().map(|train| (train, train.out())) {
        // Looks at connections and leaves no folder.
        None => None,
        Some((_, Some(out))) => Some(out.to_owned()),
        Some((_, None)) if args.nnodes > 1 => {
            return Err(Error::usage(
                "several machines need --out after `train`, a folder that all of them see: it holds the checkpoints",
            ));
        }
        Some((train, None)) => {
            // Named here, so that all ranks, and all starts of them, have the same.
            let out = run_folder::named(&train.sources().resolve()?.name, run_folder::now_s());
            words.extend(["--out".into(), out.clone().into()]);
            Some(out)
        }
    };
    let program = env::current_exe().map_err(Error::io("find", Path::new("this program")))?;
    let resume = match train {
        Some(train) if !train.resumes() => vec!["--resume".into()],
        _ => vec![],
    };
    let launch = Launch {
        resume,
        max_restarts: args.max_restarts,
        grace: Duration::from_secs(args.grace.into()),
        ..Launch::new(layout, program, words)
    };
    if !stopped_by_signal(&launch)? {
        return Ok(());
    }
    Err(Error::Stopped(match out {
        Some(out) => format!(
            "all ranks stopped, state saved; go on with: the same launch of train --out {} --resume",
            out.display()
        ),
        None => "all ranks stopped".into(),
    }))
}

/// Refuses ranks that would leave alone the GPU which each is given.
fn want_cuda(device: &str) -> Result<()> {
    if device == "cuda" {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--nproc gpu gives each rank a GPU of its own, but they would train on {device}: expected `--device cuda` after \
         `train`"
    )))
}

/// Runs the ranks to their end, or until Ctrl-C or SIGTERM; whether it was that.
pub(super) fn stopped_by_signal(launch: &Launch) -> Result<bool> {
    let (stopper, stops) = stopper();
    record_on_signal(stopper.clone())?;
    ctrlc::set_handler(move || stopper.stop())
        .map_err(|error| Error::run(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(launch.run(stops)? == End::Stopped)
}

/// Passes SIGUSR1 on. Not heeded, it would end the launcher, and with it the ranks.
fn record_on_signal(stopper: Stopper) -> Result<()> {
    let listen = |error: io::Error| Error::run(format!("cannot listen for SIGUSR1: {error}"));
    let mut signals = Signals::new([SIGUSR1]).map_err(listen)?;
    let pass_on = move || signals.forever().for_each(|_| stopper.record());
    thread::Builder::new().name("records".into()).spawn(pass_on).map(drop).map_err(listen)
}

/// What the words after `--` say, if they are to train. A slip in them is told once, here, and not by every rank.
fn train_words(words: &[OsString]) -> Result<Option<train::Args>> {
    if words.is_empty() {
        return Err(Error::usage("no command to launch: expected -- train ... at the end"));
    }
    let sprint = OsString::from("sprint");
    let parsed = Words::try_parse_from(iter::once(&sprint).chain(words));
    match parsed.unwrap_or_else(|error| error.exit()).command {
        Some(Command::Train(train)) => Ok(Some(train)),
        Some(Command::Dist(_)) => Ok(None),
        _ => Err(Error::usage(format!(
            "cannot launch `{}`: expected -- train ... or -- dist ...",
            words[0].to_string_lossy()
        ))),
    }
}
