//! Goal: the recipes are those that were published, to the last bit and step, and the command prints and changes them
//! as it says.
//!
//! Method: the presets through the library against the rates that the run of 2018 logged, a transcription of its
//! program, and PyTorch's and timm's schedulers; the command as a process against committed tables.

#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::HashMap, fs, path::PathBuf};

use burn_dist::{Rank, WorldSize};
use burn_sprint::{
    config::{Sources, TrainConfig},
    data::{
        Tail,
        sampler::{Coverage, Plan},
    },
    recipe::{EpochShape, Phase, Schedule, preset_names},
};
use common::{shared, sprint, word};

const IMAGENET: usize = 1_281_167;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recipe").join(name)
}

fn preset(name: &str) -> TrainConfig {
    Sources { preset: Some(name.into()), ..Sources::default() }.resolve().unwrap()
}

/// A preset's phases over ImageNet on the cluster that it was made for.
fn imagenet_schedule(name: &str) -> Schedule {
    let config = preset(name);
    let world_size = config.cluster.unwrap().world_size().unwrap();
    assert_eq!(config.data.planned_images, Some(IMAGENET), "{name}");
    Schedule::new(&config.phase, |phase| {
        let rank = Rank::new(0, world_size).unwrap();
        let epoch = Plan::new(IMAGENET, phase.batch_size, rank, Coverage::Train(config.data.tail));
        let num_batches = epoch.num_batches();
        EpochShape { num_steps: num_batches as u64, last_batch_size: epoch.positions(num_batches - 1).len() }
    })
    .unwrap()
}

/// Golden check 1, the log: 59 learning rates of the 8-machine run.
#[test]
fn the_logged_learning_rates_of_2018_come_out_to_the_last_bit() {
    let schedule = imagenet_schedule("imagenet18-8");
    let mut by_place = HashMap::new();
    for step in 1..=schedule.num_steps() {
        let at = schedule.position(step).unwrap();
        by_place.insert((at.epoch, at.step_in_epoch + 1), (schedule.steps_per_epoch(at.phase), at.lr));
    }
    let Some(path) = shared("golden_lr_8machine.tsv") else { return };
    let text = fs::read_to_string(path).unwrap();
    let mut num_rows = 0;
    for line in text.lines().skip(1) {
        let [epoch, batch, batches, lr] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let (num_batches, got) = by_place[&(epoch.parse().unwrap(), batch.parse().unwrap())];
        assert_eq!(num_batches, batches.parse::<u64>().unwrap(), "{line}");
        assert_eq!(got.to_bits(), lr.parse::<f64>().unwrap().to_bits(), "{line}: {got}");
        num_rows += 1;
    }
    assert_eq!(num_rows, 59);
}

/// A piece of a published schedule: epochs, end exclusive, and the learning rate, constant or at both ends.
type Piece = (u32, u32, f64, f64);

