//! A data set and copies of it in other sizes: the same pictures, made smaller beforehand, so that small images are not
//! cut from large files. A phase names the copy that it reads.
//!
//! fast.ai's imagenet18 (2018) read copies of a short side of 160 and of 352 pixels, validation included.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use super::{
    address::Remote,
    error::DataError,
    open::{Location, Pair, open_pair},
    source::SharedSource,
};

/// A data set and its copies.
#[derive(Debug, Clone)]
pub struct Copies {
    main: Pair,
    sized: BTreeMap<String, Pair>,
}

impl From<Pair> for Copies {
    /// A data set without copies.
    fn from(main: Pair) -> Self {
        Self { main, sized: BTreeMap::new() }
    }
}

impl Copies {
    /// Opens a data set as [`open_pair`] does, and the copies of those names in folders below it.
    ///
    /// # Errors
    ///
    /// As [`open_pair`]; [`DataError::Copy`] if one cannot stand for the data set: other classes, another number of
    /// pictures, or no folder.
    ///
    /// # Cost
    ///
    /// The names of all files of all copies stay in memory: some 100 bytes a picture.
    pub fn open<'a>(
        location: &Location,
        names: impl IntoIterator<Item = &'a str>,
        val_fraction: f64,
    ) -> Result<Self, DataError> {
        let main = open_pair(location, None, val_fraction)?;
        let names: BTreeSet<&str> = names.into_iter().collect();
        let open = |name: &str| {
            let pair = open_copy(location, name, &main, val_fraction)?;
            Ok((name.to_owned(), pair))
        };
        let sized = names.into_iter().map(open).collect::<Result<_, DataError>>()?;
        Ok(Self { main, sized })
    }

    /// The data set itself.
    pub fn main(&self) -> &Pair {
        &self.main
    }

    /// The copy of that name, or the data set itself.
    ///
    /// # Errors
    ///
    /// [`DataError::Copy`] if it was not opened.
    pub fn get(&self, name: Option<&str>) -> Result<&Pair, DataError> {
        let Some(name) = name else { return Ok(&self.main) };
        self.sized
            .get(name)
            .ok_or_else(|| refused(Path::new(name), "was not opened before it was to be read"))
    }
}

fn open_copy(location: &Location, name: &str, main: &Pair, val_fraction: f64) -> Result<Pair, DataError> {
    let mut parts = Path::new(name).components();
    let leads_down = !name.is_empty() && parts.clone().all(|part| matches!(part, Component::Normal(_)));
    let below = match location {
        Location::Embedded => {
            return Err(refused(
                Path::new(name),
                "is a folder below the data, but no path to data was given",
            ));
        }
        Location::Path(root) => Location::Path(root.join(name)),
        Location::Remote(remote) => {
            Location::Remote(Remote { address: remote.address.below(name), ..remote.clone() })
        }
    };
    let path = PathBuf::from(below.to_string());
    if !leads_down {
        return Err(refused(&path, "is not a folder below the data"));
    }
    if let Location::Path(root) = location
        && !root.is_dir()
    {
        let reason = format!("is a folder below the data, but {} is a file", root.display());
        return Err(refused(&path, reason));
    }
    let first = parts.next().map(|part| part.as_os_str().to_string_lossy());
    if main.train.class_names().iter().any(|class| Some(class.as_str()) == first.as_deref()) {
        let reason = "lies among the class folders: divide the data into train/ and val/ beside it";
        return Err(refused(&path, reason));
    }
    let copy = open_pair(&below, None, val_fraction)?;
    if copy.train.class_names() != main.train.class_names() {
        let only_in = |a: &SharedSource, b: &SharedSource| {
            a.class_names().iter().find(|class| !b.class_names().contains(class)).cloned()
        };
        let reason = match only_in(&copy.train, &main.train) {
            Some(class) => format!("has the class {class}, which {location} lacks"),
            None => {
                let class = only_in(&main.train, &copy.train).unwrap_or_default();
                format!("lacks the class {class} of {location}")
            }
        };
        return Err(refused(&path, reason));
    }
    for (part, copy, main) in [("training", &copy.train, &main.train), ("validation", &copy.val, &main.val)] {
        let (got, expected) = (copy.num_images(), main.num_images());
        if got != expected {
            let reason = format!("has {got} {part} pictures, {location} has {expected}");
            return Err(refused(&path, format!("{reason}: a copy has every picture once")));
        }
    }
    Ok(copy)
}

fn refused(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::Copy { path: path.into(), reason: reason.into() }
}
