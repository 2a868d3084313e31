//! The promise of the order: the batches of a recipe of three phases (sizes, batch sizes, a copy in another size,
//! rectangles last) are the same bytes for any number of worker threads, for ranks put together, across a resume at any
//! step, and whether an epoch's first batches are made beside the last ones of the epoch before it or not. And that
//! these are made there.
//!
//! Put together: the global batch is the ranks' batches one after the other; a rectangular validation's chunks are dealt
//! to the ranks in turn.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/source.rs"]
mod source;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Condvar, Mutex},
};

use burn_dist::rank::{Rank, WorldSize};
use burn_sprint::data::{
    Batch, Blocks, Channels, CropRule, DataError, Loader, LoaderConfig, OnBadFile, Pass, Picture,
    SampleError, SharedSource, Shuffle, Source, Tail, Transform, sizes,
};
use common::{DEADLINE, Random};
use source::classes_in_turn;

const NUM_TRAIN: usize = 100;
const NUM_VAL: usize = 23;
const SEED: u64 = 9;
const NUM_EPOCHS: u64 = 5;

/// Noise of mixed shapes, as large as `side` says; keeps a record of what was asked of it.
#[derive(Debug)]
struct Noise {
    num_images: usize,
    side: usize,
    class_names: Vec<String>,
    record: Mutex<Record>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Record {
    /// Pictures, in any order.
    read: Vec<usize>,
    /// Blocks, as [`Source::read_ahead`] said them.
    told: Vec<u32>,
}

impl Noise {
    fn new(num_images: usize, side: usize) -> Arc<Self> {
        let class_names = ["a", "b", "c"].map(String::from).into();
        Arc::new(Self { num_images, side, class_names, record: Mutex::default(), changed: Condvar::new() })
    }

    /// Waits until the record is as it should become.
    #[track_caller]
    fn wait_until(&self, what: &str, holds: impl Fn(&Record) -> bool) {
        let record = self.record.lock().unwrap();
        let waited = self.changed.wait_timeout_while(record, DEADLINE, |record| !holds(record)).unwrap();
        assert!(!waited.1.timed_out(), "{what}: {:?}", waited.0.read.len());
    }
}

impl Source for Noise {
    classes_in_turn!();

    fn read(&self, index: usize, into: &mut Picture) -> Result<(), SampleError> {
        let mut random = Random(index as u64);
        let mut side = || self.side + random.below(self.side as u64) as usize;
        let (width, height) = (side(), side());
        let pixels = into.reshape(width, height, Channels::Rgb).unwrap();
        pixels.iter_mut().for_each(|pixel| *pixel = random.below(256) as u8);
        self.record.lock().unwrap().read.push(index);
        self.changed.notify_all();
        Ok(())
    }

    fn blocks(&self) -> Blocks {
        Blocks::of_lengths((0..self.num_images / 5).map(|_| 5))
    }

    fn read_ahead(&self, blocks: &[u32]) {
        self.record.lock().unwrap().told.extend(blocks);
    }
}

/// The recipe: two epochs, two in a copy of twice the size with twice the batch, one in rectangles' company.
struct Data {
    main: SharedSource,
    copy: SharedSource,
    val: SharedSource,
}

impl Data {
    fn new() -> Self {
        Self {
            main: Noise::new(NUM_TRAIN, 20),
            copy: Noise::new(NUM_TRAIN, 40),
            val: Noise::new(NUM_VAL, 20),
        }
    }

