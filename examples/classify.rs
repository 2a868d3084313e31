//! Classify a picture with a pretrained network: a run's folder, or weights from torchvision and timm.
//!
//! `classify WEIGHTS IMAGE`, such as `classify resnet50.pth cat.jpg`. Without arguments it makes up its own: a small
//! network with random weights, saved and loaded again, and the first test picture inside the program.

use std::{env, error::Error, path::Path};

use burn::tensor::{Device, activation::softmax};
use burn_resnet::{Depth, ResNetConfig};
use burn_sprint::{
    config::Normalization,
    data::{Location, Picture, Split, open, random::Stream, read_file, transform::Stage},
    train::{About, Classifier, Normalizer},
};

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex();
    let mut picture = Picture::default();
    let classifier = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [weights, image] => {
            read_file(image.as_ref(), &mut picture)?;
            Classifier::open(weights.as_ref(), &device)?
        }
        [] => {
            let clothes = open(&Location::Embedded, Split::Val)?;
            clothes.read(0, &mut picture)?;
            let weights = tempfile::NamedTempFile::new()?;
            save_untrained(clothes.class_names(), weights.path(), &device)?;
            Classifier::open(weights.path(), &device)?
        }
        _ => return Err("usage: classify WEIGHTS IMAGE".into()),
    };

    let (size, channels) = (classifier.about.size as usize, classifier.channels());
    if channels.count() == 1 {
        picture.make_grey();
    }
    // The centre crop draws nothing from the stream.
    let crop = classifier.about.transform();
    let geometry = crop.plan(picture.width(), picture.height(), &mut Stream::of_order(0, 0));
    let mut pixels = vec![0; size * size * channels.count()];
    Stage::default().apply(&geometry, &picture, crop.shape(), channels, &mut pixels);
    let normalizer = Normalizer::new(&classifier.about.normalization, &device);
    let images = normalizer.images(&pixels, [1, size, size, channels.count()]);
    let probabilities = softmax(classifier.model.forward(images), 1).into_data();
    let mut classes: Vec<(f32, usize)> = probabilities.iter().zip(0..).collect();
    classes.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (probability, class) in classes.into_iter().take(5) {
        println!("{:6.2} %  {}", 100.0 * probability, classifier.class_name(class));
    }
    Ok(())
}

fn save_untrained(classes: &[String], path: &Path, device: &Device) -> Result<(), Box<dyn Error>> {
    let model = ResNetConfig::new(Depth::D8, classes.len())?.with_channels(1)?.init(0, device);
    let classes = Some(classes.to_vec());
    let about = About { classes, normalization: Normalization::imagenet(1), size: 28, resize: 28 };
    Ok(Classifier::save(&model, &about, path)?)
}
