//! Files of weights: every kind that must be read, wrong and damaged ones, and what is written.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn_resnet::weights::{self, HeadPolicy, NamedTensor, WeightsError, WeightsFile, apply_named, to_named};
use burn_resnet::{Depth, ResNet, ResNetConfig};
use common::*;

const TINY: [&str; 6] = [
    "tiny.zip.pth",
    "tiny.legacy.pth",
    "tiny.nested.pth",
    "tiny.f16.safetensors",
    "tiny.bf16.safetensors",
    "tiny.f64.safetensors",
];

fn tiny() -> ResNetConfig {
    ResNetConfig::new(Depth::D8, 10).unwrap().with_width(4).unwrap()
}

fn load_error(path: &Path, model: &mut ResNet) -> WeightsError {
    let before = to_named(model);
    let load = |model: &mut ResNet| WeightsFile::open(path)?.load_into(model, HeadPolicy::Strict);
    let error = load(model).unwrap_err();
    assert_eq!(to_named(model), before, "a failed load leaves the model as it was");
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 600, "one short line: {message}");
    error
}

#[test]
fn every_kind_of_file_gives_the_same_network() {
    for_each_device(|backend, device| {
        let expected = to_named(&hashed_model(&tiny(), &device));
        for name in TINY {
            let file = WeightsFile::open(fixture_path(name)).unwrap();
            assert_eq!(file.config().unwrap(), tiny(), "{name}");
            let got = to_named(&weights::load(fixture_path(name), &device).unwrap());
            // Half types round: 11 and 8 bits of precision.
            let tolerance = match name {
                "tiny.f16.safetensors" => 1.0 / 2048.0,
                "tiny.bf16.safetensors" => 1.0 / 256.0,
                _ => 0.0,
            };
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(got.name, expected.name);
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance * b.abs() + tolerance * 1e-4;
                assert!(got.data.iter().zip(&expected.data).all(close), "{backend} {name}: {}", got.name);
            }
        }
    });
}

#[test]
fn a_loaded_network_computes_with_its_weights() {
    for_each_device(|backend, device| {
        let x = || images("a", [2, 3, 16, 16], &device);
        let expected = values(hashed_model(&tiny(), &device).forward(x()));
        let loaded = weights::load(fixture_path("tiny.legacy.pth"), &device).unwrap();
        let error = relative(&values(loaded.forward(x())), &expected);
        assert!(error <= tolerance(backend, 0.0), "{backend}: {error:.1e}");
    });
}

#[test]
fn a_published_cifar_network() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/resnet20-12fca82f.th");
    if !path.exists() {
        eprintln!("SKIP: ../shared/data/resnet20-12fca82f.th is not there");
        return;
    }
    let fixture = Fixture::open("published.safetensors");
    for_each_device(|backend, device| {
        let model = weights::load(&path, &device).unwrap();
        assert_eq!(model.config(), &ResNetConfig::new(Depth::D20, 10).unwrap());
        let got = values(model.forward(images("images.32x32", [2, 3, 32, 32], &device)));
        let expected = fixture.get("resnet20");
        assert!(
            relative(&got, &expected) < tolerance(backend, 1e-5),
            "{backend}: {:.1e}",
            relative(&got, &expected)
        );
    });
}

#[test]
fn weights_of_another_network_are_told_apart() {
    let path = fixture_path("tiny.zip.pth");
    let device = cpu();
    let mut deeper = ResNetConfig::new(Depth::D20, 10).unwrap().with_width(4).unwrap().init(1, &device);
    let message = load_error(&path, &mut deeper).to_string();
    let expected = "the weights are not those of this ResNet-20: 60 missing (layer1.1.conv1.weight, \
                    layer1.1.bn1.weight, layer1.1.bn1.bias and 57 more)";
    assert_eq!(message, expected);

    let mut wider = ResNetConfig::new(Depth::D8, 10).unwrap().init(1, &device);
    let message = load_error(&path, &mut wider).to_string();
    assert!(message.contains("of another shape (conv1.weight [4, 3, 3, 3] for [16, 3, 3, 3]"), "{message}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resnet20.safetensors");
    weights::save(&path, &deeper, &BTreeMap::new()).unwrap();
    let message = load_error(&path, &mut tiny().init(1, &device)).to_string();
    assert!(message.contains("60 left over (layer1.1.bn1.bias"), "{message}");
}

