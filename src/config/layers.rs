//! Where a configuration comes from, later over earlier: a preset or a file, then `--set`, then the flags that have
//! a name of their own.

use std::path::PathBuf;

use toml::{Table, Value};

use super::{TrainConfig, keys};
use crate::{
    error::{Error, Result},
    recipe::{preset_names, preset_toml},
};

/// A file larger than this is not a configuration.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What the user said of a run's configuration.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The name of a preset.
    pub preset: Option<String>,
    /// A file instead of a preset.
    pub config: Option<PathBuf>,
    /// `key.path=value`, in order. The value is TOML, or else a string.
    pub set: Vec<String>,
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--device`.
    pub device: Option<String>,
    /// `--stop-at`.
    pub stop_at: Option<String>,
    /// `--checkpoint-every`: steps, or a time with its unit.
    pub checkpoint_every: Option<String>,
}

impl Sources {
    /// Reads and merges everything into one configuration.
    ///
    /// Without preset and file it is `default` for the embedded pictures and `photos` for a folder of the user's.
    ///
    /// # Errors
    /// [`Error::Usage`] names the file, line and key, and the nearest known one.
    ///
    /// ```
    /// use burn_sprint::config::Sources;
    /// let sources = Sources { set: vec!["phase.0.lr=0.05".into(), "model.depht=8".into()], ..Sources::default() };
    /// let message = sources.resolve().unwrap_err().to_string();
    /// assert!(message.contains("did you mean `depth`?"), "{message}");
    /// ```
    pub fn resolve(&self) -> Result<TrainConfig> {
        let (origin, text) = self.base()?;
        let mut table: Table = toml::from_str(&text)
            .map_err(|error| Error::usage(format!("{origin}: {}", keys::explain(&error, Some(&text)))))?;
        // Parsed alone first: an error then has the line of the file.
        let _: TrainConfig = toml::from_str(&text)
            .map_err(|error| Error::usage(format!("{origin}: {}", keys::explain(&error, Some(&text)))))?;
        for assignment in &self.set {
            let (path, value) = assignment.split_once('=').ok_or_else(|| {
                Error::usage(format!(
                    "--set {assignment}: expected key.path=value, such as optimizer.momentum=0.9"
                ))
            })?;
            set(&mut table, path.trim(), parse_value(value.trim()))
                .map_err(|why| Error::usage(format!("--set {assignment}: {why}")))?;
        }
        let mut config: TrainConfig = Value::Table(table).try_into().map_err(|error| {
            Error::usage(format!("{}: {}", self.set_names(), keys::explain(&error, None)))
        })?;
        if let Some(path) = &self.data {
            config.data.path = Some(path.clone());
        }
        if let Some(device) = &self.device {
            config.device.clone_from(device);
        }
        if let Some(target) = &self.stop_at {
            config.stop_at = Some(target.clone());
        }
        if let Some(every) = &self.checkpoint_every {
            config.checkpoint.set_every(every)?;
        }
        Ok(config)
    }

    /// Whether the user said anything at all.
    pub fn is_empty(&self) -> bool {
        let Self { preset, config, set, data, device, stop_at, checkpoint_every } = self;
        preset.is_none()
            && config.is_none()
            && set.is_empty()
            && data.is_none()
            && device.is_none()
            && stop_at.is_none()
            && checkpoint_every.is_none()
    }

    fn base(&self) -> Result<(String, String)> {
        match (&self.preset, &self.config) {
            (Some(_), Some(_)) => Err(Error::usage("--preset and --config exclude each other: give one")),
            (None, Some(path)) => {
                let origin = path.display().to_string();
                let length = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
                if length > MAX_CONFIG_BYTES {
                    return Err(Error::usage(format!(
                        "{origin} has {length} bytes, more than the {MAX_CONFIG_BYTES} of any configuration: \
                         is it a TOML file?"
                    )));
                }
                Ok((origin, std::fs::read_to_string(path).map_err(Error::io("read", path))?))
            }
            (name, None) => {
                let fallback = if self.data.is_some() { "photos" } else { "default" };
                let name = name.as_deref().unwrap_or(fallback);
                let text = preset_toml(name).ok_or_else(|| {
                    let known = preset_names().collect::<Vec<_>>().join(", ");
                    let hint = keys::nearest(name, preset_names());
                    let hint = hint.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                    Error::usage(format!("there is no preset `{name}`; there are: {known}{hint}"))
                })?;
                Ok((format!("preset {name}"), text.to_owned()))
            }
        }
    }

    fn set_names(&self) -> String {
        self.set.iter().map(|assignment| format!("--set {assignment}")).collect::<Vec<_>>().join(" ")
    }
}

