//! Names, shapes and counts: the module against torchvision's state dicts (names.txt) and against the arithmetic.

use burn::module::Module;
use burn_resnet::{Depth, ResNetConfig, Stem};

use crate::common::*;

fn config(depth: Depth) -> ResNetConfig {
    ResNetConfig::new(depth, if depth.is_cifar() { 10 } else { 1000 }).unwrap()
}

#[test]
fn names_and_shapes_are_torchvisions_in_its_order() {
    let listed = std::fs::read_to_string(fixture_path("names.txt")).unwrap();
    for depth in [Depth::D18, Depth::D20, Depth::D50] {
        let config = if depth == Depth::D20 { ResNetConfig::new(depth, 10).unwrap() } else { config(depth) };
        let model = config.init(0, &cpu());
        let line = |name: &str, shape: &[usize]| {
            let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
            format!("{depth} {name} {}", shape.join("x"))
        };
        let got: Vec<String> = model.params().iter().map(|p| line(&p.name, &p.shape)).collect();
        let start = format!("{depth} ");
        let expected: Vec<&str> = listed.lines().filter(|line| line.starts_with(&start)).collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn arithmetic_counts_what_the_module_has() {
    let mut configs: Vec<ResNetConfig> = Depth::ALL.iter().map(|&depth| config(depth)).collect();
    for depth in [Depth::D18, Depth::D50, Depth::D8] {
        let other = ResNetConfig::new(depth, 3).unwrap().with_width(5).unwrap().with_channels(1).unwrap();
        configs.extend([other.clone().with_stem(Stem::Small), other.with_stem(Stem::ImageNet)]);
    }
    for config in configs {
        let model = config.init(0, &cpu());
        let trainable = model.params().into_iter().filter(|p| !p.is_buffer);
        let counted: usize = trainable.map(|p| p.shape.iter().product::<usize>()).sum();
        assert_eq!(config.num_params(), counted as u64, "{config:?}");
    }
}

/// The table of the crate's page: torchvision's weight pages (parameters, GFLOPS), and He et al. table 6 (parameters of
/// the CIFAR family, there rounded to 0.01 M).
#[test]
fn counts_are_the_published_ones() {
    let expected = [
        (Depth::D18, 11_689_512, 1.81),
        (Depth::D34, 21_797_672, 3.66),
        (Depth::D50, 25_557_032, 4.09),
        (Depth::D101, 44_549_160, 7.80),
        (Depth::D152, 60_192_808, 11.51),
    ];
    for (depth, params, giga_macs) in expected {
        let config = config(depth);
        assert_eq!(config.num_params(), params);
        let macs = config.num_macs(224, 224) as f64 / 1e9;
        assert!((macs - giga_macs).abs() < 0.01, "ResNet-{depth}: {macs} G");
    }
    let cifar = [
        (Depth::D8, 75_290, 12.2),
        (Depth::D20, 269_722, 40.6),
        (Depth::D32, 464_154, 68.9),
        (Depth::D44, 658_586, 97.2),
        (Depth::D56, 853_018, 125.5),
        (Depth::D110, 1_727_962, 252.9),
    ];
    for (depth, params, mega_macs) in cifar {
        assert_eq!(config(depth).num_params(), params);
        let macs = config(depth).num_macs(32, 32) as f64 / 1e6;
        assert!((macs - mega_macs).abs() < 0.1, "ResNet-{depth}: {macs} M");
    }
}

#[test]
fn multiply_adds_follow_the_sizes_that_the_network_computes() {
    // At 1 px every convolution writes one pixel, so the multiply-adds are the weights: parameters less norms and bias.
    for &depth in Depth::ALL {
        let config = config(depth);
        let model = config.init(0, &cpu());
        let weights = model.params().into_iter().filter(|p| !p.is_norm && p.name != "fc.bias");
        let weights: usize = weights.map(|p| p.shape.iter().product::<usize>()).sum();
        assert_eq!(config.num_macs(1, 1), weights as u64);
    }
    // The odd sizes on the way of 65x97 round up.
    let config = ResNetConfig::new(Depth::D18, 10).unwrap().with_width(4).unwrap();
    let model = config.init(0, &cpu());
    let x = model.stem(images("a", [1, 3, 65, 97], &cpu()));
    assert_eq!(x.dims(), [1, 17, 25, 4]);
    let x = model.blocks().fold(x, |x, block| block.forward(x));
    assert_eq!(x.dims(), [1, 3, 4, 32]);
}

#[test]
fn norms_are_chosen_by_type() {
    let model = config(Depth::D50).init(0, &cpu());
    let group = model.norm_params();
    let chosen: Vec<_> = model.params().into_iter().filter(|p| group.matches(&p.id, Some(&p.name))).collect();
    assert_eq!(chosen.len(), 106);
    assert_eq!(chosen.iter().map(|p| p.shape[0]).sum::<usize>(), 53_120);
    assert!(chosen.iter().any(|p| p.name == "layer1.0.downsample.1.weight"));
    assert_eq!(model.num_params(), 25_557_032 + 53_120, "Burn counts the running statistics too");
}

#[test]
fn the_architecture_is_read_off_the_shapes() {
    for &depth in Depth::ALL {
        for stem in [Stem::Small, Stem::ImageNet] {
            let config = ResNetConfig::new(depth, 7).unwrap().with_width(4).unwrap().with_stem(stem);
            let config = config.with_channels(1).unwrap();
            let params = config.init(0, &cpu()).params();
            let shapes = params.iter().map(|p| (p.name.as_str(), p.shape.as_slice()));
            assert_eq!(ResNetConfig::infer(shapes), Ok(config));
        }
    }
    let message = ResNetConfig::infer([("conv1.weight", &[64, 3, 5, 5][..])]).unwrap_err().to_string();
    assert!(message.contains("conv1.weight"), "{message}");
}
