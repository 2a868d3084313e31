//! Goal: shards in a store are the data set that they are on disk, whatever the store does meanwhile; what it never
//! gives is said in one line within the time limit, and a run saves its state then and goes on later. On disk there is
//! never more than the limit.
//!
//! Method: a server on loopback that answers 503, cuts off, falls silent, turns bits, dies and comes back, at requests
//! that the test names; runs by the command and by ranks as threads, compared bit for bit with a run from the folder.

#![cfg(feature = "remote")]
#![allow(clippy::unwrap_used)]

#[path = "common/by_library.rs"]
mod by_library;
mod common;
#[path = "common/store_server.rs"]
mod store_server;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use burn_dist::{Rank, WorldSize};
use burn_sprint::{
    Error,
    data::{
        Address, Channels, DataError, Loader, LoaderConfig, Location, OnBadFile, Pass, Picture, Remote,
        SampleFault, SharedSource, Shuffle, Split, Tail, Transform, open, open_pair,
    },
};
use by_library::{on_ranks, train_rank};
use common::{
    NUM_CLASSES, NUM_TRAIN, NUM_VAL, Random, SIDE, assert_same_end, checkpoints, command, files, pattern,
    python, sets, sprint, tiny, wait_until, word,
};
use store_server::{Answer, Server};

/// Pictures in a shard.
const IN_SHARD: usize = 5;
/// Of the recipe [`common::TINY`].
const SEED: u64 = 3;

/// A shard of `count` PNGs as `sprint prepare` writes it: a tar, and its index.
fn write_shard(folder: &Path, name: &str, first: usize, count: usize) -> String {
    let mut tar = tar::Builder::new(Vec::new());
    let mut index = Vec::new();
    let mut append = |path: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes).unwrap();
        tar.get_ref().len() - bytes.len().next_multiple_of(512)
    };
    for picture in first..first + count {
        let class = picture % NUM_CLASSES;
        let mut png = std::io::Cursor::new(Vec::new());
        let pixels = pattern(class, &mut Random(picture as u64));
        let image = image::GrayImage::from_raw(SIDE as u32, SIDE as u32, pixels).unwrap();
        image.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let png = png.into_inner();
        append(format!("{picture:05}.cls"), class.to_string().as_bytes());
        let offset = append(format!("{picture:05}.png"), &png);
        index.extend((offset as u64).to_le_bytes());
        let side = SIDE as u32;
        let numbers = [png.len() as u32, class as u32, side, side, crc32c::crc32c(&png)];
        index.extend(numbers.into_iter().flat_map(u32::to_le_bytes));
    }
    let tar = tar.into_inner().unwrap();
    let mut file = b"BSindex1".to_vec();
    file.extend((tar.len() as u64).to_le_bytes());
    file.extend((count as u64).to_le_bytes());
    file.extend(index);
    file.extend(crc32c::crc32c(&file).to_le_bytes());
    fs::write(folder.join(format!("{name}.index")), file).unwrap();
    fs::write(folder.join(format!("{name}.tar")), &tar).unwrap();
    format!(r#"{{"file": "{name}.tar", "num_bytes": {}, "num_images": {count}}}"#, tar.len())
}

/// A data set of shards.
fn write_shards(folder: &Path) {
    let part = |part: &str, count: usize, seed: usize| {
        let shards = (0..count).step_by(IN_SHARD).enumerate().map(|(number, first)| {
            write_shard(folder, &format!("{part}-{number}"), seed + first, IN_SHARD.min(count - first))
        });
        shards.collect::<Vec<_>>().join(", ")
    };
    let classes = (0..NUM_CLASSES).map(|class| format!("\"class{class}\"")).collect::<Vec<_>>().join(", ");
    let (train, val) = (part("train", NUM_TRAIN, 0), part("val", NUM_VAL, 10_000));
    let catalog = format!(
        r#"{{"format": "burn-sprint-shards-1", "classes": [{classes}], "train": [{train}], "val": [{val}]}}"#
    );
    fs::write(folder.join("shards.json"), catalog).unwrap();
}

