//! Goal: bad input ends in one clear line that names what is at fault, with exit status 1 (the run failed) or 2 (the
//! words were wrong), never in a panic, and nothing that was there before is lost.
//!
//! Method: the command as a process on small data that are spoilt in one way each.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{checkpoints, data, halve, rows, sets, sprint, tiny, word, write_folder, write_idx};

/// 4 classes of 20 pictures, and the files.
fn folder(at: &Path) -> Vec<Vec<PathBuf>> {
    write_folder(at, 20)
}

/// [`tiny`] on colour pictures, which a folder's are taken to be.
fn coloured(data: &Path, out: &Path) -> Vec<String> {
    let mut words = tiny(data, out);
    words.extend(sets(&["data.mean=[0.3, 0.3, 0.3]", "data.std=[0.3, 0.3, 0.3]"]));
    words
}

/// A folder with a finished [`tiny`] run, `data` and `run`.
fn finished() -> tempfile::TempDir {
    let temp = data();
    sprint(tiny(&temp.path().join("data"), &temp.path().join("run"))).ok();
    temp
}

/// A JPEG of a real encoder.
fn jpeg() -> Vec<u8> {
    let pixels = common::pattern(0, &mut common::Random(5));
    let mut bytes = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new(&mut bytes);
    let side = common::SIDE as u32;
    image::ImageEncoder::write_image(encoder, &pixels, side, side, image::ExtendedColorType::L8).unwrap();
    bytes
}

/// Three kinds of bad file, each ends training at once or is skipped and counted, as the policy says.
#[test]
fn a_bad_picture_is_named_or_counted() {
    let jpeg = jpeg();
    for (name, bytes) in [
        ("truncated.jpg", &jpeg[..jpeg.len() / 2]),
        ("text.jpg", b"a picture of a cat, in words\n".as_slice()),
        ("empty.jpg", b"".as_slice()),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        folder(&data);
        // Sorted first in its class: it is trained on.
        let bad = data.join("class2").join(format!("000-{name}"));
        fs::write(&bad, bytes).unwrap();

        let run = temp.path().join("run");
        let output = sprint(coloured(&data, &run));
        let error = output.error(1);
        assert!(error.contains(&word(&bad)), "{error}");
        let end = rows(&run).pop().unwrap();
        assert_eq!((end["event"].as_str(), end["reason"].as_str()), (Some("end"), Some("failed")));
        assert!(end["message"].as_str().unwrap().contains(name), "{end}");

        let run = temp.path().join("skipping");
        let output = sprint(coloured(&data, &run).into_iter().chain(sets(&["data.on_bad_file=skip"]))).ok();
        // 65 training pictures are 4 batches of 16 and 1 left over: an epoch may pass the bad one by.
        let skipped = rows(&run).pop().unwrap()["skipped_images"].as_u64().expect("it is counted");
        assert!((1..=3).contains(&skipped), "{skipped}");
        let told = format!("; {skipped} bad pictures skipped; see ");
        assert!(output.stdout.lines().last().unwrap().contains(&told), "{}", output.stdout);
        assert!(rows(&run).iter().any(|row| row["event"] == "step" && row["skipped_images"] == skipped));

        // Named on the command line, other pictures of which are still classified.
        let good = data.join("class1").join("000.png");
        let output = sprint(["predict", "--checkpoint", &word(&run), &word(&bad), &word(&good)]);
        assert!(output.error(1).contains(&word(&bad)), "{}", output.stderr);
        assert!(output.stdout.starts_with(&word(&good)), "{}", output.stdout);
    }
}

/// A file that goes bad while training is under way costs what came after the last checkpoint, not the run.
#[test]
fn a_bad_picture_in_the_middle_leaves_the_checkpoints() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let files = folder(&data);
    // Held out for validation: it is met after the first epoch's 4 steps.
    let bad = &files[3][19];
    let good = fs::read(bad).unwrap();
    halve(bad);
    let run = temp.path().join("run");
    let output = sprint(coloured(&data, &run));
    assert!(output.error(1).contains(&word(bad)), "{}", output.stderr);
    assert_eq!(checkpoints(&run).last().unwrap().0, 3);

    // Put right, it goes on from there.
    fs::write(bad, good).unwrap();
    let output = sprint(["train", "--out", &word(&run), "--resume"]).ok();
    assert!(output.stderr.contains("resuming after step 3\n"), "{}", output.stderr);
}