/// A value as TOML would read it after `key =`; what is no TOML is a string, so that no quotes are needed.
fn parse_value(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Sets the value at a dotted path. Numbers index into arrays; tables on the way are made.
fn set(table: &mut Table, path: &str, value: Value) -> Result<(), String> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    if head.is_empty() {
        return Err("a part of the key is empty".into());
    }
    let Some(rest) = rest else {
        table.insert(head.to_owned(), value);
        return Ok(());
    };
    match table.entry(head.to_owned()).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(inner) => set(inner, rest, value),
        Value::Array(items) => {
            let (index, rest) =
                rest.split_once('.').map_or((rest, None), |(index, rest)| (index, Some(rest)));
            let count = items.len();
            let item =
                index.parse::<usize>().ok().and_then(|index| items.get_mut(index)).ok_or_else(|| {
                    format!(
                        "`{head}` has {count} entries: expected {head}.0 to {head}.{}",
                        count.saturating_sub(1)
                    )
                })?;
            match (rest, item) {
                (None, item) => {
                    *item = value;
                    Ok(())
                }
                (Some(rest), Value::Table(inner)) => set(inner, rest, value),
                (Some(_), _) => Err(format!("`{head}.{index}` is no table")),
            }
        }
        _ => Err(format!("`{head}` is a value, no table")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Ramp;

    fn with_set(set: &[&str]) -> Sources {
        Sources { set: set.iter().map(ToString::to_string).collect(), ..Sources::default() }
    }

    #[test]
    fn every_preset_parses_and_survives_a_round_trip() {
        for name in preset_names() {
            let config = Sources { preset: Some(name.into()), ..Sources::default() }.resolve().unwrap();
            assert_eq!(config.name, name);
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn set_reaches_into_tables_and_arrays_and_needs_no_quotes() {
        let config =
            with_set(&["phase.0.lr=[0.5, 1.5]", "optimizer.momentum=0.8", "name=mine"]).resolve().unwrap();
        assert_eq!(config.phase[0].lr, Ramp::Linear(0.5, 1.5));
        assert_eq!(config.optimizer.momentum, 0.8);
        assert_eq!(config.name, "mine");
    }

    #[test]
    fn a_wrong_key_is_refused_with_the_nearest_known_one() {
        for (set, expected) in [
            ("optimizer.momentun=0.9", "did you mean `momentum`?"),
            ("phase.0.batchsize=9", "did you mean `batch_size`?"),
            ("phase.99.size=9", "expected phase.0 to phase."),
            ("momentum", "expected key.path=value"),
            ("phase.0.lr=fast", "expected a number such as 0.1, a line"),
            ("phase.0.lr=[0.1]", "expected an array of length 2"),
            ("phase.0.lr={rule='cosin',from=1}", "did you mean `cosine`?"),
            ("phase.0.lr={rule='poly',from=1,powr=2}", "did you mean `power`?"),
            ("loss_scale='dynamc'", "expected a number such as 1024, or \"dynamic\""),
            ("optimizer.ema='slow'", "expected a decay such as 0.999"),
            ("optimizer.ema={half_live_steps=1}", "expected a decay such as 0.999"),
            ("precision='f61'", "did you mean `f16`?"),
        ] {
            let message = with_set(&[set]).resolve().unwrap_err().to_string();
            assert!(message.contains(expected), "{set}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn checkpoints_come_after_steps_or_a_time() {
        let every = |text: &str| {
            let sources = Sources { checkpoint_every: Some(text.into()), ..Sources::default() };
            sources.resolve().map(|config| (config.checkpoint.every_steps, config.checkpoint.every_s))
        };
        for (text, expected) in
            [("500", (500, 0.0)), ("90s", (0, 90.0)), ("5m", (0, 300.0)), ("1h", (0, 3600.0))]
        {
            assert_eq!(every(text).unwrap(), expected);
        }
        for text in ["", "m", "-5", "5 m", "1.5h", "5d", "99999999999"] {
            assert!(every(text).unwrap_err().to_string().contains("expected steps, such as 500"), "{text}");
        }
    }

    #[test]
    fn a_preset_that_is_none_is_told_with_those_that_are() {
        let error = Sources { preset: Some("defualt".into()), ..Sources::default() }.resolve().unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("did you mean `default`?"), "{error}");
    }
}
