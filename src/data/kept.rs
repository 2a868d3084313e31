//! What was found out about data and is kept for the next time: a file beside them, or, where nothing can be written
//! there, in the user's folder for caches. Nothing depends on such a file but time.
//!
//! Not here: what is in it, and whether it still holds.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The user's folder for caches, by the XDG base directory specification.
pub fn user_caches() -> Option<PathBuf> {
    let folder = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))
}

/// Where what is called `name` may be kept of the data at `data`, the best place first: in the folder `beside`, if there
/// is one, or in `caches`.
pub(super) fn places(data: &Path, beside: Option<&Path>, name: &str, caches: Option<&Path>) -> Vec<PathBuf> {
    let mut hasher = DefaultHasher::new();
    std::path::absolute(data).unwrap_or_else(|_| data.into()).hash(&mut hasher);
    let beside = beside.map(|folder| folder.join(format!(".burn-sprint-{name}")));
    let cached = caches.map(|caches| caches.join(format!("burn-sprint/{name}-{:016x}", hasher.finish())));
    beside.into_iter().chain(cached).collect()
}

/// Writes a file to the first of the places where that can be, whole or not at all. Without such a place the next run
/// finds the same out again.
pub(super) fn save(places: &[PathBuf], bytes: &[u8]) {
    let _ = places.iter().find(|place| write(place, bytes).is_ok());
}

/// Writes the file beside its place and moves it there.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".burn-sprint-");
    // As readable as any other file (umask): a temporary file is private by default.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}
