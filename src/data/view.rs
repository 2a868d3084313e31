//! A part of a source, or a source seen with other labels.

use std::{
    hash::Hasher,
    path::Path,
    sync::{Arc, OnceLock},
};

use super::{
    blocks::Blocks,
    error::{DataError, SampleError},
    picture::{Channels, Picture},
    source::{SharedSource, Source},
};

/// Some of a source's pictures, in order, with labels into another list of classes.
#[derive(Debug)]
struct View {
    source: SharedSource,
    /// Index here to index there.
    indices: Vec<u32>,
    /// Label there to label here.
    labels: Vec<u32>,
    class_names: Vec<String>,
    /// The source's, as far as they are seen here.
    blocks: OnceLock<Blocks>,
}

impl View {
    fn new(source: SharedSource, indices: Vec<u32>, labels: Vec<u32>, class_names: Vec<String>) -> Self {
        Self { source, indices, labels, class_names, blocks: OnceLock::new() }
    }

    fn own_blocks(&self) -> &Blocks {
        self.blocks.get_or_init(|| {
            let blocks = self.source.blocks();
            let together = self.indices.chunk_by(|&a, &b| blocks.block_of(a) == blocks.block_of(b));
            Blocks::of_lengths(together.map(|indices| indices.len() as u32))
        })
    }
}

impl Source for View {
    fn num_images(&self) -> usize {
        self.indices.len()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[self.source.label(self.indices[index] as usize) as usize]
    }

    fn name(&self, index: usize) -> String {
        self.source.name(self.indices[index] as usize)
    }

    fn channels(&self) -> Channels {
        self.source.channels()
    }

    fn read(&self, index: usize, into: &mut Picture) -> Result<(), SampleError> {
        self.source.read(self.indices[index] as usize, into)
    }

    fn read_file(&self, index: usize, into: &mut Vec<u8>) -> Result<bool, SampleError> {
        self.source.read_file(self.indices[index] as usize, into)
    }

    fn dimensions(&self, index: usize) -> Result<(usize, usize), SampleError> {
        self.source.dimensions(self.indices[index] as usize)
    }

    fn blocks(&self) -> Blocks {
        self.own_blocks().clone()
    }

    fn read_ahead(&self, blocks: &[u32]) {
        let there = self.source.blocks();
        let first = |block: &u32| self.indices[self.own_blocks().range(*block as usize).start as usize];
        let blocks: Vec<u32> = blocks.iter().map(|block| there.block_of(first(block)) as u32).collect();
        self.source.read_ahead(&blocks);
    }

    fn home(&self) -> Option<&Path> {
        self.source.home()
    }

    fn fingerprint(&self, index: usize, into: &mut dyn Hasher) {
        self.source.fingerprint(self.indices[index] as usize, into);
    }
}

/// Holds out the last `fraction` of every class for validation, rounded up, in the source's order; a class keeps
/// at least one picture for training.
pub(crate) fn hold_out(source: SharedSource, fraction: f64) -> (SharedSource, SharedSource) {
    let mut by_class = vec![Vec::new(); source.class_names().len()];
    for index in 0..source.num_images() {
        by_class[source.label(index) as usize].push(index as u32);
    }
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for class in by_class {
        // The small term undoes the rounding of a fraction that is not one of binary: 5 * (1 - 0.2) is 4.
        let num_train = (class.len() as f64 * (1.0 - fraction) + 1e-9).floor() as usize;
        let (kept, held_out) = class.split_at(num_train.max(1).min(class.len()));
        train.extend_from_slice(kept);
        val.extend_from_slice(held_out);
    }
    let labels: Vec<u32> = (0..source.class_names().len() as u32).collect();
    let view = |mut indices: Vec<u32>| {
        indices.sort_unstable();
        let (labels, class_names) = (labels.clone(), source.class_names().to_vec());
        Arc::new(View::new(source.clone(), indices, labels, class_names)) as SharedSource
    };
    (view(train), view(val))
}

/// The first `n` pictures of every class, in the source's order: a smaller set of the same make-up.
pub fn first_of_each_class(source: SharedSource, n: usize) -> SharedSource {
    let mut seen = vec![0; source.class_names().len()];
    let mut is_among_first = |&index: &u32| {
        let count = &mut seen[source.label(index as usize) as usize];
        *count += 1;
        *count <= n
    };
    let indices = (0..source.num_images() as u32).filter(&mut is_among_first).collect();
    let labels = (0..source.class_names().len() as u32).collect();
    let class_names = source.class_names().to_vec();
    Arc::new(View::new(source, indices, labels, class_names))
}

/// So many pictures, spread evenly over the source; if it has fewer, from the first on again and again.
pub(crate) fn spread(source: SharedSource, num_images: usize) -> SharedSource {
    let num_there = source.num_images();
    let place = |n: usize| (n as u64 * num_there as u64 / num_images as u64) as u32;
    let indices = match num_images < num_there {
        true => (0..num_images).map(place).collect(),
        false => (0..num_there as u32).cycle().take(num_images).collect(),
    };
    let labels = (0..source.class_names().len() as u32).collect();
    let class_names = source.class_names().to_vec();
    Arc::new(View::new(source, indices, labels, class_names))
}

/// The same pictures, labelled by `class_names`: by name, not by place. `path` is what the source is called in the
/// error.
///
/// # Errors
///
/// [`DataError::UnknownClasses`] if the source has classes that are not among them.
pub fn with_classes(
    source: SharedSource,
    class_names: &[String],
    path: &Path,
) -> Result<SharedSource, DataError> {
    if source.class_names() == class_names {
        return Ok(source);
    }
    let places: std::collections::HashMap<&str, u32> =
        class_names.iter().map(String::as_str).zip(0..).collect();
    let unknown = |name: &&String| !places.contains_key(name.as_str());
    let classes: Vec<String> = source.class_names().iter().filter(unknown).cloned().collect();
    if !classes.is_empty() {
        return Err(DataError::UnknownClasses { path: path.into(), classes });
    }
    let labels = source.class_names().iter().map(|name| places[name.as_str()]).collect();
    let indices = (0..source.num_images() as u32).collect();
    Ok(Arc::new(View::new(source, indices, labels, class_names.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Location, Split, open};

    #[test]
    fn few_pictures_are_spread_and_many_repeated() {
        let source = open(&Location::Embedded, Split::Val).unwrap();
        let num_there = source.num_images();
        let names = |num_images| {
            let some = spread(source.clone(), num_images);
            (0..num_images).map(|index| some.name(index)).collect::<Vec<_>>()
        };
        let expected = [0, num_there / 4, num_there / 2, num_there * 3 / 4].map(|index| source.name(index));
        assert_eq!(names(4), expected);
        let repeated = names(num_there + 2);
        assert_eq!(repeated[num_there - 1..], [num_there - 1, 0, 1].map(|index| source.name(index)));
    }
}
