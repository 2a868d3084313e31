//! A number that may change over the steps of a phase: the learning rate, momentum. Pure arithmetic in f64.
//!
//! A warm-up is a phase of its own, and so is every straight piece of a longer line. A curve that is to run on through
//! several phases says which epochs it spans. The formulas are PyTorch's (`lr_scheduler.py`: `CosineAnnealingLR`,
//! `PolynomialLR`, `StepLR`), with steps in the place of its epochs.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

/// How a number goes over a phase. In TOML `0.1`, `[0.1, 0.4]`, or a table such as `{ rule = "cosine", from = 0.4 }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Ramp {
    /// The same for every step.
    Constant(f64),
    /// From the first value, which the step before the first would have, to the second, which the last step has.
    Linear(f64, f64),
    /// By the name of a rule.
    Rule(RampRule),
}

/// A named rule. Like a line, a curve has its first value before the first step and its last at the last.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RampRule {
    /// The same for every step.
    Constant {
        /// The value.
        value: f64,
    },
    /// A straight line.
    Linear {
        /// Where it begins.
        from: f64,
        /// Where it ends.
        #[serde(default)]
        to: f64,
        /// The run's epochs that it spans, from 0, end exclusive; the phase's if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        over: Option<[f64; 2]>,
    },
    /// Half a wave (Loshchilov and Hutter 2017, without restarts).
    Cosine {
        /// Where it begins.
        from: f64,
        /// Where it ends.
        #[serde(default)]
        to: f64,
        /// As for `Linear`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        over: Option<[f64; 2]>,
    },
    /// What is left of the way, to a power.
    Poly {
        /// Where it begins.
        from: f64,
        /// Where it ends.
        #[serde(default)]
        to: f64,
        /// 2, as in MLPerf's rules for ResNet-50, if absent.
        #[serde(default = "default_power")]
        power: f64,
        /// As for `Linear`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        over: Option<[f64; 2]>,
    },
    /// Multiplied by a factor after every so many epochs of the phase.
    Step {
        /// Where it begins.
        from: f64,
        /// What it is multiplied by.
        #[serde(default = "default_factor")]
        factor: f64,
        /// Epochs between two steps.
        every: u32,
    },
}

const fn default_power() -> f64 {
    2.0
}

const fn default_factor() -> f64 {
    0.1
}

/// A step's place in its phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Counted from 1 over the phase; 0 is the phase's start.
    pub(super) step: u64,
    pub(super) steps_per_epoch: u64,
    pub(super) first_epoch: u32,
    pub(super) num_epochs: u32,
}

impl Place {
    /// How much of the curve is behind, from 0 to 1.
    fn done(self, over: Option<[f64; 2]>) -> f64 {
        match over {
            None => self.step as f64 / (u64::from(self.num_epochs) * self.steps_per_epoch) as f64,
            Some([begin, end]) => {
                let epochs = f64::from(self.first_epoch) + self.step as f64 / self.steps_per_epoch as f64;
                (epochs - begin) / (end - begin)
            }
        }
    }

    /// Whole epochs of the phase that are behind when the step begins.
    fn epochs_done(self) -> u64 {
        self.step.saturating_sub(1) / self.steps_per_epoch
    }
}

impl Ramp {
    /// The value at a step.
    ///
    /// A line's order of operations is that of imagenet18's `Scheduler.calc_linear_lr`, so that its logged learning
    /// rates come out to the last bit.
    pub(super) fn at(self, place: Place) -> f64 {
        match self {
            Self::Constant(value) => value,
            Self::Linear(from, to) => {
                let num_steps = u64::from(place.num_epochs) * place.steps_per_epoch;
                let per_step = (to - from) / num_steps as f64;
                from + place.step as f64 * per_step
            }
            Self::Rule(rule) => rule.at(place),
        }
    }

