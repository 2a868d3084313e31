//! The curves of a run as numbers ready to be drawn: what goes into which panel, thinned out to what an eye can
//! resolve, and the axes around it. Pure; the drawing is in `curve`.

use std::collections::BTreeSet;

use super::metrics::{EpochRow, Moment, Row, StepRow};
use super::phases::executed_phases;
use super::text::{count, learning_rate};

/// More columns than this cannot be told apart in a plot that is read on a screen.
const NUM_BUCKETS: usize = 320;

/// Everything that the picture shows; no panels if nothing was recorded yet.
#[derive(Debug)]
pub(super) struct Curves {
    pub(super) x: Axis,
    pub(super) panels: Vec<Panel>,
    /// Where each phase starts, and words for it, the fuller ones first.
    pub(super) phases: Vec<(f64, [String; 2])>,
}

#[derive(Debug)]
pub(super) struct Panel {
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) color: (u8, u8, u8),
    /// In order of x; `None` where the values were not finite, so the line is broken there.
    pub(super) points: Vec<Option<Point>>,
    /// Measured once an epoch: few enough to mark each.
    pub(super) marked: bool,
}

/// The values that fell into one bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) low: f64,
    pub(super) mean: f64,
    pub(super) high: f64,
}

#[derive(Debug)]
pub(super) struct Axis {
    pub(super) name: &'static str,
    pub(super) low: f64,
    pub(super) high: f64,
    /// Where to put a mark, and its label.
    pub(super) ticks: Vec<(f64, String)>,
}

const TRAIN: (u8, u8, u8) = (46, 110, 207);
const VAL: (u8, u8, u8) = (222, 106, 32);
const VAL_TOP5: (u8, u8, u8) = (30, 146, 98);
const RATE: (u8, u8, u8) = (126, 87, 194);
const SIZE: (u8, u8, u8) = (0, 137, 143);
const WAIT: (u8, u8, u8) = (190, 64, 104);

impl Curves {
    /// With about `num_marks` marks on the x axis.
    pub(super) fn new(rows: &[Row], num_marks: u32) -> Self {
        let images_max = rows.iter().map(|row| row.at().images).max().unwrap_or(0) as f64;
        // Epochs are what people count in; without a whole one, images are.
        let per_epoch = rows.iter().rev().find_map(|row| match row {
            Row::Epoch(epoch) if epoch.at.images > 0 => {
                Some(epoch.at.images as f64 / (f64::from(epoch.at.epoch) + 1.0))
            }
            _ => None,
        });
        let unit = per_epoch.unwrap_or(1.0);
        let high = (images_max / unit).max(f64::MIN_POSITIVE);
        let data = Data { rows, unit, high };
        let x = match per_epoch {
            Some(_) => Axis::new("epoch", 0.0, high, num_marks, decimal),
            None => Axis::new("images", 0.0, high, num_marks * 4 / 5, |value, _| count(value)),
        };
        let panels = if images_max > 0.0 { data.panels() } else { Vec::new() };
        let phases = executed_phases(rows).into_iter().map(|phase| {
            let size = phase.plan.size.map(|size| format!("{size} px"));
            let batch_size = phase.plan.global_batch_size.or(phase.plan.batch_size);
            let batch_size = batch_size.map(|size| format!("batch {size}"));
            let full = [size.clone(), batch_size].into_iter().flatten().collect::<Vec<_>>().join(" \u{b7} ");
            (phase.plan.at.images as f64 / unit, [full, size.unwrap_or_default()])
        });
        Self { x, panels, phases: phases.collect() }
    }
}

struct Data<'a> {
    rows: &'a [Row],
    unit: f64,
    high: f64,
}

