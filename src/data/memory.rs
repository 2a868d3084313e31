//! A set of small pictures of one size, held in memory as they come out of IDX and CIFAR files.

use super::{
    error::{SampleError, SampleFault},
    picture::{Channels, Picture},
    source::Source,
};

/// The most bytes of pixels that are held in memory: some 1.3 million 64x64 RGB pictures.
pub(crate) const MAX_BYTES: u64 = 16 << 30;

/// Pictures of one size in memory.
pub(crate) struct InMemory {
    /// What the pictures are called in messages, before `#index`.
    pub(crate) origin: String,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) channels: Channels,
    /// `[num_images, height, width, channels]`.
    pub(crate) pixels: Vec<u8>,
    pub(crate) labels: Vec<u8>,
    pub(crate) class_names: Vec<String>,
}

impl std::fmt::Debug for InMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InMemory")
            .field("origin", &self.origin)
            .field("num_images", &self.labels.len())
            .field("shape", &[self.height, self.width, self.channels.count()])
            .finish_non_exhaustive()
    }
}

impl Source for InMemory {
    fn num_images(&self) -> usize {
        self.labels.len()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index].into()
    }

    fn name(&self, index: usize) -> String {
        format!("{}#{index}", self.origin)
    }

    fn channels(&self) -> Channels {
        self.channels
    }

    fn read(&self, index: usize, into: &mut Picture) -> Result<(), SampleError> {
        let named = |fault: SampleFault| SampleError { name: self.name(index), fault };
        let pixels = into.reshape(self.width, self.height, self.channels).map_err(named)?;
        let image_bytes = pixels.len();
        pixels.copy_from_slice(&self.pixels[index * image_bytes..][..image_bytes]);
        Ok(())
    }

    fn dimensions(&self, _: usize) -> Result<(usize, usize), SampleError> {
        Ok((self.width, self.height))
    }
}
