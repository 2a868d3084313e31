//! A data source that is away, on one rank or on all: every rank hears of it before the same step, so that they can
//! save the state together.

use burn_dist::{ReduceOp, agree};

use super::run::Run;
use crate::error::{Error, Result};

/// What this rank was to read, if no rank's source is away; else on every rank the same error, [`Error::Away`]. A
/// collective where pictures come from a store, and else nothing.
///
/// # Cost
/// Among several ranks, an all-reduce of 8 bytes.
pub(super) fn together<T>(run: &Run<'_>, read: Result<T>) -> Result<T> {
    let away = match &read {
        Ok(_) => None,
        Err(Error::Data(error)) if error.is_away() => Some(error.to_string()),
        // The other ranks hear of it by the end of the job.
        Err(_) => return read,
    };
    let said = if run.is_alone() {
        away.unwrap_or_default()
    } else if run.plan.config.data.is_in_store() {
        let mut num_away = [f64::from(u8::from(away.is_some()))];
        run.comm.all_reduce(&mut num_away, ReduceOp::Sum)?;
        if num_away[0] > 0.0 { agree::say(&run.comm, &away.unwrap_or_default())? } else { String::new() }
    } else {
        String::new()
    };
    if said.is_empty() { read } else { Err(Error::Away { cause: said, kept: String::new() }) }
}
