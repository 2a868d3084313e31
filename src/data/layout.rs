//! torchvision's folder layout, as rules on names alone: where the class folders are, which files are pictures,
//! in which order they come. Folders and tars both follow it.
//!
//! Source: torchvision 0.29 `datasets/folder.py`, whose rules these are: class folders sorted by name; below each,
//! pictures sorted by folder and then by name; a picture is what has one of the extensions in any case, hidden
//! files included; a class without a picture is an error.

use std::collections::BTreeMap;

use super::open::Split;

/// What makes a file a picture (torchvision's `IMG_EXTENSIONS`). Not all of these formats are decoded: the others'
/// files give an error by name, so that none goes missing silently.
pub const EXTENSIONS: [&str; 9] = [".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"];

/// What folders with the parts of a divided data set are called, the likeliest first.
const TRAIN_NAMES: [&str; 2] = ["train", "training"];
const VAL_NAMES: [&str; 5] = ["val", "valid", "validation", "test", "testing"];

/// Whether a file of that name is a picture.
pub(crate) fn is_picture(name: &str) -> bool {
    let name = name.to_lowercase();
    EXTENSIONS.iter().any(|extension| name.ends_with(extension))
}

/// Where the class folders are, as paths relative to a data set's root (`""` is the root itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Class folders in one place.
    Whole(String),
    /// A folder of class folders for training and one for validation.
    Divided { train: String, val: String },
}

impl Roots {
    /// Finds them, given the names of the folders in a folder.
    ///
    /// A folder with a train folder and a val or test folder is divided. A folder whose only folder has folders in
    /// turn is a wrapping (`dataset/`, `test/`): one class is no data set, so the classes are further down.
    pub(crate) fn find<E>(subfolders: impl Fn(&str) -> Result<Vec<String>, E>) -> Result<Self, E> {
        let mut root = String::new();
        loop {
            let names = subfolders(&root)?;
            let path = |name: &str| if root.is_empty() { name.to_owned() } else { format!("{root}/{name}") };
            let part = |known: &[&str]| {
                known.iter().find(|known| names.iter().any(|n| n == *known)).map(|n| path(n))
            };
            if let (Some(train), Some(val)) = (part(&TRAIN_NAMES), part(&VAL_NAMES)) {
                return Ok(Self::Divided { train, val });
            }
            match names.as_slice() {
                [only] if !subfolders(&path(only))?.is_empty() => root = path(only),
                _ => return Ok(Self::Whole(root)),
            }
        }
    }

    /// The folder of class folders for `split`.
    pub(crate) fn part(&self, split: Split) -> &str {
        match (self, split) {
            (Self::Whole(root), _) => root,
            (Self::Divided { train, .. }, Split::Train) => train,
            (Self::Divided { val, .. }, Split::Val) => val,
        }
    }
}

/// Class folders and their pictures, each with what is needed to read it.
#[derive(Debug)]
pub(crate) struct Classes<T> {
    pub(crate) names: Vec<String>,
    /// The pictures in the order of their classes, then of their folders, then of their names.
    pub(crate) pictures: Vec<(u32, T)>,
    /// The classes without a picture.
    pub(crate) empty: Vec<String>,
}

impl<T> Classes<T> {
    /// Sorts class folders; the pictures of each come with their path below the class folder, `/` between names.
    pub(crate) fn sort(folders: BTreeMap<String, Vec<(String, T)>>) -> Self {
        let mut sorted = Self { names: Vec::new(), pictures: Vec::new(), empty: Vec::new() };
        for (label, (name, mut pictures)) in folders.into_iter().enumerate() {
            if pictures.is_empty() {
                sorted.empty.push(name.clone());
            }
            pictures.sort_by(|(a, _), (b, _)| split_name(a).cmp(&split_name(b)));
            sorted.pictures.extend(pictures.into_iter().map(|(_, picture)| (label as u32, picture)));
            sorted.names.push(name);
        }
        sorted
    }
}

/// A path's folder and its last name.
fn split_name(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
