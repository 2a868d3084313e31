//! Picture files to pixels: against Pillow's, and on files that are damaged, cut short, huge or something else.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use burn_sprint::data::{
    Channels, Picture, SampleFault,
    decode::{decode, dimensions},
    picture::MAX_PIXELS,
};
use safetensors::SafeTensors;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data")
}

fn files() -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(fixtures().join("pictures")).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect()
}

fn file(name: &str) -> Vec<u8> {
    fs::read(fixtures().join("pictures").join(name)).unwrap()
}

fn decoded(file: &[u8]) -> Result<Picture, SampleFault> {
    let mut picture = Picture::default();
    decode(file, &mut picture)?;
    Ok(picture)
}

/// The pixels as `convert("RGB")` gives them.
fn rgb(picture: &Picture) -> Vec<u8> {
    match picture.channels() {
        Channels::Rgb => picture.pixels().to_vec(),
        Channels::Grey => picture.pixels().iter().flat_map(|&v| [v; 3]).collect(),
    }
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Mean and greatest absolute difference.
fn difference(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (sum as f64 / a.len() as f64, differences.max().unwrap_or(0))
}

/// Lossless formats bit for bit, and with AVX2 the JPEGs that our own decoder takes; the others and lossy WebP, whose
/// decoders may round differently, within 1/255 in the mean.
#[test]
fn pixels_are_pillows() {
    let bytes = fs::read(fixtures().join("pictures.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let mut num_pictures = 0;
    for (name, file) in files() {
        let tensor = expected.tensor(&name).unwrap();
        let picture = decoded(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!([picture.height(), picture.width(), 3], tensor.shape(), "{name}");
        let (mean, max) = difference(&rgb(&picture), tensor.data());
        eprintln!("{name}: mean {mean:.3} max {max}");
        num_pictures += 1;
        let is_ours = ["420", "422", "444", "grey", "exif_rotated"].map(|kind| format!("jpeg_{kind}.jpg"));
        match name.split_once('_').unwrap().0 {
            _ if is_ours.contains(&name) && has_avx2() => assert_eq!(max, 0, "{name}"),
            // Pillow clips these at 255.
            _ if name == "png_grey_16_bits.png" => assert!(mean > 50.0),
            "jpeg" | "webp" if !name.contains("less") => {
                assert!(mean <= 1.0 && max <= 8, "{name}: {mean} {max}")
            }
            _ => assert_eq!(max, 0, "{name}"),
        }
    }
    assert_eq!(num_pictures, 26);

    let wide = decoded(&file("png_grey_16_bits.png")).unwrap();
    assert_eq!(wide.channels(), Channels::Grey);
    assert_eq!(wide.pixels(), expected.tensor("high byte of png_grey_16_bits.png").unwrap().data());
}

#[test]
fn grey_stays_one_channel_and_colour_turns_grey_as_pillow_does_it() {
    for name in ["jpeg_grey.jpg", "png_grey.png", "png_grey_alpha.png", "png_bilevel.png"] {
        assert_eq!(decoded(&file(name)).unwrap().channels(), Channels::Grey, "{name}");
    }
    let bytes = fs::read(fixtures().join("pictures.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let mut picture = decoded(&file("png_rgb.png")).unwrap();
    picture.make_grey();
    assert_eq!(picture.pixels(), expected.tensor("luma of png_rgb.png").unwrap().data());
}

/// Orientation 6 would turn the picture: the default loader of torchvision leaves it lying, and so do we.
#[test]
fn exif_orientation_is_ignored() {
    let (plain, rotated) =
        (decoded(&file("jpeg_420.jpg")).unwrap(), decoded(&file("jpeg_exif_rotated.jpg")).unwrap());
    assert_eq!(plain, rotated);
}

/// Headers tell the size that decoding gives, turned or not; of a file cut anywhere they tell it or nothing.
#[test]
fn headers_tell_the_size() {
    for (name, whole) in files() {
        let picture = decoded(&whole).unwrap();
        let expected = (picture.width(), picture.height());
        assert_eq!(dimensions(&whole).unwrap(), expected, "{name}");
        let cut = (0..whole.len()).filter_map(|len| dimensions(&whole[..len]).ok());
        assert_eq!(cut.filter(|&got| got != expected).count(), 0, "{name}");
    }
    let scan = file("jpeg_420.jpg").windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
    assert_eq!(dimensions(&file("jpeg_420.jpg")[..scan + 20]).unwrap(), (37, 29));
}

/// No picture is made up for data that are missing: a file cut anywhere is refused, or has lost no pixel.
#[test]
fn truncated_files_are_refused() {
    for (name, whole) in files() {
        let reference = decoded(&whole).unwrap();
        for len in (0..whole.len())
            .step_by(if whole.len() > 2000 { 23 } else { 7 })
            .chain([whole.len() - 1, whole.len() - 2])
        {
            match decoded(&whole[..len]) {
                Err(SampleFault::Empty) => assert_eq!(len, 0),
                Err(SampleFault::Damaged { .. } | SampleFault::NotAPicture) => {}
                Err(other) => panic!("{name} cut to {len}: {other}"),
                // What follows the pixels may go: checksums, end markers, later frames.
                Ok(picture) => {
                    assert!(!name.starts_with("jpeg"), "{name} cut to {len}");
                    assert!(picture == reference, "{name} cut to {len} of {}", whole.len());
                }
            }
        }
    }
}

/// Files that Pillow reads without a word, though a strict reader might not.
#[test]
fn harmless_oddities_are_read() {
    let file = file("jpeg_420.jpg");
    let expected = decoded(&file).unwrap();
    let end = file.len() - 2;
    let trailing = [&file[..], b"trailing"].concat();
    let filled = [&file[..end], &[0xFF; 5], &file[end..]].concat();
    let garbage = [&file[..end], &[1, 2, 3, 4, 5, 6, 7, 8], &file[end..]].concat();
    let cases =
        [("trailing bytes", trailing), ("fill bytes", filled), ("bytes before the end marker", garbage)];
    for (what, bytes) in cases {
        let picture = decoded(&bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(picture == expected, "{what}");
    }
}

#[test]
fn what_is_no_picture_says_so() {
    let bmp = [&b"BM"[..], &[0; 12], &40u32.to_le_bytes(), &[0; 40]].concat();
    let unsupported: [(&[u8], &str); 6] = [
        (&bmp, "BMP"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"P6\n1 1\n255\nabc", "PNM"),
        (b"GIF89a\x01\0\x01\0", "GIF"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
    ];
    for (bytes, expected) in unsupported {
        match decoded(bytes) {
            Err(SampleFault::UnsupportedFormat { format }) => assert_eq!(format, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    for bytes in [&b"this is text, whatever its name"[..], b"BMW is not a bitmap", b"P6x", &[0; 64]] {
        assert!(matches!(decoded(bytes), Err(SampleFault::NotAPicture)), "{bytes:?}");
    }
    assert!(matches!(decoded(&[]), Err(SampleFault::Empty)));
    let message = decoded(b"text").unwrap_err().to_string();
    assert!(message.contains("JPEG, PNG or WebP"), "{message}");
}

/// Small files that promise more pixels than any picture has are refused by their headers.
#[test]
fn too_many_pixels_are_refused_before_memory_is_taken() {
    let mut jpeg = file("jpeg_420.jpg");
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF; 4]);
    let mut png = file("png_rgb.png");
    png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let checksum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    for (name, bytes) in [("JPEG", jpeg), ("PNG", png)] {
        match decoded(&bytes) {
            Err(SampleFault::TooManyPixels { width, height }) => {
                assert!(width * height > MAX_PIXELS, "{name}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(Picture::default().reshape(1, MAX_PIXELS as usize + 1, Channels::Grey).is_err());
    assert!(Picture::default().reshape(0, 5, Channels::Grey).is_err());
    assert!(Picture::default().reshape(usize::MAX, 2, Channels::Grey).is_err());
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Damaged files give an error or some picture, never a panic; and a buffer used before does not shine through.
#[test]
fn damaged_files_do_not_panic() {
    let mut state = 1u64;
    let mut random = move |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let (mut num_refused, mut num_read) = (0, 0);
    let mut picture = Picture::default();
    for (name, whole) in files() {
        for round in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random(4) {
                let at = random(bytes.len());
                bytes[at] = match random(3) {
                    0 => bytes[at] ^ (1 << random(8)),
                    1 => 0xFF,
                    _ => random(256) as u8,
                };
            }
            if round % 5 == 0 {
                let (from, len) = (random(bytes.len()), random(40));
                bytes.drain(from..(from + len).min(bytes.len()));
            }
            // Sizes that were blown up are legal, and slow to write out.
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decode(&bytes, &mut picture)));
            match result {
                Ok(Ok(())) => num_read += 1,
                Ok(Err(_)) => num_refused += 1,
                Err(_) => panic!("{name}, round {round}: the decoder panicked"),
            }
        }
    }
    eprintln!("{num_refused} refused, {num_read} read");
    assert!(num_refused > 500 && num_read > 100, "the damage is neither too little nor too much");
}