/// A served data set, with a folder for caches and runs.
struct Bench {
    temp: tempfile::TempDir,
    server: Server,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        fs::create_dir(&data).unwrap();
        write_shards(&data);
        let server = Server::start(&data);
        Self { temp, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn remote(&self) -> Remote {
        Remote {
            address: Address::parse(&self.server.url()).unwrap(),
            cache_dir: self.path("cache"),
            cache_bytes: 1 << 30,
            patience: Duration::from_secs(60),
        }
    }

    /// An answer that damages a picture of a shard.
    fn within(&self, shard: &str, picture: usize) -> Answer {
        let index = fs::read(self.path("data").join(format!("{shard}.index"))).unwrap();
        let offset = index[24 + 28 * picture..][..8].try_into().unwrap();
        Answer::Damage(u64::from_le_bytes(offset) as usize + 10)
    }

    fn open(&self, remote: Remote, split: Split) -> Result<SharedSource, DataError> {
        open(&Location::Remote(remote), split)
    }

    /// What a run is told on top of the tiny recipe.
    fn set(&self, patience_s: f64) -> Vec<String> {
        vec![
            "data.mean=[0.5, 0.5, 0.5]".into(),
            "data.std=[0.25, 0.25, 0.25]".into(),
            "data.num_workers=2".into(),
            // At the end of epochs alone: whatever else is saved is saved because the store is away.
            "checkpoint.every_steps=0".into(),
            format!("data.store.cache_dir={}", word(&self.path("cache"))),
            format!("data.store.patience_s={patience_s:?}"),
        ]
    }

    /// The words of a tiny run of data at `data`.
    fn words(&self, data: &Path, run: &str, patience_s: f64) -> Vec<String> {
        let mut words = tiny(data, &self.path(run));
        words.extend(sets(&self.set(patience_s)));
        words
    }

    /// The words of a run from the server.
    fn served(&self, patience_s: f64) -> Vec<String> {
        self.words(Path::new(&self.server.url()), "run", patience_s)
    }

    /// The training shard that a rank reads latest in the first epoch, and how many steps are made without it.
    fn latest_shard(&self, rank: Rank) -> (String, u64) {
        let source = open(&Location::Path(self.path("data")), Split::Train).unwrap();
        let pass = Pass::Train { seed: SEED, epoch: 0, tail: Tail::Drop };
        let transform = Transform::CenterCrop { size: SIDE, resize: SIDE };
        let config = LoaderConfig { rank, ..LoaderConfig::new(transform, Channels::Rgb, 16, pass) };
        let mut first_used = vec![None; NUM_TRAIN / IN_SHARD];
        for batch in Loader::new(source, config).unwrap().map(Result::unwrap) {
            for index in &batch.indices {
                first_used[index / IN_SHARD].get_or_insert(batch.number as u64);
            }
        }
        let latest = (0..first_used.len()).max_by_key(|&shard| first_used[shard]).unwrap();
        let num_steps = first_used[latest].unwrap();
        assert!(num_steps >= 2, "every shard is needed at once: the test shows nothing");
        (format!("train-{latest}.tar"), num_steps)
    }

    /// Serves all but one shard; starts a run, and returns it when it has come as far as it can without: the row of its
    /// last step waits for the one after it.
    fn run_without(&self, shard: &str, num_steps: u64, patience_s: f64) -> Child {
        let missing = shard.to_owned();
        self.server.answer(move |path, _| if path == missing { Answer::Status(503) } else { Answer::Serve });
        let mut child = command(self.served(patience_s)).spawn().unwrap();
        let rows = self.path("run/metrics.jsonl");
        let row = format!("\"step\":{},", num_steps - 1);
        wait_until("the run does not begin", || {
            let has_come = fs::read_to_string(&rows).unwrap_or_default().contains(&row);
            if !has_come && child.try_wait().unwrap().is_some() {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("the run ended: {said}");
            }
            has_come
        });
        child
    }
}

/// Every picture's pixels and label.
fn contents(source: &SharedSource) -> Vec<(u32, Vec<u8>)> {
    let one = |index| {
        let mut picture = Picture::default();
        source.read(index, &mut picture).unwrap();
        (source.label(index), picture.pixels().to_vec())
    };
    (0..source.num_images()).map(one).collect()
}

/// A run from a folder, never disturbed: one for all tests.
fn whole() -> &'static Path {
    static WHOLE: OnceLock<PathBuf> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let bench = Bench::new();
        // Statics are never dropped: what stays is among what Cargo made.
        let run =
            tempfile::Builder::new().prefix("whole-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
        sprint(bench.words(&bench.path("data"), &word(&run), 60.0)).ok();
        run
    })
}