/// The learning rates in imagenet18's `train.py`, written as its expressions, with the batch size of each piece.
fn published(machines: u32) -> Vec<(Piece, usize)> {
    let with_batches = |pieces: Vec<Piece>, batches: &[usize]| -> Vec<(Piece, usize)> {
        assert_eq!(pieces.len(), batches.len());
        pieces.into_iter().zip(batches.iter().copied()).collect()
    };
    let four = |lr: f64, turn: u32| {
        let scale = [256.0, 224.0, 128.0].map(|batch| batch / 256.0);
        with_batches(
            vec![
                (0, 6, lr, lr * 2.0),
                (6, 11, lr * 2.0, lr * 2.0),
                (11, 13, lr * 2.0, lr),
                (13, 16, lr * scale[1], lr * scale[1]),
                (16, turn, lr * scale[1], lr / 10.0 * scale[1]),
                (turn, 28, lr / 10.0 * scale[1], lr / 100.0 * scale[1]),
                (28, 30, lr / 100.0 * scale[2], lr / 1000.0 * scale[2]),
            ],
            &[256, 512, 512, 224, 224, 224, 128],
        )
    };
    match machines {
        1 => {
            let lr = 1.0;
            let scale = [512.0, 224.0, 128.0].map(|batch| batch / 512.0);
            with_batches(
                vec![
                    (0, 7, lr, lr * 2.0),
                    (7, 13, lr * 2.0, lr / 4.0),
                    (13, 22, lr * scale[1], lr / 10.0 * scale[1]),
                    (22, 25, lr / 10.0 * scale[1], lr / 100.0 * scale[1]),
                    (25, 28, lr / 100.0 * scale[2], lr / 1000.0 * scale[2]),
                ],
                &[512, 512, 224, 224, 128],
            )
        }
        2 => four(0.75 * 2.0, 23),
        4 => four(0.50 * 4.0, 24),
        8 => {
            let lr = 0.24 * 8.0;
            let scale = 224.0 / 128.0;
            with_batches(
                vec![
                    (0, 6, lr, lr * 2.0),
                    (6, 11, lr * 2.0, lr * 2.0),
                    (11, 14, lr * 2.0, lr),
                    (14, 17, lr, lr),
                    (17, 23, lr, lr / 10.0 * scale),
                    (23, 29, lr / 10.0 * scale, lr / 100.0 * scale),
                    (29, 37, lr / 100.0, lr / 1000.0),
                ],
                &[128, 256, 256, 128, 224, 224, 128],
            )
        }
        16 => {
            let lr = 0.235 * 8.0;
            let (late, last) = (2.0 * lr / (10.0 / 1.5), 2.0 * lr / (100.0 / 1.5));
            let (first_288, rest_288) = (2.0 * lr / 100.0, 2.0 * lr / 1000.0);
            with_batches(
                vec![
                    (0, 6, lr, lr * 2.0),
                    (6, 16, lr * 2.0, lr * 2.0),
                    (16, 19, lr, lr),
                    (19, 31, late, late),
                    (31, 37, last, last),
                    (37, 38, first_288, first_288),
                    (38, 50, rest_288, rest_288),
                ],
                &[64, 128, 64, 192, 192, 128, 128],
            )
        }
        _ => unreachable!("there are five schedules"),
    }
}

/// Golden check 1, the formula: every step of every schedule, in the original's order of operations.
#[test]
fn every_learning_rate_of_the_five_schedules_is_the_formula_s_to_the_last_bit() {
    for machines in [1, 2, 4, 8, 16] {
        let schedule = imagenet_schedule(&format!("imagenet18-{machines}"));
        let per_rank = IMAGENET.div_ceil(8 * machines as usize);
        let mut step = 0;
        for ((first, end, from, to), batch_size) in published(machines) {
            let batches = per_rank.div_ceil(batch_size);
            for epoch in first..end {
                for batch in 1..=batches {
                    let at = schedule.position(step + 1).unwrap();
                    assert_eq!(
                        (at.epoch, at.step_in_epoch + 1),
                        (epoch, batch as u64),
                        "{machines} machines"
                    );
                    let step_total = (end - first) as usize * batches;
                    let step_now = (epoch - first) as usize * batches + batch;
                    let expected = match from == to {
                        true => from,
                        false => from + step_now as f64 * ((to - from) / step_total as f64),
                    };
                    assert_eq!(at.lr.to_bits(), expected.to_bits(), "{machines} machines, step {}", step + 1);
                    step += 1;
                }
            }
        }
        assert_eq!(step, schedule.num_steps(), "{machines} machines");
    }
}

