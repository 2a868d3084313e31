//! Pictures a second through the loader: the embedded set, and real ImageNet JPEGs where they are at hand.

use std::{path::PathBuf, sync::Arc};

use burn_sprint::data::{
    Channels, CropRule, Loader, LoaderConfig, Location, Pass, Source, Split, Tail, Transform, open,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn epochs(
    criterion: &mut Criterion,
    name: &str,
    source: &Arc<dyn Source>,
    transform: Transform,
    channels: Channels,
) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    for num_workers in [1, 2] {
        let pass = Pass::Train { seed: 0, epoch: 0, tail: Tail::Short };
        let config = LoaderConfig { num_workers, ..LoaderConfig::new(transform, channels, 50, pass) };
        group.throughput(Throughput::Elements(source.num_images() as u64));
        group.bench_function(format!("{num_workers} threads"), |bencher| {
            bencher.iter(|| {
                let loader = Loader::new(source.clone(), config).expect("the settings are sound");
                loader.map(|batch| batch.expect("the pictures are sound").len()).sum::<usize>()
            });
        });
    }
}

fn loader(criterion: &mut Criterion) {
    let embedded = open(&Location::Embedded, Split::Train).expect("it is part of the program");
    let pad_and_crop = Transform::PadAndCrop { size: 28, padding: 2, flip: true };
    epochs(criterion, "embedded, pad and crop", &embedded, pad_and_crop, Channels::Grey);

    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/imagenet-200-jpeg.tar");
    match open(&Location::Path(path), Split::Train) {
        Ok(imagenet) => {
            let scale = (0.08, 1.0);
            let crop = Transform::RandomResizedCrop { size: 224, scale, rule: CropRule::Modern, flip: true };
            epochs(criterion, "ImageNet JPEGs, random resized crop 224", &imagenet, crop, Channels::Rgb);
            let center = Transform::CenterCrop { size: 224, resize: 256 };
            epochs(criterion, "ImageNet JPEGs, center crop 224 of 256", &imagenet, center, Channels::Rgb);
        }
        Err(error) => eprintln!("SKIP: {error}"),
    }
}

criterion_group!(benches, loader);
criterion_main!(benches);
