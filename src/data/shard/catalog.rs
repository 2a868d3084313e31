//! `shards.json`: what a folder of shards is. Its classes, its parts, and the shards of each.
//!
//! ```json
//! {
//!   "format": "burn-sprint-shards-1",
//!   "classes": ["cat", "dog"],
//!   "train": [{"file": "train-00000.tar", "num_bytes": 40960, "num_images": 12}],
//!   "val": [{"file": "val-00000.tar", "num_bytes": 10240, "num_images": 3}]
//! }
//! ```
//!
//! A data set that is not divided has the part `whole` instead. A class' place in the list is its label.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{super::open::Split, index::MAX_ENTRIES};

/// The file's name.
pub(crate) const CATALOG: &str = "shards.json";
/// The most bytes of it: a million shards take some 80 MB.
pub(crate) const MAX_CATALOG_BYTES: u64 = 128 << 20;
/// Names the format and its version.
const FORMAT: &str = "burn-sprint-shards-1";

/// A checked `shards.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catalog {
    format: String,
    pub(crate) classes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whole: Option<Vec<ShardFile>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    train: Option<Vec<ShardFile>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    val: Option<Vec<ShardFile>>,
}

/// A shard of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShardFile {
    /// The tar's name; it lies beside the catalogue.
    pub(crate) file: String,
    /// Of the tar.
    pub(crate) num_bytes: u64,
    pub(crate) num_images: u64,
}

impl ShardFile {
    /// The name of the index that lies beside the tar.
    pub(crate) fn index_file(&self) -> String {
        index_file(&self.file)
    }
}

/// The name of a tar's index.
pub(crate) fn index_file(tar: &str) -> String {
    format!("{}.index", tar.strip_suffix(".tar").unwrap_or(tar))
}

impl Catalog {
    /// Of a data set that is not divided.
    pub(crate) fn whole(classes: Vec<String>, shards: Vec<ShardFile>) -> Self {
        Self { format: FORMAT.into(), classes, whole: Some(shards), train: None, val: None }
    }

    /// Of one with a part for training and one for validation.
    pub(crate) fn divided(classes: Vec<String>, train: Vec<ShardFile>, val: Vec<ShardFile>) -> Self {
        Self { format: FORMAT.into(), classes, whole: None, train: Some(train), val: Some(val) }
    }

    /// Reads the file's bytes, of which there are at most [`MAX_CATALOG_BYTES`].
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence about the file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let catalog: Self = serde_json::from_slice(bytes).map_err(|e| format!("cannot be read: {e}"))?;
        if catalog.format != FORMAT {
            return Err(format!("is of format {}, expected {FORMAT}", catalog.format));
        }
        if catalog.whole.is_some() == (catalog.train.is_some() || catalog.val.is_some()) {
            return Err("must have either the part whole, or train and val".into());
        }
        let mut seen = HashSet::new();
        if let Some(twice) = catalog.classes.iter().find(|class| !seen.insert(class.as_str())) {
            return Err(format!("has the class {twice} twice"));
        }
        for shard in catalog.parts().flatten() {
            let ShardFile { file, num_images, .. } = shard;
            // A name leads nowhere else.
            if !file.ends_with(".tar") || file.starts_with('.') || file.contains(['/', '\\']) {
                return Err(format!("names the shard {file:?}, expected a file such as train-00000.tar"));
            }
            if *num_images > MAX_ENTRIES {
                return Err(format!("gives {num_images} pictures to {file}, the limit is {MAX_ENTRIES}"));
            }
        }
        Ok(catalog)
    }

    /// The file's text.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers have a JSON form")
    }

    /// Whether there is a part for validation by itself.
    pub(crate) fn is_divided(&self) -> bool {
        self.whole.is_none()
    }

    /// The shards of a part; those of the whole for either, if it is not divided.
    pub(crate) fn shards(&self, split: Split) -> Option<&[ShardFile]> {
        let part = match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        };
        self.whole.as_deref().or(part.as_deref())
    }

    fn parts(&self) -> impl Iterator<Item = &Vec<ShardFile>> {
        [&self.whole, &self.train, &self.val].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(file: &str) -> ShardFile {
        ShardFile { file: file.into(), num_bytes: 10_240, num_images: 3 }
    }

    #[test]
    fn a_catalogue_comes_back() {
        let classes = vec!["cat".to_owned(), "dog".to_owned()];
        let divided = Catalog::divided(classes.clone(), vec![shard("a.tar"), shard("b.tar")], vec![]);
        assert_eq!(Catalog::parse(divided.to_json().as_bytes()).unwrap(), divided);
        assert_eq!(divided.shards(Split::Train).unwrap().len(), 2);
        assert_eq!(divided.shards(Split::Val).unwrap().len(), 0);
        let whole = Catalog::whole(classes, vec![shard("a.tar")]);
        assert_eq!(Catalog::parse(whole.to_json().as_bytes()).unwrap(), whole);
        assert!(!whole.is_divided());
        assert_eq!(whole.shards(Split::Val), whole.shards(Split::Train));
        assert_eq!(shard("val-00001.tar").index_file(), "val-00001.index");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refused = |change: fn(&mut Catalog)| {
            let mut catalog =
                Catalog::divided(vec!["cat".into()], vec![shard("a.tar")], vec![shard("b.tar")]);
            change(&mut catalog);
            Catalog::parse(catalog.to_json().as_bytes()).unwrap_err()
        };
        assert!(
            refused(|c| c.format = "burn-sprint-shards-2".into()).contains("expected burn-sprint-shards-1")
        );
        assert!(refused(|c| c.whole = Some(Vec::new())).contains("either the part whole"));
        assert!(refused(|c| (c.train, c.val) = (None, None)).contains("either the part whole"));
        assert!(refused(|c| c.classes.push("cat".into())).contains("class cat twice"));
        for name in ["../a.tar", "/a.tar", "a.tgz", "", "x\\a.tar", "..tar"] {
            let mut catalog = Catalog::whole(Vec::new(), vec![shard(name)]);
            assert!(
                Catalog::parse(catalog.to_json().as_bytes()).unwrap_err().contains("names the shard"),
                "{name}"
            );
            catalog.whole = Some(vec![ShardFile { num_images: u64::MAX, ..shard("a.tar") }]);
            assert!(Catalog::parse(catalog.to_json().as_bytes()).unwrap_err().contains("the limit is"));
        }
        assert!(Catalog::parse(b"{}").unwrap_err().contains("missing field"));
    }
}
