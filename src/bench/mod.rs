//! What a device does with this trainer's own work, measured piece by piece within a limit of time: the ceilings, training
//! steps, where their time goes, gradients leaving while the backward pass runs. Not a recipe's speed with its data
//! (`sprint bench data`) or its network (`sprint dist bench`).
//!
//! | file | job |
//! |---|---|
//! | `case` | which steps are measured |
//! | `clock` | timing on a device that works asynchronously |
//! | `ceiling` | copies and matrix products |
//! | `steps` | a training step as the trainer takes it |
//! | `parts` | its operations one by one, at the network's own shapes |
//! | `exchange` | the same step with a second rank that waits for its gradients |
//! | `page` | the results: JSON, and a table |

mod case;
mod ceiling;
mod clock;
mod exchange;
mod page;
mod parts;
mod steps;

use std::time::Instant;

use burn::tensor::Device;
use burn_resnet::ResNetConfig;

pub use case::{Case, Size};
pub use page::{Ceilings, ConvTimes, Exchange, Page, Parts, Product, StepRow};

use crate::{
    config::Precision,
    error::{Result, caught},
    train::dtype,
};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The network.
    pub model: &'a ResNetConfig,
    /// The steps, in order of importance: what the limit leaves no time for is left out.
    pub cases: Vec<Case>,
    /// Whether only steps are measured, and nothing about them.
    pub steps_only: bool,
    /// Seconds after which nothing new is begun.
    pub limit_s: f64,
    /// How the device computes, such as `fusion`; it is written beside each step.
    pub variant: &'a str,
}

/// Measures `request` on `device`, and tells `say` before each piece what comes. A second rank, which receives the
/// gradients, is on `host`.
///
/// What fails, as for want of memory, is a row that says so.
///
/// # Errors
/// The device failed at its ceilings already.
pub fn measure(
    request: &Request<'_>,
    device: &Device,
    host: Option<&Device>,
    mut say: impl FnMut(&str),
) -> Result<Page> {
    let started = Instant::now();
    let is_over = || started.elapsed().as_secs_f64() > request.limit_s;
    let mut page = Page::default();
    if !request.steps_only {
        say("ceilings: copies and matrix products");
        page.ceilings = Some(ceiling::measure(device)?);
    }
    for &case in &request.cases {
        let what = match request.variant {
            "" => case.to_string(),
            variant => format!("{case}, {variant}"),
        };
        let mut begins = |part: &str, hindrance: Option<&str>| {
            let hindrance = hindrance.or(is_over().then_some("no time was left"));
            match hindrance {
                None => say(&format!("{what}: {part}")),
                Some(why) => page.not_measured.push(format!("{what}: {part}: {why}")),
            }
            hindrance.is_none()
        };
        let lacks_numbers = !device.supports_dtype(dtype(case.precision));
        if !begins("steps", lacks_numbers.then_some("the device has no such numbers")) {
            continue;
        }
        device.memory_cleanup();
        let mut row = StepRow::new(request.model, case, request.variant);
        attempt(&mut row, |row| steps::measure(request.model, case, device, row));
        if row.error.is_none() && !request.steps_only {
            if begins("time by part", None) {
                attempt(&mut row, |row| parts::measure(request.model, case, device, row));
            }
            let no_host = host.is_none().then_some("this build has no CPU device for a second rank");
            if begins("gradients leaving while the backward pass runs", no_host)
                && let Some(host) = host
            {
                attempt(&mut row, |row| exchange::measure(request.model, case, device, host, row));
            }
        }
        page.steps.push(row);
    }
    Ok(page)
}

/// What goes wrong is the row's, and the next piece goes on.
fn attempt(row: &mut StepRow, work: impl FnOnce(&mut StepRow) -> Result<()>) {
    let outcome = caught(|| work(row)).map_or_else(Err, |done| done.map_err(|error| error.to_string()));
    if let Err(why) = outcome {
        row.error = Some(why);
    }
}

/// Every size in the first of `precisions`, then in the next.
#[must_use]
pub fn cases(sizes: &[Size], precisions: &[Precision]) -> Vec<Case> {
    precisions.iter().flat_map(|&precision| sizes.iter().map(move |&size| Case { size, precision })).collect()
}
