//! Pictures named one by one on the command line, as a source: `predict` reads them as evaluation reads a data set.

use std::path::PathBuf;

use crate::data::{Channels, Picture, SampleError, Source, read_file};

/// Files without classes.
#[derive(Debug)]
pub(super) struct Files(pub(super) Vec<PathBuf>);

impl Source for Files {
    fn num_images(&self) -> usize {
        self.0.len()
    }

    fn class_names(&self) -> &[String] {
        &[]
    }

    fn label(&self, _: usize) -> u32 {
        0
    }

    fn name(&self, index: usize) -> String {
        self.0[index].display().to_string()
    }

    fn channels(&self) -> Channels {
        Channels::Rgb
    }

    fn read(&self, index: usize, into: &mut Picture) -> Result<(), SampleError> {
        read_file(&self.0[index], into)
    }
}
