//! What is written where, as far as names and numbers tell: the parts of a data set, a name for each picture, and the runs
//! of pictures that are written at a time. Pure functions of a source's list; no picture is read.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Component, Path, PathBuf},
};

use super::picture::Make;
use crate::{
    data::{EXTENSIONS, SharedSource, Split, shuffle},
    error::{Error, Result},
};

/// An epoch that no run has: the order of writing is none of training.
const EPOCH_OF_WRITING: u64 = u64::MAX;
/// Pictures of a shard, unless there are so few or so many that their number decides.
const PER_SHARD: Range<usize> = 256..4096;
/// Shards there should be at least, so that all cores have some.
const NUM_SHARDS: usize = 64;
/// Picture files that are written at a time.
const PER_RUN: usize = 64;

/// A part of a data set.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) split: Option<Split>,
    pub(super) source: SharedSource,
    /// Of each picture: its class and a name without a dot, `/` between them. No other picture has it.
    pub(super) keys: Vec<String>,
    /// Indices of the source in the order of writing.
    pub(super) order: Vec<u32>,
}

/// A copy to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) folder: PathBuf,
    pub(super) make: Make,
}

/// Pictures that are written together: a shard, or some files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// The place among the parts.
    pub(super) part: usize,
    /// The place among the part's units.
    pub(super) number: usize,
    /// Places in the part's order.
    pub(super) places: Range<usize>,
}

impl Part {
    pub(super) fn new(split: Option<Split>, source: SharedSource, shuffle: Option<u64>) -> Result<Self> {
        let keys = keys(&*source)?;
        let num_images = source.num_images() as u32;
        let order = match shuffle {
            Some(seed) => shuffle::order(num_images, seed, EPOCH_OF_WRITING),
            None => (0..num_images).collect(),
        };
        Ok(Self { split, source, keys, order })
    }

    /// What its folder and its shards are called.
    pub(super) const fn name(&self) -> &'static str {
        match self.split {
            Some(Split::Train) => "train",
            Some(Split::Val) => "val",
            None => "all",
        }
    }

    /// The shard that has the unit of that number.
    pub(super) fn shard(&self, number: usize) -> String {
        format!("{}-{number:05}.tar", self.name())
    }

    /// Cuts the order into units.
    pub(super) fn units(&self, part: usize, per_unit: usize) -> impl Iterator<Item = Unit> {
        let len = self.order.len();
        let unit = move |number| {
            let start = number * per_unit;
            Unit { part, number, places: start..(start + per_unit).min(len) }
        };
        (0..len.div_ceil(per_unit)).map(unit)
    }
}

/// The pictures of a unit, for a part of so many.
pub(super) fn per_unit(num_images: usize, shards: bool, per_shard: Option<u32>) -> usize {
    match (shards, per_shard) {
        (false, _) => PER_RUN,
        (true, Some(per_shard)) => per_shard as usize,
        (true, None) => (num_images / NUM_SHARDS).clamp(PER_SHARD.start, PER_SHARD.end),
    }
}

/// A name for each of a source's pictures: the class, and what the file is called without its extension. Dots, which
/// would end a key in a shard, become underscores.
fn keys(source: &dyn crate::data::Source) -> Result<Vec<String>> {
    let classes = source.class_names();
    if let Some(class) = classes.iter().find(|class| !is_folder_name(class)) {
        return Err(Error::run(format!("the class {class:?} cannot be the name of a folder: rename it")));
    }
    let key = |index| format!("{}/{}", classes[source.label(index) as usize], stem(&source.name(index)));
    Ok(distinct((0..source.num_images()).map(key)))
}

/// Of names that are the same the second gets `-2`, and so on, past those that are taken.
fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    // Of each name that is taken, the number to try next.
    let mut taken: HashMap<String, u32> = HashMap::new();
    let mut free = |name: String| {
        let Some(&first) = taken.get(&name) else {
            taken.insert(name.clone(), 2);
            return name;
        };
        let mut number = first;
        while taken.contains_key(&format!("{name}-{number}")) {
            number += 1;
        }
        let numbered = format!("{name}-{number}");
        taken.insert(numbered.clone(), 2);
        taken.insert(name, number + 1);
        numbered
    };
    { names }.map(&mut free).collect()
}

fn is_folder_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains('\\')
}

/// The last name of a path, of one inside an archive, or the key of one in a shard, without its extension.
fn stem(name: &str) -> String {
    let last = name.rsplit(['/', '#']).next().unwrap_or_default();
    let lower = last.to_lowercase();
    let extension = EXTENSIONS.iter().find(|extension| lower.ends_with(**extension));
    let stem = &last[..last.len() - extension.map_or(0, |extension| extension.len())];
    if stem.is_empty() { "picture".into() } else { stem.replace('.', "_") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_have_no_dot() {
        assert_eq!(stem("a/b/n01440764_10026.JPEG"), "n01440764_10026");
        assert_eq!(stem("x.tar#train/cat/a.b.png"), "a_b");
        assert_eq!(stem("train-00000.tar#cat/0001"), "0001");
        assert_eq!(stem("cat/.jpg"), "picture");
        assert_eq!(stem("cat/.hidden.jpg"), "_hidden");
        assert_eq!(stem("cat/\u{130}.jpg"), "\u{130}");
    }

    #[test]
    fn names_that_are_the_same_are_numbered() {
        let named = |names: &[&str]| distinct(names.iter().map(|name| (*name).to_owned()));
        assert_eq!(named(&["a", "b", "a", "a", "b"]), ["a", "b", "a-2", "a-3", "b-2"]);
        assert_eq!(
            named(&["a-2", "a", "a", "a-2", "a", "a-3"]),
            ["a-2", "a", "a-3", "a-2-2", "a-4", "a-3-2"]
        );
    }

    /// In time that grows with them and not with their square: that would be minutes.
    #[test]
    fn many_names_may_be_the_same() {
        let names = distinct((0..100_000).map(|_| "cat/picture".to_owned()));
        assert_eq!(names[99_999], "cat/picture-100000");
    }

    #[test]
    fn folders_names_lead_nowhere() {
        for name in ["cat", "n01440764", "a b", "..."] {
            assert!(is_folder_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "/a", "a/", "a\\b", "../a"] {
            assert!(!is_folder_name(name), "{name}");
        }
    }

    #[test]
    fn shards_are_many_and_not_small() {
        assert_eq!(per_unit(100, true, None), 256);
        assert_eq!(per_unit(100_000, true, None), 1562);
        assert_eq!(per_unit(1_281_167, true, None), 4096);
        assert_eq!(per_unit(100, true, Some(7)), 7);
        assert_eq!(per_unit(100, false, Some(7)), 64);
    }
}
