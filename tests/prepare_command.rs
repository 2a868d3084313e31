//! `sprint prepare`: what it writes, that it goes on after whatever stops it, and that others read it; shards as data.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use burn_sprint::data::{Copies, Location, Picture, SharedSource, Source, open_parts, shuffle};
use common::{NUM_CLASSES, files, peer, sprint, word};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)
}

/// `sprint prepare --data .. --out ..` and more.
fn prepare(data: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let words = ["prepare".to_owned(), "--data".into(), word(data), "--out".into(), word(out)];
    words.into_iter().chain(more.iter().map(|word| (*word).to_owned())).collect()
}

/// A folder with train/ and val/, of `NUM_CLASSES` classes.
fn divided(folder: &Path, train_per_class: usize, val_per_class: usize) -> PathBuf {
    let data = folder.join("data");
    common::write_folder(&data.join("train"), train_per_class);
    common::write_folder(&data.join("val"), val_per_class);
    data
}

fn parts(path: &Path) -> Vec<SharedSource> {
    open_parts(&Location::Path(path.into())).unwrap().into_iter().map(|(_, source)| source).collect()
}

/// Each picture's class and pixels, in no order.
fn contents(source: &dyn Source) -> Vec<(String, Vec<u8>)> {
    let picture = |index| {
        let mut picture = Picture::default();
        source.read(index, &mut picture).unwrap();
        assert_eq!(source.dimensions(index).unwrap(), (picture.width(), picture.height()));
        (source.class_names()[source.label(index) as usize].clone(), picture.pixels().to_vec())
    };
    let mut contents: Vec<_> = (0..source.num_images()).map(picture).collect();
    contents.sort();
    contents
}

#[track_caller]
fn assert_same_files(got: &Path, expected: &Path) {
    let (got, expected) = (files(got), files(expected));
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let differs = got.iter().find(|(path, bytes)| expected[*path] != **bytes);
    assert!(differs.is_none(), "{:?} differs", differs.unwrap().0);
}

#[test]
fn copies_are_small_and_the_rest_is_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let data = divided(temp.path(), 5, 2);
    let ready = temp.path().join("ready");
    let output = sprint(prepare(&data, &ready, &["--sizes", "16,40"])).ok();
    assert!(output.stdout.starts_with("28 pictures, written and checked: "), "{}", output.stdout);
    for part in ["train", "val"] {
        assert_same_files(&ready.join(part), &data.join(part));
        // Not larger than they were: as they were.
        assert_same_files(&ready.join("40").join(part), &data.join(part));
    }
    let copies = Copies::open(&Location::Path(ready.clone()), ["16", "40"], 0.2).unwrap();
    let small = copies.get(Some("16")).unwrap();
    for index in 0..small.train.num_images() {
        let (mut picture, mut file) = (Picture::default(), Vec::new());
        small.train.read(index, &mut picture).unwrap();
        small.train.read_file(index, &mut file).unwrap();
        assert_eq!((picture.width(), picture.height(), &file[..2]), (16, 16, &b"\xFF\xD8"[..]));
        assert!(small.train.name(index).ends_with(".jpg"));
    }
    // The same as before, added to the data themselves.
    sprint(prepare(&data, &data, &["--sizes", "16"])).ok();
    assert_same_files(&data.join("16"), &ready.join("16"));
    // And another size later.
    sprint(prepare(&data, &data, &["--sizes", "12"])).ok();
    assert!(data.join("12/val/class3/001.jpg").exists());
}