impl Data<'_> {
    fn panels(&self) -> Vec<Panel> {
        let loss = vec![
            self.training("train", TRAIN, |row| Some(row.train_loss), |row| row.train_loss),
            self.epochs("validation", VAL, |row| row.val_loss),
        ];
        let accuracy = vec![
            self.training("train top-1", TRAIN, |row| row.train_top1, |row| row.train_top1),
            self.epochs("val top-1", VAL, |row| row.val_top1),
            self.epochs("val top-5", VAL_TOP5, |row| row.val_top5),
        ];
        let rate = vec![self.training("learning rate", RATE, |row| Some(row.lr), |row| row.lr)];
        let panel = |series: Vec<Option<Series>>, axis: fn(f64, f64) -> Axis| {
            let series: Vec<Series> = series.into_iter().flatten().collect();
            let (low, high) = range(&series)?;
            Some(Panel { y: axis(low, high), series })
        };
        let sizes: BTreeSet<u32> = self.sizes().map(|(_, size)| size).collect();
        // Of steps alone: an epoch's sum is another thing.
        let waits = self.rows.iter().filter_map(|row| match row {
            Row::Step(row) => Some((row.at, row.data_wait_s?)),
            _ => None,
        });
        let wait = self.series("data wait a step", WAIT, waits, false);
        let size = self.series("image size", SIZE, self.sizes().map(|(at, size)| (at, size.into())), false);
        [
            panel(loss, loss_axis),
            panel(accuracy, accuracy_axis),
            panel(rate, rate_axis),
            size.map(|size| Panel { y: size_axis(&sizes), series: vec![size] }),
            panel(vec![wait], wait_axis),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The image size at every step and epoch whose phase says it.
    fn sizes(&self) -> impl Iterator<Item = (Moment, u32)> {
        let mut size = None;
        self.rows.iter().filter_map(move |row| match row {
            Row::Phase(phase) => {
                size = phase.size;
                None
            }
            Row::Step(_) | Row::Epoch(_) => Some((*row.at(), size?)),
            Row::End(_) => None,
        })
    }

    /// A curve of training: from the steps if they tell, else from the epochs.
    fn training(
        &self,
        name: &'static str,
        color: (u8, u8, u8),
        of_step: impl Fn(&StepRow) -> Option<f64>,
        of_epoch: impl Fn(&EpochRow) -> Option<f64>,
    ) -> Option<Series> {
        let values = self.rows.iter().filter_map(|row| match row {
            Row::Step(row) => Some((row.at, of_step(row)?)),
            _ => None,
        });
        self.series(name, color, values, false).or_else(|| self.epochs(name, color, of_epoch))
    }

    fn epochs(
        &self,
        name: &'static str,
        color: (u8, u8, u8),
        of_epoch: impl Fn(&EpochRow) -> Option<f64>,
    ) -> Option<Series> {
        let values = self.rows.iter().filter_map(|row| match row {
            Row::Epoch(row) => Some((row.at, of_epoch(row)?)),
            _ => None,
        });
        self.series(name, color, values, true)
    }

    /// `None` if there is nothing to draw.
    fn series(
        &self,
        name: &'static str,
        color: (u8, u8, u8),
        values: impl Iterator<Item = (Moment, f64)>,
        by_epoch: bool,
    ) -> Option<Series> {
        let values = values.map(|(at, value)| (at.phase, at.images as f64 / self.unit, value));
        let points = thin_out(values, self.high);
        let some = points.iter().flatten().next().is_some();
        let marked = by_epoch && points.len() <= 64;
        some.then_some(Series { name, color, points, marked })
    }
}

/// Gathers values, each with its phase and x, into buckets of equal width; the line goes through the means, low and
/// high make a band around it. A bucket ends with its phase, so that a jump of the schedule stays a jump.
fn thin_out(values: impl Iterator<Item = (u32, f64, f64)>, x_high: f64) -> Vec<Option<Point>> {
    let mut points: Vec<Option<Point>> = Vec::new();
    let mut last_bucket = None;
    let mut num_in_bucket = 0.0;
    for (phase, x, value) in values {
        let bucket = (phase, (x / x_high * NUM_BUCKETS as f64) as usize);
        if last_bucket.replace(bucket) != Some(bucket) {
            points.push(None);
            num_in_bucket = 0.0;
        }
        if !value.is_finite() {
            continue;
        }
        num_in_bucket += 1.0;
        let Some(last) = points.last_mut() else { continue };
        let point = last.get_or_insert(Point { x, low: value, mean: value, high: value });
        point.x += (x - point.x) / num_in_bucket;
        point.mean += (value - point.mean) / num_in_bucket;
        point.low = point.low.min(value);
        point.high = point.high.max(value);
    }
    points
}

/// The lowest and the highest value worth showing: a few wild steps at the start must not flatten all the rest.
fn range(series: &[Series]) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = Vec::new();
    for series in series {
        let mut means: Vec<f64> = series.points.iter().flatten().map(|point| point.mean).collect();
        means.sort_by(f64::total_cmp);
        let num_wild = if series.marked { 0 } else { means.len() / 100 };
        means.truncate(means.len() - num_wild);
        values.extend(means);
    }
    let low = values.iter().copied().reduce(f64::min)?;
    Some((low, values.iter().copied().reduce(f64::max)?))
}

fn loss_axis(low: f64, high: f64) -> Axis {
    let margin = margin(low, high);
    let low = if (0.0..0.4 * high).contains(&low) { 0.0 } else { low - margin };
    Axis::new("loss", low, high + margin, 6, decimal)
}

fn accuracy_axis(low: f64, high: f64) -> Axis {
    let margin = margin(low, high);
    let label = |value, step| decimal(value, step) + " %";
    let low = if low < 0.3 * high { 0.0 } else { low - margin };
    let high = if high > 90.0 { 100.0 } else { high + margin };
    Axis::new("accuracy", low, high, 6, label)
}

