//! The one trait that every data set is read through.

use std::{fmt::Debug, hash::Hasher, path::Path, sync::Arc};

use super::{
    blocks::Blocks,
    decode::decode,
    error::{SampleError, SampleFault},
    picture::{Channels, Picture},
};

/// Labelled pictures by index.
///
/// Implementations are shared by the loader's threads, and give the same picture for the same index every time.
pub trait Source: Send + Sync + Debug {
    /// The number of pictures; indices run below it.
    fn num_images(&self) -> usize;

    /// The classes' names; a label is an index into them.
    fn class_names(&self) -> &[String];

    /// The class of picture `index`.
    fn label(&self, index: usize) -> u32;

    /// What picture `index` is called in messages: a path, or a place in a file.
    fn name(&self, index: usize) -> String;

    /// The channels that the pictures have by nature. A single picture may still come in the other.
    fn channels(&self) -> Channels;

    /// Reads and decodes picture `index` over what `into` held. By itself, what [`read_file`](Self::read_file) gives: a
    /// source has one of the two.
    ///
    /// # Errors
    ///
    /// A [`SampleError`] naming the picture; `into` is then unspecified.
    fn read(&self, index: usize, into: &mut Picture) -> Result<(), SampleError> {
        let named = |fault| SampleError { name: self.name(index), fault };
        let mut file = Vec::new();
        match self.read_file(index, &mut file)? {
            true => decode(&file, into).map_err(named),
            false => Err(named(SampleFault::NotAFile)),
        }
    }

    /// Reads the file of picture `index` over what `into` held. Returns false, and reads nothing, where pictures are not
    /// files by themselves.
    ///
    /// A loader decodes of such a file what it needs, in place of [`read`](Self::read).
    ///
    /// # Errors
    ///
    /// A [`SampleError`] naming the picture; `into` is then unspecified.
    fn read_file(&self, index: usize, into: &mut Vec<u8>) -> Result<bool, SampleError> {
        let _ = (index, into);
        Ok(false)
    }

    /// The `(width, height)` of picture `index`, from as little of it as shows them.
    ///
    /// # Errors
    ///
    /// A [`SampleError`] naming the picture.
    fn dimensions(&self, index: usize) -> Result<(usize, usize), SampleError> {
        let mut picture = Picture::default();
        self.read(index, &mut picture)?;
        Ok((picture.width(), picture.height()))
    }

    /// The ranges of pictures that are cheapest read together, for [`Shuffle::QuasiRandom`](super::Shuffle). Alike on
    /// all ranks, or they would not have the same order.
    fn blocks(&self) -> Blocks {
        Blocks::even(self.num_images())
    }

    /// Hears of the blocks of a pass in a quasi-random order, each once, in that order, a window of them at a time and
    /// about a window before they are read from; the next pass' first while this one is at its last. A source that
    /// fetches ahead begins to; it must not wait here.
    fn read_ahead(&self, blocks: &[u32]) {
        let _ = blocks;
    }

    /// The folder or archive that the pictures lie in; `None` where their sizes are at hand anyway.
    fn home(&self) -> Option<&Path> {
        None
    }

    /// Feeds a hash with what tells whether picture `index` is still the one it was: the name below
    /// [`home`](Self::home), the length, the time of change.
    fn fingerprint(&self, index: usize, into: &mut dyn Hasher) {
        into.write(self.name(index).as_bytes());
    }
}

/// A source behind a shared pointer, as the loader takes it.
pub type SharedSource = Arc<dyn Source>;
