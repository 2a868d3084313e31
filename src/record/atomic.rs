//! Files and folders that are there whole or not at all, whatever kills the process or the machine.
//!
//! The usual recipe of POSIX: write beside the target, fsync, rename over it, fsync the folder. Not a lock: two
//! writers of one path do no harm to a reader, but the last one wins.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::RecordError;

/// Replaces the file at `path` by `bytes`; a reader sees the old file or the new one, never a part.
///
/// # Errors
/// [`RecordError::DiskFull`] or [`RecordError::Io`]; then the old file, if there was one, is untouched.
///
/// # Cost
/// Two fsyncs.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    let folder = parent(path);
    let fail = |op| move |source| RecordError::io(op, path, source);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    // A temporary file is private by default; what a run leaves should be as readable as any other file (umask).
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(fail("create"))?;
    file.write_all(bytes).map_err(fail("write"))?;
    file.as_file().sync_all().map_err(fail("write"))?;
    file.persist(path).map_err(|error| RecordError::io("write", path, error.error))?;
    sync_folder(folder)
}

/// Makes the folder `path` from what `fill` writes into a temporary folder beside it (`path` + `.tmp`).
///
/// A half-filled `.tmp` that an earlier process left is removed first. Files in nested folders are synced too.
///
/// # Errors
/// Those of `fill`; [`RecordError::Io`] if `path` is there already and not empty. The temporary folder is removed.
///
/// # Cost
/// One fsync a file and folder, and one for the folder above.
///
/// # Examples
/// ```
/// # use burn_sprint::record::{write_dir_atomic, RecordError};
/// # let run = tempfile::tempdir().unwrap();
/// let step = run.path().join("step-40");
/// write_dir_atomic(&step, |dir| {
///     std::fs::write(dir.join("model"), b"weights").map_err(|error| RecordError::io("write", dir, error))
/// })?;
/// assert!(step.join("model").exists());
/// # Ok::<(), RecordError>(())
/// ```
pub fn write_dir_atomic<E: From<RecordError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = temporary_beside(path);
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(|source| RecordError::io("remove", &temporary, source))?;
    }
    fs::create_dir_all(&temporary).map_err(|source| RecordError::io("create", &temporary, source))?;
    let publish = || {
        fill(&temporary)?;
        sync_tree(&temporary)?;
        fs::rename(&temporary, path).map_err(|source| RecordError::io("create", path, source))?;
        Ok(sync_folder(parent(path))?)
    };
    publish().inspect_err(|_| {
        // The error that made us give up is the one to report; what is left here is removed by the next attempt.
        let _ = fs::remove_dir_all(&temporary);
    })
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// The folder of `path`; the current one for a bare file name, whose `parent()` is the empty path.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_tree(folder: &Path) -> Result<(), RecordError> {
    let fail = |source| RecordError::io("write", folder, source);
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            let file = File::open(entry.path()).map_err(fail)?;
            file.sync_all().map_err(|source| RecordError::io("write", &entry.path(), source))?;
        }
    }
    sync_folder(folder)
}

/// Makes a rename in `folder` last through a power cut. Only POSIX systems can open a folder; others need not.
fn sync_folder(folder: &Path) -> Result<(), RecordError> {
    if cfg!(unix) {
        let open = File::open(folder).and_then(|folder| folder.sync_all());
        open.map_err(|source| RecordError::io("write", folder, source))?;
    }
    Ok(())
}
