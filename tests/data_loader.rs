//! The loader's promises: the same batches for any number of threads and ranks, resuming, bad files, no hang.

#![allow(clippy::unwrap_used)]

#[path = "common/source.rs"]
mod source;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn_dist::rank::{Rank, WorldSize};
use burn_sprint::data::{
    Batch, Channels, CropRule, DataError, Loader, LoaderConfig, Location, OnBadFile, Pass, Picture,
    SampleError, SampleFault, Source, Split, Tail, Transform, open, shuffle,
};
use source::classes_in_turn;

/// Pictures of which the first bytes say their index; some are bad.
#[derive(Debug)]
struct Numbered {
    num_images: usize,
    bad: BTreeSet<usize>,
    panics: BTreeSet<usize>,
    num_reads: AtomicUsize,
    class_names: Vec<String>,
}

impl Numbered {
    fn new(num_images: usize) -> Self {
        let class_names = vec!["even".into(), "odd".into()];
        Self { num_images, bad: [].into(), panics: [].into(), num_reads: AtomicUsize::new(0), class_names }
    }

    fn with_bad(num_images: usize, bad: impl IntoIterator<Item = usize>) -> Self {
        Self { bad: bad.into_iter().collect(), ..Self::new(num_images) }
    }
}

impl Source for Numbered {
    classes_in_turn!();

    fn read(&self, index: usize, into: &mut Picture) -> Result<(), SampleError> {
        self.num_reads.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.contains(&index), "a decoder gone wrong");
        if self.bad.contains(&index) {
            return Err(SampleError { name: self.name(index), fault: SampleFault::NotAPicture });
        }
        let pixels = into.reshape(4, 4, Channels::Rgb).unwrap();
        pixels.fill((index >> 8) as u8);
        pixels.iter_mut().step_by(3).for_each(|v| *v = index as u8);
        Ok(())
    }
}

const PLAIN: Transform = Transform::CenterCrop { size: 4, resize: 4 };

fn train(seed: u64, epoch: u64) -> Pass {
    Pass::Train { seed, epoch, tail: Tail::Drop }
}

fn config(batch_size: usize, pass: Pass) -> LoaderConfig {
    LoaderConfig { num_workers: 2, ..LoaderConfig::new(PLAIN, Channels::Rgb, batch_size, pass) }
}

fn batches(source: Arc<dyn Source>, config: LoaderConfig) -> Vec<Batch> {
    Loader::new(source, config).unwrap().collect::<Result<_, _>>().unwrap()
}

fn contents(batches: &[Batch]) -> Vec<(Vec<u8>, Vec<u32>, Vec<usize>)> {
    batches.iter().map(|b| (b.images.clone(), b.labels.clone(), b.indices.clone())).collect()
}

fn indices(batches: &[Batch]) -> Vec<usize> {
    batches.iter().flat_map(|b| b.indices.clone()).collect()
}

/// Each batch's pixels, labels and shape are those of its indices.
fn check(batches: &[Batch]) {
    for batch in batches {
        assert_eq!(batch.shape, [batch.len(), 4, 4, 3]);
        assert_eq!(batch.images.len(), batch.len() * 48);
        for ((pixels, &label), &index) in batch.images.chunks_exact(48).zip(&batch.labels).zip(&batch.indices)
        {
            assert_eq!((pixels[0], pixels[1]), (index as u8, (index >> 8) as u8));
            assert_eq!(label, (index % 2) as u32);
        }
    }
}

/// Real pictures with random crops and flips: 1, 2, 3 and 8 threads, 1 and 5 batches ahead.
#[test]
fn batches_do_not_depend_on_threads() {
    let source = open(&Location::Embedded, Split::Val).unwrap();
    let scale = (0.3, 1.0);
    let transform = Transform::RandomResizedCrop { size: 20, scale, rule: CropRule::Modern, flip: true };
    let of = |num_workers, batches_ahead, epoch| {
        let config = LoaderConfig::new(transform, Channels::Rgb, 150, train(3, epoch));
        contents(&batches(source.clone(), LoaderConfig { num_workers, batches_ahead, ..config }))
    };
    let expected = of(1, 1, 0);
    assert_eq!(expected.len(), 13);
    for (num_workers, batches_ahead) in [(1, 5), (2, 1), (3, 2), (8, 5)] {
        assert!(
            of(num_workers, batches_ahead, 0) == expected,
            "{num_workers} threads, {batches_ahead} ahead"
        );
    }
    assert!(of(2, 2, 1) != expected, "another epoch");
}

