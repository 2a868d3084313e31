//! Where the pictures are: a path, or an address in a store and how that is read.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::DataConfig;
use crate::{
    data::{Address, Location, Remote, user_caches},
    error::{Error, Result},
};

/// How pictures in an object store or behind HTTP are read. Without use for a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// The folder that whole shards are kept in, which the ranks of a machine share; one among the user's caches if
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// The most bytes that they may take there.
    pub cache_bytes: u64,
    /// Seconds that a store may stay away before the run ends, its state saved.
    pub patience_s: f64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        // A rank that waits for its store is waited for by the others, whose patience is 300 s (`BURN_DIST_TIMEOUT_S`).
        Self { cache_dir: None, cache_bytes: 64 << 30, patience_s: 240.0 }
    }
}

impl StoreConfig {
    /// What need not be written.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses a time that is none.
    pub(super) fn check(&self) -> Result<()> {
        let patience_s = self.patience_s;
        // Days are not patience, and would not fit a clock.
        if patience_s > 0.0 && patience_s <= 86_400.0 {
            return Ok(());
        }
        Err(Error::usage(format!("data.store.patience_s is {patience_s}: expected above 0, at most 86400")))
    }

    /// Takes a path, or an address in words.
    ///
    /// # Errors
    /// [`Error::Usage`] for an address that is none or has a secret in it.
    pub(crate) fn locate(&self, path: &Path) -> Result<Location> {
        let Some(text) = path.to_str().filter(|text| Address::is_meant(text)) else {
            return Ok(Location::Path(path.into()));
        };
        let address = Address::parse(text).map_err(|why| Error::usage(format!("data: {why}")))?;
        let ours = || user_caches().map(|caches| caches.join("burn-sprint/shards"));
        let cache_dir = self.cache_dir.clone().or_else(ours).ok_or_else(|| {
            Error::usage("there is no folder for caches (HOME, XDG_CACHE_HOME): set data.store.cache_dir")
        })?;
        let patience = Duration::from_secs_f64(self.patience_s);
        Ok(Location::Remote(Remote { address, cache_dir, cache_bytes: self.cache_bytes, patience }))
    }
}

impl DataConfig {
    /// Whether the pictures lie in a store, which may be away for a while.
    pub(crate) fn is_in_store(&self) -> bool {
        self.path.as_deref().and_then(Path::to_str).is_some_and(Address::is_meant)
    }

    /// Where the pictures are; `None` for those inside the program.
    ///
    /// # Errors
    /// [`Error::Usage`] for an address that cannot be followed, and for a time that is none.
    pub fn location(&self) -> Result<Option<Location>> {
        self.store.check()?;
        self.path.as_deref().map(|path| self.store.locate(path)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(path: &str, patience_s: f64) -> Result<Option<Location>> {
        let store = StoreConfig { patience_s, cache_dir: Some("cache".into()), ..StoreConfig::default() };
        DataConfig { path: Some(path.into()), store, ..DataConfig::default() }.location()
    }

    #[test]
    fn addresses_are_told_from_paths() {
        assert_eq!(DataConfig::default().location().unwrap(), None);
        assert_eq!(location("photos", 1.0).unwrap(), Some(Location::Path("photos".into())));
        let Some(Location::Remote(remote)) = location("s3://bucket/set", 1.5).unwrap() else {
            panic!("a path")
        };
        assert_eq!(remote.address.to_string(), "s3://bucket/set");
        assert_eq!(remote.patience, Duration::from_millis(1500));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for (path, patience_s, expected) in [
            ("https://me:hunter2@host/a", 1.0, "data: a https:// address has a user or password"),
            ("ftp://host/a", 1.0, "data: `ftp://` is no kind of store"),
            ("s3://bucket", 0.0, "data.store.patience_s is 0: expected above 0"),
            ("s3://bucket", f64::NAN, "data.store.patience_s is NaN"),
            ("s3://bucket", 1e9, "data.store.patience_s is 1000000000"),
        ] {
            let error = location(path, patience_s).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            assert!(error.to_string().starts_with(expected), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
