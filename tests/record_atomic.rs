//! Files and folders appear whole or not at all.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use burn_sprint::record::{RecordError, write_atomic, write_dir_atomic};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn fill(dir: &Path) -> Result<(), RecordError> {
    fs::create_dir(dir.join("nested")).unwrap();
    fs::write(dir.join("nested").join("weights"), b"new").unwrap();
    Ok(())
}

#[test]
fn a_file_is_replaced_and_nothing_else_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    write_atomic(&path, b"first, and longer").unwrap();
    write_atomic(&path, b"second").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(names(dir.path()), ["report.html"]);
}

#[cfg(unix)]
#[test]
fn a_file_is_as_readable_as_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    write_atomic(&dir.path().join("ours"), b"").unwrap();
    fs::write(dir.path().join("theirs"), b"").unwrap();
    let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("ours"), mode("theirs"));
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(write_atomic(&dir.path().join("none").join("file"), b"x").is_err());
    fs::create_dir_all(dir.path().join("taken").join("by a folder")).unwrap();
    assert!(write_atomic(&dir.path().join("taken"), b"x").is_err());
    assert_eq!(names(dir.path()), ["taken"]);
}

#[test]
fn a_folder_appears_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("step-40");
    // What a killed process left.
    fs::create_dir(dir.path().join("step-40.tmp")).unwrap();
    fs::write(dir.path().join("step-40.tmp").join("half"), b"old").unwrap();
    write_dir_atomic(&path, |temporary| {
        assert!(!path.exists());
        fill(temporary)
    })
    .unwrap();
    assert_eq!(names(dir.path()), ["step-40"]);
    assert_eq!(names(&path), ["nested"]);
    assert_eq!(fs::read(path.join("nested").join("weights")).unwrap(), b"new");
}

#[test]
fn a_folder_that_failed_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let error = write_dir_atomic(&dir.path().join("step-40"), |temporary| {
        fill(temporary)?;
        Err(RecordError::DiskFull { path: temporary.into() })
    });
    assert!(matches!(error, Err(RecordError::DiskFull { .. })));
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn a_folder_in_use_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("step-40");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("model"), b"old").unwrap();
    assert!(write_dir_atomic(&path, fill).is_err());
    assert_eq!(fs::read(path.join("model")).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["step-40"]);
}
