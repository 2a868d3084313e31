//! How long a rank's device takes over a step, from measured rows: a curve over the batch for each image size.
//!
//! Its fixed part is what does not grow with the batch: launches of kernels, the update, the metrics. Rows that were
//! timed on several machines hold the wait for the all-reduce; it is taken out before the curves are drawn, so that
//! they can be used for another number of machines.

use serde::{Deserialize, Serialize};

use super::{
    ForecastError, MAX_MACHINES,
    kind::{from_toml, in_range},
    wrong,
};

/// A backward pass costs two of the three products of a step.
pub(super) const BACKWARD_SHARE: f64 = 2.0 / 3.0;
/// A size further than this factor from every measured one is not guessed.
const MAX_SCALING: f64 = 2.5;
/// The wait depends on the curves and the curves on the wait: rounds until they agree, to so many seconds.
const ROUNDS: usize = 200;
const AGREED_S: f64 = 1e-9;

/// Measured speed of a rank's device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throughput {
    /// Who measured it, on what, when.
    pub source: String,
    /// Machines of the cluster that the rows were timed on, with all their ranks; one rank alone if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines: Option<u32>,
    /// Milliseconds of a step that do not grow with the batch, for sizes with one row only; the mean of the other
    /// sizes' if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_ms: Option<f64>,
    /// The share of a shape's first use in training that its first use in evaluation costs.
    #[serde(default = "forward_share")]
    pub first_use_forward: f64,
    /// The rows.
    #[serde(default)]
    pub row: Vec<Row>,
    /// What the first step of a new shape costs beyond the others; nothing if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_use: Vec<FirstUse>,
}

/// A forward pass has one of the three products of a step.
const fn forward_share() -> f64 {
    1.0 - BACKWARD_SHARE
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Side of the images, in pixels.
    pub size: u32,
    /// Images of a step.
    pub batch_size: u64,
    /// Images a second of one rank in training.
    pub images_per_s: f64,
}

/// The first step of a shape: kernels are compiled or chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstUse {
    /// Side of the images, in pixels.
    pub size: u32,
    /// Images of the step.
    pub batch_size: u64,
    /// Seconds more than a later step.
    pub seconds: f64,
}

impl Row {
    /// Size, batch and seconds of a step.
    fn step(&self) -> (u32, f64, f64) {
        let batch = self.batch_size as f64;
        (self.size, batch, batch / self.images_per_s)
    }
}

impl Throughput {
    /// Reads a table from TOML; `origin` is what an error calls the text.
    ///
    /// # Errors
    /// No TOML, an unknown or missing key, a number out of range, no row.
    pub fn parse(origin: &str, text: &str) -> Result<Self, ForecastError> {
        let table: Self = from_toml(origin, text)?;
        table.check().or_else(|ForecastError(why)| wrong(format!("{origin}: {why}")))?;
        Ok(table)
    }

    /// Rows that were measured on one rank alone, and nothing else.
    pub fn of_one_rank(source: String, row: Vec<Row>) -> Self {
        let first_use_forward = forward_share();
        Self { source, machines: None, fixed_ms: None, row, first_use: Vec::new(), first_use_forward }
    }

    pub(super) fn check(&self) -> Result<(), ForecastError> {
        if self.row.is_empty() {
            return wrong("the throughput has no row: add [[row]] with size, batch_size and images_per_s");
        }
        in_range("throughput.machines", self.machines.unwrap_or(1).into(), 1.0, MAX_MACHINES.into())?;
        in_range("throughput.fixed_ms", self.fixed_ms.unwrap_or(0.0), 0.0, 1e6)?;
        in_range("throughput.first_use_forward", self.first_use_forward, 0.0, 1.0)?;
        for row in &self.row {
            in_range("row.size", row.size.into(), 4.0, 4096.0)?;
            in_range("row.batch_size", row.batch_size as f64, 1.0, 1e6)?;
            in_range("row.images_per_s", row.images_per_s, 1e-6, 1e9)?;
        }
        for first in &self.first_use {
            in_range("first_use.size", first.size.into(), 4.0, 4096.0)?;
            in_range("first_use.batch_size", first.batch_size as f64, 1.0, 1e6)?;
            in_range("first_use.seconds", first.seconds, 0.0, 1e6)?;
        }
        Ok(())
    }