/// What the cache's files take. Under its lock, or files come and go meanwhile.
fn cached_bytes(folder: &Path) -> u64 {
    let lock = fs::File::open(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[track_caller]
fn away(result: Result<(), burn_sprint::data::SampleError>) -> String {
    match result.unwrap_err() {
        error if matches!(error.fault, SampleFault::Away(_)) => error.to_string(),
        error => panic!("{error}"),
    }
}

/// For how long a message says that the store was tried.
#[track_caller]
fn tried_s(message: &str) -> f64 {
    let (_, after) = message.split_once("; tried for ").unwrap_or_else(|| panic!("{message}"));
    after.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn pictures_in_a_store_are_those_of_the_folder() {
    let bench = Bench::new();
    let folder = open_pair(&Location::Path(bench.path("data")), None, 0.2).unwrap();
    let file = Address::parse(&format!("file://{}", bench.path("data").display())).unwrap();
    for remote in [bench.remote(), Remote { address: file, ..bench.remote() }] {
        let store = open_pair(&Location::Remote(remote), None, 0.2).unwrap();
        assert_eq!(store.train.class_names(), folder.train.class_names());
        assert_eq!(contents(&store.train), contents(&folder.train));
        assert_eq!(contents(&store.val), contents(&folder.val));
        assert_eq!(store.val.dimensions(0).unwrap(), (SIDE, SIDE));
        assert!(store.val.name(0).ends_with("/val-0.tar#10000"), "{}", store.val.name(0));
    }
}

/// Two sources stand for two ranks of a machine: they share the cache, and each shard is fetched once.
#[test]
fn a_shard_is_fetched_once_for_a_machine() {
    let bench = Bench::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| contents(&bench.open(bench.remote(), Split::Train).unwrap()));
        }
    });
    for shard in 0..NUM_TRAIN / IN_SHARD {
        assert_eq!(bench.server.num_requests(&format!("train-{shard}.tar")), 1, "shard {shard}");
    }
}

#[test]
fn a_store_that_answers_badly_for_a_while_changes_nothing() {
    let bench = Bench::new();
    let expected = contents(&open(&Location::Path(bench.path("data")), Split::Val).unwrap());
    bench.server.answer(|path, num_before| match (path, num_before) {
        ("shards.json", 0) | ("val-1.index", 0) => Answer::Status(503),
        ("shards.json", 1) | ("val-2.index", 0) => Answer::Truncate(10),
        ("val-3.index", 0) | ("val-3.tar", 0) => Answer::Stall,
        ("val-1.tar", 0 | 1) => Answer::Status(500),
        ("val-2.tar", 0) => Answer::Truncate(700),
        ("val-4.tar", 0) => Answer::Status(429),
        _ => Answer::Serve,
    });
    // Several connections may be silent within the patience: this one is given up after a second.
    let remote = Remote { patience: Duration::from_secs(8), ..bench.remote() };
    assert_eq!(contents(&bench.open(remote, Split::Val).unwrap()), expected);
    assert_eq!(bench.server.num_requests("val-1.tar"), 3);
    // Taken up where it broke.
    assert_eq!(bench.server.starts("val-2.tar"), [0, 700]);
    assert_eq!(bench.server.num_requests("val-3.tar"), 2);
}