/// A sample's pixels are the same whichever rank of however many makes them, and so is the set of a global batch.
#[test]
fn global_batches_do_not_depend_on_ranks() {
    let source = open(&Location::Embedded, Split::Val).unwrap();
    let transform = Transform::PadAndCrop { size: 28, padding: 4, flip: true };
    let of = |world_size: u32| -> Vec<Vec<(usize, Vec<u8>)>> {
        let world = WorldSize::new(world_size).unwrap();
        let mut global: Vec<Vec<(usize, Vec<u8>)>> = Vec::new();
        for index in 0..world_size {
            let config = LoaderConfig::new(transform, Channels::Grey, 240 / world_size as usize, train(1, 2));
            let rank = Rank::new(index, world).unwrap();
            for (k, batch) in batches(source.clone(), LoaderConfig { rank, ..config }).iter().enumerate() {
                global.resize(global.len().max(k + 1), Vec::new());
                let samples = batch.images.chunks_exact(784).map(<[u8]>::to_vec);
                global[k].extend(batch.indices.iter().copied().zip(samples));
            }
        }
        global
    };
    let expected = of(1);
    assert_eq!(expected.len(), 8);
    for world_size in [2, 3, 5] {
        assert!(of(world_size) == expected, "{world_size} ranks");
    }
}

#[test]
fn evaluation_gives_every_picture_once_over_all_ranks() {
    for (num_images, world_size, batch_size) in [(100, 1, 7), (100, 3, 8), (5, 4, 10), (64, 4, 4)] {
        let world = WorldSize::new(world_size).unwrap();
        let mut seen = Vec::new();
        for index in 0..world_size {
            let config = config(batch_size, Pass::Evaluate);
            let source = Arc::new(Numbered::new(num_images));
            let batches = batches(source, LoaderConfig { rank: Rank::new(index, world).unwrap(), ..config });
            check(&batches);
            seen.extend(indices(&batches));
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..num_images).collect::<Vec<_>>());
    }
}

#[test]
fn resuming_gives_the_rest_of_the_epoch() {
    let whole = contents(&batches(Arc::new(Numbered::new(100)), config(8, train(1, 2))));
    assert_eq!(whole.len(), 12);
    for start_batch in [1, 5, 11, 12] {
        let config = LoaderConfig { start_batch, ..config(8, train(1, 2)) };
        let loader = Loader::new(Arc::new(Numbered::new(100)), config).unwrap();
        assert_eq!(loader.num_batches(), 12);
        let rest: Vec<Batch> = loader.collect::<Result<_, _>>().unwrap();
        assert!(rest.iter().map(|b| b.number).eq(start_batch..12));
        assert_eq!(contents(&rest), whole[start_batch..]);
    }
    let config = LoaderConfig { start_batch: 13, ..config(8, train(1, 2)) };
    assert!(matches!(Loader::new(Arc::new(Numbered::new(100)), config), Err(DataError::Setting { .. })));
}

/// The first bad file of the order is named, after the good batches before it, for any number of threads.
#[test]
fn fail_names_the_file_and_ends() {
    let order = shuffle::order(100, 1, 0);
    // Positions 33 and 45 are in batches 3 and 4 of 10; 37 is in batch 3, but later.
    let bad = [33, 45, 37].map(|position| order[position] as usize);
    for num_workers in [1, 2, 5] {
        let config = LoaderConfig { num_workers, ..config(10, train(1, 0)) };
        let mut loader = Loader::new(Arc::new(Numbered::with_bad(100, bad)), config).unwrap();
        for _ in 0..3 {
            loader.next().unwrap().unwrap();
        }
        let error = loader.next().unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "picture {}",
                SampleError { name: format!("picture {}", order[33]), fault: SampleFault::NotAPicture }
            )
        );
        assert!(loader.next().is_none());
        assert!(loader.next().is_none());
    }
}

