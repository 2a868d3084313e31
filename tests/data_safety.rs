//! Files made to hurt: memory stays in proportion to the pixels that a header states, and those below their limit,
//! whatever a file says; and no decoder panics. What a decoder takes is counted by the allocator.
//!
//! Time is bounded by the same limits: JPEG's sequential modes, PNG and WebP go over file and pixels once, and their
//! packed parts unpack to no more than the pixels; a progressive JPEG may go over them once a scan, of which there are
//! at most 100. Damage by chance, truncation and odd but sound files are in `data_decode`, tars in `data_sources`.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::Write,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use burn_sprint::data::{
    DataError, Location, Picture, SampleFault, Split,
    decode::{decode, dimensions},
    open,
    picture::MAX_PIXELS,
};
use common::{Random, shared};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The allocator counts all threads.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `job` gives, and the most bytes that it held at a time.
fn measured<T>(job: impl FnOnce() -> T) -> (T, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = job();
    (result, MEMORY.peak_usage().saturating_sub(before))
}

fn decoded(file: &[u8]) -> Result<Picture, SampleFault> {
    let mut picture = Picture::default();
    decode(file, &mut picture)?;
    Ok(picture)
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/pictures")
}

fn file(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

/// A PNG's chunk.
fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [name, data].concat();
    [&(data.len() as u32).to_be_bytes()[..], &named, &crc32(&named)].concat()
}