#[test]
fn another_number_of_classes_names_the_head_and_can_be_accepted() {
    let path = fixture_path("tiny.zip.pth");
    let mut model = tiny().with_num_classes(3).unwrap().init(1, &cpu());
    let own = to_named(&model);
    let error = load_error(&path, &mut model);
    assert!(matches!(error, WeightsError::HeadMismatch { expected_classes: 3, got_classes: 10 }));
    assert!(error.to_string().starts_with("fc.weight is for 10 classes, the model has 3"));

    WeightsFile::open(&path).unwrap().load_into(&mut model, HeadPolicy::Reinit).unwrap();
    for (got, own) in to_named(&model).into_iter().zip(own) {
        let expected = if got.name.starts_with("fc.") { own.data } else { hashed(&got.name, &got.shape) };
        assert_eq!(got.data, expected, "{}", got.name);
    }

    let headless = to_named(&model).into_iter().filter(|t| !t.name.starts_with("fc."));
    let headless: Vec<NamedTensor> = headless.collect();
    apply_named(&mut model, headless.clone(), HeadPolicy::Reinit).unwrap();
    assert!(matches!(apply_named(&mut model, headless, HeadPolicy::Strict), Err(WeightsError::Mismatch(_))));
}

#[test]
fn damaged_files_are_refused_wherever_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut");
    let mut model = tiny().init(1, &cpu());
    for name in TINY {
        let whole = std::fs::read(fixture_path(name)).unwrap();
        let n = whole.len();
        for cut in [0, 1, 7, 8, 9, 30, 100, n / 4, n / 2, 3 * n / 4, n - 100, n - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = load_error(&path, &mut model);
            assert!(matches!(error, WeightsError::Unreadable { .. }), "{name} cut at {cut}: {error:?}");
        }
    }
}

#[test]
fn files_that_are_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    let mut model = tiny().init(1, &cpu());
    let hostile_header = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let large_header = [&50_000_000u64.to_le_bytes()[..], b"{\"a\": 1}"].concat();
    let no_json = [&2u64.to_le_bytes()[..], b"{!"].concat();
    let files: [&[u8]; 6] = [
        b"epoch\thours\ttop1\n0\t0.1\t3.2\n",
        b"",
        b"\x80\x02}q\x00.",
        &hostile_header,
        &large_header,
        &no_json,
    ];
    for content in files {
        std::fs::write(&path, content).unwrap();
        let error = load_error(&path, &mut model);
        assert!(
            matches!(error, WeightsError::Unreadable { .. } | WeightsError::NoNetwork { .. }),
            "{error:?}"
        );
    }
    assert!(matches!(load_error(folder.path(), &mut model), WeightsError::Read { .. }), "a folder");
    assert!(matches!(load_error(&folder.path().join("none"), &mut model), WeightsError::Read { .. }));
}

/// A small file may name a huge network; nothing of that size is made.
#[test]
fn a_network_larger_than_its_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.safetensors");
    let view = |shape: Vec<usize>, bytes| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape, bytes)
    };
    let stem = vec![0; 2 * 1024 * 3 * 9];
    let mut tensors = vec![
        ("conv1.weight".to_owned(), view(vec![1024, 3, 3, 3], &stem).unwrap()),
        ("fc.weight".to_owned(), view(vec![1 << 20, 0], &[]).unwrap()),
        ("layer1.0.conv3.weight".to_owned(), view(vec![0], &[]).unwrap()),
    ];
    for (stage, blocks) in Depth::D152.stages().iter().enumerate() {
        let names = (0..*blocks).map(|block| format!("layer{}.{block}.conv1.weight", stage + 1));
        tensors.extend(names.map(|name| (name, view(vec![0], &[]).unwrap())));
    }
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let error = weights::load(&path, &cpu()).unwrap_err();
    assert!(error.to_string().contains("names a ResNet-152"), "{error}");
}

#[test]
fn values_that_are_no_weights_are_refused() {
    let mut model = tiny().init(1, &cpu());
    let before = to_named(&model);
    let changed = |change: &dyn Fn(&mut NamedTensor)| {
        let mut tensors = before.clone();
        change(tensors.iter_mut().find(|tensor| tensor.name == "layer2.0.bn1.weight").unwrap());
        tensors
    };
    for tensors in [changed(&|t| t.data[3] = f32::NAN), changed(&|t| t.data.truncate(2))] {
        let error = apply_named(&mut model, tensors, HeadPolicy::Strict).unwrap_err();
        assert!(
            matches!(&error, WeightsError::Values { name, .. } if name == "layer2.0.bn1.weight"),
            "{error:?}"
        );
        assert_eq!(to_named(&model), before);
    }
}