#[test]
fn what_lasts_is_said_at_once_and_what_passes_after_the_limit() {
    let bench = Bench::new();
    let short = Remote { patience: Duration::from_secs(4), ..bench.remote() };
    let val = bench.open(short.clone(), Split::Val).unwrap();
    bench.server.answer(|path, _| match path {
        "val-0.tar" => Answer::Status(404),
        "val-1.tar" => Answer::Status(403),
        _ => Answer::Status(503),
    });
    let mut picture = Picture::default();
    let message = away(val.read(0, &mut picture));
    assert!(message.contains("the store does not give http://127.0.0.1:"), "{message}");
    assert!(message.ends_with("/val-0.tar: there is no such object"), "{message}");
    let message = away(val.read(IN_SHARD, &mut picture));
    assert!(message.contains("/val-1.tar: access is refused: credentials come from"), "{message}");
    let message = away(val.read(2 * IN_SHARD, &mut picture));
    assert!(message.contains("/val-2.tar: Server returned non-2xx status code: 503"), "{message}");
    assert!(tried_s(&message) >= 4.0, "{message}");
    assert!(!message.contains('\n'));

    bench.server.answer(|_, _| Answer::Status(404));
    let error = bench.open(bench.remote(), Split::Val).unwrap_err();
    assert!(
        error.is_away() && error.to_string().ends_with("/shards.json: there is no such object"),
        "{error}"
    );
    bench.server.answer(|_, _| Answer::Status(503));
    let error = bench.open(short, Split::Val).unwrap_err();
    assert!(error.is_away() && error.to_string().contains("status code: 503"), "{error}");
}

/// Leaving it out would train something else; only what is wrong with the picture itself may be passed over.
#[test]
fn what_a_store_does_not_give_is_no_bad_picture() {
    let bench = Bench::new();
    let val = bench.open(bench.remote(), Split::Val).unwrap();
    let load = |source: &SharedSource| {
        let transform = Transform::CenterCrop { size: SIDE, resize: SIDE };
        let config = LoaderConfig {
            on_bad_file: OnBadFile::Skip,
            ..LoaderConfig::new(transform, Channels::Grey, 8, Pass::Evaluate)
        };
        let mut loader = Loader::new(source.clone(), config).unwrap();
        let error = loader.by_ref().find_map(Result::err);
        (error, loader.num_skipped())
    };
    bench.server.answer(|path, _| if path == "val-3.tar" { Answer::Status(404) } else { Answer::Serve });
    let (error, _) = load(&val);
    assert!(error.as_ref().is_some_and(DataError::is_away), "{error:?}");

    let damage = bench.within("val-3", 2);
    bench.server.answer(move |path, _| if path == "val-3.tar" { damage } else { Answer::Serve });
    let (error, num_skipped) = load(&bench.open(bench.remote(), Split::Val).unwrap());
    assert!(error.is_none() && num_skipped == 1, "{error:?} {num_skipped}");
}

#[test]
fn bytes_that_changed_on_the_way_are_seen() {
    let bench = Bench::new();
    let damage = bench.within("val-0", 2);
    bench.server.answer(move |path, _| if path == "val-0.tar" { damage } else { Answer::Serve });
    let val = bench.open(bench.remote(), Split::Val).unwrap();
    let mut picture = Picture::default();
    for index in 0..IN_SHARD {
        match val.read(index, &mut picture) {
            Ok(()) => assert_ne!(index, 2),
            Err(error) => {
                assert!(index == 2 && matches!(error.fault, SampleFault::Checksum { .. }), "{error}");
                assert!(error.to_string().contains("/val-0.tar#10002: is damaged"), "{error}");
            }
        }
    }
}

