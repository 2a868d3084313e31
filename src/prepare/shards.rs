//! Shards and their catalogue.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::PathBuf,
};

use super::{
    picture::Made,
    plan::{Output, Part, Unit},
    work::{partial, place, whole},
};
use crate::{
    data::{
        DataError, Split,
        shard::{CATALOG, Catalog, ShardFile, catalog::index_file, disk, write::ShardWriter},
    },
    error::{Error, Result},
};

const BUFFER_BYTES: usize = 1 << 20;

/// Whether a copy has the unit's shard, whole.
pub(super) fn has(output: &Output, part: &Part, unit: &Unit) -> bool {
    disk::shard(&output.folder, &part.shard(unit.number)).is_ok()
}

/// A shard that is being written.
pub(super) struct Shard<'a> {
    output: &'a Output,
    name: String,
    writer: ShardWriter<BufWriter<File>>,
}

impl<'a> Shard<'a> {
    pub(super) fn create(output: &'a Output, part: &Part, unit: &Unit) -> Result<Self> {
        let name = part.shard(unit.number);
        let path = partial(&output.folder.join(&name));
        fs::create_dir_all(&output.folder).map_err(Error::io("create", &output.folder))?;
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let writer = ShardWriter::new(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Self { output, name, writer })
    }

    pub(super) fn append(&mut self, part: &Part, index: usize, made: &Made<'_>) -> Result<()> {
        let label = part.source.label(index);
        let appended = self.writer.append(&part.keys[index], label, made.size, &made.file);
        appended.map_err(Error::io("write", &self.path()))
    }

    /// Ends it: first the tar is there, and then its index, which says that it is whole.
    pub(super) fn finish(self) -> Result<()> {
        let path = self.path();
        let index_path = self.output.folder.join(index_file(&self.name));
        let (to, index) = self.writer.finish().map_err(Error::io("write", &path))?;
        let file = to.into_inner().map_err(|error| error.into_error()).map_err(Error::io("write", &path))?;
        place(&file, &path)?;
        whole(&index_path, &index.to_bytes())
    }

    fn path(&self) -> PathBuf {
        self.output.folder.join(&self.name)
    }
}

/// Writes a copy's catalogue, once all its shards are there.
pub(super) fn write_catalog(output: &Output, parts: &[Part], num_units: &[usize]) -> Result<()> {
    let of = |split| -> Result<Option<Vec<ShardFile>>> {
        let Some(at) = parts.iter().position(|part| part.split == split) else { return Ok(None) };
        let shard = |number| disk::shard(&output.folder, &parts[at].shard(number)).map(|(file, _)| file);
        Ok(Some((0..num_units[at]).map(shard).collect::<Result<_, DataError>>()?))
    };
    let classes = parts[0].source.class_names().to_vec();
    let catalog = match of(None)? {
        Some(shards) => Catalog::whole(classes, shards),
        None => {
            let [train, val] =
                [of(Some(Split::Train))?, of(Some(Split::Val))?].map(Option::unwrap_or_default);
            Catalog::divided(classes, train, val)
        }
    };
    whole(&output.folder.join(CATALOG), catalog.to_json().as_bytes())
}
