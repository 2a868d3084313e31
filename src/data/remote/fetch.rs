//! Objects brought into the cache: those that somebody waits for first, then those that will be wanted next.
//!
//! What will be wanted is what was announced; without an announcement all of them, where the cache holds them all, and
//! else those that follow the one being read.
//!
//! A few threads fetch. One that fails is tried again after a pause, for as long as it is wanted; how long that may take
//! is decided by whoever waits, so a store that is away while the cache has what is needed harms nobody.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    cache::Cache,
    client::{Client, chance},
    fault::Fault,
    retry,
};
use crate::data::{error::Away, slot::lock};

/// Objects that come at the same time: one connection seldom fills a network.
const NUM_THREADS: usize = 4;
/// How soon to look again for a file that another process is fetching.
const OTHERS_PAUSE: Duration = Duration::from_millis(20);

/// An object to be cached.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// Its path below the store's folder.
    pub(super) path: String,
    pub(super) num_bytes: u64,
    /// What tells it from every other object of any store, as a file's name.
    pub(super) key: String,
}

/// Objects that are fetched on demand and ahead of it.
#[derive(Debug)]
pub(super) struct Fetcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Arc<Client>,
    cache: Cache,
    objects: Vec<Object>,
    /// Of all objects.
    total_bytes: u64,
    in_any_order: bool,
    state: Mutex<State>,
    /// Something changed: for threads, and for those who wait.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many wait for an object.
    demanded: BTreeMap<usize, usize>,
    /// Not waited for yet, in the order of their use.
    wanted: VecDeque<usize>,
    /// Whether somebody says what will be wanted.
    is_announced: bool,
    /// Why what is wanted cannot be had.
    refusal: Option<String>,
    /// The first that was waited for in vain.
    gave_up: Option<Away>,
    /// The object used last.
    used: Option<usize>,
    /// Those being fetched, and those that failed.
    tries: BTreeMap<usize, Tries>,
    stop: bool,
}

/// What became of an object so far.
#[derive(Debug, Default)]
struct Tries {
    is_running: bool,
    num_failed: u32,
    not_before: Option<Instant>,
    last: Option<Fault>,
}

impl Tries {
    fn lasts(&self) -> bool {
        self.last.as_ref().is_some_and(|fault| fault.lasts)
    }
}

