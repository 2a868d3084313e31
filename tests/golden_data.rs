//! Goal: the data pipeline of 2018 to the last bit where arithmetic allows: half-precision normalisation, the tensor of
//! an evaluation from a JPEG on, rectangular validation. Resizes, crop offsets and random crops are in
//! `data_transform.rs`.
//!
//! Method: fixtures made with PyTorch, torchvision and NumPy (`fixtures/data/make_golden.py`), on every CPU backend
//! where tensors are involved.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/source.rs"]
mod source;

use std::{fs, path::PathBuf, sync::Arc};

use burn::tensor::{Device, f16};
use burn_dist::{Rank, WorldSize};
use burn_resnet::{Depth, ResNet, ResNetConfig, Start};
use burn_sprint::{
    config::Normalization,
    data::{
        Batch, Channels, Loader, LoaderConfig, Location, OnBadFile, Pass, Picture, PictureSize, Rectangles,
        SampleError, SampleFault, Source, Split, Transform, open,
        random::Stream,
        rect::{aspect_ratio, crop_shape, mean_ratio},
        sizes,
        transform::{MAX_SIZE, Stage},
    },
    train::{About, Classifier, Normalizer, comparable_crop, evaluate},
};
use common::{Random, devices, sprint, word};
use safetensors::SafeTensors;
use serde::Deserialize;
use source::classes_in_turn;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data")
}

/// Floats of a tensor in a safetensors file, widened where they are halves.
fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap();
    match tensor.dtype() {
        safetensors::Dtype::F32 => {
            tensor.data().as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
        }
        safetensors::Dtype::F16 => {
            tensor.data().as_chunks().0.iter().map(|&two| f16::from_le_bytes(two).to_f32()).collect()
        }
        other => panic!("{name} is of {other:?}"),
    }
}

/// A ResNet-8 with weights that are the same everywhere.
fn network(num_classes: usize, device: &Device) -> ResNet {
    let config = ResNetConfig::new(Depth::D8, num_classes).unwrap().with_width(4).unwrap();
    config.init_with(1, device, Start { last_gain: 1.0, ..Start::default() })
}

/// Check 12: all 256 bytes in all three channels are what `half` arithmetic makes of them, bit for bit.
#[test]
fn half_normalization_is_pytorchs() {
    let bytes = fs::read(fixtures().join("golden_tensors.safetensors")).unwrap();
    let expected = floats(&SafeTensors::deserialize(&bytes).unwrap(), "half table");
    let pixels: Vec<u8> = (0..=255).flat_map(|byte| [byte; 3]).collect();
    for (name, device) in devices() {
        let normalization = Normalization { half: true, ..Normalization::imagenet(3) };
        let images = Normalizer::new(&normalization, &device).images(&pixels, [1, 16, 16, 3]);
        assert_eq!(images.dims(), [1, 3, 16, 16]);
        let got: Vec<f32> = images.permute([0, 2, 3, 1]).into_data().iter().collect();
        for (place, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_eq!(
                got.to_bits(),
                expected.to_bits(),
                "{name}: byte {}, channel {}",
                place / 3,
                place % 3
            );
        }
        // The rounding is seen: the plain way is off by up to two thousandths.
        let plain = Normalizer::new(&Normalization::imagenet(3), &device).images(&pixels, [1, 16, 16, 3]);
        let plain: Vec<f32> = plain.permute([0, 2, 3, 1]).into_data().iter().collect();
        let largest = plain.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!((0.001..0.0025).contains(&largest), "{name}: {largest}");
    }
}

