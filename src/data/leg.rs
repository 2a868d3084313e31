//! One pass over a source, laid out: which samples are in which batch, and how each is made. Pure; no thread.

use std::ops::Range;

use burn_dist::WorldSize;

use super::{
    batches::Batches,
    error::DataError,
    pass::{LoaderConfig, Pass},
    rect::{PictureSize, Rectangles},
    sampler::{Coverage, Plan},
    shuffle::{self, Shuffle, Windows},
    source::SharedSource,
    transform::Transform,
    worker::Job,
};

/// One pass over a source. A loader goes through one after the other.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) job: Job,
    pub(super) batches: Batches,
    pub(super) num_images: usize,
    /// On this rank, those before `start_batch` included.
    pub(super) num_batches: usize,
    pub(super) start_batch: usize,
    pub(super) channels: usize,
    pub(super) is_alone: bool,
    source: SharedSource,
    /// Of a quasi-random order.
    windows: Option<Windows>,
}

impl Leg {
    /// A pass with images that are all alike.
    pub(super) fn alike(source: SharedSource, config: LoaderConfig) -> Result<Self, DataError> {
        let num_images = source.num_images();
        config.check(num_images)?;
        let (coverage, order, windows) = match (config.pass, config.shuffle) {
            (Pass::Train { seed, epoch, tail }, Shuffle::Full) => {
                (Coverage::Train(tail), Some(shuffle::order(num_images as u32, seed, epoch)), None)
            }
            (Pass::Train { seed, epoch, tail }, Shuffle::QuasiRandom { window }) => {
                let blocks = source.blocks();
                let windows = Windows::new(&blocks, window, seed, epoch);
                (Coverage::Train(tail), Some(windows.order(&blocks, seed, epoch)), Some(windows))
            }
            (Pass::Evaluate, _) => (Coverage::Once, None, None),
        };
        let plan = Plan::new(num_images, config.batch_size, config.rank, coverage);
        let leg = Self::new(source, config, Batches::Alike(plan, config.transform), order)?;
        Ok(Self { windows, ..leg })
    }

    /// An evaluation in rectangles.
    pub(super) fn rectangular(
        source: SharedSource,
        config: LoaderConfig,
        sizes: &[PictureSize],
    ) -> Result<Self, DataError> {
        config.check(source.num_images())?;
        let (Transform::CenterCrop { size, resize }, Pass::Evaluate) = (config.transform, config.pass) else {
            let reason = "rectangular batches are of an evaluation by centre crops".into();
            return Err(DataError::Setting { field: "transform", reason });
        };
        let chunks = Rectangles::new(sizes, config.batch_size, size);
        let order = Some(chunks.order().to_vec());
        Self::new(source, config, Batches::Rectangles { chunks, rank: config.rank, resize }, order)
    }

    fn new(
        source: SharedSource,
        config: LoaderConfig,
        batches: Batches,
        order: Option<Vec<u32>>,
    ) -> Result<Self, DataError> {
        let (num_batches, start_batch) = (batches.count(), config.start_batch);
        if start_batch > num_batches {
            let reason =
                format!("expected at most {num_batches}, the batches of an epoch, got {start_batch}");
            return Err(DataError::Setting { field: "start_batch", reason });
        }
        Ok(Self {
            num_images: source.num_images(),
            job: Job::new(source.clone(), config, order),
            batches,
            num_batches,
            start_batch,
            channels: config.channels.count(),
            is_alone: config.rank.world_size() == WorldSize::ONE,
            source,
            windows: None,
        })
    }

    /// The window of the order that a batch begins in; 0 where there are none.
    pub(super) fn window_of(&self, batch: usize) -> usize {
        let start = self.batches.get(batch).0.start;
        self.windows.as_ref().map_or(0, |windows| windows.window_of(start))
    }

    /// Tells the source of the blocks of some windows, those that there are.
    pub(super) fn read_ahead(&self, windows: Range<usize>) {
        let blocks = self.windows.iter().flat_map(|order| order.blocks_from(windows.start));
        blocks.take(windows.len()).for_each(|blocks| self.source.read_ahead(blocks));
    }

    pub(super) fn sample_bytes(&self, transform: &Transform) -> usize {
        let (width, height) = transform.shape();
        width * height * self.channels
    }
}
