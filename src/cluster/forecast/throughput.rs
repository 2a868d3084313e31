//! How long a rank's device takes over a step, from measured rows: fixed + per image, a line for each image size.
//!
//! The fixed part is what does not grow with the batch: launches of kernels, the update, the metrics. Rows that were
//! timed on several machines hold the wait for the all-reduce; it is taken out before the lines are drawn, so that
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
/// The wait depends on the lines and the lines on the wait: rounds until they agree. Each shrinks the rest by more
/// than a third.
const ROUNDS: usize = 60;

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
    /// The rows.
    #[serde(default)]
    pub row: Vec<Row>,
    /// What the first step or evaluation of a new shape costs beyond the others; nothing if empty.
    #[serde(default)]
    pub first_use: Vec<FirstUse>,
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

    pub(super) fn check(&self) -> Result<(), ForecastError> {
        if self.row.is_empty() {
            return wrong("the throughput has no row: add [[row]] with size, batch_size and images_per_s");
        }
        in_range("throughput.machines", self.machines.unwrap_or(1).into(), 1.0, MAX_MACHINES.into())?;
        in_range("throughput.fixed_ms", self.fixed_ms.unwrap_or(0.0), 0.0, 1e6)?;
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

/// The time of a step at one image size.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    size: u32,
    fixed_s: f64,
    per_image_s: f64,
}

/// Steps of one device at any size and batch, without the wait for other ranks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Speed(Vec<Line>);

impl Speed {
    /// Draws the lines through the rows of `table`, from which the wait is taken out that a backward pass of so many
    /// seconds leaves exposed.
    pub(super) fn new(table: &Throughput, exposed_s: impl Fn(f64) -> f64) -> Result<Self, ForecastError> {
        let mut sizes: Vec<u32> = table.row.iter().map(|row| row.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let mut lines: Vec<Line> =
            sizes.iter().map(|&size| Line { size, fixed_s: 0.0, per_image_s: 0.0 }).collect();
        for _ in 0..ROUNDS {
            let points = |line: &Line| -> Vec<(f64, f64)> {
                let rows = table.row.iter().filter(|row| row.size == line.size);
                rows.map(|row| {
                    let batch = row.batch_size as f64;
                    let wait = exposed_s(BACKWARD_SHARE * line.per_image_s * batch);
                    (batch, batch / row.images_per_s - wait)
                })
                .collect()
            };
            let drawn: Vec<_> = lines.iter().map(|line| fit(&points(line))).collect();
            let fixed: Vec<f64> = drawn.iter().filter_map(|fit| fit.map(|(fixed, _)| fixed)).collect();
            let mean = if fixed.is_empty() { 0.0 } else { fixed.iter().sum::<f64>() / fixed.len() as f64 };
            let fallback = table.fixed_ms.map_or(mean, |ms| ms / 1e3);
            let next = lines.iter().zip(drawn).map(|(line, drawn)| {
                let (fixed_s, per_image_s) = drawn.unwrap_or_else(|| {
                    let (batch, seconds) = points(line)[0];
                    (fallback, (seconds - fallback) / batch)
                });
                Line { size: line.size, fixed_s, per_image_s: per_image_s.max(0.0) }
            });
            lines = next.collect();
        }
        match lines.iter().find(|line| line.per_image_s <= 0.0) {
            Some(line) => wrong(format!(
                "the throughput at {} px leaves no time for the images: {:.1} ms of a step are fixed; check fixed_ms, \
                 and that larger batches take longer",
                line.size,
                1e3 * line.fixed_s
            )),
            None => Ok(Self(lines)),
        }
    }

    /// Seconds of a step that do not grow with the batch, and seconds of each image. Between the measured sizes by
    /// pixels, along straight lines.
    pub(super) fn of(&self, size: u32) -> Result<(f64, f64), ForecastError> {
        let side = f64::from(size);
        let apart = |line: &Line| (f64::from(line.size) / side).max(side / f64::from(line.size));
        if self.0.iter().all(|line| apart(line) > MAX_SCALING) {
            let known: Vec<_> = self.0.iter().map(|line| line.size.to_string()).collect();
            return wrong(format!(
                "the throughput has rows for {} px, none near {size} px: measure that size and add its [[row]]",
                known.join(", ")
            ));
        }
        let of = |value: fn(&Line) -> f64| {
            let points: Vec<_> = self.0.iter().map(|line| (f64::from(line.size), value(line))).collect();
            interpolate(&points, side)
        };
        let per_pixel = of(|line| line.per_image_s / f64::from(line.size).powi(2));
        Ok((of(|line| line.fixed_s), per_pixel * side * side))
    }

    /// Whether a row says how fast this size is.
    pub(super) fn measured(&self, size: u32) -> bool {
        self.0.iter().any(|line| line.size == size)
    }
}

/// The line (at 0, slope) nearest to the points, through 0 rather than below it; `None` without two batches.
fn fit(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if points.is_empty() || spread == 0.0 {
        return None;
    }
    let slope = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread;
    let at_0 = y - slope * x;
    Some(if at_0 >= 0.0 { (at_0, slope) } else { (0.0, y / x) })
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
        Throughput {
            source: "a test".into(),
            machines: None,
            fixed_ms: None,
            row: rows.iter().map(row).collect(),
            first_use: Vec::new(),
        }
    }

    fn close(got: (f64, f64), expected: (f64, f64)) {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(near(got.0, expected.0) && near(got.1, expected.1), "{got:?} {expected:?}");
    }

    #[test]
    fn a_step_is_fixed_and_per_image() {
        let speed = Speed::new(&table(&[(100, 10, 0.3), (100, 20, 0.5), (200, 10, 0.9)]), |_| 0.0).unwrap();
        close(speed.of(100).unwrap(), (0.1, 0.02));
        // One row: the other size's fixed part.
        close(speed.of(200).unwrap(), (0.1, 0.08));
        // In between, by pixels.
        close(speed.of(150).unwrap(), (0.1, 0.02 * 2.25));
        assert!(speed.measured(100) && !speed.measured(150));
    }

    /// Rows that were made with a wait give back the lines that they were made from.
    #[test]
    fn the_wait_for_others_is_taken_out_of_the_rows() {
        let wait = |backward: f64| (0.15 - backward).max(0.01);
        let step = |batch: f64| 0.05 + 0.001 * batch + wait(BACKWARD_SHARE * 0.001 * batch);
        let rows = [(128, 64, step(64.0)), (128, 128, step(128.0)), (128, 256, step(256.0))];
        close(Speed::new(&table(&rows), wait).unwrap().of(128).unwrap(), (0.05, 0.001));
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
        assert!(speed.of(224).is_ok());
        assert!(speed.of(400).unwrap_err().to_string().contains("rows for 128 px, none near 400 px"));
        let smaller_is_slower = table(&[(128, 10, 2.0), (128, 20, 1.0)]);
        let message = Speed::new(&smaller_is_slower, |_| 0.0).unwrap_err().to_string();
        assert!(message.contains("at 128 px leaves no time"), "{message}");
        let none = Throughput::parse("t.toml", "source = \"a test\"").unwrap_err().to_string();
        assert!(none.starts_with("t.toml: the throughput has no row"), "{none}");
    }
}