    /// Seconds by which the first use of a shape is slower: between the measured batches of the nearest size, along
    /// straight lines.
    pub(super) fn first_use_s(&self, size: u32, batch_size: u64) -> f64 {
        let distance = |other: u32| (f64::from(other) / f64::from(size)).ln().abs();
        let nearest = self.first_use.iter().map(|first| first.size);
        let Some(nearest) = nearest.min_by(|&a, &b| distance(a).total_cmp(&distance(b))) else { return 0.0 };
        let here = self.first_use.iter().filter(|first| first.size == nearest);
        let mut points: Vec<_> = here.map(|first| (first.batch_size as f64, first.seconds)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        interpolate(&points, batch_size as f64)
    }
}

/// The time of a step at one image size, by batch.
#[derive(Debug, Clone, PartialEq)]
struct Curve {
    size: u32,
    /// Seconds that do not grow with the batch.
    fixed_s: f64,
    /// Of each measured batch the seconds that do, by batch.
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// Draws a curve through the steps of measured batches; `fixed_s` is for a single one.
    fn new(size: u32, steps: &[(f64, f64)], fixed_s: f64) -> Self {
        let fixed_s = match steps {
            [(x0, y0), (x1, y1), ..] => (y0 - x0 * (y1 - y0) / (x1 - x0)).max(0.0),
            _ => fixed_s,
        };
        Self { size, fixed_s, points: steps.iter().map(|&(batch, s)| (batch, s - fixed_s)).collect() }
    }

    /// Seconds that grow with the batch: along straight lines between the measured ones, on along the last line
    /// beyond them, and down to nothing for no image.
    fn compute_s(&self, batch: f64) -> f64 {
        let before = self.points.iter().rposition(|point| point.0 < batch);
        match (before, self.points.as_slice()) {
            (_, []) => 0.0,
            (None, [first, ..]) => first.1 * batch / first.0,
            (Some(0), [only]) => only.1 * batch / only.0,
            (Some(before), points) => {
                let at = before.min(points.len() - 2);
                let ((x0, y0), (x1, y1)) = (points[at], points[at + 1]);
                y0 + (y1 - y0) * (batch - x0) / (x1 - x0)
            }
        }
    }

    /// Whether larger batches take longer, and images take any time.
    fn rises(&self) -> bool {
        let from_0 = std::iter::once(0.0).chain(self.points.iter().map(|point| point.1));
        from_0.clone().zip(from_0.skip(1)).all(|(less, more)| less < more)
    }
}

/// Steps of one device at any size and batch, without the wait for other ranks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Speed(Vec<Curve>);

impl Speed {
    /// Draws the curves through the rows of `table`, from which the wait is taken out that a backward pass of so many
    /// seconds leaves exposed.
    pub(super) fn new(table: &Throughput, exposed_s: impl Fn(f64) -> f64) -> Result<Self, ForecastError> {
        let mut rows: Vec<(u32, f64, f64)> = table.row.iter().map(Row::step).collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        rows.dedup_by(|b, a| (a.0, a.1) == (b.0, b.1));
        let mut waits = vec![0.0; rows.len()];
        for _ in 0..ROUNDS {
            let speed = Self::through(&rows, &waits, table.fixed_ms);
            let next: Vec<f64> = rows
                .iter()
                .map(|&(size, batch, _)| {
                    let curve = speed.0.iter().find(|curve| curve.size == size);
                    exposed_s(BACKWARD_SHARE * curve.map_or(0.0, |curve| curve.compute_s(batch)).max(0.0))
                })
                .collect();
            let moved = waits.iter().zip(&next).map(|(old, new)| (old - new).abs()).fold(0.0, f64::max);
            if moved < AGREED_S {
                return speed.checked();
            }
            // Half of the way: a full one can swing.
            waits.iter_mut().zip(&next).for_each(|(old, new)| *old = 0.5 * (*old + new));
        }
        wrong(
            "the throughput's rows do not tell the wait for other ranks from the work: give rows of one rank alone, \
             without `machines`",
        )
    }

    /// The curves through rows of (size, batch, seconds), sorted, less the waits.
    fn through(rows: &[(u32, f64, f64)], waits: &[f64], fixed_ms: Option<f64>) -> Self {
        let steps: Vec<_> =
            rows.iter().zip(waits).map(|(&(size, batch, s), wait)| (size, (batch, s - wait))).collect();
        let by_size = || {
            steps.chunk_by(|a, b| a.0 == b.0).map(|rows| {
                let steps: Vec<_> = rows.iter().map(|row| row.1).collect();
                (rows[0].0, steps)
            })
        };
        let several = by_size().filter(|(_, steps)| steps.len() > 1);
        let fixed: Vec<f64> = several.map(|(size, steps)| Curve::new(size, &steps, 0.0).fixed_s).collect();
        let mean = fixed.iter().sum::<f64>() / fixed.len().max(1) as f64;
        let fixed_s = fixed_ms.map_or(mean, |ms| ms / 1e3);
        Self(by_size().map(|(size, steps)| Curve::new(size, &steps, fixed_s)).collect())
    }

    fn checked(self) -> Result<Self, ForecastError> {
        match self.0.iter().find(|curve| !curve.rises()) {
            Some(Curve { size, fixed_s, .. }) => wrong(format!(
                "the throughput at {size} px leaves no time for the images, with {:.1} ms of a step fixed: check \
                 fixed_ms, and that larger batches take longer",
                1e3 * fixed_s
            )),
            None => Ok(self),
        }
    }