    fn epoch(&self, epoch: u64, how: How) -> (SharedSource, LoaderConfig) {
        let (source, size, global_batch) = match epoch {
            0 | 1 => (&self.main, 12, 8),
            2 | 3 => (&self.copy, 20, 16),
            _ => (&self.main, 16, 8),
        };
        let transform =
            Transform::RandomResizedCrop { size, scale: (0.3, 1.0), rule: CropRule::Modern, flip: true };
        let pass = Pass::Train { seed: SEED, epoch, tail: Tail::Short };
        let config = LoaderConfig { shuffle: how.shuffle, ..how.config(transform, global_batch, pass) };
        (source.clone(), config)
    }
}

/// What must not matter.
#[derive(Debug, Clone, Copy)]
struct How {
    num_workers: usize,
    rank: Rank,
    shuffle: Shuffle,
}

impl How {
    fn config(self, transform: Transform, global_batch: usize, pass: Pass) -> LoaderConfig {
        let batch_size = global_batch / self.rank.world_size().count();
        let Self { num_workers, rank, .. } = self;
        LoaderConfig { num_workers, rank, ..LoaderConfig::new(transform, Channels::Rgb, batch_size, pass) }
    }
}

/// A batch's bytes, labels and indices.
type Bytes = (Vec<u8>, Vec<u32>, Vec<usize>);

fn bytes(batch: Result<Batch, DataError>) -> Bytes {
    let mut batch = batch.unwrap();
    (std::mem::take(&mut batch.images), batch.labels.clone(), batch.indices.clone())
}

/// The training batches of a rank from a batch of an epoch on, by one loader that is told of each epoch when the one
/// before it begins.
fn train(data: &Data, how: How, first_epoch: u64, start_batch: usize) -> Vec<Bytes> {
    let (source, config) = data.epoch(first_epoch, how);
    let mut loader = Loader::new(source, LoaderConfig { start_batch, ..config }).unwrap();
    let mut batches = Vec::new();
    for epoch in first_epoch..NUM_EPOCHS {
        if epoch + 1 < NUM_EPOCHS {
            let (source, config) = data.epoch(epoch + 1, how);
            loader.add(source, config).unwrap();
        }
        let mut is_last = false;
        while !is_last {
            let batch = loader.next().unwrap();
            is_last = batch.as_ref().unwrap().number + 1 == loader.num_batches();
            batches.push(bytes(batch));
        }
    }
    assert!(loader.next().is_none());
    batches
}

/// The validation chunks of a rank.
fn validate(data: &Data, how: How) -> Vec<Bytes> {
    let transform = Transform::CenterCrop { size: 16, resize: 18 };
    let sizes = sizes::of(&*data.val, OnBadFile::Fail, None, |_| ()).unwrap();
    // A chunk belongs to one rank: it has the same pictures for any number of them.
    let config = LoaderConfig { batch_size: 4, ..how.config(transform, 4, Pass::Evaluate) };
    Loader::rectangular(data.val.clone(), config, &sizes).unwrap().map(bytes).collect()
}

fn concat(parts: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mut whole = Bytes::default();
    for (images, labels, indices) in parts {
        whole.0.extend(images);
        whole.1.extend(labels);
        whole.2.extend(indices);
    }
    whole
}

/// Every rank's batches, put together.
fn of_ranks(world_size: u32, batches: impl Fn(Rank) -> Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let world = WorldSize::new(world_size).unwrap();
    let ranks = (0..world_size).map(|index| batches(Rank::new(index, world).unwrap()));
    let mut global: Vec<Vec<Bytes>> = Vec::new();
    for batches in ranks {
        global.resize(global.len().max(batches.len()), Vec::new());
        global.iter_mut().zip(batches).for_each(|(global, batch)| global.push(batch));
    }
    global
}

const SHUFFLES: [Shuffle; 2] =
    [Shuffle::Full, Shuffle::QuasiRandom { window: NonZeroUsize::new(3).unwrap() }];

fn alone(shuffle: Shuffle) -> How {
    How { num_workers: 1, rank: Rank::SINGLE, shuffle }
}

#[test]
fn threads_and_ranks_do_not_matter() {
    let data = Data::new();
    for shuffle in SHUFFLES {
        let (expected, val) = (train(&data, alone(shuffle), 0, 0), validate(&data, alone(shuffle)));
        assert_eq!(expected.len(), 13 + 13 + 7 + 7 + 13);
        assert_eq!(val.len(), 6);
        for num_workers in [2, 8] {
            let how = How { num_workers, ..alone(shuffle) };
            assert!(train(&data, how, 0, 0) == expected, "{num_workers} threads, {shuffle:?}");
            assert!(validate(&data, how) == val, "{num_workers} threads");
        }
        for world_size in [2, 4] {
            let how = |rank| How { num_workers: 2, rank, shuffle };
            let global = of_ranks(world_size, |rank| train(&data, how(rank), 0, 0));
            let global: Vec<Bytes> = global.into_iter().map(concat).collect();
            assert!(global == expected, "{world_size} ranks, {shuffle:?}");
            let global = of_ranks(world_size, |rank| validate(&data, how(rank)));
            assert!(global.concat() == val, "{world_size} ranks");
        }
    }
}

#[test]
fn resuming_at_any_step_goes_on_with_the_same_batches() {
    let data = Data::new();
    let steps_per_epoch = [13, 13, 7, 7, 13];
    let mut random = Random(5);
    for shuffle in SHUFFLES {
        let whole = train(&data, alone(shuffle), 0, 0);
        for _ in 0..8 {
            let step = random.below(whole.len() as u64) as usize;
            let (mut epoch, mut start_batch) = (0, step);
            while start_batch >= steps_per_epoch[epoch] {
                start_batch -= steps_per_epoch[epoch];
                epoch += 1;
            }
            let how = How { num_workers: 2, ..alone(shuffle) };
            assert!(train(&data, how, epoch as u64, start_batch) == whole[step..], "from step {step}");
        }
    }
}

/// Before the last batch of an epoch is taken, all of the next epoch's first batches that there is room for are read,
/// in the next phase's size too; and never more.
#[test]
fn the_next_epoch_is_begun_before_this_one_ends() {
    const AHEAD: usize = 3;
    let (main, copy) = (Noise::new(40, 20), Noise::new(40, 40));
    let config = |size, batch_size, epoch| {
        let pass = Pass::Train { seed: SEED, epoch, tail: Tail::Drop };
        let transform = Transform::CenterCrop { size, resize: size };
        let config = LoaderConfig::new(transform, Channels::Rgb, batch_size, pass);
        LoaderConfig { num_workers: 2, batches_ahead: AHEAD, ..config }
    };
    let mut loader = Loader::new(main.clone(), config(12, 8, 0)).unwrap();
    loader.add(copy.clone(), config(20, 10, 1)).unwrap();
    let mut take = || loader.next().unwrap().unwrap();
    for number in 0..4 {
        assert_eq!(take().number, number);
    }
    // 4 of 5 are taken: the last one, and 2 of the next epoch, fill the room.
    copy.wait_until("the next epoch is not begun", |record| record.read.len() == (AHEAD - 1) * 10);
    assert_eq!(main.record.lock().unwrap().read.len(), 40);
    let last = take();
    assert_eq!((last.number, last.shape), (4, [8, 12, 12, 3]));
    copy.wait_until("what was consumed makes no room", |record| record.read.len() == AHEAD * 10);
    let first = take();
    assert_eq!((first.number, first.shape), (0, [10, 20, 20, 3]));
}

/// A source hears of each block once an epoch, in the order in which blocks are wanted, one window ahead and no more, and
/// of the next epoch's before this one ends.
#[test]
fn sources_hear_of_blocks_before_they_are_read() {
    let source = Noise::new(60, 20);
    let window = NonZeroUsize::new(3).unwrap();
    let config = |epoch, start_batch| {
        let pass = Pass::Train { seed: SEED, epoch, tail: Tail::Drop };
        let transform = Transform::CenterCrop { size: 12, resize: 12 };
        LoaderConfig {
            shuffle: Shuffle::QuasiRandom { window },
            num_workers: 1,
            batches_ahead: 1,
            start_batch,
            ..LoaderConfig::new(transform, Channels::Rgb, 5, pass)
        }
    };
    let mut loader = Loader::new(source.clone(), config(0, 4)).unwrap();
    loader.add(source.clone(), config(1, 0)).unwrap();
    let blocks = source.blocks();
    // A window is 3 blocks, and 3 batches. Of two epochs of 12 the first window is behind where the first is taken up.
    const ALL: usize = 12 - 3 + 12;
    // Where in all that is told a batch's window begins.
    let wanted = |taken: usize| (4 + taken) / 3 * 3 - 3;
    for (taken, batch) in loader.enumerate() {
        let told = source.record.lock().unwrap().told.clone();
        // The batch after this one may have been begun.
        let [least, most] = [taken, taken + 1].map(|batch| (wanted(batch) + 6).min(ALL));
        assert!((least..=most).contains(&told.len()), "batch {taken}: {told:?}");
        for &index in &batch.unwrap().indices {
            let block = blocks.block_of(index as u32) as u32;
            assert!(told[wanted(taken)..][..3].contains(&block), "batch {taken}: {block} of {told:?}");
        }
    }
    let told = &source.record.lock().unwrap().told;
    assert_eq!(told.len(), ALL);
    let mut second = told[9..].to_vec();
    second.sort_unstable();
    assert_eq!(second, (0..12).collect::<Vec<_>>());
}
