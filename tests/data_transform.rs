//! Sizes, offsets, boxes and pixels of the transforms: against torchvision and Pillow.

#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, path::PathBuf};

use burn_sprint::data::{
    Channels, CropRule, Location, Picture, Split, Transform,
    crop::{CropBox, random_crop},
    open,
    random::Stream,
    transform::{Geometry, Stage, centered, short_side_to},
};
use common::shared;
use safetensors::SafeTensors;
use serde::Deserialize;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)).unwrap()
}

fn picture(shape: &[usize], pixels: &[u8]) -> Picture {
    let mut picture = Picture::default();
    let channels = Channels::from_count(shape[2]).unwrap();
    picture.reshape(shape[1], shape[0], channels).unwrap().copy_from_slice(pixels);
    picture
}

/// The share of equal bytes, and the greatest difference.
fn agreement(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    (equal as f64 / a.len() as f64, a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap())
}

/// A crop resized up, down, to odd sizes, in one direction only, in colour and grey: Pillow's `crop().resize()`,
/// whose filter sees nothing outside of the crop. Every byte.
#[test]
fn resized_crops_are_pillows() {
    let bytes = fixture("resize.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut stage = Stage::default();
    let mut num_cases = 0;
    for (name, expected) in tensors.tensors() {
        let words: Vec<&str> = name.split(' ').collect();
        let ["resize", colour, source, ..] = words[..] else { continue };
        let numbers: Vec<usize> = words[3..].iter().map(|n| n.parse().unwrap()).collect();
        let [left, top, width, height, resized_width, resized_height] = numbers[..] else { panic!("{name}") };
        let source = tensors.tensor(&format!("source {source}")).unwrap();
        let mut source = picture(source.shape(), source.data());
        if colour == "grey" {
            source.make_grey();
        }
        // A square window as large as the longer side; what lies beyond the resized part is black.
        let size = resized_width.max(resized_height);
        let crop = CropBox { left, top, width, height };
        let geometry =
            Geometry { crop, resized: (resized_width, resized_height), window: (0, 0), flip: false };
        let depth = source.channels().count();
        let mut out = vec![77; size * size * depth];
        stage.apply(&geometry, &source, (size, size), source.channels(), &mut out);
        let mut got = Vec::new();
        for (y, row) in out.chunks_exact(size * depth).enumerate() {
            let (inside, beyond) = row.split_at(if y < resized_height { resized_width * depth } else { 0 });
            got.extend_from_slice(inside);
            assert!(beyond.iter().all(|&v| v == 0), "{name}: not black beyond the picture");
        }
        assert!(got == expected.data(), "{name}: {:?}", agreement(&got, expected.data()));
        num_cases += 1;
    }
    assert_eq!(num_cases, 96);
}

/// `Resize` then `CenterCrop`, also where the crop is larger than the picture.
#[test]
fn center_crops_are_torchvisions() {
    let bytes = fixture("resize.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut num_cases = 0;
    for (name, expected) in tensors.tensors() {
        let words: Vec<&str> = name.split(' ').collect();
        let ["center", source, resize, size] = words[..] else { continue };
        let transform =
            Transform::CenterCrop { size: size.parse().unwrap(), resize: resize.parse().unwrap() };
        let source = tensors.tensor(&format!("source {source}")).unwrap();
        let got = transformed(&transform, &picture(source.shape(), source.data()), 0, Channels::Rgb);
        assert!(got == expected.data(), "{name}: {:?}", agreement(&got, expected.data()));
        num_cases += 1;
    }
    assert_eq!(num_cases, 14);
}

fn transformed(transform: &Transform, picture: &Picture, index: usize, channels: Channels) -> Vec<u8> {
    let geometry = transform.plan(picture.width(), picture.height(), &mut Stream::of_sample(0, 0, index));
    let (width, height) = transform.shape();
    let mut out = vec![77; width * height * channels.count()];
    Stage::default().apply(&geometry, picture, (width, height), channels, &mut out);
    out
}

/// Exact: the resized sides cut off fractions, the offset of the middle rounds half to even.
#[test]
fn center_crop_geometry_is_torchvisions() {
    type Case = (usize, usize, usize, usize, usize, usize, isize, isize);
    let cases: Vec<Case> = serde_json::from_slice(&fixture("center_crop.json")).unwrap();
    assert_eq!(cases.len(), 270);
    for case in cases {
        let (width, height, resize, resized_width, resized_height, size, left, top) = case;
        let resized = short_side_to(width, height, resize);
        assert_eq!(resized, (resized_width, resized_height), "{case:?}");
        assert_eq!((centered(resized.0, size), centered(resized.1, size)), (left, top), "{case:?}");
    }
}

/// The upper half of Knuth's MMIX generator over 2^32, as the script that made the fixtures has it.
fn uniforms(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as f64 / (1u64 << 32) as f64
    }
}

/// The picture's sides, the scale, the seed, the box, and the number that is drawn next.
type BoxCase = (usize, usize, f64, f64, u64, usize, usize, usize, usize, u64);

#[derive(Deserialize)]
struct Boxes {
    modern: Vec<BoxCase>,
    torchvision2018: Vec<BoxCase>,
}

/// The same uniform numbers make the same boxes, and as many are drawn: pictures from 1x1 to 2592x3888, four scales,
/// aspect ratios that end in the fallback.
#[test]
fn random_boxes_are_torchvisions() {
    let boxes: Boxes = serde_json::from_slice(&fixture("crops.json")).unwrap();
    for (rule, cases) in
        [(CropRule::Modern, boxes.modern), (CropRule::Torchvision2018, boxes.torchvision2018)]
    {
        assert!(cases.len() >= 530, "{}", cases.len());
        for case in cases {
            let (width, height, low, high, seed, left, top, box_width, box_height, next) = case;
            let mut uniform = uniforms(seed);
            let got = random_crop(rule, width, height, (low, high), &mut uniform);
            assert_eq!(got, CropBox { left, top, width: box_width, height: box_height }, "{rule:?} {case:?}");
            assert_eq!((uniform() * 4_294_967_296.0) as u64, next, "{rule:?} {case:?}");
        }
    }
}

#[derive(Deserialize)]
struct Statistics {
    rule: String,
    size: (usize, usize),
    scale: (f64, f64),
    counts: [Vec<u32>; 4],
}

/// Area, aspect ratio and position over 100,000 of our samples against 100,000 of torchvision's: all 32 two-sample
/// Kolmogorov-Smirnov distances are below the point that one of them passes by chance in 1 % of such tests.
#[test]
fn random_boxes_are_distributed_as_torchvisions() {
    const N: usize = 100_000;
    let one_of_32 = 0.01 / 32.0_f64;
    let limit = (-(one_of_32 / 2.0).ln() / 2.0).sqrt() * (2.0 / N as f64).sqrt();
    let statistics: Vec<Statistics> = serde_json::from_slice(&fixture("crop_statistics.json")).unwrap();
    assert_eq!(statistics.len(), 8);
    for expected in statistics {
        let rule = if expected.rule == "modern" { CropRule::Modern } else { CropRule::Torchvision2018 };
        let (width, height) = expected.size;
        let mut counts = [[0u32; 256]; 4];
        for index in 0..N {
            let mut stream = Stream::of_sample(11, 3, index);
            let b = random_crop(rule, width, height, expected.scale, &mut || stream.uniform());
            let share = |offset: usize, room: usize| if room > 0 { offset as f64 / room as f64 } else { 0.0 };
            let values = [
                (b.width * b.height) as f64 / (width * height) as f64,
                ((b.width as f64 / b.height as f64).ln() + 2.0) / 4.0,
                share(b.left, width - b.width),
                share(b.top, height - b.height),
            ];
            for (counts, value) in counts.iter_mut().zip(values) {
                counts[((value * 256.0) as usize).min(255)] += 1;
            }
        }
        for (what, (ours, theirs)) in
            ["area", "ratio", "left", "top"].iter().zip(counts.iter().zip(&expected.counts))
        {
            assert_eq!(theirs.iter().sum::<u32>() as usize, N);
            let (mut difference, mut distance) = (0i64, 0i64);
            for (&ours, &theirs) in ours.iter().zip(theirs) {
                difference += i64::from(ours) - i64::from(theirs);
                distance = distance.max(difference.abs());
            }
            let distance = distance as f64 / N as f64;
            assert!(
                distance < limit,
                "{rule:?} {expected:?} {what}: {distance:.5}",
                expected = expected.size
            );
        }
    }
}

/// Every offset of the margin comes up, mirrored and not, and the black margin is where it belongs.
#[test]
fn pad_and_crop_moves_the_picture() {
    let (size, padding) = (5, 2);
    let transform = Transform::PadAndCrop { size, padding, flip: true };
    let mut source = Picture::default();
    let pixels: Vec<u8> = (1..=25).collect();
    source.reshape(size, size, Channels::Grey).unwrap().copy_from_slice(&pixels);
    let mut seen = std::collections::BTreeSet::new();
    for index in 0..2000 {
        let geometry = transform.plan(size, size, &mut Stream::of_sample(0, 0, index));
        let Geometry { window: (left, top), flip, .. } = geometry;
        seen.insert((left, top, flip));
        let mut out = vec![77; 3 * size * size];
        Stage::default().apply(&geometry, &source, (size, size), Channels::Rgb, &mut out);
        for y in 0..size {
            for x in 0..size {
                let source_x = left + if flip { size - 1 - x } else { x } as isize;
                let source_y = top + y as isize;
                let inside = (0..size as isize).contains(&source_x) && (0..size as isize).contains(&source_y);
                let expected = if inside { pixels[source_y as usize * size + source_x as usize] } else { 0 };
                assert_eq!(out[3 * (y * size + x)..][..3], [expected; 3], "{geometry:?} at {x}, {y}");
            }
        }
    }
    assert_eq!(seen.len(), 2 * (2 * padding + 1).pow(2));
    assert_eq!(seen.first(), Some(&(-2, -2, false)));
    assert_eq!(seen.last(), Some(&(2, 2, true)));
}

/// A colour picture is mirrored by pixels, not by bytes, and a picture of another size is resized first.
#[test]
fn mirrored_colours_and_other_sizes() {
    let source = picture(&[1, 2, 3], &[1, 2, 3, 4, 5, 6]);
    let crop = CropBox { left: 0, top: 0, width: 2, height: 1 };
    let geometry = Geometry { crop, resized: (2, 1), window: (0, 0), flip: true };
    let mut out = vec![77; 12];
    Stage::default().apply(&geometry, &source, (2, 2), Channels::Rgb, &mut out);
    assert_eq!(out, [4, 5, 6, 1, 2, 3, 0, 0, 0, 0, 0, 0]);

    let transform = Transform::PadAndCrop { size: 8, padding: 0, flip: false };
    for index in 0..100 {
        let geometry = transform.plan(20, 10, &mut Stream::of_sample(0, 0, index));
        assert_eq!(geometry.resized, (16, 8));
        assert!((0..=8).contains(&geometry.window.0) && geometry.window.1 == 0);
    }
}

/// Half of the samples are mirrored (5 standard deviations of a fair coin's 10,000 throws), none if not asked for.
#[test]
fn half_are_mirrored() {
    let flips = |flip| {
        let scale = (0.25, 1.0);
        let transform = Transform::RandomResizedCrop { size: 8, scale, rule: CropRule::Modern, flip };
        (0..10_000).filter(|&i| transform.plan(40, 30, &mut Stream::of_sample(5, 0, i)).flip).count()
    };
    assert_eq!(flips(false), 0);
    assert!((4750..=5250).contains(&flips(true)), "{}", flips(true));
}

#[test]
fn settings_without_sense_are_refused() {
    let crop = |size, low, high| {
        Transform::RandomResizedCrop { size, scale: (low, high), rule: CropRule::Modern, flip: true }.check()
    };
    assert!(crop(224, 0.08, 1.0).is_ok());
    for (size, low, high) in
        [(0, 0.1, 1.0), (5000, 0.1, 1.0), (8, 0.0, 1.0), (8, 0.5, 0.4), (8, 0.5, 1.1), (8, f64::NAN, 1.0)]
    {
        assert!(crop(size, low, high).is_err(), "{size} {low} {high}");
    }
    assert!(Transform::CenterCrop { size: 8, resize: 0 }.check().is_err());
    assert!(Transform::PadAndCrop { size: 8, padding: 5000, flip: false }.check().is_err());
}

/// A picture of one row, brought to a short side of 4096, would have 1.6 TB: only the part in the window is made.
#[test]
fn a_very_long_picture_is_resized_where_it_is_seen() {
    let mut source = Picture::default();
    source.reshape(100_000, 1, Channels::Grey).unwrap().fill(9);
    let transform = Transform::CenterCrop { size: 32, resize: 4096 };
    assert_eq!(transformed(&transform, &source, 0, Channels::Grey), [9; 32 * 32]);
}

/// A margin wider than the result may leave nothing of the picture in it.
#[test]
fn a_window_beside_the_picture_is_black() {
    let source = picture(&[2, 2, 1], &[1, 2, 3, 4]);
    let crop = CropBox { left: 0, top: 0, width: 2, height: 2 };
    for window in [(-2, 0), (2, 0), (0, -3), (5, 5)] {
        let geometry = Geometry { crop, resized: (2, 2), window, flip: true };
        let mut out = vec![77; 4];
        Stage::default().apply(&geometry, &source, (2, 2), Channels::Grey, &mut out);
        assert_eq!(out, [0; 4], "{window:?}");
    }
}

/// The pixels of evaluation, from the JPEG on, against Pillow and torchvision: real photos of hands, one of 3024x3024.
#[test]
fn real_photos_are_evaluated_as_torchvision_does() {
    let Some(path) = shared("sign-digits-jpeg.tar") else { return };
    let bytes = fixture("real.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let source = open(&Location::Path(path), Split::Val).unwrap();
    let mut num_found = 0;
    for index in 0..source.num_images() {
        let name = source.name(index);
        let Ok(expected) = tensors.tensor(name.split_once('#').unwrap().1) else { continue };
        let mut picture = Picture::default();
        source.read(index, &mut picture).unwrap();
        let transform = Transform::CenterCrop { size: 56, resize: 64 };
        let got = transformed(&transform, &picture, 0, Channels::Rgb);
        let sum: u64 = got.iter().zip(expected.data()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        let (mean, max) = (sum as f64 / got.len() as f64, agreement(&got, expected.data()).1);
        eprintln!("{name}: mean {mean:.4} max {max}");
        assert!(mean <= 1.0 && max <= 8, "{name}: {mean} {max}");
        num_found += 1;
    }
    assert_eq!(num_found, 4);
}

/// Every picture of two real sets is decoded, and of some the means of 4x4 blocks of their evaluation pixels agree
/// with Pillow's and torchvision's.
#[test]
fn real_sets_are_read_whole() {
    type Means = std::collections::BTreeMap<String, std::collections::BTreeMap<String, Vec<f64>>>;
    let expected: Means = serde_json::from_slice(&fixture("real.json")).unwrap();
    for (archive, size, resize, num_images, num_classes) in
        [("cifar10-test-jpeg.tar", 32, 32, 10_000, 10), ("imagenet-200-jpeg.tar", 224, 256, 200, 200)]
    {
        let Some(path) = shared(archive) else { continue };
        let source = open(&Location::Path(path), Split::Val).unwrap();
        assert_eq!((source.num_images(), source.class_names().len()), (num_images, num_classes));
        let mut num_found = 0;
        let mut picture = Picture::default();
        for index in 0..source.num_images() {
            source.read(index, &mut picture).unwrap();
            let name = source.name(index);
            let Some(means) = expected[archive].get(name.split_once('#').unwrap().1) else { continue };
            let got = transformed(&Transform::CenterCrop { size, resize }, &picture, 0, Channels::Rgb);
            for (i, &mean) in means.iter().enumerate() {
                let (row, column, channel) = (i / 12, i / 3 % 4, i % 3);
                let side = size / 4;
                let block = (0..side * side).map(|p| {
                    let (y, x) = (row * side + p / side, column * side + p % side);
                    f64::from(got[(y * size + x) * 3 + channel])
                });
                let got = block.sum::<f64>() / (side * side) as f64;
                assert!((got - mean).abs() < 1.0, "{name}, block {row} {column} {channel}: {got} for {mean}");
            }
            num_found += 1;
        }
        assert_eq!(num_found, 10);
    }
}
