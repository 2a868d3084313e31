//! A kind of machine and the program that runs on it, as `clusters/*.toml` or a file of the user's describes it.

use serde::Deserialize;

use super::{ForecastError, Network, Throughput, wrong};

/// Every kind inside the program.
const KINDS: &[(&str, &str)] = &[
    ("p3.16xlarge-2018", include_str!("../../../clusters/p3.16xlarge-2018.toml")),
    ("a100-400g", include_str!("../../../clusters/a100-400g.toml")),
    ("h100-400g", include_str!("../../../clusters/h100-400g.toml")),
    ("h100-3200g", include_str!("../../../clusters/h100-3200g.toml")),
];

/// Machines that are all alike, and what runs on them. How many there are is the job's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// What it is called.
    pub name: String,
    /// The name of its price, if the program knows one.
    pub price: Option<String>,
    /// A machine.
    pub machine: Machine,
    /// What is between the ranks.
    pub network: Network,
    /// How pictures become batches.
    pub input: Input,
    /// What the program costs beside its steps; nothing if absent.
    #[serde(default)]
    pub program: Program,
    /// How fast a rank's device is.
    pub throughput: Option<Throughput>,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Ranks, one a GPU.
    pub ranks: u32,
    /// Processor cores. Two threads of one core share it: each goes half as fast.
    pub cores: u32,
    /// What its disks give in megabytes a second; absent where the pictures are in memory.
    pub disk_mb_per_s: Option<f64>,
}

/// How pictures become batches.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Workers of a rank.
    pub workers: u32,
    /// What a worker takes at a time.
    pub unit: Unit,
    /// Batches that may be begun beyond the one consumed last.
    pub batches_ahead: u32,
    /// Milliseconds of a core for a million pixels of output: resizing, turning, copying.
    pub resize_ms_per_mpx: f64,
    /// The stored pictures that a phase can name.
    pub pictures: Vec<Pictures>,
}

/// What a worker takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A whole batch, as PyTorch's DataLoader does: the first one is as late as one worker makes it.
    Batch,
    /// A few pictures, as this program's loader does: all workers make the next batch.
    Picture,
}

/// A stored form of the data set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pictures {
    /// `full`, or the folder of a copy of another size.
    pub name: String,
    /// Milliseconds of a core that reading and decoding one takes.
    pub decode_ms: f64,
    /// The mean file in kilobytes.
    pub kb: f64,
}

/// What a program costs beside its steps.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Program {
    /// Seconds from the start of the processes to that of the run's clock: libraries, network, data sets.
    pub setup_s: f64,
    /// Seconds before the first step of the run, while the clock goes already.
    pub job_start_s: f64,
    /// Seconds before an epoch's first batch is begun.
    pub epoch_start_s: f64,
    /// The same before an evaluation.
    pub eval_start_s: f64,
    /// Steps from one line of the log to the next; none if 0.
    pub log_every_steps: u32,
    /// Seconds for which a line of the log holds up the steps.
    pub log_s: f64,
    /// Batches of evaluation that are larger than the phase's.
    pub evaluation: Vec<Evaluation>,
}

/// The least batch of an evaluation at one size.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Side of the images, in pixels.
    pub size: u32,
    /// Images of a rank.
    pub batch_size: u64,
}