#[test]
fn shards_have_the_pictures_of_the_folder() {
    let temp = tempfile::tempdir().unwrap();
    let data = divided(temp.path(), 10, 3);
    let ready = temp.path().join("ready");
    let words = prepare(&data, &ready, &["--shards", "--per-shard", "7", "--sizes", "16"]);
    sprint(&words).ok();
    for name in
        ["train-00005.tar", "train-00005.index", "val-00001.tar", "16/train-00005.tar", "16/shards.json"]
    {
        assert!(ready.join(name).exists(), "{name}");
    }
    for (got, expected) in parts(&ready).into_iter().zip(parts(&data)) {
        assert_eq!(got.class_names(), expected.class_names());
        assert_eq!(contents(&*got), contents(&*expected));
    }
    // Shuffled: the first shard has pictures of several classes; and copies are in the same order.
    let [train, small] = [&ready, &ready.join("16")].map(|folder| parts(folder).swap_remove(0));
    let labels =
        |source: &SharedSource| (0..source.num_images()).map(|i| source.label(i)).collect::<Vec<_>>();
    assert!(labels(&train)[..7].windows(2).any(|pair| pair[0] != pair[1]), "{:?}", labels(&train));
    assert_eq!(labels(&train), labels(&small));
    assert_eq!(small.dimensions(3).unwrap(), (16, 16));
    assert!(train.name(0).contains("train-00000.tar#class"), "{}", train.name(0));
    // Once more: nothing to do, and nothing changes.
    let before = files(&ready);
    sprint(&words).ok();
    assert!(files(&ready) == before);
    // Another seed is another order.
    let other = temp.path().join("other");
    sprint(prepare(&data, &other, &["--shards", "--per-shard", "7", "--seed", "1"])).ok();
    assert_ne!(labels(&parts(&other)[0]), labels(&train));
    // From shards to shards and to pictures again.
    let again = temp.path().join("again");
    sprint(prepare(&ready, &again, &[])).ok();
    assert_eq!(contents(&*parts(&again)[1]), contents(&*parts(&data)[1]));
    assert_same_files(&again.join("train"), &data.join("train"));
}

/// Two phases, the first of a copy, the second validated by rectangles, whose sizes the index has.
#[test]
fn a_run_reads_shards() {
    let temp = tempfile::tempdir().unwrap();
    let data = divided(temp.path(), 12, 4);
    let ready = temp.path().join("ready");
    sprint(prepare(&data, &ready, &["--shards", "--per-shard", "9", "--sizes", "20"])).ok();
    let phases = "phase=[{epochs=1, size=16, batch_size=8, lr=0.1, data='20'}, \
                  {epochs=1, size=24, batch_size=8, lr=0.1, val='rect'}]";
    let train = |data: &Path, out: &str| {
        let out = temp.path().join(out);
        let words =
            ["train", "--preset", "photos", "--data", &word(data), "--out", &word(&out)].map(String::from);
        let sets = common::sets(&["seed=3", "model.depth=8", "model.width=4", phases]);
        sprint(words.into_iter().chain(sets)).ok();
        common::rows(&out)
    };
    let rows = train(&ready, "run");
    let val = rows.iter().filter(|row| row.get("val_top1").is_some()).count();
    assert_eq!(val, 2, "{rows:#?}");
    // The index has the pictures' sizes: none were read and remembered.
    assert!(!files(&ready).keys().any(|path| path.to_string_lossy().contains("sizes")));
}

#[test]
fn killed_and_run_again_it_ends_the_same() {
    let temp = tempfile::tempdir().unwrap();
    // One picture that takes a while, by many names.
    let (width, height) = (900, 600);
    let pixels: Vec<u8> = (0..width * height * 3).map(|at| (at / 3 % width / 4 + at % 7 * 8) as u8).collect();
    let picture = temp.path().join("picture.png");
    image::save_buffer(&picture, &pixels, width as u32, height as u32, image::ColorType::Rgb8).unwrap();
    let data = temp.path().join("data");
    for number in 0..120 {
        let folder = data.join(["train", "val"][number % 2]).join(["cat", "dog"][number / 2 % 2]);
        fs::create_dir_all(&folder).unwrap();
        fs::hard_link(&picture, folder.join(format!("{number}.png"))).unwrap();
    }
    for (shards, first) in [(true, "64/train-00001.index"), (false, "64/train/cat/0.jpg")] {
        let words: &[&str] =
            if shards { &["--sizes", "64", "--shards", "--per-shard", "4"] } else { &["--sizes", "64"] };
        let [whole, killed] = ["whole", "killed"].map(|name| temp.path().join(format!("{name} {shards}")));
        sprint(prepare(&data, &whole, words)).ok();
        let mut child = common::command(prepare(&data, &killed, words)).spawn().unwrap();
        common::wait_until("the first files", || killed.join(first).exists());
        child.kill().unwrap();
        child.wait().unwrap();
        let num_done = files(&killed).len();
        assert!(num_done < files(&whole).len(), "it was done before it was killed");
        sprint(prepare(&data, &killed, words)).ok();
        assert_same_files(&killed, &whole);
    }
}

/// A file system of a few kilobytes, where a test may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(kib: u32) -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).then_some(disk).or_else(
            || {
                eprintln!("SKIP: no file system can be mounted here");
                None
            },
        )
    }

    fn run(&self, program: &str, words: &[&str]) -> bool {
        let output = Command::new(program).args(words).arg(self.0.path()).output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.run("umount", &[]);
    }
}

