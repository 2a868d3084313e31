//! What a loader's thread does for one sample: find a usable picture, decode it, transform it into its place.
//! No thread, no lock: functions of (position in the epoch's order).

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    decode::Decoder,
    error::{DataError, SampleError, SampleFault},
    pass::{LoaderConfig, OnBadFile, Pass},
    picture::{Channels, Picture},
    random::Stream,
    source::SharedSource,
    transform::{Stage, Transform},
};

/// How many pictures in a row may be bad before skipping stops: a set of which that many are bad is lost.
const MAX_BAD_IN_A_ROW: usize = 100;

/// What is read, in which order, and what becomes of it.
#[derive(Debug)]
pub(crate) struct Job {
    source: SharedSource,
    config: LoaderConfig,
    /// Which sample is at which position; `None` is the source's own order.
    order: Option<Vec<u32>>,
}

/// What became of one position.
#[derive(Debug)]
pub(crate) struct Produced {
    /// The sample that was written, or `None` if it is left out.
    pub(crate) index: Option<usize>,
    /// Why the position's own sample was not.
    pub(crate) skipped: Option<SampleError>,
}

/// A thread's own memory.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    file: Vec<u8>,
    decoder: Decoder,
    picture: Picture,
    stage: Stage,
}

impl Job {
    /// `order` are indices of the source.
    pub(crate) fn new(source: SharedSource, config: LoaderConfig, order: Option<Vec<u32>>) -> Self {
        Self { source, config, order }
    }

    /// The class of sample `index`.
    pub(crate) fn label(&self, index: usize) -> u32 {
        self.source.label(index)
    }

    /// Writes the sample at `position` of the order, made by `transform`, into `out`.
    ///
    /// Under [`OnBadFile::Skip`] the next usable one of the order takes a bad one's place in training; which that
    /// is depends on nothing but the position and the data. In evaluation a bad one is left out.
    pub(crate) fn produce(
        &self,
        position: usize,
        transform: &Transform,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<Produced, DataError> {
        let fault = match self.write(self.index(position), transform, scratch, out) {
            Ok(()) => return Ok(Produced { index: Some(self.index(position)), skipped: None }),
            Err(fault) => fault,
        };
        match (self.config.on_bad_file, self.config.pass) {
            (OnBadFile::Fail, _) => Err(fault.into()),
            // The picture may be good: to leave it out would make another run of this one.
            _ if matches!(fault.fault, SampleFault::Away(_)) => Err(fault.into()),
            (OnBadFile::Skip, Pass::Evaluate) => Ok(Produced { index: None, skipped: Some(fault) }),
            (OnBadFile::Skip, Pass::Train { .. }) => {
                let num_tried = self.source.num_images().min(MAX_BAD_IN_A_ROW);
                for step in 1..num_tried {
                    let index = self.index(position + step);
                    match self.write(index, transform, scratch, out) {
                        Ok(()) => return Ok(Produced { index: Some(index), skipped: Some(fault) }),
                        Err(other) if matches!(other.fault, SampleFault::Away(_)) => return Err(other.into()),
                        Err(_) => {}
                    }
                }
                Err(DataError::NothingReadable { num_tried, first: fault })
            }
        }
    }

    /// The sample at a position, which goes round the order.
    fn index(&self, position: usize) -> usize {
        let position = position % self.source.num_images();
        self.order.as_ref().map_or(position, |order| order[position] as usize)
    }

    /// Decodes and transforms one sample. Decoders are other people's code fed with strange files: a panic in one
    /// is the file's error.
    fn write(
        &self,
        index: usize,
        transform: &Transform,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<(), SampleError> {
        let Scratch { file, decoder, picture, stage } = scratch;
        catch_unwind(AssertUnwindSafe(|| {
            let mut stream = match self.config.pass {
                Pass::Train { seed, epoch, .. } => Stream::of_sample(seed, epoch, index),
                Pass::Evaluate => Stream::of_sample(0, 0, index),
            };
            let geometry = if self.source.read_file(index, file)? {
                let plan = |width, height| transform.plan(width, height, &mut stream);
                let named = |fault| SampleError { name: self.source.name(index), fault };
                decoder.decode_for(file, picture, plan).map_err(named)?
            } else {
                self.source.read(index, picture)?;
                transform.plan(picture.width(), picture.height(), &mut stream)
            };
            let channels = self.config.channels;
            if channels == Channels::Grey {
                picture.make_grey();
            }
            stage.apply(&geometry, picture, transform.shape(), channels, out);
            Ok(())
        }))
        .unwrap_or_else(|_| {
            *scratch = Scratch::default();
            Err(SampleError { name: self.source.name(index), fault: SampleFault::Panicked })
        })
    }
}
