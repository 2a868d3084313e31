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
pub(crate) const TRAIN_NAMES: [&str; 2] = ["train", "training"];
pub(crate) const VAL_NAMES: [&str; 5] = ["val", "valid", "validation", "test", "testing"];

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

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(folders: &[&str]) -> Roots {
        Roots::find(|root| {
            let below = |path: &str| {
                let rest = if root.is_empty() { path } else { path.strip_prefix(root)?.strip_prefix('/')? };
                (!rest.contains('/')).then(|| rest.to_owned())
            };
            Ok::<_, ()>(folders.iter().filter_map(|path| below(path)).collect())
        })
        .expect("the closure does not fail")
    }

    fn divided(train: &str, val: &str) -> Roots {
        Roots::Divided { train: train.into(), val: val.into() }
    }

    #[test]
    fn class_folders_are_found_where_they_are() {
        assert_eq!(roots(&["cat", "dog"]), Roots::Whole("".into()));
        assert_eq!(roots(&["test", "test/cat", "test/dog"]), Roots::Whole("test".into()));
        assert_eq!(
            roots(&["data", "data/pets", "data/pets/cat", "data/pets/dog"]),
            Roots::Whole("data/pets".into())
        );
        assert_eq!(roots(&["train", "val", "train/cat", "val/cat"]), divided("train", "val"));
        assert_eq!(roots(&["train", "test", "meta"]), divided("train", "test"));
        assert_eq!(roots(&["train", "test", "val"]), divided("train", "val"));
        assert_eq!(roots(&["pets", "pets/train", "pets/valid"]), divided("pets/train", "pets/valid"));
        // One class with pictures right in it is one class, not a wrapping; a train folder alone is one.
        assert_eq!(roots(&["cat"]), Roots::Whole("".into()));
        assert_eq!(roots(&["train", "train/cat", "train/dog"]), Roots::Whole("train".into()));
        assert_eq!(roots(&[]), Roots::Whole("".into()));
    }

    #[test]
    fn pictures_are_told_by_their_extension_in_any_case() {
        for name in
            ["a.jpg", "a.JPEG", "a.b.Png", ".jpg", "a.ppm", "a.bmp", "a.pgm", "a.tif", "a.TIFF", "a.webp"]
        {
            assert!(is_picture(name), "{name}");
        }
        for name in ["a.gif", "jpg", "a.jpg.txt", "a.jpg~", ""] {
            assert!(!is_picture(name), "{name}");
        }
    }

    /// The order of Python's `sorted(os.walk(..))`, run on these very names: by folder, then by name.
    #[test]
    fn pictures_are_sorted_by_folder_and_name() {
        let paths = ["b.jpg", "a/z.jpg", "a-b/c.jpg", "a/b/c.jpg", "B.jpg", "\u{e9}.jpg", "a/a.jpg"];
        let pictures = paths.iter().map(|path| (path.to_string(), *path)).collect();
        let folders = BTreeMap::from([("cat".to_string(), pictures), ("Dog".to_string(), Vec::new())]);
        let classes = Classes::sort(folders);
        assert_eq!(classes.names, ["Dog", "cat"]);
        assert_eq!(classes.empty, ["Dog"]);
        let sorted: Vec<&str> = classes.pictures.iter().map(|(_, path)| *path).collect();
        assert_eq!(sorted, ["B.jpg", "b.jpg", "\u{e9}.jpg", "a/a.jpg", "a/z.jpg", "a-b/c.jpg", "a/b/c.jpg"]);
        assert!(classes.pictures.iter().all(|(label, _)| *label == 1));
    }
}
