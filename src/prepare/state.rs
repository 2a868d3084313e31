//! `prepare.json`: what a folder is being made of, so that whoever goes on does so with the same pictures and settings. Its
//! lock is held meanwhile.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Settings, plan::Part};
use crate::error::{Error, Result};

/// The file's name.
pub(super) const STATE: &str = "prepare.json";
const MAX_BYTES: u64 = 1 << 20;
const FORMAT: &str = "burn-sprint-prepare-1";

/// What must be the same for the files to be. The sizes are not among it: each has a folder of its own.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    format: String,
    /// Where the pictures are; not said in the data's own folder, which may be moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// Of each part.
    num_images: Vec<usize>,
    /// Of the pictures' names in order.
    names_crc32c: u32,
    shards: bool,
    per_shard: Option<u32>,
    max_side: Option<u32>,
    quality: u8,
    seed: u64,
}

/// Takes the folder for these settings: begins there, or goes on.
///
/// # Errors
///
/// [`Error::Usage`] if another process works there, if it was begun otherwise, or if it has other things in it; unless
/// `in_place`, where the data set itself is.
pub(super) fn claim(settings: &Settings, parts: &[Part], in_place: bool) -> Result<File> {
    let Settings { out, .. } = settings;
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let path = out.join(STATE);
    let is_new = !path.exists();
    if is_new && !in_place && fs::read_dir(out).map_err(Error::io("read", out))?.next().is_some() {
        return Err(Error::usage(format!(
            "{} is not empty and has no {STATE} of a preparation to go on with: give another --out",
            out.display()
        )));
    }
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::usage(format!(
                "another sprint prepare works in {}: wait for it",
                out.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
    }
    let mut text = String::new();
    (&file).take(MAX_BYTES).read_to_string(&mut text).map_err(Error::io("read", &path))?;
    let wanted = serde_json::to_value(State::new(settings, parts, in_place)).map_err(Error::run)?;
    // Empty: whoever began was killed before a word was written.
    if text.is_empty() {
        let text = serde_json::to_string_pretty(&wanted).map_err(Error::run)?;
        file.write_all(text.as_bytes()).map_err(Error::io("write", &path))?;
    } else {
        let begun: Value = serde_json::from_str(&text)
            .map_err(|error| Error::run(format!("{} cannot be read: {error}: remove it", path.display())))?;
        agree(&begun, &wanted, out)?;
    }
    Ok(file)
}

impl State {
    fn new(settings: &Settings, parts: &[Part], in_place: bool) -> Self {
        let &Settings { shards, per_shard, max_side, quality, seed, .. } = settings;
        let names = parts.iter().flat_map(|part| &part.keys);
        let names_crc32c =
            names.fold(0, |crc, key| crc32c::crc32c_append(crc, format!("{key}\n").as_bytes()));
        let num_images = parts.iter().map(|part| part.keys.len()).collect();
        let data = fs::canonicalize(&settings.data).unwrap_or_else(|_| settings.data.clone());
        Self {
            format: FORMAT.into(),
            data: (!in_place).then(|| data.display().to_string()),
            num_images,
            names_crc32c,
            shards,
            per_shard,
            max_side,
            quality,
            seed,
        }
    }
}

/// Says what differs.
fn agree(begun: &Value, wanted: &Value, out: &Path) -> Result<()> {
    let keys = wanted.as_object().into_iter().flatten();
    let Some((key, now)) = keys.into_iter().find(|(key, value)| begun.get(key.as_str()) != Some(value))
    else {
        return Ok(());
    };
    let then = begun.get(key.as_str()).unwrap_or(&Value::Null);
    let what = match key.as_str() {
        "names_crc32c" | "num_images" => "from other pictures".into(),
        "data" => format!("from {then}, not {now}"),
        key => format!("with {key} {then}, not {now}"),
    };
    Err(Error::usage(format!(
        "{} was begun {what}: give the same words as then, or another --out",
        out.display()
    )))
}