fn rate_axis(low: f64, high: f64) -> Axis {
    let margin = margin(low.min(0.0), high);
    Axis::new("learning rate", low.min(0.0), high + margin, 4, |value, step| {
        if step < 1e-4 { learning_rate(value) } else { decimal(value, step) }
    })
}

fn wait_axis(_: f64, high: f64) -> Axis {
    let label = |value, step| decimal(value, step) + " s";
    Axis::new("data wait a step", 0.0, high + margin(0.0, high), 3, label)
}

/// A mark at each size that there was, unless they are too many to be told apart.
fn size_axis(sizes: &BTreeSet<u32>) -> Axis {
    let [low, high] = [sizes.first(), sizes.last()].map(|size| f64::from(size.copied().unwrap_or(0)));
    let margin = margin(low, high);
    let ticks = sizes.iter().map(|size| (f64::from(*size), format!("{size} px")));
    let ticks = if sizes.len() <= 4 { ticks.collect() } else { Vec::new() };
    match ticks.is_empty() {
        true => Axis::new("image size", low - margin, high + margin, 3, decimal),
        false => Axis { name: "image size", low: low - margin, high: high + margin, ticks },
    }
}

/// Room between the curves and the frame; some even if all values are one.
fn margin(low: f64, high: f64) -> f64 {
    if high > low { 0.05 * (high - low) } else { (0.1 * high.abs()).max(1e-6) }
}

impl Axis {
    /// Marks at round values, about `num_wanted` of them.
    fn new(
        name: &'static str,
        low: f64,
        high: f64,
        num_wanted: u32,
        label: impl Fn(f64, f64) -> String,
    ) -> Self {
        let rough = (high - low) / f64::from(num_wanted);
        let power = 10f64.powf(rough.log10().floor());
        let round =
            [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| round * power >= rough * 0.999).unwrap_or(10.0);
        let step = round * power;
        let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
        // A range so narrow or far out that its marks are beyond counting has none.
        let num_ticks = last.saturating_sub(first).clamp(-1, 4 * i64::from(num_wanted));
        let ticks = (first..=first + num_ticks).map(|index| index as f64 * step);
        Self { name, low, high, ticks: ticks.map(|value| (value, label(value, step))).collect() }
    }

    /// Where a value lies between the ends, 0 to 1; values beyond are held at them.
    pub(super) fn fraction(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// As many decimals as the step between marks needs.
fn decimal(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn axes_have_round_marks_and_hold_their_values() {
        assert_eq!(labels(&loss_axis(0.5, 6.9)), ["0", "2", "4", "6"]);
        assert_eq!(labels(&accuracy_axis(3.0, 93.1)), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]);
        assert_eq!(labels(&accuracy_axis(84.2, 85.1)), ["84.2 %", "84.4 %", "84.6 %", "84.8 %", "85.0 %"]);
        assert_eq!(labels(&rate_axis(0.1, 0.1)), ["0.00", "0.05", "0.10"]);
        assert_eq!(labels(&Axis::new("epoch", 0.0, 1e-300, 10, decimal)).len(), 11);
        for (low, high) in [(2.0, 2.0), (0.0, 0.0), (-1.0, -1.0), (1e300, 1e300), (1.0, 1.0 + 1e-15)] {
            let axis = loss_axis(low, high);
            assert!(axis.low < axis.high && axis.ticks.len() < 40, "{axis:?}");
        }
    }

    #[test]
    fn thinning_keeps_means_extremes_and_gaps() {
        let values = (0..64_000).map(|step| (0, f64::from(step), f64::from(step % 2)));
        let points = thin_out(values, 64_000.0);
        assert_eq!(points.len(), NUM_BUCKETS);
        for point in points {
            let point = point.expect("all values are finite");
            assert_eq!((point.low, point.high), (0.0, 1.0));
            assert!((point.mean - 0.5).abs() < 1e-9);
        }
        let gap = thin_out([(0, 0.0, 1.0), (0, 1.0, f64::NAN), (0, 2.0, 3.0)].into_iter(), 2.0);
        assert_eq!(gap.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        let jump = thin_out([(0, 1.0, 4.0), (1, 1.0, 2.0)].into_iter(), 9000.0);
        assert_eq!(jump.iter().flatten().map(|point| point.mean).collect::<Vec<_>>(), [4.0, 2.0]);
    }

    #[test]
    fn a_few_wild_steps_do_not_flatten_the_rest() {
        let row = |step: u64| {
            let at = Moment { step, images: step, ..Moment::default() };
            let train_loss = if step == 1 { 1e6 } else { 2.0 };
            Row::Step(StepRow { at, train_loss, ..StepRow::default() })
        };
        let curves = Curves::new(&(1..=1000).map(row).collect::<Vec<_>>(), 10);
        assert!(curves.panels[0].y.high < 10.0, "{:?}", curves.panels[0].y);
    }
}
