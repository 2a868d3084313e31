//! How fast a source's pictures become batches, and what of the work takes how long. Not a loader: it times one.

use std::time::Instant;

use super::{
    cores::cores,
    decode::Decoder,
    error::{DataError, SampleError},
    loader::Loader,
    pass::{LoaderConfig, Pass},
    picture::{Channels, Picture},
    random::Stream,
    sampler::Tail,
    shuffle,
    source::SharedSource,
    transform::{Stage, Transform},
    view::spread,
};

/// Images of a batch that is made to time it.
const BATCH_SIZE: usize = 64;

/// What a picture costs on its way into a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputSpeed {
    /// The images that were timed, in each of the three ways.
    pub num_images: usize,
    /// Seconds of a thread for reading a file: a mean, as all that follow.
    pub read_s: f64,
    /// For decoding what is needed of it. Where pictures are not files, with the reading.
    pub decode_s: f64,
    /// For cutting, resizing and mirroring, into its place in a batch: it is not copied there.
    pub resize_s: f64,
    /// Images a second of a loader with one thread.
    pub one_thread_per_s: f64,
    /// The threads that were taken for all.
    pub num_threads: usize,
    /// Images a second of a loader with so many.
    pub all_threads_per_s: f64,
}

impl InputSpeed {
    /// Times `num_images` images, spread over the source and in random order, as RGB or grey: part by part, by a loader with one thread, and by one
    /// with `num_threads`; 0 stands for one a processor.
    ///
    /// # Errors
    ///
    /// [`DataError`] for a picture that cannot be used, or a setting that makes no sense.
    pub fn measure(
        source: &SharedSource,
        transform: Transform,
        channels: Channels,
        num_images: usize,
        num_threads: usize,
    ) -> Result<Self, DataError> {
        transform.check()?;
        let num_threads = if num_threads == 0 { cores() } else { num_threads };
        let source = spread(source.clone(), num_images);
        let [read_s, decode_s, resize_s] = parts(&source, transform, channels)?;
        let one_thread_per_s = loader(&source, transform, channels, 1)?;
        let all_threads_per_s = if num_threads == 1 {
            one_thread_per_s
        } else {
            loader(&source, transform, channels, num_threads)?
        };
        Ok(Self { num_images, read_s, decode_s, resize_s, one_thread_per_s, num_threads, all_threads_per_s })
    }
}

/// Mean seconds of reading, decoding and resizing.
fn parts(source: &SharedSource, transform: Transform, channels: Channels) -> Result<[f64; 3], SampleError> {
    let (width, height) = transform.shape();
    let image_bytes = width * height * channels.count();
    let mut batch = vec![0; image_bytes * BATCH_SIZE];
    let (mut file, mut picture) = (Vec::new(), Picture::default());
    let (mut decoder, mut stage) = (Decoder::default(), Stage::default());
    let mut sums = [0.0; 3];
    let order = shuffle::order(source.num_images() as u32, 0, 0);
    for (place, index) in order.into_iter().map(|index| index as usize).enumerate() {
        let mut stream = Stream::of_sample(0, 0, index);
        let mut plan = |width, height| transform.plan(width, height, &mut stream);
        let start = Instant::now();
        let is_file = source.read_file(index, &mut file)?;
        let read = Instant::now();
        let geometry = if is_file {
            let named = |fault| SampleError { name: source.name(index), fault };
            decoder.decode_for(&mut file, &mut picture, plan).map_err(named)?
        } else {
            source.read(index, &mut picture)?;
            plan(picture.width(), picture.height())
        };
        let decoded = Instant::now();
        if channels == Channels::Grey {
            picture.make_grey();
        }
        let image = &mut batch[place % BATCH_SIZE * image_bytes..][..image_bytes];
        stage.apply(&geometry, &picture, (width, height), channels, image);
        let times = [start, read, decoded, Instant::now()];
        for (sum, pair) in sums.iter_mut().zip(times.windows(2)) {
            *sum += (pair[1] - pair[0]).as_secs_f64();
        }
    }
    Ok(sums.map(|sum| sum / source.num_images() as f64))
}

/// Images a second of a loader.
fn loader(
    source: &SharedSource,
    transform: Transform,
    channels: Channels,
    num_workers: usize,
) -> Result<f64, DataError> {
    let pass = Pass::Train { seed: 0, epoch: 0, tail: Tail::Short };
    let config = LoaderConfig { num_workers, ..LoaderConfig::new(transform, channels, BATCH_SIZE, pass) };
    let start = Instant::now();
    for batch in Loader::new(source.clone(), config)? {
        batch?;
    }
    Ok(source.num_images() as f64 / start.elapsed().as_secs_f64())
}