/// Check 17: the pixels of a rectangle, byte for byte, and its black margin where the picture is smaller.
#[test]
fn rectangular_crops_are_torchvisions() {
    let bytes = fs::read(fixtures().join("golden_tensors.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let source = tensors.tensor("source").unwrap();
    let mut picture = Picture::default();
    let (width, height) = (source.shape()[1], source.shape()[0]);
    picture.reshape(width, height, Channels::Rgb).unwrap().copy_from_slice(source.data());
    let mut num_cases = 0;
    for (name, expected) in tensors.tensors() {
        let Some(numbers) = name.strip_prefix("rectangle ") else { continue };
        let numbers: Vec<usize> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
        let [resize, width, height] = numbers[..] else { panic!("{name}") };
        let transform = Transform::CenterRectangle { width, height, resize };
        let geometry = transform.plan(picture.width(), picture.height(), &mut Stream::of_sample(0, 0, 0));
        let mut got = vec![77; 3 * width * height];
        Stage::default().apply(&geometry, &picture, transform.shape(), Channels::Rgb, &mut got);
        assert_eq!(expected.shape(), [height, width, 3]);
        assert!(got == expected.data(), "{name}");
        num_cases += 1;
    }
    assert_eq!(num_cases, 6);
}

/// Check 15: from the file to the normalised tensor, against `pil_loader`, `Resize`, `CenterCrop`, `ToTensor` and
/// `Normalize`: within 1/255 in the mean (decoders round differently), and the logits of a network move by little.
#[test]
fn evaluation_tensors_are_torchvisions() {
    let bytes = fs::read(fixtures().join("golden_tensors.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<&str> = tensors.names().into_iter().filter(|name| name.starts_with("jpeg_")).collect();
    assert_eq!(names.len(), 6);
    let folder = tempfile::tempdir().unwrap();
    for name in &names {
        fs::create_dir(folder.path().join(name)).unwrap();
        let file = format!("{name}.jpg");
        fs::copy(fixtures().join("pictures").join(&file), folder.path().join(name).join(&file)).unwrap();
    }
    let source = open(&Location::Path(folder.path().into()), Split::Val).unwrap();
    let config = LoaderConfig::new(
        Transform::CenterCrop { size: 20, resize: 24 },
        Channels::Rgb,
        names.len(),
        Pass::Evaluate,
    );
    let batch = Loader::new(source.clone(), config).unwrap().next().unwrap().unwrap();
    let expected: Vec<f32> = source.class_names().iter().flat_map(|name| floats(&tensors, name)).collect();
    for (device_name, device) in devices() {
        let normalization = Normalization::imagenet(3);
        let (images, _) = Normalizer::new(&normalization, &device).tensors(&batch);
        let got: Vec<f32> = images.clone().into_data().iter().collect();
        assert_eq!(got.len(), expected.len());
        let image_len = 3 * 20 * 20;
        for (name, (got, expected)) in
            source.class_names().iter().zip(got.chunks_exact(image_len).zip(expected.chunks_exact(image_len)))
        {
            // Of bytes, as before normalisation.
            let off = |at: usize| 255.0 * normalization.std[at / 400] * (got[at] - expected[at]).abs();
            let (sum, max) =
                (0..image_len).map(off).fold((0.0, 0.0_f32), |(sum, max), off| (sum + off, max.max(off)));
            let mean = sum / image_len as f32;
            eprintln!("{device_name} {name}: mean {mean:.4}, max {max:.2} of 255");
            assert!(mean <= 1.0 && max <= 8.1, "{device_name} {name}: mean {mean}, max {max}");
        }
        let model = network(10, &device);
        let expected_images = burn::tensor::TensorData::new(expected.clone(), images.dims());
        let expected_images = burn::tensor::Tensor::<4>::from_data(expected_images, &device);
        let [got, expected] = [images, expected_images]
            .map(|images| model.forward(images).into_data().iter().collect::<Vec<f32>>());
        let drift = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let largest = expected.iter().map(|logit| logit.abs()).fold(0.0, f32::max);
        eprintln!("{device_name}: logits up to {largest:.3} drift by {drift:.5}");
        assert!(drift <= 0.01 * largest, "{device_name}: {drift} of {largest}");
    }
}

#[derive(Deserialize)]
struct Golden {
    sizes: Vec<PictureSize>,
    order: Vec<u32>,
    cases: Vec<Case>,
    tie: Vec<f64>,
    tie_mean: f64,
}

#[derive(Deserialize)]
struct Case {
    chunk_size: usize,
    size: usize,
    means: Vec<f64>,
    /// Height and width.
    shapes: Vec<(usize, usize)>,
}

/// Check 17: the order, each chunk's mean ratio and its crop are those of the arithmetic of 2018, bit for bit: 2,301
/// pictures, quotients in the middle of two roundings among them, chunks of 1 to all, means whose last digit hangs on the
/// order of additions.
#[test]
fn rectangles_are_those_of_2018() {
    let golden: Golden =
        serde_json::from_slice(&fs::read(fixtures().join("golden_rectangles.json")).unwrap()).unwrap();
    assert_eq!(golden.cases.len(), 9);
    assert_eq!(mean_ratio(&golden.tie).to_bits(), golden.tie_mean.to_bits());
    for Case { chunk_size, size, means, shapes } in golden.cases {
        let chunks = Rectangles::new(&golden.sizes, chunk_size, size);
        assert_eq!(chunks.order(), golden.order);
        let ratios: Vec<f64> =
            golden.order.iter().map(|&at| aspect_ratio(golden.sizes[at as usize])).collect();
        let step = if chunk_size == 1 { 50 } else { 1 };
        assert_eq!(chunks.shapes().len().div_ceil(step), shapes.len());
        let found = ratios.chunks(chunk_size).zip(chunks.shapes()).step_by(step);
        for ((ratios, &(width, height)), (&mean, &(expected_height, expected_width))) in
            found.zip(means.iter().zip(&shapes))
        {
            assert_eq!(mean_ratio(ratios).to_bits(), mean.to_bits(), "{chunk_size} at {size} px");
            assert_eq!((width, height), (expected_width, expected_height), "{chunk_size} at {size} px");
        }
    }
}

/// However long the pictures are, a crop has a bounded size; pictures without a size are in no chunk.
#[test]
fn rectangles_are_bounded() {
    assert_eq!(crop_shape(1e-9, 288), (288, MAX_SIZE));
    assert_eq!(crop_shape(65_535.0, 4096), (MAX_SIZE, 4096));
    assert_eq!(crop_shape(1.0, 8), (8, 8));
    assert_eq!(crop_shape(1.0, 4), (8, 4));
    let chunks = Rectangles::new(&[(0, 0), (2, 1), (0, 5), (1, 1)], 3, 16);
    assert_eq!((chunks.order(), chunks.shapes()), ([3, 1].as_slice(), [(24, 16)].as_slice()));
    assert_eq!(Rectangles::new(&[], 3, 16).shapes(), []);
}

/// Pictures of many shapes; some cannot be decoded, and of some not even the size is to be had.
#[derive(Debug)]
struct Shapes {
    num_images: usize,
    sizes: Vec<(usize, usize)>,
    class_names: Vec<String>,
    bad: Vec<usize>,
    headless: Vec<usize>,
}

impl Shapes {
    fn new(num_images: usize) -> Self {
        let mut random = Random(4);
        let mut side = || 12 + random.below(30) as usize;
        let sizes = (0..num_images).map(|_| (side(), side())).collect();
        let class_names = (0..7).map(|class| class.to_string()).collect();
        Self { num_images, sizes, class_names, bad: Vec::new(), headless: Vec::new() }
    }

    fn fault(&self, index: usize) -> SampleError {
        SampleError { name: self.name(index), fault: SampleFault::NotAPicture }
    }
}

impl Source for Shapes {
    classes_in_turn!();

    fn read(&self, index: usize, into: &mut Picture) -> Result<(), SampleError> {
        if self.bad.contains(&index) {
            return Err(self.fault(index));
        }
        let (width, height) = self.sizes[index];
        let pixels = into.reshape(width, height, Channels::Rgb).unwrap();
        let mut random = Random(index as u64);
        pixels.iter_mut().for_each(|pixel| *pixel = random.below(256) as u8);
        Ok(())
    }

    fn dimensions(&self, index: usize) -> Result<(usize, usize), SampleError> {
        if self.headless.contains(&index) { Err(self.fault(index)) } else { Ok(self.sizes[index]) }
    }
}

const CHUNK: usize = 8;

/// The rectangular loaders of a job's ranks.
fn loaders(source: &Arc<Shapes>, world_size: u32) -> Vec<Loader> {
    let sizes = sizes::of(&**source, OnBadFile::Skip, None, |_| {}).unwrap();
    let world_size = WorldSize::new(world_size).unwrap();
    let transform = Transform::CenterCrop { size: 16, resize: 18 };
    let config = LoaderConfig {
        on_bad_file: OnBadFile::Skip,
        num_workers: 2,
        ..LoaderConfig::new(transform, Channels::Rgb, CHUNK, Pass::Evaluate)
    };
    let of = |index| LoaderConfig { rank: Rank::new(index, world_size).unwrap(), ..config };
    (0..world_size.count() as u32)
        .map(|index| Loader::rectangular(source.clone(), of(index), &sizes).unwrap())
        .collect()
}

fn batches(loader: Loader) -> Vec<Batch> {
    loader.collect::<Result<_, _>>().unwrap()
}

/// Check 17: over all ranks each image comes once, in the chunk and with the crop that it has in a job of one; ranks
/// beyond the chunks have none.
#[test]
fn ranks_share_chunks_out() {
    let source = Arc::new(Shapes { bad: vec![5], headless: vec![11], ..Shapes::new(37) });
    let chunks = |world_size| {
        let ranks: Vec<Vec<Batch>> = loaders(&source, world_size).into_iter().map(batches).collect();
        let most = ranks.iter().map(Vec::len).max().unwrap();
        let mut found = Vec::new();
        for k in 0..most {
            for batch in ranks.iter().filter_map(|batches| batches.get(k)) {
                let labels: Vec<u32> = batch.indices.iter().map(|&index| source.label(index)).collect();
                assert_eq!((batch.len(), &batch.labels), (batch.shape[0], &labels));
                found.push((batch.indices.clone(), batch.shape, batch.images.clone()));
            }
        }
        (found, ranks.iter().map(Vec::len).collect::<Vec<_>>())
    };
    let (alone, counts) = chunks(1);
    assert_eq!(counts, [5]);
    let mut seen: Vec<usize> = alone.iter().flat_map(|(indices, ..)| indices.clone()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..37).filter(|index| ![5, 11].contains(index)).collect::<Vec<_>>());
    // 36 pictures have a size: four whole chunks and one of 4, and of one chunk a picture cannot be decoded.
    let mut lengths: Vec<usize> = alone.iter().map(|(indices, ..)| indices.len()).collect();
    assert_eq!(lengths.pop(), Some(4));
    lengths.sort_unstable();
    assert_eq!(lengths, [7, 8, 8, 8]);
    for (_, [_, height, width, channels], _) in &alone {
        assert_eq!((width % 8, height % 8, *width.min(height), *channels), (0, 0, 16, 3));
    }
    assert!(alone[0].1[1] > 16 && alone[4].1[2] > 16, "the narrowest first, the widest last");
    for (world_size, expected_counts) in
        [(2, vec![3, 2]), (3, vec![2, 2, 1]), (5, vec![1; 5]), (7, vec![1, 1, 1, 1, 1, 0, 0])]
    {
        let (found, counts) = chunks(world_size);
        assert_eq!(counts, expected_counts);
        assert!(found == alone, "{world_size} ranks");
    }
}

/// Check 17: the counts that ranks add up do not depend on how many they are, a rank without a batch included.
#[test]
fn rectangular_accuracy_does_not_depend_on_the_world_size() {
    let source = Arc::new(Shapes::new(37));
    for (name, device) in devices() {
        let model = network(7, &device);
        let normalizer = Normalizer::new(&Normalization::imagenet(3), &device);
        let sums = |world_size| {
            let (mut loss, mut counts) = (0.0, [0; 3]);
            for loader in loaders(&source, world_size) {
                let part = evaluate(&model, &normalizer, loader, |_| {}, || false).unwrap().unwrap();
                if part.num_images == 0 {
                    continue;
                }
                let count = |percent: f64| (percent / 100.0 * part.num_images as f64).round() as u64;
                loss += part.loss * part.num_images as f64;
                for (sum, part) in
                    counts.iter_mut().zip([count(part.top1), count(part.top5), part.num_images])
                {
                    *sum += part;
                }
            }
            (loss, counts)
        };
        let (loss, alone) = sums(1);
        assert!(alone[0] > 0 && alone[1] > alone[0] && alone[1] < 37 && alone[2] == 37, "{name}: {alone:?}");
        for world_size in [2, 3, 4, 7] {
            let (got_loss, got) = sums(world_size);
            assert_eq!(got, alone, "{name}, {world_size} ranks");
            assert!((got_loss - loss).abs() < 1e-9 * loss, "{name}, {world_size} ranks: {got_loss} {loss}");
        }
    }
}

/// `sprint eval --rect` says both figures, those of the library; a square above 224 pixels has its companion too.
#[test]
fn the_command_evaluates_by_rectangles() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = Shapes::new(37);
    let mut picture = Picture::default();
    for index in 0..37 {
        let class_folder = folder.path().join("pictures").join(shapes.label(index).to_string());
        fs::create_dir_all(&class_folder).unwrap();
        shapes.read(index, &mut picture).unwrap();
        let (width, height) = (picture.width() as u32, picture.height() as u32);
        let image = image::RgbImage::from_raw(width, height, picture.pixels().to_vec()).unwrap();
        image.save(class_folder.join(format!("{index:02}.png"))).unwrap();
    }
    let weights = folder.path().join("weights.safetensors");
    let model = network(7, &Device::flex());
    let normalization = Normalization::imagenet(3);
    let about = About { classes: None, normalization: normalization.clone(), size: 16, resize: 18 };
    Classifier::save(&model, &about, &weights).unwrap();

    let pictures = word(&folder.path().join("pictures"));
    let eval = |more: &[&str]| {
        let words = ["eval", "--checkpoint", &word(&weights), "--data", &pictures, "--batch-size", "8"];
        sprint(words.iter().chain(more))
    };
    let output = eval(&["--rect"]).ok().stdout;
    let source = open(&Location::Path(pictures.clone().into()), Split::Val).unwrap();
    let sizes = sizes::of(&*source, OnBadFile::Fail, None, |_| panic!("they are remembered")).unwrap();
    let transform = Transform::CenterCrop { size: 16, resize: 18 };
    let config = LoaderConfig::new(transform, Channels::Rgb, CHUNK, Pass::Evaluate);
    let normalizer = Normalizer::new(&normalization, &Device::flex());
    let line = |loader: Loader, how: &str| {
        let found = evaluate(&model, &normalizer, loader, |_| {}, || false).unwrap().unwrap();
        let (top1, top5, loss) = (found.top1, found.top5, found.loss);
        format!("top-1 {top1:.2} %  top-5 {top5:.2} %  loss {loss:.4}  on 37 images at 16 px ({how})\n")
    };
    let rect = line(Loader::rectangular(source.clone(), config, &sizes).unwrap(), "resize 18, rectangles");
    let center = line(Loader::new(source, config).unwrap(), "resize 18");
    assert_ne!(rect.split(" on ").next(), center.split(" on ").next());
    assert_eq!(output, rect + &center);

    let output = eval(&["--size", "232", "--resize", "240", "--per-class", "1"]).ok().stdout;
    let lines: Vec<&str> = output.lines().map(|line| line.split(" on ").nth(1).unwrap()).collect();
    assert_eq!(lines, ["7 images at 232 px (resize 240)", "7 images at 224 px (resize 256)"]);
    let error = eval(&["--rect", "--size", "7"]);
    assert!(error.error(2).starts_with("error: --rect at 7 pixels: "), "{error:?}");
}

#[test]
fn only_what_does_not_compare_has_a_companion() {
    for (size, resize, rectangles, expected) in [
        (224, 256, false, None),
        (224, 255, false, None),
        (128, 145, false, None),
        (128, 145, true, Some((128, 145))),
        (224, 256, true, Some((224, 256))),
        (288, 328, true, Some((224, 256))),
        (288, 328, false, Some((224, 256))),
    ] {
        assert_eq!(comparable_crop(size, resize, rectangles), expected, "{size} of {resize}, {rectangles}");
    }
}