/// In training the next good picture of the order stands in; for any number of threads, and going round at the end.
#[test]
fn skip_replaces_in_training() {
    let order = shuffle::order(40, 1, 0);
    let bad = [7, 8, 9, 20, 39].map(|position| order[position] as usize);
    let mut expected: Vec<usize> = order.iter().map(|&index| index as usize).collect();
    expected[7..=9].fill(order[10] as usize);
    expected[20] = order[21] as usize;
    expected[39] = order[0] as usize;
    for num_workers in [1, 2, 5] {
        let config = LoaderConfig { num_workers, on_bad_file: OnBadFile::Skip, ..config(10, train(1, 0)) };
        let mut loader = Loader::new(Arc::new(Numbered::with_bad(40, bad)), config).unwrap();
        let batches: Vec<Batch> = loader.by_ref().collect::<Result<_, _>>().unwrap();
        check(&batches);
        assert_eq!(indices(&batches), expected);
        assert_eq!(batches.iter().map(|b| b.skipped.len()).collect::<Vec<_>>(), [3, 0, 1, 1]);
        assert_eq!(batches[2].skipped[0].name, format!("picture {}", order[20]));
        assert_eq!(loader.num_skipped(), 5);
    }
}

/// In evaluation they are left out, and a batch in which none is left is not given; its count is not lost.
#[test]
fn skip_leaves_out_in_evaluation() {
    let bad = [3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 29];
    let config = LoaderConfig { on_bad_file: OnBadFile::Skip, ..config(10, Pass::Evaluate) };
    let mut loader = Loader::new(Arc::new(Numbered::with_bad(30, bad)), config).unwrap();
    let batches: Vec<Batch> = loader.by_ref().collect::<Result<_, _>>().unwrap();
    check(&batches);
    assert_eq!(indices(&batches), (0..30).filter(|i| !bad.contains(i)).collect::<Vec<_>>());
    assert_eq!(
        batches.iter().map(|b| (b.number, b.len(), b.skipped.len())).collect::<Vec<_>>(),
        [(0, 9, 1), (2, 9, 11)]
    );
    assert_eq!(loader.num_skipped(), 12);
}

/// Nothing but bad pictures ends in an error, also in a set too large to try each of.
#[test]
fn skip_does_not_go_round_for_ever() {
    for pass in [train(1, 0), Pass::Evaluate] {
        let source = Arc::new(Numbered::with_bad(30, 0..30));
        let config = LoaderConfig { on_bad_file: OnBadFile::Skip, ..config(10, pass) };
        let mut loader = Loader::new(source, config).unwrap();
        assert!(matches!(loader.next(), Some(Err(DataError::NothingReadable { .. }))), "{pass:?}");
        assert!(loader.next().is_none());
    }
    // A rank that has nothing left does not know what others have.
    let rank = Rank::new(1, WorldSize::new(3).unwrap()).unwrap();
    let config = LoaderConfig { on_bad_file: OnBadFile::Skip, rank, ..config(10, Pass::Evaluate) };
    let mut loader = Loader::new(Arc::new(Numbered::with_bad(30, 10..20)), config).unwrap();
    assert!(loader.next().is_none());
    assert_eq!(loader.num_skipped(), 10);

    let source = Arc::new(Numbered::with_bad(100_000, 0..100_000));
    let one_by_one =
        LoaderConfig { rank: Rank::SINGLE, num_workers: 1, batch_size: 1, pass: train(1, 0), ..config };
    let mut loader = Loader::new(source.clone(), one_by_one).unwrap();
    assert!(matches!(loader.next(), Some(Err(DataError::NothingReadable { num_tried: 100, .. }))));
    drop(loader);
    assert!(source.num_reads.load(Ordering::SeqCst) < 10_000);
}