#[test]
fn what_is_written_is_read_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    let metadata = BTreeMap::from([("classes".to_owned(), "a,b".to_owned())]);
    for_each_device(|backend, device| {
        let config = ResNetConfig::new(Depth::D50, 4).unwrap().with_width(4).unwrap();
        let model = hashed_model(&config, &device);
        weights::save(&path, &model, &metadata).unwrap();
        let file = WeightsFile::open(&path).unwrap();
        assert_eq!(file.metadata()["classes"], "a,b");
        assert_eq!(
            serde_json::from_str::<ResNetConfig>(&file.metadata()["burn_resnet.config"]).unwrap(),
            config
        );
        assert_eq!(
            to_named(&weights::load(&path, &device.autodiff()).unwrap()),
            to_named(&model),
            "{backend}"
        );
    });
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file stays");
}

#[test]
fn a_write_that_fails_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none").join("out.safetensors");
    let model = tiny().init(1, &cpu());
    let error = weights::save(&path, &model, &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, WeightsError::Write { .. }), "{error:?}");
}

/// Writes what `fixtures/check_export.py` looks at, and checks here that the state dict is complete.
#[test]
fn exported_for_torchvision() {
    let device = cpu();
    for (depth, size) in [(Depth::D18, 64), (Depth::D50, 64)] {
        let model = hashed_model(&ResNetConfig::new(depth, 1000).unwrap(), &device).valid();
        let logits = values(model.forward(images("export", [2, 3, size, size], &device)));
        let metadata = BTreeMap::from([
            ("check.images".to_owned(), serde_json::to_string(&[2, 3, size, size]).unwrap()),
            ("check.logits".to_owned(), serde_json::to_string(&logits).unwrap()),
        ]);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("resnet{depth}.safetensors"));
        weights::save(&path, &model, &metadata).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let norms = model.params().iter().filter(|p| p.name.ends_with("running_var")).count();
        assert_eq!(file.len(), model.params().len() + norms);
        let counter = file.tensor("layer1.0.bn1.num_batches_tracked").unwrap();
        assert_eq!((counter.dtype(), counter.shape()), (safetensors::Dtype::I64, &[][..]));
    }
}

fn blurred() -> ResNetConfig {
    ResNetConfig::new(Depth::D8, 10).unwrap().with_blur_pool(true)
}

#[test]
fn blur_pools_are_written_under_the_names_of_ffcv() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blurred.safetensors");
    let config = ResNetConfig::new(Depth::D50, 1000).unwrap().with_blur_pool(true);
    weights::save(&path, &config.init(1, &cpu()), &BTreeMap::new()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let line = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let shape: Vec<_> = view.shape().iter().map(usize::to_string).collect();
        format!("{name} {}", shape.join("x"))
    };
    let mut got: Vec<_> = file.tensors().into_iter().map(line).collect();
    let names = Fixture::open("blur.safetensors").metadata("resnet50.names");
    let mut expected: Vec<_> = names.lines().map(str::to_owned).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
    let filter = file.tensor("layer2.0.downsample.0.blur_filter").unwrap();
    let values = filter.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    let expected = [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0].map(|weight| weight / 16.0);
    assert!(values.eq(expected.into_iter().cycle().take(9 * 256)));
}

#[test]
fn a_network_with_blur_pools_comes_back_and_fits_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let [with, without] = ["with", "without"].map(|name| folder.path().join(name));
    for_each_device(|backend, device| {
        let plain = blurred().with_blur_pool(false);
        let (mut model, mut other) = (hashed_model(&blurred(), &device), hashed_model(&plain, &device));
        weights::save(&with, &model, &BTreeMap::new()).unwrap();
        weights::save(&without, &other, &BTreeMap::new()).unwrap();

        let loaded = weights::load(&with, &device).unwrap();
        assert_eq!(loaded.config(), &blurred(), "{backend}");
        assert_eq!(to_named(&loaded), to_named(&model), "{backend}");
        let x = || images("a", [2, 3, 16, 16], &device);
        let error = relative(&values(loaded.forward(x())), &values(model.forward(x())));
        assert!(error <= tolerance(backend, 0.0), "{backend}: {error:.1e}");
        assert_ne!(values(loaded.forward(x())), values(other.forward(x())), "{backend}");

        let error = load_error(&with, &mut other).to_string();
        assert!(error.contains("2 left over (layer2.0.conv1.blur_filter, layer3.0.conv1.b"), "{error}");
        let error = load_error(&without, &mut model).to_string();
        assert!(error.contains("2 missing (layer2.0.conv1.blur_filter, layer3.0.conv1.b"), "{error}");
    });
}

#[test]
fn another_filter_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sharpened.safetensors");
    let mut model = blurred().init(1, &cpu());
    weights::save(&path, &model, &BTreeMap::new()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // The first value of the first filter: filters are nothing but sixteenths.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let at = json["layer2.0.conv1.blur_filter"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + at..][..4].copy_from_slice(&0.5f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = load_error(&path, &mut model).to_string();
    assert!(error.contains("layer2.0.conv1.blur_filter is another filter"), "{error}");
}
