//! Whole files on local disk under a size limit, shared by the processes of a machine.
//!
//! A file is made under another name, `.part`, whose room is taken before the first byte comes, and renamed when it is
//! whole. Whoever makes it holds a lock on it, so that two ranks do not fetch the same; room is given out under the
//! folder's lock, so that all together never have more than the limit. The locks are the system's: they end with their
//! process, and what a killed one left is thrown away. Files that were used longest ago leave first.
//!
//! Not here: where files come from, when they are wanted.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::{fs::FallocateFlags, io::Errno};

/// How old the note of a file's last use may get: it is made anew no more often.
const USE_NOTED: Duration = Duration::from_secs(20);
const LOCK: &str = "lock";
const WHOLE: &str = "shard";
const PART: &str = "part";

/// A folder of files that may leave.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    limit_bytes: u64,
}

/// The right to make a file, held by one process of all; given up when dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    cache: &'a Cache,
    key: String,
    part: File,
    is_whole: bool,
}

/// A file that may leave.
struct Whole {
    used: SystemTime,
    path: PathBuf,
    num_bytes: u64,
}

impl Cache {
    /// A cache in that folder, which is made.
    pub(super) fn open(folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.into(), limit_bytes })
    }

    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file, if it is there, and a note that it was used. It can be read to its end even if it leaves meanwhile.
    pub(super) fn get(&self, key: &str, now: SystemTime) -> Option<File> {
        let file = File::open(self.path(key, WHOLE)).ok()?;
        let noted = file.metadata().and_then(|metadata| metadata.modified());
        if noted.is_ok_and(|noted| now.duration_since(noted).is_ok_and(|age| age > USE_NOTED)) {
            // Another user's file cannot be noted: it only leaves the earlier.
            let _ = file.set_modified(now);
        }
        Some(file)
    }

    /// Whether the file is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.path(key, WHOLE).exists()
    }

    /// Throws the file away, if it is there.
    pub(super) fn remove(&self, key: &str) -> io::Result<()> {
        let _lock = self.lock()?;
        match fs::remove_file(self.path(key, WHOLE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The right to make a file of that length, with room for it; `None` while another process makes it, or once it is
    /// there.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::StorageFull`], in words, where neither the limit nor the disk has room for it.
    pub(super) fn claim(&self, key: &str, num_bytes: u64) -> io::Result<Option<Claim<'_>>> {
        let path = self.path(key, PART);
        let lock = self.lock()?;
        let part = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
        match part.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // What a killed process left of it counts no more.
        part.set_len(0)?;
        if self.has(key) {
            return Ok(None);
        }
        let claim = Claim { cache: self, key: key.into(), part, is_whole: false };
        self.make_room(&claim.part, num_bytes)?;
        drop(lock);
        Ok(Some(claim))
    }

    /// Takes `num_bytes` for `part`; older files leave until there are as many. Under the folder's lock.
    fn make_room(&self, part: &File, num_bytes: u64) -> io::Result<()> {
        let full = |what: String| Err(io::Error::new(io::ErrorKind::StorageFull, what));
        if num_bytes > self.limit_bytes {
            let limit = self.limit_bytes;
            return full(format!(
                "a shard has {num_bytes} bytes, the cache may have {limit}: raise data.store.cache_bytes"
            ));
        }
        let (mut used_bytes, mut files) = self.files()?;
        // The one used longest ago last.
        files.sort_by_key(|file| std::cmp::Reverse(file.used));
        loop {
            if used_bytes + num_bytes <= self.limit_bytes {
                match take(part, num_bytes) {
                    Err(error) if error.kind() == io::ErrorKind::StorageFull && !files.is_empty() => {}
                    other => return other,
                }
            }
            let Some(oldest) = files.pop() else {
                let limit = self.limit_bytes;
                return full(format!(
                    "of the cache's {limit} bytes {used_bytes} are being filled, and {num_bytes} more are needed: raise \
                     data.store.cache_bytes"
                ));
            };
            fs::remove_file(oldest.path)?;
            used_bytes -= oldest.num_bytes;
        }
    }

    /// The bytes that are taken, and the files that may leave. What a killed process left of a file leaves now.
    fn files(&self) -> io::Result<(u64, Vec<Whole>)> {
        let mut used_bytes = 0;
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if !matches!(extension, Some(WHOLE | PART)) {
                continue;
            }
            // A file may be renamed or given up between two looks.
            let Ok(file) = File::open(&path) else { continue };
            let metadata = file.metadata()?;
            if extension == Some(WHOLE) {
                let used = metadata.modified()?;
                files.push(Whole { used, path, num_bytes: metadata.len() });
            } else if file.try_lock().is_ok() {
                fs::remove_file(&path)?;
                continue;
            }
            used_bytes += metadata.len();
        }
        Ok((used_bytes, files))
    }

    fn path(&self, key: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{key}.{extension}"))
    }

    fn lock(&self) -> io::Result<File> {
        let lock = File::options().create(true).truncate(false).write(true).open(self.folder.join(LOCK))?;
        lock.lock()?;
        Ok(lock)
    }
}