/// A WebP file of one chunk.
fn riff(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let chunk = [&name[..], &(data.len() as u32).to_le_bytes(), data].concat();
    [b"RIFF", &(chunk.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunk].concat()
}

/// Zeros, packed by deflate.
fn packed_zeros(num_bytes: usize) -> Vec<u8> {
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..num_bytes >> 20 {
        packer.write_all(&zeros).unwrap();
    }
    packer.finish().unwrap()
}

/// JPEGs of 65,535 pixels a side, sequential and progressive; PNG of 65,536; WebP as large as each of its three headers
/// can say.
fn huge() -> [(&'static str, Vec<u8>); 6] {
    let jpeg = |name: &str, marker: u8| {
        let mut bytes = file(name);
        let frame = find(&bytes, &[0xFF, marker]);
        bytes[frame + 5..frame + 9].fill(0xFF);
        bytes
    };
    let mut png = file("png_rgb.png");
    png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let checksum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&checksum);
    let mut lossy = file("webp_lossy.webp");
    let start_code = find(&lossy, &[0x9D, 0x01, 0x2A]);
    lossy[start_code + 3..start_code + 7].copy_from_slice(&[0xFF, 0x3F, 0xFF, 0x3F]);
    let mut lossless = file("webp_lossless.webp");
    let signature = find(&lossless, b"VP8L") + 8;
    // 14 bits each of width and height less 1; the decoder takes 16,384 for 0.
    lossless[signature + 1..signature + 5].copy_from_slice(&(0x3FFE_u32 | 0x3FFE << 14).to_le_bytes());
    let canvas = riff(b"VP8X", &[0, 0, 0, 0, 0xFF, 0xFF, 0, 0xFE, 0xFF, 0]);
    [
        ("sequential JPEG", jpeg("jpeg_420.jpg", 0xC0)),
        ("progressive JPEG", jpeg("jpeg_progressive.jpg", 0xC2)),
        ("PNG", png),
        ("lossy WebP", lossy),
        ("lossless WebP", lossless),
        ("WebP canvas", canvas),
    ]
}

#[test]
fn headers_that_promise_too_much_take_no_memory() {
    let _alone = alone();
    for (what, bytes) in huge() {
        for (how, (result, peak)) in [
            ("decode", measured(|| decoded(&bytes).map(drop))),
            ("size", measured(|| dimensions(&bytes).map(drop))),
        ] {
            match result {
                Err(SampleFault::TooManyPixels { width, height }) => {
                    assert!(width * height > MAX_PIXELS, "{what}")
                }
                // A canvas without its picture is refused before its size is looked at.
                Err(SampleFault::Damaged { .. }) if what == "WebP canvas" => {}
                other => panic!("{what}, {how}: {other:?}"),
            }
            assert!(peak < 1 << 20, "{what}, {how}: {peak} bytes");
        }
    }
}

/// A colour profile of a GiB in a megabyte.
#[test]
fn packed_profiles_are_not_unpacked_beyond_a_limit() {
    let _alone = alone();
    let png = file("png_rgb.png");
    let after_header = 8 + 25;
    let with_profile = |num_bytes| {
        let profile = [b"icc\0\0", &packed_zeros(num_bytes)[..]].concat();
        [&png[..after_header], &chunk(b"iCCP", &profile), &png[after_header..]].concat()
    };
    let expected = decoded(&png).unwrap();
    for num_bytes in [1 << 20, 1 << 30] {
        let bytes = with_profile(num_bytes);
        let (result, peak) = measured(|| decoded(&bytes));
        // Nothing is made of a profile, so one that is too long is no loss.
        assert_eq!(result.unwrap(), expected);
        assert!(peak < 64 << 20, "{num_bytes}: {peak} bytes");
    }
}

/// A lossy frame of 16,383 pixels a side on a small canvas, alone and in an animation: 400 MB of planes.
#[test]
fn a_webp_s_frame_is_no_larger_than_its_canvas() {
    let _alone = alone();
    let mut frame = file("webp_lossy.webp").split_off(12);
    let start_code = find(&frame, &[0x9D, 0x01, 0x2A]);
    frame[start_code + 3..start_code + 7].copy_from_slice(&[0xFF, 0x3F, 0xFF, 0x3F]);
    let canvas = |flags| [&b"VP8X\x0a\0\0\0"[..], &[flags, 0, 0, 0, 36, 0, 0, 28, 0, 0]].concat();
    let mut place = [0; 16];
    (place[6], place[9]) = (36, 28);
    let animated_bytes = (place.len() + frame.len()) as u32;
    let animation =
        [b"ANIM\x06\0\0\0\0\0\0\0\0\0", &b"ANMF"[..], &animated_bytes.to_le_bytes(), &place].concat();
    for chunks in [[canvas(0), vec![]], [canvas(2), animation]] {
        let chunks = [chunks.concat(), frame.clone()].concat();
        let bytes = [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunks].concat();
        let (result, peak) = measured(|| decoded(&bytes));
        match result {
            Err(SampleFault::Damaged { format: "WebP", reason }) => {
                assert!(reason.contains("canvas"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
        assert!(peak < 1 << 20, "{peak} bytes");
    }
}

/// Scans that say nothing cost some bytes in a file and all of the picture's blocks in time.
#[test]
fn a_progressive_jpeg_has_no_more_scans_than_a_hundred() {
    let _alone = alone();
    let bytes = file("jpeg_progressive.jpg");
    // A refinement of the blocks' means can follow itself.
    let is_scan_end = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xD0..=0xD7);
    let mut scans = (0..bytes.len() - 2).filter(|&at| bytes[at..at + 2] == [0xFF, 0xDA]).map(|start| {
        let parameters = start + 5 + 2 * usize::from(bytes[start + 4]);
        let end = parameters + 3 + bytes[parameters + 3..].windows(2).position(is_scan_end).unwrap();
        (bytes[parameters..parameters + 3].to_vec(), start..end)
    });
    let (_, scan) = scans.find(|(of, _)| of[..2] == [0, 0] && of[2] >> 4 > 0).unwrap();
    let again = |times: usize| {
        decoded(&[&bytes[..scan.end], &bytes[scan.clone()].repeat(times), &bytes[scan.end..]].concat())
    };
    assert!(again(50).is_ok());
    match again(200) {
        Err(SampleFault::Damaged { format: "JPEG", reason }) => assert!(reason.contains("scans"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// A tar whose entry's name is a GiB long, of which a sparse file takes no room.
#[test]
fn a_tar_s_long_name_is_not_read_into_memory() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.tar");
    for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 30);
        header.set_cksum();
        let mut archive = fs::File::create(&path).unwrap();
        archive.write_all(header.as_bytes()).unwrap();
        archive.set_len(2 << 30).unwrap();
        let (result, peak) = measured(|| open(&Location::Path(path.clone()), Split::Train));
        match result {
            Err(DataError::Tar { reason, .. }) => assert!(reason.contains("bytes"), "{reason}"),
            other => panic!("{kind:?}: {other:?}"),
        }
        assert!(peak < 8 << 20, "{kind:?}: {peak} bytes");
    }
}

/// Some bytes changed, a piece taken out, doubled or put in from another place; and a PNG's checksums made right again, so
/// that the damage gets past them.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let mut at = |len: usize| random.below(len as u64) as usize;
    for _ in 0..1 + at(6) {
        let (place, bit, value, kind) = (at(bytes.len()), at(8), at(256), at(4));
        match kind {
            0 => bytes[place] ^= 1 << bit,
            1 => bytes[place] = value as u8,
            2 => bytes[place] = 0xFF,
            // Lengths, counts and sides are in the headers.
            _ => bytes[place % 64] = value as u8,
        }
    }
    if at(4) == 0 {
        let (from, len, to) = (at(bytes.len()), at(60), at(bytes.len()));
        let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
        match at(2) {
            0 => drop(bytes.splice(to..to, piece)),
            _ => drop(bytes.drain(from..from + piece.len())),
        }
    }
    if bytes.starts_with(b"\x89PNG") {
        let mut place = 8;
        while let Some(length) = bytes.get(place..place + 4) {
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            let end = place + 8 + length;
            if end + 4 > bytes.len() {
                break;
            }
            let checksum = crc32(&bytes[place + 4..end]);
            bytes[end..end + 4].copy_from_slice(&checksum);
            place = end + 4;
        }
    }
}

/// Thousands of files that were pictures: decoded within 16 bytes for each pixel that the header states (pixels, their
/// coefficients, planes or wide samples), twice the file, and a MiB of a JPEG or 40 of others. No panic.
#[test]
fn mutated_files_stay_within_their_memory() {
    let _alone = alone();
    let mut files: Vec<(String, Vec<u8>, u32)> = fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap(), 200))
        .collect();
    files.sort();
    if let Some(path) = shared("imagenet-200-jpeg.tar") {
        let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
        let photos = archive.entries().unwrap().map(Result::unwrap).filter(|entry| entry.size() > 0);
        for mut photo in photos.take(40) {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut photo, &mut bytes).unwrap();
            files.push((photo.path().unwrap().display().to_string(), bytes, 20));
        }
    }
    let mut random = Random(11);
    let (mut num_refused, mut num_read) = (0, 0);
    for (name, whole, num_rounds) in files {
        for round in 0..num_rounds {
            let mut bytes = whole.clone();
            mutate(&mut bytes, &mut random);
            // What is slow to write out by right is not looked at: a hundred such would take minutes.
            let num_pixels = dimensions(&bytes).map_or(0, |(width, height)| width * height);
            if num_pixels > 4 << 20 {
                continue;
            }
            let decoding = || std::panic::catch_unwind(|| decoded(&bytes).map(drop));
            let (result, peak) = measured(decoding);
            match result {
                Ok(Ok(())) => num_read += 1,
                Ok(Err(_)) => num_refused += 1,
                Err(_) => panic!("{name}, round {round}: the decoder panicked"),
            }
            // What a PNG's profile may take, and a part of a WebP whose length has 24 bits.
            let beside_bytes = if bytes.starts_with(&[0xFF, 0xD8]) { 1 << 20 } else { 40 << 20 };
            let limit = 16 * num_pixels + 2 * bytes.len() + beside_bytes;
            assert!(peak <= limit, "{name}, round {round}: {peak} bytes for {num_pixels} pixels");
        }
    }
    eprintln!("{num_refused} refused, {num_read} read");
    assert!(num_refused > 1000 && num_read > 500, "the damage is neither too little nor too much");
}

/// The bytes of a tar's entry that says a long name for the one after it.
fn long_name(kind: tar::EntryType, name: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(name.len() as u64);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), name].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A name of 20 kB has 10,000 folders, whose names have 100 MB.
#[test]
fn a_tar_s_deep_name_does_not_become_all_its_folders_names() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.tar");
    let picture = file("jpeg_420.jpg");
    let mut header = tar::Header::new_gnu();
    header.set_size(picture.len() as u64);
    header.set_cksum();
    let with_depth = |depth: usize| {
        let name = [&b"a/".repeat(depth)[..], b"x.jpg\0"].concat();
        let mut bytes =
            [&long_name(tar::EntryType::GNULongName, &name)[..], header.as_bytes(), &picture].concat();
        bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
        fs::write(&path, bytes).unwrap();
        measured(|| open(&Location::Path(path.clone()), Split::Train))
    };
    let (result, peak) = with_depth(10_000);
    match result {
        Err(DataError::Tar { reason, .. }) => {
            assert!(reason.contains("a path of more than 4096"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    assert!(peak < 1 << 20, "{peak} bytes");
    let (result, peak) = with_depth(2_000);
    assert!(matches!(result, Err(DataError::OneClass { .. })), "{result:?}");
    assert!(peak < 1 << 20, "{peak} bytes");
}

/// The same entries where not all headers are read: in a folder of shards, in a compressed CIFAR, in ImageNet's
/// development kit, which pack a long name of 64 MiB into some 64 KiB.
#[test]
fn a_long_name_is_not_read_into_memory_wherever_a_tar_is_looked_into() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (shards, packed) = (folder.path().join("shards"), folder.path().join("cifar.tar.gz"));
    let imagenet = folder.path().join("imagenet");
    fs::create_dir(&shards).unwrap();
    fs::create_dir(&imagenet).unwrap();
    for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
        let bomb = long_name(kind, &vec![0; 64 << 20]);
        fs::write(shards.join("a.tar"), &bomb).unwrap();
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&bomb).unwrap();
        fs::write(&packed, packer.finish().unwrap()).unwrap();
        fs::copy(&packed, imagenet.join("ILSVRC2012_devkit_t12.tar.gz")).unwrap();
        for name in ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"] {
            fs::write(imagenet.join(name), [0; 1024]).unwrap();
        }
        drop(bomb);
        for path in [&shards, &packed, &imagenet] {
            let (result, peak) = measured(|| open(&Location::Path(path.clone()), Split::Val));
            assert!(result.is_err(), "{kind:?} {result:?}");
            assert!(peak < 8 << 20, "{kind:?} {}: {peak} bytes", path.display());
        }
    }
}