#[test]
fn a_small_cache_holds_its_limit_and_a_full_shuffle_says_what_it_needs() {
    let bench = Bench::new();
    let shard = fs::metadata(bench.path("data/val-0.tar")).unwrap().len();
    let remote = Remote { cache_bytes: 5 * shard, ..bench.remote() };
    let val = bench.open(remote.clone(), Split::Val).unwrap();
    let mut picture = Picture::default();
    for _ in 0..2 {
        for index in 0..val.num_images() {
            val.read(index, &mut picture).unwrap();
            assert!(cached_bytes(&remote.cache_dir) <= remote.cache_bytes);
        }
    }
    let train = bench.open(remote, Split::Train).unwrap();
    let message = away(train.read(0, &mut picture));
    assert!(
        message.contains("a full shuffle, which reads any shard at any time, needs a cache of"),
        "{message}"
    );
    assert!(message.contains("raise data.store.cache_bytes"), "{message}");
}

/// A shuffle of a few shards at a time needs room for a few times as many.
#[test]
fn a_quasi_random_order_needs_a_cache_of_a_few_windows() {
    let bench = Bench::new();
    let shard = fs::metadata(bench.path("data/train-0.tar")).unwrap().len();
    let remote = Remote { cache_bytes: 12 * shard, ..bench.remote() };
    let load = |window: usize| {
        let transform = Transform::CenterCrop { size: SIDE, resize: SIDE };
        let pass = Pass::Train { seed: SEED, epoch: 0, tail: Tail::Drop };
        let shuffle = Shuffle::QuasiRandom { window: window.try_into().unwrap() };
        let config = LoaderConfig { shuffle, ..LoaderConfig::new(transform, Channels::Grey, 8, pass) };
        Loader::new(bench.open(remote.clone(), Split::Train).unwrap(), config).unwrap()
    };
    let mut num_images = 0;
    for batch in load(2) {
        num_images += batch.unwrap().len();
        assert!(cached_bytes(&remote.cache_dir) <= remote.cache_bytes);
    }
    assert_eq!(num_images, NUM_TRAIN / 8 * 8);
    let error = load(8).find_map(Result::err).unwrap();
    assert!(error.to_string().contains("a window of the shuffle needs a cache of"), "{error}");
}

/// One that is missing ends the opening: of 33 no more are asked for than at the same time.
#[test]
fn indexes_that_do_not_come_are_not_waited_for_one_after_the_other() {
    let bench = Bench::new();
    bench.server.answer(|path, _| if path.ends_with(".index") { Answer::Status(404) } else { Answer::Serve });
    let error = bench.open(bench.remote(), Split::Train).unwrap_err();
    assert!(error.is_away() && error.to_string().contains(".index: there is no such object"), "{error}");
    let asked = |number: &usize| bench.server.num_requests(&format!("train-{number}.index")) > 0;
    let num_asked = (0..NUM_TRAIN / IN_SHARD).filter(asked).count();
    assert!(num_asked <= 16, "{num_asked}");
    assert_eq!(bench.server.num_requests("train-0.tar"), 0);
}