/// Golden check 2: steps an epoch, last batches, totals, and how the set goes round to fill the last step.
#[test]
fn steps_and_last_batches_are_those_of_2018() {
    let shapes = |machines: u32| -> Vec<(u64, usize)> {
        let schedule = imagenet_schedule(&format!("imagenet18-{machines}"));
        let shapes = (0..schedule.num_phases()).map(|index| schedule.epoch_shape(index));
        shapes.map(|epoch| (epoch.num_steps, epoch.last_batch_size)).collect()
    };
    assert_eq!(shapes(16), [(157, 26), (79, 26), (157, 26), (53, 26), (53, 26), (79, 26), (79, 26)]);
    assert_eq!(shapes(8), [(157, 51), (79, 51), (79, 51), (157, 51), (90, 83), (90, 83), (157, 51)]);
    let four = [(157, 101), (79, 101), (79, 101), (179, 165), (179, 165), (179, 165), (313, 101)];
    assert_eq!(shapes(4), four);
    assert_eq!(shapes(1), [(313, 402), (313, 402), (715, 210), (715, 210), (1252, 18)]);

    let sixteen = imagenet_schedule("imagenet18-16");
    assert_eq!(sixteen.steps_of(5), (3158, 3237), "the epoch that ends with step 3,236");
    assert_eq!((sixteen.num_epochs(), sixteen.num_steps()), (50, 4184));
    assert_eq!(sixteen.position(3236).unwrap().epoch, 37);
    assert_eq!(sixteen.position(3237).unwrap().epoch, 38);
    assert_eq!(sixteen.num_images_of(5) * 128, 10_010 * 128);

    // 10,010 images for each of 128 ranks are 113 more than there are: the epoch's first ones come again.
    let world_size = WorldSize::new(128).unwrap();
    let mut last: Vec<usize> = (0..128)
        .flat_map(|index| {
            let rank = Rank::new(index, world_size).unwrap();
            Plan::new(IMAGENET, 64, rank, Coverage::Train(Tail::Short)).positions(156)
        })
        .collect();
    last.sort_unstable();
    assert_eq!(last, (156 * 64 * 128..10_010 * 128).collect::<Vec<_>>());
    assert_eq!(last.iter().filter(|&&position| position >= IMAGENET).count(), 113);
}

/// A schedule of one phase, from its TOML.
fn one_phase(lr: &str, epochs: u64, num_steps: u64) -> Schedule {
    let text = format!("epochs = {epochs}\nsize = 32\nbatch_size = 1\nlr = {lr}");
    let phase: Phase = toml::from_str(&text).unwrap();
    Schedule::new(&[phase], |_| EpochShape { num_steps, last_batch_size: 1 }).unwrap()
}

/// Within a few roundings: PyTorch computes a rate from the one before it.
fn assert_near(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() <= 1e-13 * expected.abs().max(1.0), "{what}: {got}, not {expected}");
}

