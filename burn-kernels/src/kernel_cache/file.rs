//! The file of a kernel cache: triples of bytes, and a checksum. What they mean is CubeCL's business.
//!
//! | bytes | |
//! |---|---|
//! | 16 | [`MAGIC`] |
//! | for each entry: 3 x 4 | lengths of namespace, key and value, little endian |
//! | | namespace (UTF-8), key, value |
//! | 4 | CRC-32C of all before, little endian |

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

const MAGIC: &[u8; 16] = b"burn-kernels 1\n\0";
/// 256 MiB; tests do with one.
const MAX_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 256 << 20 };

/// Values by namespace and key.
pub(super) type Entries = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// What the file holds; nothing, if there is none.
pub(super) fn read(path: &Path) -> io::Result<Entries> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries::new()),
        file => file.map_err(|error| about(path, "read", error))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| about(path, "read", error))?;
    let whole = if bytes.len() as u64 > MAX_BYTES { None } else { parse(&bytes) };
    whole.ok_or_else(|| {
        let why = "not a whole file of at most 256 MiB of chosen kernels; it will be written anew";
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
    })
}

/// Adds what the file does not hold yet; returns how many that were. What is there stays: both are true, and processes
/// that measured a little differently do not write over each other in turns.
pub(super) fn add(path: &Path, found: Entries) -> io::Result<usize> {
    // One that cannot be read is replaced.
    let mut entries = read(path).unwrap_or_default();
    let num_new = found.keys().filter(|key| !entries.contains_key(key)).count();
    if num_new == 0 {
        return Ok(0);
    }
    let mut all = found.clone();
    all.append(&mut entries);
    let mut bytes = to_bytes(&all);
    if bytes.len() as u64 > MAX_BYTES {
        // What is only in the file may be of versions and devices that are gone.
        bytes = to_bytes(&found);
    }
    if bytes.len() as u64 > MAX_BYTES {
        let error = io::Error::new(io::ErrorKind::FileTooLarge, "more than 256 MiB were found");
        return Err(about(path, "write", error));
    }
    write(path, &bytes).map_err(|error| about(path, "write", error))?;
    Ok(num_new)
}

fn about(path: &Path, verb: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {verb} {}: {error}", path.display()))
}

fn to_bytes(entries: &Entries) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for ((namespace, key), value) in entries {
        let parts = [namespace.as_bytes(), key, value];
        for part in parts {
            bytes.extend((part.len() as u32).to_le_bytes());
        }
        bytes.extend(parts.concat());
    }
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<Entries> {
    let (body, checksum) = bytes.split_last_chunk()?;
    let mut rest = body.strip_prefix(MAGIC)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let mut entries = Entries::new();
    while !rest.is_empty() {
        let mut lengths = [0; 3];
        for length in &mut lengths {
            let (number, after) = rest.split_first_chunk()?;
            *length = u32::from_le_bytes(*number) as usize;
            rest = after;
        }
        let [namespace, key, value] = lengths.map(|length| {
            let (part, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(part)
        });
        let namespace = String::from_utf8(namespace?.to_vec()).ok()?;
        entries.insert((namespace, key?.to_vec()), value?.to_vec());
    }
    Some(entries)
}

/// Beside its place, and moved there. Not synced: what a power cut leaves fails the checksum.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".kernels-");
    // As readable as any other file (umask): a temporary file is private by default.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn entries(keys: std::ops::Range<u8>, value: &[u8]) -> Entries {
        keys.map(|key| ((format!("autotune/{}", key % 3), vec![key]), value.to_vec())).collect()
    }

    #[test]
    fn what_is_added_is_read_and_what_was_there_stays() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("new/default.kernels");
        assert_eq!(read(&path).unwrap(), Entries::new());
        assert_eq!(add(&path, entries(0..7, b"first")).unwrap(), 7);
        assert_eq!(read(&path).unwrap(), entries(0..7, b"first"));
        assert_eq!(add(&path, entries(3..10, b"")).unwrap(), 3);
        let mut all = entries(7..10, b"");
        all.extend(entries(0..7, b"first"));
        assert_eq!(read(&path).unwrap(), all);
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(add(&path, entries(2..9, b"again")).unwrap(), 0);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written, "nothing new, nothing written");
        let names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["default.kernels"]);
    }

    #[test]
    fn every_damage_is_seen_and_mended_by_the_next_one_who_keeps() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("default.kernels");
        let good = to_bytes(&entries(0..4, b"value"));
        assert_eq!(parse(&good), Some(entries(0..4, b"value")));
        for cut in 0..good.len() {
            assert_eq!(parse(&good[..cut]), None, "cut after {cut} bytes");
        }
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0x10;
            assert_eq!(parse(&bad), None, "byte {place}");
        }
        // Lengths that lie, under a checksum that is right.
        for lengths in [[u32::MAX, 0, 0], [0, u32::MAX, u32::MAX], [1, 1, 0]] {
            let mut bad = MAGIC.to_vec();
            bad.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
            bad.push(b'x');
            bad.extend(crc32c::crc32c(&bad).to_le_bytes());
            assert_eq!(parse(&bad), None, "{lengths:?}");
        }
        fs::write(&path, &good[1..]).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        assert_eq!(add(&path, entries(0..2, b"mine")).unwrap(), 2);
        assert_eq!(read(&path).unwrap(), entries(0..2, b"mine"));
    }

    #[test]
    fn what_is_too_large_is_not_read_and_what_cannot_be_written_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("default.kernels");
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("at most 256 MiB"), "{error}");
        let below = path.join("default.kernels");
        let error = add(&below, entries(0..1, b"")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}", below.display())), "{error}");
        let path = temp.path().join("other.kernels");
        let half = |key| entries(key..key + 1, &vec![0; (MAX_BYTES / 2) as usize + 1]);
        assert_eq!(add(&path, half(0)).unwrap(), 1);
        assert_eq!(add(&path, half(1)).unwrap(), 1);
        assert_eq!(read(&path).unwrap(), half(1), "what another process found gave way");
        let both = half(0).into_iter().chain(half(1)).collect();
        let error = add(&path, both).unwrap_err().to_string();
        assert!(error.contains("more than 256 MiB"), "{error}");
        assert_eq!(read(&path).unwrap(), half(1));
    }

    /// No reader meets half a file, and none loses what was kept when all keep once more.
    #[test]
    fn many_may_add_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("default.kernels");
        thread::scope(|scope| {
            for own in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for end in 1..=8 {
                        add(path, entries(own * 8..own * 8 + end, &[own; 1000])).unwrap();
                        read(path).unwrap();
                    }
                });
            }
        });
        for own in 0..8 {
            add(&path, entries(own * 8..own * 8 + 8, &[own; 1000])).unwrap();
        }
        assert_eq!(read(&path).unwrap().len(), 64);
    }
}