/// By the disk, or a power cut: one bit of a shard that came whole. Nobody has to delete it by hand.
#[test]
fn a_shard_that_was_damaged_in_the_cache_is_fetched_anew() {
    let bench = Bench::new();
    let expected = contents(&open(&Location::Path(bench.path("data")), Split::Val).unwrap());
    let load = || contents(&bench.open(bench.remote(), Split::Val).unwrap());
    assert_eq!(load(), expected);
    let whole = fs::read(bench.path("data/val-1.tar")).unwrap();
    let Answer::Damage(at) = bench.within("val-1", 3) else { panic!("damages") };
    let cached = fs::read_dir(bench.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    let cached = { cached }.find(|path| fs::read(path).unwrap() == whole).unwrap();
    let mut damaged = whole.clone();
    damaged[at] ^= 1;
    fs::write(&cached, damaged).unwrap();
    assert_eq!(load(), expected);
    assert_eq!(bench.server.num_requests("val-1.tar"), 2);
    assert_eq!(fs::read(cached).unwrap(), whole);
}

/// The server gives any part of whatever lies there, and compares no tags.
#[test]
fn halves_of_two_objects_do_not_become_one() {
    let bench = Bench::new();
    let expected = contents(&open(&Location::Path(bench.path("data")), Split::Val).unwrap());
    bench.server.answer(|path, num_before| match (path, num_before) {
        ("val-2.tar", 0) => Answer::Truncate(700),
        ("val-2.tar", _) => Answer::Replaced,
        _ => Answer::Serve,
    });
    assert_eq!(contents(&bench.open(bench.remote(), Split::Val).unwrap()), expected);
    assert_eq!(bench.server.starts("val-2.tar"), [0, 700, 0]);
}

/// Three windows, or all there is; and the last window of a pass, which is shorter, changes nothing.
#[test]
fn a_window_needs_no_larger_cache_than_the_whole() {
    let bench = Bench::new();
    let shards = (0..NUM_TRAIN / IN_SHARD).map(|number| bench.path(&format!("data/train-{number}.tar")));
    let total_bytes: u64 = shards.map(|path| fs::metadata(path).unwrap().len()).sum();
    let load = |window: usize, cache_bytes: u64| {
        let remote = Remote { cache_bytes, ..bench.remote() };
        let transform = Transform::CenterCrop { size: SIDE, resize: SIDE };
        let pass = Pass::Train { seed: SEED, epoch: 0, tail: Tail::Drop };
        let shuffle = Shuffle::QuasiRandom { window: window.try_into().unwrap() };
        let config = LoaderConfig { shuffle, ..LoaderConfig::new(transform, Channels::Grey, 8, pass) };
        let loader = Loader::new(bench.open(remote, Split::Train).unwrap(), config).unwrap();
        loader.map(|batch| batch.map(|batch| batch.len())).sum::<Result<usize, DataError>>()
    };
    for window in [30, 33] {
        assert_eq!(load(window, total_bytes).unwrap(), NUM_TRAIN / 8 * 8);
        let error = load(window, total_bytes - 1).unwrap_err().to_string();
        assert!(
            error.contains(&format!("a window of the shuffle needs a cache of {total_bytes} bytes")),
            "{error}"
        );
    }
}

#[test]
fn the_words_that_are_wrong_are_told() {
    let bench = Bench::new();
    let error = |data: &str| sprint(bench.words(Path::new(data), "run", 1.0)).error(2).to_owned();
    let message = error("https://me:hunter2@localhost/set");
    assert!(message.contains("has a user or password in it") && !message.contains("hunter2"), "{message}");
    assert!(error("ftp://localhost/set").contains("no kind of store"));
    assert!(!bench.path("run").exists());
}

/// Killed in the middle of an epoch, while a shard is lacking, and started again: nothing in the result shows it.
#[test]
fn a_run_goes_on_when_the_store_comes_back() {
    let mut bench = Bench::new();
    let (shard, num_steps) = bench.latest_shard(Rank::SINGLE);
    let child = bench.run_without(&shard, num_steps, 60.0);
    bench.server.kill();
    bench.server.restart();
    common::Output::of(child.wait_with_output().unwrap()).ok();
    assert_same_end(&bench.path("run"), whole());
}

/// Gone for good: the run ends by itself, its state saved after the last step that it could make; it goes on from there
/// when the store is back, from a cache that is empty again.
#[test]
fn a_run_ends_with_its_state_saved_when_the_store_stays_away() {
    let mut bench = Bench::new();
    let (shard, num_steps) = bench.latest_shard(Rank::SINGLE);
    let child = bench.run_without(&shard, num_steps, 4.0);
    bench.server.kill();
    let output = common::Output::of(child.wait_with_output().unwrap());
    let message = output.error(1);
    assert!(message.contains(&format!("/{shard}: ")) && tried_s(message) >= 4.0, "{message}");
    assert!(message.contains(&format!("the state after step {num_steps} is saved")), "{message}");
    assert_eq!(checkpoints(&bench.path("run")).pop().unwrap().0, num_steps);
    let config = fs::read_to_string(bench.path("run/config.toml")).unwrap();
    assert!(config.contains(&format!("path = \"{}\"", bench.server.url())), "{config}");

    fs::remove_dir_all(bench.path("cache")).unwrap();
    bench.server.restart();
    sprint(["train", "--out", &word(&bench.path("run")), "--resume"]).ok();
    // The first run ended with a row that says so.
    let rows = bench.path("run/metrics.jsonl");
    assert!(!fs::read_to_string(&rows).unwrap().contains("\"failed\""));
    assert_same_end(&bench.path("run"), whole());
}

/// The same while it evaluates: the epoch's training is not lost.
#[test]
fn a_store_that_leaves_during_an_evaluation_costs_no_step() {
    let mut bench = Bench::new();
    bench.server.answer(|path, _| if path == "val-3.tar" { Answer::Status(503) } else { Answer::Serve });
    let output = sprint(bench.served(4.0));
    let message = output.error(1);
    assert!(
        message.contains("/val-3.tar") && message.contains("the state after step 10 is saved"),
        "{message}"
    );
    bench.server.restart();
    sprint(["train", "--out", &word(&bench.path("run")), "--resume"]).ok();
    assert_same_end(&bench.path("run"), whole());
}

/// One rank's store goes away, the other's does not: both end after the same step, and rank 0 has saved it.
#[test]
fn ranks_save_together_when_one_of_them_loses_its_store() {
    let bench = Bench::new();
    let (shard, num_steps) = bench.latest_shard(Rank::new(1, WorldSize::new(2).unwrap()).unwrap());
    let lost = shard.clone();
    let server = Server::start(&bench.path("data"));
    server.answer(move |path, _| if path == lost { Answer::Status(503) } else { Answer::Serve });
    let errors = on_ranks(2, |comm| {
        let rank = comm.rank().index();
        let url = if rank == 0 { bench.server.url() } else { server.url() };
        let mut set = bench.set(4.0);
        set.push(format!("data.store.cache_dir={}", word(&bench.path(&format!("cache{rank}")))));
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let out = bench.path(&format!("rank{rank}"));
        train_rank(comm, Path::new(&url), &out, &set, |_| {}).unwrap_err()
    });
    for error in errors {
        let message = error.to_string();
        assert!(matches!(error, Error::Away { .. }), "{message}");
        assert!(message.starts_with("rank 1") && message.contains(&shard), "{message}");
        assert!(message.contains(&format!("the state after step {num_steps} is saved")), "{message}");
    }
    assert_eq!(checkpoints(&bench.path("rank0")).pop().unwrap().0, num_steps);
}

/// S3's own protocol, by the server of the Python package moto.
#[test]
fn a_run_is_served_by_an_s3_server() {
    const SERVE: &str = r#"
import pathlib, sys
from moto.server import ThreadedMotoServer
import boto3
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"
s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="me", aws_secret_access_key="hunter2")
s3.create_bucket(Bucket="pictures")
for path in pathlib.Path(sys.argv[1]).iterdir():
    s3.upload_file(str(path), "pictures", f"a set/{path.name}")
print(url, flush=True)
sys.stdin.read()
"#;
    // Flask is what moto's server lacks if only moto was installed.
    let Some(mut python) = python(&["moto", "flask"]) else { return };
    let bench = Bench::new();
    let said = bench.path("said");
    let mut server = python
        .args(["-c", SERVE, &word(&bench.path("data"))])
        // It ends with this, also where the test fails.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let url = url.trim();
    assert!(url.starts_with("http"), "{url}{}", fs::read_to_string(said).unwrap());
    let output = command(bench.words(Path::new("s3://pictures/a set"), "run", 20.0))
        .envs([("AWS_ENDPOINT", url), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")])
        .envs([("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "hunter2")])
        .output();
    server.kill().unwrap();
    server.wait().unwrap();
    let output = common::Output::of(output.unwrap()).ok();
    assert_same_end(&bench.path("run"), whole());
    for (path, bytes) in files(&bench.path("run")) {
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"), "{}", path.display());
    }
    assert!(!output.stderr.contains("hunter2"));
}