/// A panic of a decoder is the file's error, and not a hang.
#[test]
fn a_panic_is_an_error_that_names_the_file() {
    let source = Numbered { panics: [17].into(), ..Numbered::new(40) };
    let mut loader = Loader::new(Arc::new(source), config(10, Pass::Evaluate)).unwrap();
    loader.next().unwrap().unwrap();
    match loader.next() {
        Some(Err(DataError::Sample(SampleError { name, fault: SampleFault::Panicked }))) => {
            assert_eq!(name, "picture 17");
        }
        other => panic!("{other:?}"),
    }
    let source = Numbered { panics: [17].into(), ..Numbered::new(40) };
    let config = LoaderConfig { on_bad_file: OnBadFile::Skip, ..config(10, Pass::Evaluate) };
    assert_eq!(indices(&batches(Arc::new(source), config)).len(), 39);
}

/// No more batches are begun than the bound allows, and dropping the loader ends its threads though much is left.
#[test]
fn reading_ahead_is_bounded_and_dropping_stops() {
    let source = Arc::new(Numbered::new(1_000_000));
    let config = LoaderConfig { batches_ahead: 2, num_workers: 3, ..config(100, Pass::Evaluate) };
    let mut loader = Loader::new(source.clone(), config).unwrap();
    let batch = loader.next().unwrap().unwrap();
    assert_eq!(batch.indices, (0..100).collect::<Vec<_>>());
    drop(loader);
    let num_reads = source.num_reads.load(Ordering::SeqCst);
    assert!(num_reads <= 300, "{num_reads} pictures read for 1 batch and 2 ahead");
    // The threads are joined: only the test holds the source, and the batch outlives the loader.
    assert_eq!(Arc::strong_count(&source), 1);
    assert_eq!(batch.images.len(), 4800);
}

/// A dropped batch's memory is the memory of a later one.
#[test]
fn batches_are_recycled() {
    let config = LoaderConfig { batches_ahead: 1, num_workers: 1, ..config(100, Pass::Evaluate) };
    let loader = Loader::new(Arc::new(Numbered::new(5000)), config).unwrap();
    let mut places = BTreeSet::new();
    for batch in loader {
        let batch = batch.unwrap();
        check(std::slice::from_ref(&batch));
        places.insert(batch.images.as_ptr() as usize);
    }
    assert!(places.len() <= 3, "{} buffers for 50 batches", places.len());
}

#[test]
fn channels_are_what_is_asked_for() {
    let source = open(&Location::Embedded, Split::Val).unwrap();
    let transform = Transform::CenterCrop { size: 28, resize: 28 };
    let of = |channels| batches(source.clone(), LoaderConfig::new(transform, channels, 100, Pass::Evaluate));
    let (grey, rgb) = (of(Channels::Grey), of(Channels::Rgb));
    assert_eq!((grey[0].shape, rgb[0].shape), ([100, 28, 28, 1], [100, 28, 28, 3]));
    assert!(rgb[3].images.chunks_exact(3).zip(&grey[3].images).all(|(rgb, &grey)| rgb == [grey; 3]));
}

#[test]
fn settings_without_sense_are_refused() {
    let refused = |config: LoaderConfig| {
        matches!(Loader::new(Arc::new(Numbered::new(10)), config), Err(DataError::Setting { .. }))
    };
    let good = config(4, Pass::Evaluate);
    assert!(!refused(good));
    assert!(refused(LoaderConfig { batch_size: 0, ..good }));
    assert!(refused(LoaderConfig { batches_ahead: 0, ..good }));
    assert!(refused(LoaderConfig { batch_size: usize::MAX, ..good }));
    assert!(refused(LoaderConfig { transform: Transform::CenterCrop { size: 0, resize: 4 }, ..good }));
    assert!(matches!(Loader::new(Arc::new(Numbered::new(0)), good), Err(DataError::Setting { .. })));
}
