//! `sprint report`: a run's page and curves, made anew from what it recorded.

use std::path::PathBuf;

use crate::{error::Result, record};

/// Write report.html and curve.png of a run, also of one that is still running or was cut off.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,
}

pub(super) fn report(args: &Args) -> Result<()> {
    record::write_report(&args.run)?;
    println!("{}", args.run.join("report.html").display());
    Ok(())
}