#[test]
fn a_disk_that_is_too_small_is_seen_before_and_while_it_fills() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let files_of = common::write_folder(&data, 16);
    let words = |out: &Path| prepare(&data, out, &["--shards", "--per-shard", "8"]);
    let Some(disk) = SmallDisk::mount(100) else { return };
    let output = sprint(words(&disk.0.path().join("out")));
    let error = output.error(1);
    assert!(error.contains(" MB free, and about ") && error.contains("free some space"), "{error}");
    drop(disk);

    // The pictures that are looked at beforehand are every second in the order of writing; the others are large.
    let order = shuffle::order(64, 0, u64::MAX);
    let mut random = common::Random(1);
    for &index in order.iter().skip(1).step_by(2) {
        let noise: Vec<u8> = (0..128 * 128).map(|_| random.below(256) as u8).collect();
        let path = &files_of[index as usize / 16][index as usize % 16];
        image::save_buffer(path, &noise, 128, 128, image::ColorType::L8).unwrap();
    }
    let whole = temp.path().join("whole");
    sprint(words(&whole)).ok();
    let disk = SmallDisk::mount(300).unwrap();
    let out = disk.0.path().join("out");
    let output = sprint(words(&out));
    let error = output.error(1);
    assert!(error.contains("the disk is full") && error.contains("free some space"), "{error}");
    assert!(!files(&out).keys().any(|path| path.extension().is_some_and(|extension| extension == "part")));
    assert!(disk.run("mount", &["-o", "remount,size=8m"]));
    sprint(words(&out)).ok();
    assert_same_files(&out, &whole);
}

/// The shards that the Python package wrote, copied where an index may be kept beside them.
fn foreign(folder: &Path) -> PathBuf {
    let data = folder.join("foreign");
    fs::create_dir(&data).unwrap();
    for name in ["pets-train-000000.tar", "pets-train-000001.tar", "pets-val-000000.tar"] {
        fs::copy(fixture("shards").join(name), data.join(name)).unwrap();
    }
    data
}

#[test]
fn shards_written_by_webdataset_are_read() {
    let temp = tempfile::tempdir().unwrap();
    let data = foreign(temp.path());
    let expected: [&[(&str, u32)]; 2] = [
        &[
            ("jpeg_420.jpg", 0),
            ("png_rgb.png", 1),
            ("jpeg_grey.jpg", 2),
            ("webp_lossy.webp", 1),
            ("jpeg_progressive.jpg", 2),
        ],
        &[("jpeg_444.jpg", 1), ("jpeg_cmyk.jpg", 0)],
    ];
    for opened in ["made", "kept"] {
        for (source, expected) in parts(&data).into_iter().zip(expected) {
            assert_eq!(source.class_names(), ["0", "1", "2"]);
            assert_eq!(source.num_images(), expected.len(), "{opened}");
            for (index, (name, label)) in expected.iter().enumerate() {
                let mut file = Vec::new();
                source.read_file(index, &mut file).unwrap();
                assert_eq!(file, fs::read(fixture("pictures").join(name)).unwrap());
                assert_eq!(source.label(index), *label);
                assert!(
                    source.name(index).ends_with(&format!(".tar#{label}/{index:06}")),
                    "{}",
                    source.name(index)
                );
            }
        }
        assert!(data.join(".burn-sprint-pets-val-000000.index").exists());
    }
    let output = sprint(["prepare", "--check", "--data", &word(&data)]).ok();
    assert_eq!(output.stdout, "7 pictures, none damaged\n");
    let output = sprint(["prepare", "--check", "--data", &word(&data.join("pets-val-000000.tar"))]).ok();
    assert_eq!(output.stdout, "2 pictures, none damaged\n");
}

#[test]
fn webdataset_reads_our_shards() {
    let temp = tempfile::tempdir().unwrap();
    let ready = temp.path().join("ready");
    sprint(prepare(&divided(temp.path(), 5, 2), &ready, &["--shards", "--per-shard", "8"])).ok();
    let source = parts(&ready).swap_remove(0);
    let tars = (0..3).map(|number| ready.join(format!("train-{number:05}.tar")));
    let Some(text) = peer("webdataset_reads.py", "webdataset", tars) else { return };
    let samples: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((samples.len(), source.num_images()), (5 * NUM_CLASSES, 5 * NUM_CLASSES));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (index, sample) in samples.iter().enumerate() {
        let mut file = Vec::new();
        source.read_file(index, &mut file).unwrap();
        let label = source.label(index).to_string();
        assert_eq!(sample["files"], serde_json::json!({ "png": hex(&file), "cls": hex(label.as_bytes()) }));
        assert!(source.name(index).ends_with(&format!("#{}", sample["key"].as_str().unwrap())));
    }
}