#[test]
fn an_empty_class_folder_is_named() {
    let temp = tempfile::tempdir().unwrap();
    folder(temp.path());
    fs::create_dir(temp.path().join("zebra")).unwrap();
    let run = temp.path().join("run");
    let data = temp.path().join("data");
    fs::create_dir(&data).unwrap();
    for class in 0..common::NUM_CLASSES {
        let name = format!("class{class}");
        fs::rename(temp.path().join(&name), data.join(&name)).unwrap();
    }
    fs::rename(temp.path().join("zebra"), data.join("zebra")).unwrap();
    let output = sprint(tiny(&data, &run));
    let error = output.error(1);
    assert!(error.contains("no picture for the classes zebra") && error.contains(&word(&data)), "{error}");
    assert!(!run.exists(), "no run was begun");
}

#[test]
fn a_wrong_key_is_told_with_its_line_and_the_nearest_known_one() {
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("mine.toml");
    let text = "name = \"mine\"\n[model]\ndepth = 8\n[optimizer]\nmomentun = 0.8\n[[phase]]\nepochs = 1\nsize = 28\n\
                batch_size = 16\nlr = 0.1\n";
    fs::write(&config, text).unwrap();
    let run = temp.path().join("run");
    let output = sprint(["train", "--config", &word(&config), "--out", &word(&run)]);
    let error = output.error(2);
    for part in [&*word(&config), "line 5", "`momentun`", "did you mean `momentum`?"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!run.exists());
}

#[test]
fn weights_of_another_depth_are_refused_and_stay() {
    let temp = finished();
    let weights = temp.path().join("resnet8.safetensors");
    let run = word(&temp.path().join("run"));
    sprint(["export", "--checkpoint", &run, "--out", &word(&weights)]).ok();
    let before = fs::read(&weights).unwrap();
    let words = tiny(&temp.path().join("data"), &temp.path().join("other")).into_iter();
    let from = format!("model.pretrained={}", word(&weights));
    let output = sprint(words.chain(sets(&["model.depth=20", &from])));
    let error = output.error(1);
    assert!(error.contains("resnet8.safetensors"), "{error}");
    assert_eq!(fs::read(&weights).unwrap(), before);
}

#[test]
fn a_checkpoint_cut_in_half_is_named() {
    let temp = finished();
    let weights = checkpoints(&temp.path().join("run")).pop().unwrap().1.join("model.safetensors");
    halve(&weights);
    let data = word(&temp.path().join("data"));
    let output = sprint(["eval", "--checkpoint", &word(&weights), "--data", &data]);
    assert!(output.error(1).contains(&word(&weights)), "{}", output.stderr);
    // The run's folder still stands for the whole one before it.
    sprint(["eval", "--checkpoint", &word(&temp.path().join("run")), "--data", &data]).ok();
}

#[test]
fn a_preset_that_is_none_is_told_with_those_that_are() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let output = sprint(["train", "--preset", "defualt", "--out", &word(&run)]);
    let error = output.error(2);
    assert!(error.contains("`defualt`") && error.contains("did you mean `default`?"), "{error}");
    assert!(!run.exists());
}

/// Whoever runs the tests as root may write anywhere; but not below a file.
#[test]
fn an_out_folder_that_cannot_be_made_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    fs::create_dir(&data).unwrap();
    write_idx(&data);
    let file = temp.path().join("file");
    fs::write(&file, "mine").unwrap();
    let output = sprint(tiny(&data, &file.join("run")));
    assert!(output.error(1).contains(&word(&file.join("run"))), "{}", output.stderr);
    let output = sprint(tiny(&data, &file));
    assert!(output.error(1).contains(&word(&file)), "{}", output.stderr);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_device_that_the_program_was_built_without_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    for device in ["cuda", "cuda:1"] {
        let output = sprint(["train", "--device", device, "--out", &word(&run)]);
        let error = output.error(2);
        assert!(error.contains("built without cuda") && error.contains("--features cuda"), "{error}");
        assert!(!run.exists());
    }
}

/// Slips that do not name a file.
#[test]
fn slips_of_the_hand_are_told_and_start_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    for (words, status, expected) in [
        (["--device", "gpu"], 2, "there is no device `gpu`"),
        (["--set", "model.depth=21"], 2, "depth"),
        (["--set", "phase.0.batch_size=0"], 2, "`batch_size` is 0"),
        (["--set", "optimizer.momentum=1.5"], 2, "optimizer.momentum is 1.5"),
        (["--stop-at", "top7=3"], 2, "top7"),
        (["--data", "/no/such/place"], 1, "/no/such/place does not exist"),
        (["--config", "/no/such.toml"], 1, "/no/such.toml"),
    ] {
        let output = sprint(["train", "--out", &word(&run)].into_iter().chain(words));
        let error = output.error(status);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!run.exists());
    }
}