#[test]
fn the_curves_are_pytorch_s() {
    let text = fs::read_to_string(fixture("schedules.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (epochs, num_steps) = (json["epochs"].as_u64().unwrap(), json["steps_per_epoch"].as_u64().unwrap());
    // Where a curve stands after a step is where PyTorch's does; a stepped rate is that of the step itself.
    for (name, lr, shift) in [
        ("linear", "{ rule = 'linear', from = 3.2, to = 0.01 }", 0),
        ("linear", "[3.2, 0.01]", 0),
        ("cosine", "{ rule = 'cosine', from = 3.2, to = 0.01 }", 0),
        ("poly", "{ rule = 'poly', from = 3.2 }", 0),
        ("step", "{ rule = 'step', from = 3.2, every = 2 }", 1),
    ] {
        let schedule = one_phase(lr, epochs, num_steps);
        for step in 1..=epochs * num_steps {
            let expected = json[name][(step - shift) as usize].as_f64().unwrap();
            assert_near(schedule.position(step).unwrap().lr, expected, &format!("{name}, step {step}"));
        }
    }
    // A polynomial that does not end at 0, by hand: 1 + 3 (1 - 1/4)^1.5.
    let schedule = one_phase("{ rule = 'poly', from = 4, to = 1, power = 1.5 }", 1, 4);
    assert_near(schedule.position(1).unwrap().lr, 1.0 + 3.0 * 0.75_f64.powf(1.5), "poly");
    assert_eq!(schedule.lr_ends(0), (4.0, 1.0));
}

/// A warm-up as a phase, then a cosine that counts from the run's beginning, as timm does.
#[test]
fn a_cosine_over_several_phases_is_timm_s() {
    let text = fs::read_to_string(fixture("schedules.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let schedule = imagenet_schedule("rn50-a3");
    let num_steps = schedule.steps_per_epoch(0);
    // At epoch 5 timm has changed over to the cosine already, where the last step of the warm-up has its peak.
    for epoch in (1..=100).filter(|&epoch| epoch != 5) {
        let expected = json["a3"][epoch as usize].as_f64().unwrap();
        let got = schedule.position(epoch * num_steps).unwrap().lr;
        assert_near(got, expected, &format!("epoch {epoch}"));
    }
    assert_eq!(schedule.position(5 * num_steps).unwrap().lr, 8e-3);
}

/// The line of ffcv's recipes, over a change of size: where the phases meet nothing jumps.
#[test]
fn a_line_runs_on_through_phases() {
    let schedule = imagenet_schedule("rn50-16ep");
    let per_epoch = schedule.steps_per_epoch(0);
    for epoch in 2..16_u32 {
        for step in [1, per_epoch / 2, per_epoch] {
            let done = f64::from(epoch) + step as f64 / per_epoch as f64;
            let got = schedule.position(u64::from(epoch) * per_epoch + step).unwrap();
            assert_near(got.lr, 1.7 * (16.0 - done) / 14.0, &format!("epoch {epoch}"));
            assert_eq!(schedule.phase(got.phase).size, if epoch < 12 { 160 } else { 192 });
        }
    }
    let lars = imagenet_schedule("imagenet-lars");
    let at = |epoch: u64| lars.position(epoch * lars.steps_per_epoch(0)).unwrap();
    assert_eq!((at(14).lr, at(14).momentum), (25.0, Some(0.90)));
    assert_eq!((at(7).lr, at(7).momentum), (12.6, Some(0.94)));
}

/// What the command prints of each preset is committed. `BLESS=1` writes it anew.
#[test]
fn every_preset_has_the_table_that_is_committed() {
    for name in preset_names() {
        let output = sprint(["train", "--preset", name, "--dry-run"]).ok();
        let path = fixture("tables").join(format!("{name}.txt"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &output.stdout).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(output.stdout, expected, "{name} differs from {}", path.display());
    }
    let committed = fs::read_dir(fixture("tables")).unwrap().count();
    assert_eq!(committed, preset_names().count(), "a table without a preset");
}

/// The configuration that the command would carry out, and what it says of it.
fn dry(words: &[&str]) -> (TrainConfig, String) {
    let output = sprint(["train", "--dry-run=toml"].iter().chain(words)).ok();
    (toml::from_str(&output.stdout).unwrap(), output.stderr)
}

#[test]
fn epochs_are_scaled_phase_by_phase() {
    let (config, said) = dry(&["--preset", "imagenet18-16", "--scale-epochs", "0.5"]);
    let epochs = |config: &TrainConfig| config.phase.iter().map(|phase| phase.epochs).collect::<Vec<_>>();
    assert_eq!(epochs(&config), [3, 5, 1, 6, 3, 1, 6]);
    assert_eq!(
        said,
        "--scale-epochs 0.5: 50 epochs become 25 (by phase 6 10 3 12 6 1 12 -> 3 5 1 6 3 1 6)\n"
    );
    // A curve over several phases goes on spanning them, and a stepped rate steps as often.
    let (config, _) = dry(&[
        "--preset",
        "rn50-16ep",
        "--scale-epochs=2",
        "--set",
        "phase.0.lr={rule='step',from=1,every=1}",
    ]);
    assert_eq!(epochs(&config), [4, 20, 8]);
    let text = toml::to_string(&config).unwrap();
    assert_eq!(text.matches("over = [4.0, 32.0]").count(), 2, "{text}");
    assert!(text.contains("every = 2"), "{text}");

    for factor in ["0", "-1", "nan", "inf", "1e9"] {
        let words = ["train", "--dry-run", "--preset", "imagenet18-16", &format!("--scale-epochs={factor}")];
        let error = sprint(words).error(2).to_owned();
        assert!(error.contains("expected a number above 0 that leaves at most 1000000 epochs"), "{error}");
    }
}

#[test]
fn the_global_batch_follows_the_linear_rule() {
    let base = ["--preset", "imagenet18-16", "--global-batch-size"];
    let (config, said) = dry(&[&base[..], &["4096"]].concat());
    assert_eq!(
        config.phase.iter().map(|phase| phase.batch_size).collect::<Vec<_>>(),
        [32, 64, 32, 96, 96, 64, 64]
    );
    let lr = toml::to_string(&config.phase[0]).unwrap();
    assert!(lr.contains("lr = [0.94, 1.88]"), "{lr}");
    assert_eq!(
        said,
        "--global-batch-size 4096: 32 images a rank in the first phase, learning rates times 0.5\n"
    );

    let (_, said) = dry(&[&base[..], &["16384"]].concat());
    assert!(said.contains("warning: a global batch of 16384 is past the 8192"), "{said}");
    let (_, said) = dry(&[&base[..], &["16384", "--set", "optimizer.rule=lars"]].concat());
    assert!(!said.contains("warning"), "{said}");

    // 128 ranks times 64 images, with 192 in another phase: whole images need a multiple of 128.
    let words = ["train", "--dry-run", "--preset", "imagenet18-16", "--global-batch-size=4100"];
    let error = sprint(words).error(2).to_owned();
    assert!(error.contains("expected a multiple of 128, so that 128 ranks get whole images"), "{error}");
}

/// On another number of ranks than was planned, what changes is said; the plan's own batch can be kept.
#[test]
fn another_world_size_is_compared_with_the_plan() {
    let temp = tempfile::tempdir().unwrap();
    common::write_idx(temp.path());
    let data = word(temp.path());
    let words =
        ["--data", &data, "--set", "cluster={machines=2,ranks_per_machine=4}", "--set", "phase.0.lr=0.4"];
    let table = sprint(["train", "--preset", "default", "--dry-run"].iter().chain(&words)).ok();
    assert!(table.stdout.starts_with("default: ResNet-8 of "), "{}", table.stdout);
    assert!(table.stdout.contains(", 165 images of 4 classes, 1 rank\n"), "{}", table.stdout);
    assert_eq!(
        table.stderr,
        "the recipe is made for 8 ranks, here is 1: a global batch of 128 images instead of 1024, in the first phase a \
         learning rate of up to 0.8000 for every 256 of them instead of 0.1000; --global-batch-size 1024 would keep \
         the plan's\n"
    );
    let (config, said) = dry(&[&["--preset", "default", "--global-batch-size=1024"], &words[..]].concat());
    assert_eq!(config.phase[0].batch_size, 1024);
    assert!(toml::to_string(&config).unwrap().contains("lr = 0.4\n"));
    assert_eq!(
        said,
        "--global-batch-size 1024: 1024 images a rank in the first phase, learning rates times 1\n"
    );
}

/// A phase's own momentum is what its steps take, and a run says once how its ranks differ from the plan's.
#[test]
fn momentum_follows_its_phase() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    fs::create_dir(&data).unwrap();
    common::write_idx(&data);
    let run = |name: &str, set: &[&str]| {
        let out = temp.path().join(name);
        let words = common::tiny(&data, &out).into_iter().chain(common::sets(set));
        (sprint(words).ok().stderr, out)
    };
    let (said, whole) = run("whole", &["optimizer.momentum=0.5", "cluster={machines=2,ranks_per_machine=4}"]);
    assert_eq!(said.matches("the recipe is made for 8 ranks, here is 1").count(), 1, "{said}");
    let (said, phases) = run("phases", &["phase.0.momentum=0.5", "phase.1.momentum=[0.5, 0.5]"]);
    assert!(!said.contains("the recipe is made for"), "{said}");
    common::assert_same_end(&phases, &whole);
    let (_, other) = run("other", &["phase.0.momentum=0.5", "phase.1.momentum=[0.5, 0.6]"]);
    assert_ne!(common::rows(&other), common::rows(&whole));

    let said = sprint(["train", "--out", &word(&whole), "--resume"]).ok().stderr;
    assert!(!said.contains("the recipe is made for"), "{said}");
}

#[test]
fn a_recipe_for_pictures_that_are_not_there_asks_for_them() {
    let error = sprint(["train", "--preset", "imagenet18-16"]).error(2).to_owned();
    assert!(
        error.contains("made for 1281167 images that are not inside the program: give --data PATH"),
        "{error}"
    );
    let error = sprint(["train", "--preset", "imagenet-18-16"]).error(2).to_owned();
    assert!(error.contains("did you mean `imagenet18-16`?"), "{error}");
}