#[test]
fn damaged_pictures_are_found_and_named() {
    let temp = tempfile::tempdir().unwrap();
    let data = divided(temp.path(), 5, 2);
    let check = |data: &Path| sprint(["prepare", "--check", "--data", &word(data)]);
    assert_eq!(check(&data).ok().stdout, "28 pictures, none damaged\n");
    let (cut, empty) = (data.join("train/class1/002.png"), data.join("val/class3/001.png"));
    common::halve(&cut);
    fs::write(&empty, b"").unwrap();
    let output = check(&data);
    assert_eq!(output.error(1), format!("error: 2 of 28 pictures of {} are damaged", data.display()));
    let [first, second] = output.stdout.lines().collect::<Vec<_>>().try_into().unwrap();
    assert!(first.starts_with(&format!("{}: damaged or truncated PNG", cut.display())), "{first}");
    assert_eq!(second, format!("{}: the file is empty", empty.display()));
    // None goes into shards, unless it is asked for.
    let ready = temp.path().join("ready");
    let output = sprint(prepare(&data, &ready, &["--shards"]));
    assert!(output.error(1).contains(word(&cut).as_str()), "{}", output.stderr);
    let output = sprint(prepare(&data, &ready, &["--shards", "--skip-bad-files"])).ok();
    assert!(output.stderr.contains(&format!("left out: {}", cut.display())), "{}", output.stderr);
    assert!(output.stdout.starts_with("28 pictures, 2 bad ones left out"), "{}", output.stdout);
    assert_eq!(parts(&ready)[0].num_images(), 19);
    // And a shard's damage is told from a picture's.
    let tar = ready.join("train-00000.tar");
    let mut bytes = fs::read(&tar).unwrap();
    let at = bytes.windows(4).position(|window| window == b"IDAT").unwrap();
    bytes[at + 10] ^= 1;
    fs::write(&tar, bytes).unwrap();
    let output = check(&ready);
    assert!(output.error(1).contains("1 of 26 pictures"), "{}", output.stderr);
    assert!(
        output.stdout.contains("train-00000.tar#class") && output.stdout.contains("CRC-32C"),
        "{}",
        output.stdout
    );
}

#[test]
fn encoding_anew_is_asked_for_and_said() {
    let temp = tempfile::tempdir().unwrap();
    let data = divided(temp.path(), 3, 1);
    let ready = temp.path().join("ready");
    let output = sprint(prepare(&data, &ready, &["--max-side", "20", "--quality", "80"])).ok();
    assert!(
        output.stderr.contains("at most 20 pixels long, at JPEG quality 80: they lose detail"),
        "{}",
        output.stderr
    );
    let source = parts(&ready).swap_remove(0);
    assert_eq!(source.dimensions(0).unwrap(), (20, 20));
    assert!(source.name(0).ends_with("train/class0/000.jpg"));
}

fn tar_of(path: &Path, entries: &[(String, Vec<u8>)]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &**bytes).unwrap();
    }
    builder.finish().unwrap();
}