impl Kind {
    /// The names of the kinds that the program knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(name, _)| *name)
    }

    /// The known kind of that name.
    ///
    /// # Errors
    /// There is none; the message lists those that there are.
    pub fn find(name: &str) -> Result<Self, ForecastError> {
        match KINDS.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Self::parse(name, text),
            None => {
                let known: Vec<_> = Self::names().collect();
                wrong(format!(
                    "there is no cluster `{name}`; there are: {}; or give a TOML file (docs/plan.md)",
                    known.join(", ")
                ))
            }
        }
    }

    /// Reads a kind from TOML; `origin` is what an error calls the text.
    ///
    /// # Errors
    /// No TOML, an unknown or missing key, a number out of range.
    pub fn parse(origin: &str, text: &str) -> Result<Self, ForecastError> {
        let kind: Self = from_toml(origin, text)?;
        kind.check().or_else(|ForecastError(why)| wrong(format!("{origin}: {why}")))?;
        Ok(kind)
    }

    /// The stored pictures of that name.
    pub(super) fn pictures(&self, name: &str) -> Result<&Pictures, ForecastError> {
        self.input.pictures.iter().find(|pictures| pictures.name == name).ok_or_else(|| {
            let known: Vec<_> = self.input.pictures.iter().map(|pictures| pictures.name.as_str()).collect();
            ForecastError(format!(
                "cluster {}: a phase reads the pictures `{name}`, it knows {}: add an [[input.pictures]] with their \
                 decode_ms and kb",
                self.name,
                known.join(", ")
            ))
        })
    }

    /// Images that a rank evaluates at a time.
    pub(super) fn val_batch_size(&self, size: u32, batch_size: u64) -> u64 {
        let least = self.program.evaluation.iter().filter(|evaluation| evaluation.size == size);
        least.map(|evaluation| evaluation.batch_size).fold(batch_size, u64::max)
    }

    fn check(&self) -> Result<(), ForecastError> {
        let Self { machine, input, program, .. } = self;
        for (key, value) in [("machine.ranks", machine.ranks), ("machine.cores", machine.cores)] {
            in_range(key, value.into(), 1.0, 4096.0)?;
        }
        if let Some(rate) = machine.disk_mb_per_s {
            in_range("machine.disk_mb_per_s", rate, 1e-3, 1e9)?;
        }
        self.network.check()?;
        in_range("input.workers", input.workers.into(), 1.0, 256.0)?;
        in_range("input.batches_ahead", input.batches_ahead.into(), 1.0, 4096.0)?;
        in_range("input.resize_ms_per_mpx", input.resize_ms_per_mpx, 0.0, 1e6)?;
        for pictures in &input.pictures {
            in_range("input.pictures.decode_ms", pictures.decode_ms, 0.0, 1e6)?;
            in_range("input.pictures.kb", pictures.kb, 0.0, 1e6)?;
        }
        for (key, value) in [
            ("program.setup_s", program.setup_s),
            ("program.job_start_s", program.job_start_s),
            ("program.epoch_start_s", program.epoch_start_s),
            ("program.eval_start_s", program.eval_start_s),
            ("program.log_s", program.log_s),
        ] {
            in_range(key, value, 0.0, 1e6)?;
        }
        for evaluation in &program.evaluation {
            in_range("program.evaluation.batch_size", evaluation.batch_size as f64, 1.0, 1e6)?;
        }
        self.throughput.as_ref().map_or(Ok(()), Throughput::check)
    }
}

/// Refuses what is no number of a range.
pub(super) fn in_range(key: &str, value: f64, from: f64, to: f64) -> Result<(), ForecastError> {
    if (from..=to).contains(&value) {
        return Ok(());
    }
    wrong(format!("`{key}` is {value}: expected {from} to {to}"))
}

/// TOML as a value, with an error of one line.
pub(super) fn from_toml<T: for<'a> Deserialize<'a>>(origin: &str, text: &str) -> Result<T, ForecastError> {
    toml::from_str(text).or_else(|error: toml::de::Error| {
        let line =
            error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        wrong(format!("{origin}: line {line}: {message}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_well_formed_and_its_price_is_known() {
        for name in Kind::names() {
            let kind = Kind::find(name).unwrap();
            assert_eq!(kind.name, name);
            assert!(kind.throughput.is_some(), "{name}");
            assert!(kind.pictures("full").is_ok(), "{name}");
            if let Some(price) = &kind.price {
                assert!(crate::cluster::Price::find(price).is_some(), "{price}");
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_a_line() {
        let good = KINDS[0].1;
        for (from, to, expected) in [
            ("ranks = 8", "ranks = 0", "`machine.ranks` is 0: expected 1 to 4096"),
            ("ranks = 8", "ranks = -8", "line"),
            ("ranks = 8", "rank = 8", "unknown field `rank`"),
            ("workers = 8", "workers = 0", "`input.workers`"),
            ("unit = \"batch\"", "unit = \"shard\"", "unknown variant `shard`"),
        ] {
            assert!(good.contains(from), "{from}");
            let message = Kind::parse("file.toml", &good.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(message.starts_with("file.toml: ") && message.contains(expected), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
        let message = Kind::find("p3").unwrap_err().to_string();
        assert!(message.contains("there are: p3.16xlarge-2018"), "{message}");
    }
}
