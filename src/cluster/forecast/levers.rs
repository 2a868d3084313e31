//! What would shorten a run most: the same simulation with one thing after the other infinitely fast.

use serde::Serialize;

use super::{ForecastError, Job, Kind, Throughput, forecast};

/// Something that could be faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lever {
    /// The device, image by image.
    Compute,
    /// What a step costs whatever its batch.
    Fixed,
    /// Summing gradients.
    AllReduce,
    /// Reading and decoding pictures.
    Input,
    /// Evaluations.
    Evaluation,
    /// Starts and first uses.
    Start,
}

impl Lever {
    const ALL: [Self; 6] =
        [Self::Compute, Self::Fixed, Self::AllReduce, Self::Input, Self::Evaluation, Self::Start];

    /// In a few words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Compute => "the devices, image by image",
            Self::Fixed => "what a step costs whatever its batch",
            Self::AllReduce => "summing gradients over ranks",
            Self::Input => "reading and decoding pictures",
            Self::Evaluation => "evaluation",
            Self::Start => "starts and first uses of a shape",
        }
    }
}

/// Seconds that each thing would save if it took no time, the largest first. They do not add up to the run: where two
/// work at the same time, one alone saves little.
///
/// # Errors
/// Those of [`forecast`].
pub fn levers(job: &Job, kind: &Kind, throughput: &Throughput) -> Result<Vec<(Lever, f64)>, ForecastError> {
    let whole_s = forecast(job, kind, throughput, None)?.total_s();
    let saved = |lever| {
        let left = forecast(job, kind, throughput, Some(lever))?;
        Ok((lever, whole_s - left.total_s()))
    };
    let mut saved = Lever::ALL.into_iter().map(saved).collect::<Result<Vec<_>, ForecastError>>()?;
    saved.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(saved)
}