    /// What is wrong with it, if it is to be that of the epochs from `first` to `end`, exclusive, below `limit`.
    pub(super) fn check(self, (first, end): (u32, u32), limit: f64) -> Result<(), String> {
        let (from, to) = self.bounds();
        if ![from, to].iter().all(|value| (0.0..limit).contains(value)) {
            let most = if limit.is_finite() { format!("below {limit}") } else { "finite".into() };
            return Err(format!("goes from {from} to {to}: expected numbers of 0 or more, {most}"));
        }
        match self {
            Self::Rule(RampRule::Poly { power, .. }) if !(power > 0.0 && power.is_finite()) => {
                Err(format!("has a `power` of {power}: expected a number above 0"))
            }
            Self::Rule(RampRule::Step { factor, .. }) if !(factor > 0.0 && factor <= 1.0) => {
                Err(format!("has a `factor` of {factor}: expected above 0, at most 1"))
            }
            Self::Rule(RampRule::Step { every: 0, .. }) => {
                Err("steps every 0 epochs: expected at least 1".into())
            }
            _ => match self.over() {
                Some([begin, until]) if !holds([begin, until], [first, end]) => Err(format!(
                    "goes over the epochs {begin} to {until} of the run: expected the phase's, {first} to {end}, \
                     among them"
                )),
                _ => Ok(()),
            },
        }
    }

    /// Two values between which all others lie; a stepped rate's are at most its first and above 0.
    fn bounds(self) -> (f64, f64) {
        match self {
            Self::Constant(value) | Self::Rule(RampRule::Constant { value }) => (value, value),
            Self::Rule(RampRule::Step { from, .. }) => (from, from),
            Self::Linear(from, to)
            | Self::Rule(
                RampRule::Linear { from, to, .. }
                | RampRule::Cosine { from, to, .. }
                | RampRule::Poly { from, to, .. },
            ) => (from, to),
        }
    }

    fn over(self) -> Option<[f64; 2]> {
        let mut ramp = self;
        ramp.over_mut().copied()
    }

    /// The epochs of the run that it spans, if it spans more than its phase.
    pub(super) fn over_mut(&mut self) -> Option<&mut [f64; 2]> {
        match self {
            Self::Rule(
                RampRule::Linear { over, .. } | RampRule::Cosine { over, .. } | RampRule::Poly { over, .. },
            ) => over.as_mut(),
            _ => None,
        }
    }

    /// Multiplies all its values.
    pub(super) fn multiply(&mut self, by: f64) {
        match self {
            Self::Constant(value)
            | Self::Rule(RampRule::Constant { value } | RampRule::Step { from: value, .. }) => *value *= by,
            Self::Linear(from, to)
            | Self::Rule(
                RampRule::Linear { from, to, .. }
                | RampRule::Cosine { from, to, .. }
                | RampRule::Poly { from, to, .. },
            ) => {
                *from *= by;
                *to *= by;
            }
        }
    }
}

/// Whether a span of epochs is one, and has a phase's among them.
fn holds([begin, until]: [f64; 2], [first, end]: [u32; 2]) -> bool {
    begin.is_finite() && until.is_finite() && begin <= f64::from(first) && f64::from(end) <= until
}

impl RampRule {
    fn at(self, place: Place) -> f64 {
        match self {
            Self::Constant { value } => value,
            Self::Linear { from, to, over } => from + (to - from) * place.done(over),
            Self::Cosine { from, to, over } => {
                to + (from - to) * (1.0 + (std::f64::consts::PI * place.done(over)).cos()) / 2.0
            }
            Self::Poly { from, to, power, over } => to + (from - to) * (1.0 - place.done(over)).powf(power),
            Self::Step { from, factor, every } => {
                from * factor.powf((place.epochs_done() / u64::from(every)) as f64)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Ramp {
    /// By the value's type. An untagged enum would do, but for its errors: they do not name a misspelt key.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Ramp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a number such as 0.1, a line such as [0.1, 0.4], or a rule such as { rule = \"cosine\", \
                     from = 0.4 }",
                )
            }

            fn visit_f64<E>(self, value: f64) -> Result<Ramp, E> {
                Ok(Ramp::Constant(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Ramp, E> {
                Ok(Ramp::Constant(value as f64))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Ramp, A::Error> {
                let [from, to] = Deserialize::deserialize(de::value::SeqAccessDeserializer::new(seq))?;
                Ok(Ramp::Linear(from, to))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Ramp, A::Error> {
                Deserialize::deserialize(de::value::MapAccessDeserializer::new(map)).map(Ramp::Rule)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