    /// Seconds of a step that do not grow with its batch, and those that do. Between the measured sizes by pixels,
    /// along straight lines.
    pub(super) fn step(&self, size: u32, batch_size: u64) -> Result<(f64, f64), ForecastError> {
        let side = f64::from(size);
        let apart = |curve: &Curve| (f64::from(curve.size) / side).max(side / f64::from(curve.size));
        if self.0.iter().all(|curve| apart(curve) > MAX_SCALING) {
            let known: Vec<_> = self.0.iter().map(|curve| curve.size.to_string()).collect();
            return wrong(format!(
                "the throughput has rows for {} px, none near {size} px: measure that size and add its [[row]]",
                known.join(", ")
            ));
        }
        let between = |value: &dyn Fn(&Curve) -> f64| {
            let points: Vec<_> = self.0.iter().map(|curve| (f64::from(curve.size), value(curve))).collect();
            interpolate(&points, side)
        };
        let batch = batch_size as f64;
        let per_pixel = between(&|curve| curve.compute_s(batch) / f64::from(curve.size).powi(2));
        Ok((between(&|curve| curve.fixed_s), per_pixel * side * side))
    }

    /// Whether a row says how fast this size is.
    pub(super) fn measured(&self, size: u32) -> bool {
        self.0.iter().any(|curve| curve.size == size)
    }
}

/// The value at `x` between sorted points, and beyond them that of the nearest one. There is a point.
fn interpolate(points: &[(f64, f64)], x: f64) -> f64 {
    let after = points.partition_point(|point| point.0 < x);
    match (after.checked_sub(1).map(|before| points[before]), points.get(after)) {
        (Some((x0, y0)), Some(&(x1, y1))) => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
        (Some((_, y)), None) => y,
        (None, first) => first.map_or(0.0, |point| point.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(u32, u64, f64)]) -> Throughput {
        let row = |&(size, batch_size, step_s): &(u32, u64, f64)| Row {
            size,
            batch_size,
            images_per_s: batch_size as f64 / step_s,
        };
        Throughput::of_one_rank("a test".into(), rows.iter().map(row).collect())
    }

    fn close(got: (f64, f64), expected: (f64, f64)) {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(near(got.0, expected.0) && near(got.1, expected.1), "{got:?} {expected:?}");
    }

    #[test]
    fn a_step_is_fixed_and_grows_with_the_batch() {
        let rows = [(100, 10, 0.3), (100, 20, 0.5), (100, 40, 1.1), (200, 10, 0.9)];
        let speed = Speed::new(&table(&rows), |_| 0.0).unwrap();
        for (batch, compute_s) in [(5, 0.1), (10, 0.2), (15, 0.3), (30, 0.7), (40, 1.0), (60, 1.6)] {
            close(speed.step(100, batch).unwrap(), (0.1, compute_s));
        }
        // One row: the other size's fixed part.
        close(speed.step(200, 20).unwrap(), (0.1, 1.6));
        // In between and beyond, by pixels.
        close(speed.step(150, 10).unwrap(), (0.1, 0.2 * 2.25));
        close(speed.step(50, 10).unwrap(), (0.1, 0.2 / 4.0));
        assert!(speed.measured(100) && !speed.measured(150));
    }

    /// Rows that were made with a wait give back what they were made from.
    #[test]
    fn the_wait_for_others_is_taken_out_of_the_rows() {
        let wait = |backward: f64| (0.15 - backward).max(0.01);
        let step = |batch: f64| 0.05 + 0.001 * batch + wait(BACKWARD_SHARE * 0.001 * batch);
        let rows = [(128, 64, step(64.0)), (128, 128, step(128.0)), (128, 256, step(256.0))];
        let speed = Speed::new(&table(&rows), wait).unwrap();
        close(speed.step(128, 100).unwrap(), (0.05, 0.1));
    }

    #[test]
    fn first_uses_lie_on_lines_between_those_measured() {
        let first = |size, batch_size, seconds| FirstUse { size, batch_size, seconds };
        let table = Throughput {
            first_use: vec![first(128, 100, 4.0), first(128, 50, 2.0), first(288, 64, 9.0)],
            ..table(&[(128, 1, 1.0)])
        };
        let got = [(128, 75), (128, 10), (128, 999), (300, 1)].map(|(size, b)| table.first_use_s(size, b));
        assert_eq!(got, [3.0, 2.0, 4.0, 9.0]);
    }

    #[test]
    fn what_was_not_measured_is_not_guessed() {
        let speed = Speed::new(&table(&[(128, 10, 1.0)]), |_| 0.0).unwrap();
        assert!(speed.step(224, 1).is_ok());
        let message = speed.step(400, 1).unwrap_err().to_string();
        assert!(message.contains("rows for 128 px, none near 400 px"), "{message}");
        let larger_is_faster = table(&[(128, 10, 2.0), (128, 20, 1.0)]);
        let message = Speed::new(&larger_is_faster, |_| 0.0).unwrap_err().to_string();
        assert!(message.contains("at 128 px leaves no time"), "{message}");
        let none = Throughput::parse("t.toml", "source = \"a test\"").unwrap_err().to_string();
        assert!(none.starts_with("t.toml: the throughput has no row"), "{none}");
    }
}
