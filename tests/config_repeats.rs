//! Goal: a run's `config.toml` repeats it bit for bit, and `--dry-run=toml` prints a configuration that means itself.
//!
//! Method: the command as a process; a tiny run, and another from the first one's file alone.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use burn_sprint::config::{Sources, TrainConfig};
use common::{assert_same_end, data, sprint, tiny, word};

#[test]
fn the_configuration_of_a_run_repeats_it() {
    let temp = data();
    let path = |name: &str| temp.path().join(name);
    // A relative path must mean the same from elsewhere.
    let words = tiny("data".as_ref(), &path("first"));
    let output = common::command(words).current_dir(temp.path()).output().unwrap();
    common::Output::of(output).ok();
    let config = path("first").join("config.toml");
    sprint(["train", "--config", &word(&config), "--out", &word(&path("second"))]).ok();
    assert_same_end(&path("second"), &path("first"));
    assert_eq!(fs::read(path("second").join("config.toml")).unwrap(), fs::read(&config).unwrap());

    // Another seed is another run.
    let words = ["train", "--config", &word(&config), "--out", &word(&path("third")), "--set", "seed=4"];
    sprint(words).ok();
    assert_ne!(common::rows(&path("third")), common::rows(&path("first")));
}

#[test]
fn a_dry_run_prints_the_recipe_and_does_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    for preset in burn_sprint::recipe::preset_names() {
        let words = ["train", "--dry-run=toml", "--preset", preset, "--set", "optimizer.momentum=0.85"];
        let output = sprint(words.into_iter().chain(["--out", &word(&run)])).ok();
        assert!(!run.exists());
        let printed: TrainConfig = toml::from_str(&output.stdout).unwrap();
        let set = vec!["optimizer.momentum=0.85".to_owned()];
        let meant = Sources { preset: Some(preset.into()), set, ..Sources::default() }.resolve().unwrap();
        assert_eq!(printed, meant);

        // Printed again, it is the same.
        let file = temp.path().join("printed.toml");
        fs::write(&file, &output.stdout).unwrap();
        let again = sprint(["train", "--dry-run=toml", "--config", &word(&file)]).ok();
        assert_eq!(again.stdout, output.stdout);
    }
}