impl Fetcher {
    /// Starts the threads. `in_any_order` says that objects will be used again and again, unless announced.
    pub(super) fn start(
        client: Arc<Client>,
        cache: Cache,
        objects: Vec<Object>,
        in_any_order: bool,
    ) -> io::Result<Self> {
        let total_bytes = objects.iter().map(|object| object.num_bytes).sum();
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { client, cache, objects, total_bytes, in_any_order, state, changed });
        // Threads end with the last one's piece when this is dropped; none is waited for.
        let fetcher = Self { shared };
        for number in 0..NUM_THREADS {
            let shared = fetcher.shared.clone();
            thread::Builder::new().name(format!("fetch-{number}")).spawn(move || shared.work())?;
        }
        Ok(fetcher)
    }

    /// Says which objects will be wanted after those that were said before, in the order of their use. The cache must
    /// have room for them beside those that are being used.
    pub(super) fn announce(&self, objects: impl IntoIterator<Item = usize>) {
        let mut state = lock(&self.shared.state);
        let before = state.wanted.len();
        state.is_announced = true;
        state.wanted.extend(objects);
        // The window that is read, this one, and what is left of one in between.
        let announced_bytes: u64 =
            state.wanted.range(before..).map(|&o| self.shared.objects[o].num_bytes).sum();
        let needed_bytes = announced_bytes.saturating_mul(3).min(self.shared.total_bytes);
        // A pass' last window is shorter: what was refused stays so.
        let refusal = state.refusal.take();
        state.refusal = refusal.or_else(|| self.shared.too_small("a window of the shuffle", needed_bytes));
        self.shared.changed.notify_all();
    }

    /// The object's file, when it is there.
    ///
    /// # Errors
    ///
    /// [`Away`] if it can never come, or not while patience lasts; then whatever is not in the cache is away too.
    pub(super) fn wait(&self, object: usize) -> Result<File, Away> {
        let Shared { cache, objects, client, .. } = &*self.shared;
        if let Some(what) = self.shared.follow(object) {
            return Err(Away { object: client.name(&objects[object].path), what, waited: None });
        }
        cache.get(&objects[object].key, SystemTime::now()).map_or_else(|| self.shared.demand(object), Ok)
    }

    /// Throws the object's file away: the next who waits for it has it fetched anew.
    pub(super) fn forget(&self, object: usize) {
        // What cannot be thrown away is read again, and still damaged.
        let _ = self.shared.cache.remove(&self.shared.objects[object].key);
    }

    /// The object's file, if it is there.
    pub(super) fn peek(&self, object: usize) -> Option<File> {
        let Shared { cache, objects, .. } = &*self.shared;
        cache.get(&objects[object].key, SystemTime::now())
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Wants what is likely to follow, where nobody says what will; returns why it cannot be had, if it cannot.
    fn follow(&self, object: usize) -> Option<String> {
        let mut state = lock(&self.state);
        if state.is_announced || state.used == Some(object) {
            return state.refusal.clone();
        }
        let (num_objects, total_bytes) = (self.objects.len(), self.total_bytes);
        let holds_all = total_bytes <= self.cache.limit_bytes();
        let is_first = state.used.replace(object).is_none();
        if self.in_any_order && is_first {
            state.refusal = self.too_small("a full shuffle, which reads any shard at any time,", total_bytes);
        }
        if is_first || !holds_all {
            let num_next = if holds_all { num_objects } else { num_objects.min(NUM_THREADS + 1) };
            state.wanted = (1..num_next).map(|step| (object + step) % num_objects).collect();
            self.changed.notify_all();
        }
        state.refusal.clone()
    }

    fn too_small(&self, what: &str, needed_bytes: u64) -> Option<String> {
        let limit_bytes = self.cache.limit_bytes();
        (needed_bytes > limit_bytes).then(|| {
            format!(
                "{what} needs a cache of {needed_bytes} bytes, and it may have {limit_bytes}: raise \
                 data.store.cache_bytes, or shuffle fewer shards at a time (data.shuffle = {{ window = N }})"
            )
        })
    }

    fn demand(&self, object: usize) -> Result<File, Away> {
        let begun = Instant::now();
        let mut state = lock(&self.state);
        *state.demanded.entry(object).or_default() += 1;
        // Whoever asks now wants to know of now.
        if let Some(tries) = state.tries.get_mut(&object).filter(|tries| !tries.is_running) {
            *tries = Tries::default();
        }
        self.changed.notify_all();
        let result = loop {
            if let Some(file) = self.cache.get(&self.objects[object].key, SystemTime::now()) {
                break Ok(file);
            }
            match self.verdict(&mut state, object, begun.elapsed()) {
                Ok(left) => {
                    let waiting = self.changed.wait_timeout(state, left);
                    state = waiting.unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(away) => break Err(away),
            }
        };
        if let Some(num_waiting) = state.demanded.get_mut(&object) {
            *num_waiting -= 1;
            if *num_waiting == 0 {
                state.demanded.remove(&object);
            }
        }
        result
    }

    /// How much longer to wait for an object, if at all. Once one waited in vain all do: else those of a batch would
    /// wait one after the other.
    fn verdict(&self, state: &mut State, object: usize, waited: Duration) -> Result<Duration, Away> {
        if let Some(away) = &state.gave_up {
            return Err(away.clone());
        }
        let patience = self.client.patience();
        let last = state.tries.get(&object).and_then(|tries| tries.last.as_ref());
        let lasts = last.is_some_and(|fault| fault.lasts);
        if !lasts && waited < patience {
            return Ok(patience - waited);
        }
        let what = last.map_or_else(|| "nothing came".into(), |fault| fault.what.clone());
        let waited = (!lasts).then_some(waited);
        let away = Away { object: self.client.name(&self.objects[object].path), what, waited };
        if !lasts {
            state.gave_up = Some(away.clone());
            self.changed.notify_all();
        }
        Err(away)
    }

    /// What a thread does until it is told to stop.
    fn work(&self) {
        let mut state = lock(&self.state);
        while !state.stop {
            let now = Instant::now();
            match self.next(&mut state, now) {
                Next::Object(object) => {
                    state.tries.entry(object).or_default().is_running = true;
                    drop(state);
                    let outcome = self.fetch(object);
                    state = lock(&self.state);
                    settle(&mut state.tries, object, outcome, Instant::now());
                    self.changed.notify_all();
                }
                Next::Pause(until) => {
                    let pause = until.map_or(Duration::MAX, |until| until.saturating_duration_since(now));
                    // Longer than any run, and not so long that it overflows the clock.
                    let pause = pause.min(Duration::from_secs(1 << 30));
                    state = self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// What to fetch now: what is waited for, else what will be wanted next.
    fn next(&self, state: &mut State, now: Instant) -> Next {
        let State { demanded, wanted, tries, .. } = state;
        // What came, or cannot come before it is asked for, is wanted no more.
        while let Some(&object) = wanted.front()
            && (self.cache.has(&self.objects[object].key) || tries.get(&object).is_some_and(Tries::lasts))
        {
            wanted.pop_front();
        }
        let mut until: Option<Instant> = None;
        let ahead = wanted.iter().take(2 * NUM_THREADS);
        for object in demanded.keys().chain(ahead).copied() {
            match tries.get(&object) {
                Some(tries) if tries.is_running || tries.lasts() => {}
                Some(Tries { not_before: Some(moment), .. }) if *moment > now => {
                    until = Some(until.map_or(*moment, |until| until.min(*moment)));
                }
                // One that is there is settled by a try, so that whoever waits hears of it.
                _ if !demanded.contains_key(&object) && self.cache.has(&self.objects[object].key) => {}
                _ => return Next::Object(object),
            }
        }
        Next::Pause(until)
    }

    /// One try.
    fn fetch(&self, object: usize) -> Result<Came, Fault> {
        let Object { path, num_bytes, key } = &self.objects[object];
        let disk = |error: io::Error| Fault {
            what: format!("the cache {}: {error}", self.cache.folder().display()),
            // Room comes back when others are done.
            lasts: error.kind() != io::ErrorKind::StorageFull,
        };
        if self.cache.has(key) {
            return Ok(Came::Whole);
        }
        let Some(claim) = self.cache.claim(key, *num_bytes).map_err(disk)? else {
            return Ok(if self.cache.has(key) { Came::Whole } else { Came::ByAnother });
        };
        let (mut written_bytes, mut tag) = (0, None);
        loop {
            let download = self.client.get(path, written_bytes, tag.clone())?;
            if download.object_bytes != *num_bytes {
                return Err(Fault::lasting(format!(
                    "it has {} bytes, its data set says {num_bytes}: it was not written whole, or written anew",
                    download.object_bytes
                )));
            }
            // Not every server compares the tags.
            if written_bytes > 0 && download.tag != tag {
                return Err(Fault::passing("the object was replaced while it was read"));
            }
            tag.clone_from(&download.tag);
            let before_bytes = written_bytes;
            let broken = download_to(claim.file(), download, &mut written_bytes, *num_bytes);
            match broken {
                Ok(()) => break,
                // A connection that gave something is taken up where it broke, of the same object.
                Err(Broken::Store(_)) if written_bytes > before_bytes && tag.is_some() => {}
                Err(Broken::Store(fault)) => return Err(fault),
                Err(Broken::Disk(error)) => return Err(disk(error)),
            }
        }
        claim.finish().map_err(disk)?;
        Ok(Came::Whole)
    }
}

/// What a thread is to do.
enum Next {
    Object(usize),
    /// Until then, or until something changes.
    Pause(Option<Instant>),
}

/// How a try ended well.
enum Came {
    Whole,
    /// Another process is at it.
    ByAnother,
}

/// Why a download ended early.
enum Broken {
    Store(Fault),
    Disk(io::Error),
}

/// Writes pieces from byte `written_bytes` on, which it moves.
fn download_to(
    file: &File,
    pieces: impl Iterator<Item = Result<bytes::Bytes, Fault>>,
    written_bytes: &mut u64,
    num_bytes: u64,
) -> Result<(), Broken> {
    for piece in pieces {
        let piece = piece.map_err(Broken::Store)?;
        if *written_bytes + piece.len() as u64 > num_bytes {
            return Err(Broken::Store(Fault::lasting(format!("more than its {num_bytes} bytes came"))));
        }
        file.write_all_at(&piece, *written_bytes).map_err(Broken::Disk)?;
        *written_bytes += piece.len() as u64;
    }
    match *written_bytes {
        got if got == num_bytes => Ok(()),
        got => Err(Broken::Store(Fault::passing(format!("{got} bytes of {num_bytes}")))),
    }
}

/// Takes down how a try ended.
fn settle(tries: &mut BTreeMap<usize, Tries>, object: usize, outcome: Result<Came, Fault>, now: Instant) {
    match outcome {
        Ok(Came::Whole) => {
            tries.remove(&object);
        }
        Ok(Came::ByAnother) => {
            let tries = tries.entry(object).or_default();
            tries.is_running = false;
            tries.not_before = Some(now + OTHERS_PAUSE);
        }
        Err(fault) => {
            let tries = tries.entry(object).or_default();
            tries.is_running = false;
            tries.num_failed += 1;
            tries.not_before = Some(now + retry::pause(tries.num_failed, chance()));
            tries.last = Some(fault);
        }
    }
}