/// The three archives in small, with the development kit's table as MATLAB writes it.
#[test]
fn imagenet_s_archives_are_read_as_they_are() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("imagenet");
    fs::create_dir(&data).unwrap();
    let picture = |name: &str| fs::read(fixture("pictures").join(name)).unwrap();
    let class = |wnid: &str, pictures: &[&str]| {
        let path = temp.path().join("class.tar");
        let entries: Vec<_> = pictures
            .iter()
            .enumerate()
            .map(|(n, name)| (format!("{wnid}_{n}.JPEG"), picture(name)))
            .collect();
        tar_of(&path, &entries);
        (format!("{wnid}.tar"), fs::read(path).unwrap())
    };
    let classes = [
        class("n02121808", &["jpeg_420.jpg", "jpeg_422.jpg"]),
        class("n02084071", &["jpeg_grey.jpg", "png_rgb.png"]),
    ];
    tar_of(&data.join("ILSVRC2012_img_train.tar"), &classes);
    let val = ["jpeg_444.jpg", "jpeg_rgb.jpg", "jpeg_cmyk.jpg"];
    let val: Vec<_> =
        (1..).zip(val).map(|(n, name)| (format!("ILSVRC2012_val_{n:08}.JPEG"), picture(name))).collect();
    tar_of(&data.join("ILSVRC2012_img_val.tar"), &val);
    let ready = temp.path().join("ready");
    let output = sprint(prepare(&data, &ready, &["--shards"]));
    assert!(output.error(1).contains("ILSVRC2012_devkit_t12.tar.gz cannot be used: it is missing beside"));

    let devkit = |truth: &str| {
        let path = temp.path().join("devkit.tar");
        let below = |name: &str| format!("ILSVRC2012_devkit_t12/data/{name}");
        tar_of(
            &path,
            &[
                (below("meta.mat"), fs::read(fixture("shards/meta.mat")).unwrap()),
                (below("ILSVRC2012_validation_ground_truth.txt"), truth.into()),
            ],
        );
        let to = File::create(data.join("ILSVRC2012_devkit_t12.tar.gz")).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
        std::io::copy(&mut File::open(path).unwrap(), &mut encoder).unwrap();
        encoder.finish().unwrap();
    };
    for (truth, said) in
        [("1\n2\n", "it has 3 pictures"), ("1\n2\n9\n", "line 3 of"), ("1\n2\nx\n", "is \"x\"")]
    {
        devkit(truth);
        let output = sprint(prepare(&data, &ready, &["--shards"]));
        assert!(output.error(1).contains(said), "{}", output.stderr);
    }
    devkit("1\n2\n1\n");
    sprint(prepare(&data, &ready, &["--shards"])).ok();
    let [train, val] = parts(&ready).try_into().unwrap();
    assert_eq!(train.class_names(), ["n02084071", "n02121808"]);
    let expect = |source: &dyn Source, expected: &[(&str, u32)]| {
        let mut expected: Vec<_> = expected.iter().map(|(name, label)| (*label, picture(name))).collect();
        let file = |index| {
            let mut file = Vec::new();
            source.read_file(index, &mut file).unwrap();
            (source.label(index), file)
        };
        let mut got: Vec<_> = (0..source.num_images()).map(file).collect();
        got.sort();
        expected.sort();
        assert!(got == expected);
    };
    expect(&*train, &[("jpeg_grey.jpg", 0), ("png_rgb.png", 0), ("jpeg_420.jpg", 1), ("jpeg_422.jpg", 1)]);
    expect(&*val, &[("jpeg_444.jpg", 1), ("jpeg_rgb.jpg", 0), ("jpeg_cmyk.jpg", 1)]);
    assert!((0..3).any(|index| val.name(index).ends_with("#n02121808/ILSVRC2012_val_00000003")));
}

#[test]
fn wrong_words_and_places_are_refused_in_a_line() {
    let temp = tempfile::tempdir().unwrap();
    let data = divided(temp.path(), 3, 1);
    let whole = data.join("train");
    let out = temp.path().join("out");
    let refused = |data: &Path, out: &Path, words: &[&str], said: &str| {
        let output = sprint(prepare(data, out, words));
        assert!(output.error(2).contains(said), "{}", output.stderr);
    };
    refused(&data, &out, &["--quality", "80"], "--quality is that of what is encoded anew");
    refused(&whole, &out, &["--sizes", "16"], "is not divided into train/ and val/");
    refused(&whole, &whole, &["--sizes", "16", "--shards"], "is not divided into train/ and val/");
    refused(&data, &data, &[], "only copies can be added");
    refused(&data, &data, &["--sizes", "16", "--max-side", "20"], "only copies can be added");
    refused(&data, temp.path(), &[], "is not empty and has no prepare.json");
    assert!(!out.exists(), "nothing was begun");
    let idx = common::data();
    refused(&idx.path().join("data"), &out, &[], "has no picture files");
    sprint(prepare(&data, &out, &["--shards"])).ok();
    refused(&data, &out, &["--shards", "--seed", "1"], "was begun with seed 0, not 1");
    refused(&data, &out, &[], "was begun with shards true, not false");
    fs::rename(data.join("val/class0/000.png"), data.join("val/class0/a.png")).unwrap();
    refused(&data, &out, &["--shards"], "was begun from other pictures");
    let output = sprint(prepare(&temp.path().join("nowhere"), &out, &[]));
    assert!(output.error(1).contains("does not exist"), "{}", output.stderr);
    // The parser's words are several lines, the first of which says it.
    for words in [&["--sizes", "0"][..], &["--quality", "101", "--sizes", "16"], &["--per-shard", "9"]] {
        let output = sprint(prepare(&data, &out, words));
        assert_eq!((output.status, &output.stderr[..7]), (2, "error: "), "{}", output.stderr);
    }
    let lock = File::open(out.join("prepare.json")).unwrap();
    lock.lock().unwrap();
    fs::rename(data.join("val/class0/a.png"), data.join("val/class0/000.png")).unwrap();
    refused(&data, &out, &["--shards"], "another sprint prepare works in");
}

