//! Picture files in class folders, as torchvision lays them out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    picture::Made,
    plan::{Output, Part},
    work::whole,
};
use crate::{
    data::{Split, shard::write::extension},
    error::{Error, Result},
};

/// What a picture may be stored as.
const EXTENSIONS: [&str; 3] = ["jpg", "png", "webp"];

/// Whether a copy has the picture of that index.
pub(super) fn has(output: &Output, part: &Part, index: usize) -> bool {
    let path = path(output, part, index);
    // A power cut may leave a file that has its name but no bytes.
    let is_there = |extension| fs::metadata(path.with_extension(extension)).is_ok_and(|file| file.len() > 0);
    EXTENSIONS.into_iter().any(is_there)
}

/// Writes a picture's file.
pub(super) fn write(output: &Output, part: &Part, index: usize, made: &Made<'_>) -> Result<()> {
    let path = path(output, part, index).with_extension(extension(&made.file));
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    whole(&path, &made.file)
}

/// Without its extension: a key has no dot.
fn path(output: &Output, part: &Part, index: usize) -> PathBuf {
    let folder = match part.split {
        Some(Split::Train | Split::Val) => output.folder.join(part.name()),
        None => output.folder.clone(),
    };
    // The extension takes the place of what follows the last dot, and a class may have one.
    let mut path = folder.join(&part.keys[index]).into_os_string();
    path.push(".");
    path.into()
}