impl Claim<'_> {
    /// Where the file's bytes go.
    pub(super) fn file(&self) -> &File {
        &self.part
    }

    /// Makes the file known to all.
    pub(super) fn finish(mut self) -> io::Result<()> {
        // Its length is there from the start: after a power cut it would be whole, and in part zeros.
        self.part.sync_data()?;
        let _lock = self.cache.lock()?;
        fs::rename(self.cache.path(&self.key, PART), self.cache.path(&self.key, WHOLE))?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Claim<'_> {
    /// Gives the room back. The empty file is thrown away when room is looked for.
    fn drop(&mut self) {
        if !self.is_whole {
            // If even that fails, the file counts until then.
            let _ = self.part.set_len(0);
        }
    }
}

/// Gives the file that length, with blocks of the disk where the file system can promise them.
fn take(part: &File, num_bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(part, FallocateFlags::empty(), 0, num_bytes) {
        Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => part.set_len(num_bytes),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, thread};

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
    }

    /// Makes a file that was used last at `second`.
    fn put(cache: &Cache, key: &str, num_bytes: u64, second: u64) {
        let claim = cache.claim(key, num_bytes).unwrap().unwrap();
        claim.file().write_all(&vec![1; num_bytes as usize]).unwrap();
        claim.file().set_modified(at(second)).unwrap();
        claim.finish().unwrap();
    }

    fn used_bytes(folder: &Path) -> u64 {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn those_used_longest_ago_leave_and_the_limit_holds() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        for (second, key) in ["a", "b", "c"].into_iter().enumerate() {
            put(&cache, key, 30, second as u64 * 100);
        }
        // Looked at: no longer the oldest.
        assert!(cache.get("a", at(1000)).is_some());
        put(&cache, "d", 30, 2000);
        let present: Vec<&str> = ["a", "b", "c", "d"].into_iter().filter(|key| cache.has(key)).collect();
        assert_eq!(present, ["a", "c", "d"]);
        put(&cache, "e", 100, 3000);
        assert_eq!(used_bytes(folder.path()), 100);
        let error = cache.claim("f", 101).unwrap_err();
        assert!(
            error.to_string().contains("101 bytes, the cache may have 100: raise data.store.cache_bytes"),
            "{error}"
        );
    }

    #[test]
    fn room_is_taken_before_the_first_byte_comes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        let first = cache.claim("a", 60).unwrap().unwrap();
        assert_eq!(used_bytes(folder.path()), 60);
        // Another process, with its own idea of the folder.
        let other = Cache::open(folder.path(), 100).unwrap();
        assert!(other.claim("a", 60).unwrap().is_none(), "two make the same file");
        assert!(other.claim("b", 60).unwrap_err().to_string().contains("60 are being filled, and 60 more"));
        drop(first);
        drop(other.claim("b", 60).unwrap().unwrap());
        drop(cache.claim("c", 100).unwrap().unwrap());
    }

    /// Its lock ended with the process; the file is still there, with its whole length.
    #[test]
    fn what_a_killed_process_left_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        fs::write(folder.path().join("a.part"), [0; 90]).unwrap();
        put(&cache, "b", 50, 0);
        assert_eq!(used_bytes(folder.path()), 50);
    }

    #[test]
    fn many_at_once_never_have_more_than_the_limit_nor_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for worker in 0..8_u64 {
                let folder = folder.path();
                scope.spawn(move || {
                    let cache = Cache::open(folder, 100).unwrap();
                    for turn in 0..50 {
                        let key = format!("{}", (worker * 7 + turn) % 12);
                        let Ok(Some(claim)) = cache.claim(&key, 10 + turn % 7) else { continue };
                        claim.file().write_all(&[worker as u8; 10]).unwrap();
                        let lock = cache.lock().unwrap();
                        assert!(cache.files().unwrap().0 <= 100);
                        drop(lock);
                        claim.finish().unwrap();
                    }
                });
            }
        });
        assert!(used_bytes(folder.path()) <= 100);
    }
}