/// Shards that are there are not written again: what was left out of them stays so, and is said each time.
#[test]
fn pictures_that_were_left_out_before_are_counted() {
    let temp = tempfile::tempdir().unwrap();
    let data = divided(temp.path(), 5, 2);
    common::halve(&data.join("train/class1/002.png"));
    let words = prepare(&data, &temp.path().join("ready"), &["--shards"]);
    let skipping: Vec<String> = words.iter().cloned().chain(["--skip-bad-files".to_owned()]).collect();
    for _ in 0..2 {
        let output = sprint(&skipping).ok();
        assert!(output.stdout.starts_with("28 pictures, 1 bad ones left out"), "{}", output.stdout);
    }
    let output = sprint(&words);
    assert!(
        output.error(1).contains("has 27 of 28 pictures, as bad ones were left out"),
        "{}",
        output.stderr
    );
}

#[test]
fn what_would_spoil_the_data_or_the_copies_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let data = divided(temp.path(), 3, 1);
    let (ready, out) = (temp.path().join("ready"), temp.path().join("out"));
    let refused = |data: &Path, out: &Path, words: &[&str], said: &str| {
        let output = sprint(prepare(data, out, words));
        assert!(output.error(2).contains(said), "{}", output.stderr);
    };
    refused(&data, &data, &["--sizes", "16", "--skip-bad-files"], "copies that lack pictures of the data");
    let whole = data.join("train");
    refused(&whole, &whole.join("ready/now"), &[], "would become one of its classes");
    refused(&whole, &data.join("val/../train/ready"), &["--shards"], "would become one of its classes");
    assert!(!data.join("16").exists() && !whole.join("ready").exists(), "nothing was begun");
    // Beside train/ and val/ it is no class.
    sprint(prepare(&data, &data.join("ready"), &[])).ok();
    // A copy has the same names as the pictures that it was made from.
    sprint(prepare(&data, &ready, &["--sizes", "16"])).ok();
    sprint(prepare(&ready, &out, &[])).ok();
    refused(&ready.join("16"), &out, &[], "ready/16\": give the same words as then");
    sprint(prepare(&ready.join("../ready"), &out, &[])).ok();
    // In place it goes with the data.
    sprint(prepare(&data, &data, &["--sizes", "16"])).ok();
    let moved = temp.path().join("moved");
    fs::rename(&data, &moved).unwrap();
    sprint(prepare(&moved, &moved, &["--sizes", "12"])).ok();
}

/// Pictures that came as they were by their checksums, others by decoding them.
#[test]
fn damage_to_what_was_written_is_seen_at_the_end() {
    use burn_sprint::prepare::{Preparation, Settings};
    let temp = tempfile::tempdir().unwrap();
    let ready = temp.path().join("ready");
    let preparation = Preparation::open(Settings {
        data: divided(temp.path(), 5, 2),
        out: ready.clone(),
        sizes: [16].into(),
        shards: true,
        per_shard: None,
        max_side: None,
        quality: 90,
        seed: 0,
        skip_bad_files: false,
    })
    .unwrap();
    let written = preparation.write(|_| {}).unwrap();
    assert_eq!(preparation.verify(&written, |_| {}).unwrap(), 0);
    for name in ["train-00000", "16/train-00000"] {
        let (tar, index) = (ready.join(format!("{name}.tar")), ready.join(format!("{name}.index")));
        let whole = fs::read(&tar).unwrap();
        let offset = u64::from_le_bytes(fs::read(index).unwrap()[24..32].try_into().unwrap());
        let mut damaged = whole.clone();
        damaged[offset as usize + 60] ^= 1;
        fs::write(&tar, damaged).unwrap();
        let error = preparation.verify(&written, |_| {}).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}.tar#class")) && error.contains("CRC-32C"), "{error}");
        fs::write(&tar, whole).unwrap();
    }
}
