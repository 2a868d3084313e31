//! Data sets of every kind, whole and broken: what is found, in which order, under which labels, and what is said.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use burn_sprint::data::{
    Channels, Copies, DataError, Location, OnBadFile, Pair, Picture, PictureSize, SampleError, SampleFault,
    Source, Split, open, open_pair, sizes, with_classes,
};
use common::shared;
use flate2::{Compression, write::GzEncoder};

fn at(path: &Path) -> Location {
    Location::Path(path.into())
}

fn opened(path: &Path, split: Split) -> Result<Arc<dyn Source>, DataError> {
    open(&at(path), split)
}

fn jpeg() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/pictures/jpeg_420.jpg")).unwrap()
}

/// Makes files, each a picture if its name says so; a path that ends in `/` is a folder.
fn tree(paths: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for path in paths {
        let full = root.path().join(path);
        fs::create_dir_all(if path.ends_with('/') { full.as_path() } else { full.parent().unwrap() })
            .unwrap();
        if !path.ends_with('/') {
            fs::write(full, if path.ends_with(".txt") { b"text".to_vec() } else { jpeg() }).unwrap();
        }
    }
    root
}

/// The paths below `root`, and the labels.
fn listing(source: &dyn Source, root: &str) -> Vec<(String, u32)> {
    let name = |i| source.name(i).strip_prefix(root).unwrap().trim_start_matches(['/', '#']).to_owned();
    (0..source.num_images()).map(|i| (name(i), source.label(i))).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Written as they are: the crate's own setter refuses the names that a hostile archive would have.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn class_folders_are_read_as_torchvision_does() {
    let paths = [
        "dog/2.jpg",
        "dog/10.JPG",
        "cat/deep/er/x.png",
        "cat/a.JPEG",
        "cat/notes.txt",
        "cat/.hidden.jpg",
        "readme.txt",
    ];
    let root = tree(&paths);
    let source = opened(root.path(), Split::Train).unwrap();
    assert_eq!(source.class_names(), ["cat", "dog"]);
    assert_eq!(source.channels(), Channels::Rgb);
    let expected = [
        ("cat/.hidden.jpg", 0),
        ("cat/a.JPEG", 0),
        ("cat/deep/er/x.png", 0),
        ("dog/10.JPG", 1),
        ("dog/2.jpg", 1),
    ];
    let got = listing(&*source, root.path().to_str().unwrap());
    assert_eq!(got, expected.map(|(name, label)| (name.to_owned(), label)));
    let mut picture = Picture::default();
    source.read(2, &mut picture).unwrap();
    assert_eq!((picture.width(), picture.height()), (37, 29));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_do_not_go_round() {
    let root = tree(&["cat/a.jpg", "elsewhere/more/b.jpg", "dog/c.jpg"]);
    let other = tree(&["b.jpg"]);
    fs::remove_dir_all(root.path().join("elsewhere")).unwrap();
    let link = |to: &Path, from: &str| std::os::unix::fs::symlink(to, root.path().join(from)).unwrap();
    link(other.path(), "cat/linked");
    link(root.path(), "cat/round");
    link(Path::new("nowhere.jpg"), "cat/broken.jpg");
    link(other.path(), "bird");
    let source = opened(root.path(), Split::Train).unwrap();
    assert_eq!(source.class_names(), ["bird", "cat", "dog"]);
    let names: Vec<String> =
        listing(&*source, root.path().to_str().unwrap()).into_iter().map(|(n, _)| n).collect();
    assert!(
        names.contains(&"cat/linked/b.jpg".to_owned()) && names.contains(&"bird/b.jpg".to_owned()),
        "{names:?}"
    );
    assert!(names.len() < 20, "{names:?}");
    // A link to nothing is named when it is read.
    let broken = names.iter().position(|n| n == "cat/broken.jpg").unwrap();
    let error = source.read(broken, &mut Picture::default()).unwrap_err();
    assert!(error.name.ends_with("cat/broken.jpg") && matches!(error.fault, SampleFault::Io(_)), "{error}");
}

#[test]
fn divided_folders_and_wrappings_are_found() {
    let root =
        tree(&["pets/train/cat/1.jpg", "pets/train/dog/2.jpg", "pets/val/cat/3.jpg", "pets/val/dog/4.jpg"]);
    let Pair { train, val } = open_pair(&at(root.path()), None, 0.5).unwrap();
    assert_eq!((train.num_images(), val.num_images()), (2, 2));
    assert!(val.name(0).ends_with("val/cat/3.jpg"));
    let root = tree(&["test/cat/1.jpg", "test/dog/2.jpg"]);
    assert_eq!(opened(root.path(), Split::Val).unwrap().class_names(), ["cat", "dog"]);
}

/// The last part of every class in the order of names, rounded up; nothing in both, nothing lost.
#[test]
fn what_is_not_divided_is_held_out_by_class() {
    let paths: Vec<String> = (0..10)
        .map(|i| format!("a/{i}.jpg"))
        .chain((0..3).map(|i| format!("b/{i}.jpg")))
        .chain(["c/only.jpg".into()])
        .collect();
    let root = tree(&paths.iter().map(String::as_str).collect::<Vec<_>>());
    let Pair { train, val } = open_pair(&at(root.path()), None, 0.2).unwrap();
    let prefix = root.path().to_str().unwrap();
    let expected = [("a/8.jpg", 0), ("a/9.jpg", 0), ("b/2.jpg", 1)].map(|(n, l)| (n.to_owned(), l));
    assert_eq!(listing(&*val, prefix), expected);
    let mut all: Vec<_> = listing(&*train, prefix).into_iter().chain(listing(&*val, prefix)).collect();
    all.sort();
    assert_eq!(all, listing(&*opened(root.path(), Split::Val).unwrap(), prefix));
    assert!(listing(&*train, prefix).contains(&("c/only.jpg".to_owned(), 2)));
    for fraction in [0.0, 1.0, -0.1, f64::NAN] {
        assert!(
            matches!(open_pair(&at(root.path()), None, fraction), Err(DataError::Setting { .. })),
            "{fraction}"
        );
    }
}

/// Validation data get the labels of the training data's classes, though they lack one and would count differently.
#[test]
fn validation_labels_go_by_name() {
    let train_root = tree(&["cat/1.jpg", "dog/1.jpg", "fox/1.jpg"]);
    let val_root = tree(&["dog/1.jpg", "fox/1.jpg"]);
    let Pair { val, .. } = open_pair(&at(train_root.path()), Some(&at(val_root.path())), 0.5).unwrap();
    assert_eq!((val.label(0), val.label(1)), (1, 2));
    assert_eq!(val.class_names(), ["cat", "dog", "fox"]);
    let names = ["dog", "fox"].map(String::from);
    let error =
        with_classes(opened(train_root.path(), Split::Val).unwrap(), &names, train_root.path()).unwrap_err();
    assert!(matches!(error, DataError::UnknownClasses { .. }));
}

/// Each way of being unusable has its own error, and the message names the place and what to do.
#[test]
fn unusable_folders_say_why() {
    let case = |paths: &[&str]| {
        let root = tree(paths);
        let error = opened(root.path(), Split::Train).unwrap_err();
        assert!(error.to_string().contains(root.path().to_str().unwrap()), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        error
    };
    assert!(matches!(case(&[]), DataError::Empty { .. }));
    assert!(matches!(case(&["1.jpg", "2.jpg"]), DataError::NoClassFolders { num_files: 2, .. }));
    match case(&["cat/1.jpg", "dog/", "fox/notes.txt"]) {
        DataError::EmptyClasses { classes, .. } => assert_eq!(classes, ["dog", "fox"]),
        other => panic!("{other}"),
    }
    match case(&["cat/1.jpg"]) {
        DataError::OneClass { class, .. } => assert_eq!(class, "cat"),
        other => panic!("{other}"),
    }
    let root = tree(&["a.txt"]);
    assert!(matches!(opened(&root.path().join("no"), Split::Train), Err(DataError::NotFound { .. })));
    assert!(matches!(opened(&root.path().join("a.txt"), Split::Train), Err(DataError::NotRecognised { .. })));
    let root =
        tree(&["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/cow/1.jpg", "val/eel/1.jpg"]);
    match open_pair(&at(root.path()), None, 0.5).unwrap_err() {
        DataError::UnknownClasses { classes, .. } => assert_eq!(classes, ["cow", "eel"]),
        other => panic!("{other}"),
    }
}

#[cfg(unix)]
#[test]
fn unreadable_folders_say_so() {
    use std::os::unix::fs::PermissionsExt;
    let root = tree(&["cat/1.jpg", "dog/1.jpg"]);
    let locked = root.path().join("dog");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o0)).unwrap();
    // The superuser may read anything.
    if fs::read_dir(&locked).is_ok() {
        eprintln!("SKIP: this user may read folders that nobody may");
    } else {
        let error = opened(root.path(), Split::Train).unwrap_err();
        assert!(
            matches!(error, DataError::Unreadable { .. }) && error.to_string().contains("dog"),
            "{error}"
        );
    }
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_bad_picture_is_named() {
    let root = tree(&["cat/1.jpg", "dog/1.jpg"]);
    for (bytes, expected) in
        [(&b"text"[..], "is not a picture"), (b"", "empty"), (&jpeg()[..700], "truncated")]
    {
        fs::write(root.path().join("dog/1.jpg"), bytes).unwrap();
        let source = opened(root.path(), Split::Train).unwrap();
        let message = source.read(1, &mut Picture::default()).unwrap_err().to_string();
        assert!(message.contains("dog/1.jpg") && message.contains(expected), "{message}");
    }
    fs::remove_file(root.path().join("dog/1.jpg")).unwrap();
    fs::write(root.path().join("dog/2.jpg"), jpeg()).unwrap();
    let source = opened(root.path(), Split::Train).unwrap();
    fs::remove_file(root.path().join("dog/2.jpg")).unwrap();
    assert!(matches!(source.read(1, &mut Picture::default()).unwrap_err().fault, SampleFault::Io(_)));
    fs::create_dir(root.path().join("dog/2.jpg")).unwrap();
    assert!(matches!(source.read(1, &mut Picture::default()).unwrap_err().fault, SampleFault::NotAFile));
}

/// A tar of class folders gives what the folder gives that it was made of.
#[test]
fn tars_are_read_like_folders() {
    let paths = ["set/train/dog/2.jpg", "set/train/cat/x/1.png", "set/val/cat/3.jpg", "set/val/dog/4.jpg"];
    let root = tree(&paths);
    let jpeg = jpeg();
    let mut entries: Vec<(&str, &[u8])> = vec![("./set/", b""), ("./set/readme.txt", b"text")];
    entries.extend(paths.map(|path| (path, &jpeg[..])));
    let tar_path = root.path().join("set.tar");
    fs::write(&tar_path, tar_of(&entries)).unwrap();
    fs::create_dir(root.path().join("only")).unwrap();
    fs::rename(root.path().join("set"), root.path().join("only/set")).unwrap();
    for split in [Split::Train, Split::Val] {
        let folder = opened(&root.path().join("only"), split).unwrap();
        let tar = opened(&tar_path, split).unwrap();
        assert_eq!(folder.class_names(), tar.class_names());
        let folder_listing = listing(&*folder, root.path().join("only").to_str().unwrap());
        assert_eq!(folder_listing, listing(&*tar, tar_path.to_str().unwrap()));
        let (mut a, mut b) = (Picture::default(), Picture::default());
        for index in 0..folder.num_images() {
            folder.read(index, &mut a).unwrap();
            tar.read(index, &mut b).unwrap();
            assert_eq!(a, b);
        }
    }
}

#[test]
fn unusable_tars_say_why() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("set.tar");
    let jpeg = jpeg();
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = opened(&path, Split::Train).unwrap_err();
        assert!(error.to_string().contains("set.tar"), "{error}");
        error
    };
    let good = tar_of(&[("cat/1.jpg", &jpeg), ("dog/1.jpg", &jpeg)]);
    for hostile in ["../dog/1.jpg", "/dog/1.jpg", "dog/../../1.jpg"] {
        assert!(
            matches!(refused(&tar_of(&[("cat/1.jpg", &jpeg), (hostile, &jpeg)])), DataError::Tar { .. }),
            "{hostile}"
        );
    }
    assert!(matches!(refused(&good[..good.len() - 3000]), DataError::Tar { .. }));
    let mut damaged = good.clone();
    damaged[512 + jpeg.len().next_multiple_of(512) + 10] ^= 1;
    assert!(matches!(refused(&damaged), DataError::Tar { .. }));
    assert!(matches!(refused(&gzip(&good)), DataError::CompressedTar { .. }));
    assert!(matches!(refused(&gzip(b"no tar")), DataError::Tar { .. } | DataError::NotRecognised { .. }));
    assert!(matches!(refused(&tar_of(&[("1.jpg", &jpeg)])), DataError::NoClassFolders { .. }));
    assert!(matches!(
        refused(&tar_of(&[("cat/1.jpg", &jpeg), ("dog/", b"")])),
        DataError::EmptyClasses { .. } | DataError::OneClass { .. }
    ));
}

fn idx(magic: u32, dimensions: &[u32], bytes: &[u8]) -> Vec<u8> {
    let words = std::iter::once(&magic).chain(dimensions).flat_map(|n| n.to_be_bytes());
    words.chain(bytes.iter().copied()).collect()
}

fn write_idx(root: &Path, images: &[u8], labels: &[u8]) {
    fs::write(root.join("train-images-idx3-ubyte"), images).unwrap();
    fs::write(root.join("train-labels-idx1-ubyte"), labels).unwrap();
}

#[test]
fn idx_files_are_read_compressed_or_not() {
    let root = tempfile::tempdir().unwrap();
    let pixels: Vec<u8> = (0..24).collect();
    let (images, labels) = (idx(0x803, &[4, 2, 3], &pixels), idx(0x801, &[4], &[0, 2, 1, 2]));
    write_idx(root.path(), &images, &labels);
    fs::write(root.path().join("t10k-images.idx3-ubyte.gz"), gzip(&images)).unwrap();
    fs::write(root.path().join("t10k-labels.idx1-ubyte.gz"), gzip(&labels)).unwrap();
    let Pair { train, val } = open_pair(&at(root.path()), None, 0.2).unwrap();
    for source in [train, val] {
        assert_eq!((source.num_images(), source.channels()), (4, Channels::Grey));
        assert_eq!(source.class_names(), ["0", "1", "2"]);
        assert_eq!((0..4).map(|i| source.label(i)).collect::<Vec<_>>(), [0, 2, 1, 2]);
        let mut picture = Picture::default();
        source.read(2, &mut picture).unwrap();
        assert_eq!((picture.width(), picture.height(), picture.pixels()), (3, 2, &pixels[12..18]));
    }
    let val = opened(root.path(), Split::Val).unwrap();
    assert_eq!(val.name(3), "t10k-images.idx3-ubyte.gz#3");
    // Without a test part, the training part is divided.
    fs::remove_file(root.path().join("t10k-images.idx3-ubyte.gz")).unwrap();
    fs::remove_file(root.path().join("t10k-labels.idx1-ubyte.gz")).unwrap();
    let Pair { train, val } = open_pair(&at(root.path()), None, 0.5).unwrap();
    assert_eq!((train.num_images(), val.num_images()), (3, 1));
    assert!(matches!(opened(root.path(), Split::Val), Err(DataError::NoSuchSplit { .. })));
}

#[test]
fn idx_files_that_contradict_themselves_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (images, labels) = (idx(0x803, &[2, 2, 2], &[7; 8]), idx(0x801, &[2], &[0, 1]));
    let message = |images: &[u8], labels: &[u8]| {
        write_idx(root.path(), images, labels);
        opened(root.path(), Split::Train).unwrap_err().to_string()
    };
    for (what, images, labels, expected) in [
        ("magic", labels.clone(), labels.clone(), "magic"),
        ("short", images[..20].to_vec(), labels.clone(), "24 bytes, the file has 20"),
        ("long", [&images[..], &[1]].concat(), labels.clone(), "24 bytes, the file has 25"),
        ("no header", images[..7].to_vec(), labels.clone(), "16 bytes, the file has 7"),
        ("labels", images.clone(), idx(0x801, &[3], &[0, 1, 0]), "3 labels for 2 images"),
        ("nothing", idx(0x803, &[0, 28, 28], &[]), idx(0x801, &[0], &[]), "nothing to read"),
        ("huge", idx(0x803, &[u32::MAX, u32::MAX, u32::MAX], &[]), labels.clone(), "limit"),
        ("large", idx(0x803, &[1000, 1000, 1000], &[]), labels.clone(), "the file has 16"),
        ("bomb", gzip(&idx(0x803, &[100, 1000, 1000], &[])), labels.clone(), "cannot hold"),
        ("gzip", gzip(&images)[..20].to_vec(), labels.clone(), "cannot be read"),
    ] {
        let message = message(&images, &labels);
        assert!(message.contains(expected) && message.contains("-ubyte"), "{what}: {message}");
    }
    fs::remove_file(root.path().join("train-labels-idx1-ubyte")).unwrap();
    let error = opened(root.path(), Split::Train).unwrap_err();
    assert!(error.to_string().contains("train-labels-idx1-ubyte"), "{error}");
}

/// Records of CIFAR-10 or CIFAR-100, of which pixel p of channel c of record i is `i + c + p`.
fn cifar(label_bytes: usize, labels: &[u8]) -> Vec<u8> {
    let record = |(i, &label): (usize, &u8)| {
        let mut bytes = vec![9; label_bytes - 1];
        bytes.push(label);
        bytes.extend((0..3).flat_map(|c| (0..1024).map(move |p| (i + c + p) as u8)));
        bytes
    };
    labels.iter().enumerate().flat_map(record).collect()
}

fn check_cifar(source: &dyn Source, labels: &[u32]) {
    assert_eq!((0..source.num_images()).map(|i| source.label(i)).collect::<Vec<_>>(), labels);
    let mut picture = Picture::default();
    source.read(1, &mut picture).unwrap();
    assert_eq!((picture.width(), picture.height(), picture.channels()), (32, 32, Channels::Rgb));
    assert_eq!(picture.pixels()[..6], [1, 2, 3, 2, 3, 4]);
}

#[test]
fn cifar_is_read_from_its_folder_and_its_tars() {
    let root = tempfile::tempdir().unwrap();
    let ten_names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    let hundred_names: String = (0..100).map(|i| format!("fine {i}\n")).collect();
    let (first, second, test) = (cifar(1, &[3, 9]), cifar(1, &[0]), cifar(1, &[5, 6]));
    let (train_100, test_100) = (cifar(2, &[99, 0]), cifar(2, &[1, 2]));
    let ten: [(&str, &[u8]); 4] = [
        ("cifar-10-batches-bin/batches.meta.txt", ten_names.as_bytes()),
        ("cifar-10-batches-bin/data_batch_2.bin", &second),
        ("cifar-10-batches-bin/data_batch_1.bin", &first),
        ("cifar-10-batches-bin/test_batch.bin", &test),
    ];
    let hundred: [(&str, &[u8]); 3] = [
        ("cifar-100-binary/fine_label_names.txt", hundred_names.as_bytes()),
        ("cifar-100-binary/train.bin", &train_100),
        ("cifar-100-binary/test.bin", &test_100),
    ];
    for (entries, train_labels, val_labels) in
        [(&ten[..], &[3, 9, 0][..], &[5, 6][..]), (&hundred[..], &[99, 0], &[1, 2])]
    {
        let folder = root.path().join(entries[0].0).parent().unwrap().to_owned();
        fs::create_dir(&folder).unwrap();
        for (path, bytes) in entries {
            fs::write(root.path().join(path), bytes).unwrap();
        }
        let tar = tar_of(entries);
        let (tar_path, gz_path) = (root.path().join("set.bin.tar"), root.path().join("set.tar.gz"));
        fs::write(&tar_path, &tar).unwrap();
        fs::write(&gz_path, gzip(&tar)).unwrap();
        for path in [&folder, &root.path().to_owned(), &tar_path, &gz_path] {
            let Pair { train, val } = open_pair(&at(path), None, 0.5).unwrap();
            check_cifar(&*train, train_labels);
            check_cifar(&*val, val_labels);
            let names = train.class_names();
            assert!(names[3] == "cat" || names[3] == "fine 3", "{names:?}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn cifar_files_that_contradict_the_format_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(root.path().join(name), bytes).unwrap();
    let message = || opened(root.path(), Split::Train).unwrap_err().to_string();
    let good = cifar(1, &[1, 2]);
    write("data_batch_1.bin", &good[..good.len() - 1]);
    assert!(
        message().contains("6145 bytes are not a whole number of records of 3073 bytes"),
        "{}",
        message()
    );
    write("data_batch_1.bin", b"");
    assert!(message().contains("0 bytes"), "{}", message());
    write("data_batch_1.bin", &cifar(1, &[1, 10]));
    assert!(message().contains("record 1 has label 10, expected below 10"), "{}", message());
    write("data_batch_1.bin", &good);
    write("batches.meta.txt", b"cat\ndog\n");
    assert!(message().contains("expected 10 class names, got 2"), "{}", message());
    fs::remove_file(root.path().join("batches.meta.txt")).unwrap();
    let error = opened(root.path(), Split::Val).unwrap_err().to_string();
    assert!(error.contains("test_batch.bin: missing"), "{error}");
    assert_eq!(opened(root.path(), Split::Train).unwrap().num_images(), 2);
}

/// Counts of the classes, and sums of the pixels as Python's gzip and numpy give them on the files.
#[test]
fn the_embedded_set_is_whole() {
    for (split, num_images, sum) in [(Split::Train, 10_000, 572_388_787), (Split::Val, 2_000, 114_763_281)] {
        let source = open(&Location::Embedded, split).unwrap();
        assert_eq!((source.num_images(), source.class_names().len()), (num_images, 10));
        assert_eq!((&*source.class_names()[0], &*source.class_names()[9]), ("T-shirt/top", "Ankle boot"));
        let mut picture = Picture::default();
        let mut got = 0;
        let mut counts = [0; 10];
        for index in 0..num_images {
            source.read(index, &mut picture).unwrap();
            got += picture.pixels().iter().map(|&v| u64::from(v)).sum::<u64>();
            counts[source.label(index) as usize] += 1;
        }
        assert_eq!(got, sum);
        assert!(counts.iter().all(|&n: &usize| n > num_images / 12), "{counts:?}");
    }
}

/// The sizes, and whether files were read for them.
fn sizes_of(source: &dyn Source, caches: &Path) -> (Vec<PictureSize>, bool) {
    let mut noted = false;
    let found = sizes::of(source, OnBadFile::Fail, Some(caches), |_| noted = true).unwrap();
    (found, noted)
}

/// A JPEG of 37x29 pixels whose headers are longer than what is read of a file first.
fn long_headed() -> Vec<u8> {
    let jpeg = jpeg();
    let segment = [[0xFF, 0xE1, 0x9C, 0x42].as_slice(), &[7; 0x9C40]].concat();
    [&jpeg[..2], &segment, &segment, &jpeg[2..]].concat()
}

/// What lies beside the pictures but is none.
fn remembered(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).collect()
}

#[test]
fn sizes_are_remembered_beside_the_pictures_until_these_change() {
    let (root, caches) = (tree(&["cat/a.jpg", "cat/b.jpg", "dog/c.jpg"]), tempfile::tempdir().unwrap());
    fs::write(root.path().join("cat/b.jpg"), long_headed()).unwrap();
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/pictures");
    fs::copy(pictures.join("png_rgb_16_bits.png"), root.path().join("dog/c.jpg")).unwrap();
    let source = opened(root.path(), Split::Train).unwrap();
    let expected = vec![(37, 29), (37, 29), (13, 11)];
    assert_eq!(sizes_of(&*source, caches.path()), (expected.clone(), true));
    assert_eq!(sizes_of(&*source, caches.path()), (expected.clone(), false));
    let [file] = &remembered(root.path())[..] else { panic!("{:?}", remembered(root.path())) };
    assert_eq!(fs::read_dir(caches.path()).unwrap().count(), 0);
    // The same folder, opened again by another way, and a part of it.
    let again = opened(&root.path().join("cat/.."), Split::Train).unwrap();
    assert_eq!(sizes_of(&*again, caches.path()), (expected.clone(), false));

    let whole = fs::read(file).unwrap();
    let damaged = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for bytes in [
        whole[..whole.len() - 1].to_vec(),
        [whole.as_slice(), b"x"].concat(),
        Vec::new(),
        damaged(0),
        damaged(8),
        damaged(16),
        damaged(24),
        damaged(whole.len() - 1),
    ] {
        fs::write(file, bytes).unwrap();
        assert_eq!(sizes_of(&*source, caches.path()), (expected.clone(), true));
        assert!(fs::read(file).unwrap() == whole);
    }
    fs::copy(pictures.join("png_rgb_16_bits.png"), root.path().join("cat/a.jpg")).unwrap();
    assert_eq!(sizes_of(&*source, caches.path()), (vec![(13, 11), (37, 29), (13, 11)], true));
    // Of the same length, but changed later.
    let time = fs::metadata(root.path().join("dog/c.jpg")).unwrap().modified().unwrap();
    let touched = fs::File::options().write(true).open(root.path().join("dog/c.jpg")).unwrap();
    touched.set_modified(time + std::time::Duration::from_secs(1)).unwrap();
    assert!(sizes_of(&*source, caches.path()).1);
}

#[test]
fn sizes_are_remembered_elsewhere_where_the_data_cannot_hold_them() {
    let caches = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pictures.tar");
    let long = long_headed();
    fs::write(&path, tar_of(&[("cat/a.jpg", &jpeg()), ("dog/b.jpg", &long)])).unwrap();
    let source = opened(&path, Split::Train).unwrap();
    assert_eq!(sizes_of(&*source, caches.path()), (vec![(37, 29); 2], true));
    assert_eq!(sizes_of(&*source, caches.path()), (vec![(37, 29); 2], false));
    assert_eq!(remembered(folder.path()), [path]);

    // A folder in the file's place can be neither read nor replaced.
    let root = tree(&["cat/a.jpg", "dog/b.jpg"]);
    let source = opened(root.path(), Split::Train).unwrap();
    fs::create_dir_all(root.path().join(".burn-sprint-picture-sizes-2/full")).unwrap();
    assert!(sizes_of(&*source, caches.path()).1);
    assert!(!sizes_of(&*source, caches.path()).1);
    // And with no place at all they are read each time.
    let mut num_reads = 0;
    for _ in 0..2 {
        sizes::of(&*source, OnBadFile::Fail, None, |_| num_reads += 1).unwrap();
    }
    assert_eq!(num_reads, 2);
}

/// Two pictures, one of which has no size as long as `bad` says so.
#[derive(Debug)]
struct Flaky {
    home: PathBuf,
    bad: AtomicBool,
    num_reads: AtomicUsize,
}

impl Source for Flaky {
    fn num_images(&self) -> usize {
        2
    }

    fn class_names(&self) -> &[String] {
        &[]
    }

    fn label(&self, _: usize) -> u32 {
        0
    }

    fn name(&self, index: usize) -> String {
        format!("picture {index}")
    }

    fn channels(&self) -> Channels {
        Channels::Rgb
    }

    fn read(&self, index: usize, into: &mut Picture) -> Result<(), SampleError> {
        self.num_reads.fetch_add(1, Ordering::SeqCst);
        if index == 1 && self.bad.load(Ordering::SeqCst) {
            return Err(SampleError { name: self.name(index), fault: SampleFault::NotAPicture });
        }
        into.reshape(3, 2, Channels::Rgb).unwrap();
        Ok(())
    }

    fn home(&self) -> Option<&Path> {
        Some(&self.home)
    }
}

#[test]
fn pictures_without_a_size_are_named_or_left_out_and_looked_at_again() {
    let home = tempfile::tempdir().unwrap();
    let source = Flaky { home: home.path().into(), bad: true.into(), num_reads: 0.into() };
    let of = |policy| sizes::of(&source, policy, None, |_| {});
    let error = of(OnBadFile::Fail).unwrap_err().to_string();
    assert_eq!(
        error,
        "picture picture 1: is not a picture: expected a JPEG, PNG or WebP file by its content, whatever its name"
    );
    assert_eq!(of(OnBadFile::Skip).unwrap(), [(3, 2), (0, 0)]);
    // What was remembered of the good one is kept; the other one is well again.
    source.bad.store(false, Ordering::SeqCst);
    source.num_reads.store(0, Ordering::SeqCst);
    assert_eq!(of(OnBadFile::Fail).unwrap(), [(3, 2); 2]);
    assert_eq!(source.num_reads.load(Ordering::SeqCst), 1);

    let root = tree(&["cat/a.jpg", "dog/b.jpg"]);
    for path in ["cat/a.jpg", "dog/b.jpg"] {
        fs::write(root.path().join(path), b"text").unwrap();
    }
    let source = opened(root.path(), Split::Train).unwrap();
    let error = sizes::of(&*source, OnBadFile::Skip, None, |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("2 pictures in a row cannot be used"), "{error}");
}

#[test]
fn copies_have_the_same_pictures() {
    let paths = ["train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "val/dog/d.jpg"];
    let below = |folder: &str| paths.map(|path| format!("{folder}/{path}"));
    let small = below("160");
    let nested = below("sz/352");
    let all: Vec<&str> = paths
        .into_iter()
        .chain(small.iter().map(String::as_str))
        .chain(nested.iter().map(String::as_str))
        .collect();
    let root = tree(&all);
    let copies = Copies::open(&at(root.path()), ["160", "sz/352", "160"], 0.2).unwrap();
    let first =
        |pair: &Pair| pair.val.name(0).strip_prefix(root.path().to_str().unwrap()).unwrap().to_owned();
    assert_eq!(first(copies.main()), "/val/cat/c.jpg");
    assert_eq!(first(copies.get(None).unwrap()), "/val/cat/c.jpg");
    assert_eq!(first(copies.get(Some("160")).unwrap()), "/160/val/cat/c.jpg");
    assert_eq!(first(copies.get(Some("sz/352")).unwrap()), "/sz/352/val/cat/c.jpg");
    assert_eq!(
        copies.get(Some("288")).unwrap_err().to_string(),
        "data copy 288 was not opened before it was to be read"
    );

    let refused =
        |location: &Location, name: &str| Copies::open(location, [name], 0.2).unwrap_err().to_string();
    let says = |name: &str, expected: &str| {
        let error = refused(&at(root.path()), name);
        assert!(error.contains(expected), "{name}: {error}");
    };
    says("288", "288 does not exist");
    for name in ["", "..", "../elsewhere", "/etc", "160/../160"] {
        says(name, "is not a folder below the data");
    }
    fs::write(root.path().join("160/train/cat/more.jpg"), jpeg()).unwrap();
    says("160", "/160 has 3 training pictures, ");
    fs::remove_file(root.path().join("160/train/cat/more.jpg")).unwrap();
    fs::write(root.path().join("160/val/cat/more.jpg"), jpeg()).unwrap();
    says("160", "/160 has 3 validation pictures, ");
    fs::create_dir(root.path().join("160/train/bird")).unwrap();
    fs::write(root.path().join("160/train/bird/a.jpg"), jpeg()).unwrap();
    says("160", "/160 has the class bird, which ");
    fs::rename(root.path().join("160/train/cat"), root.path().join("160/cat")).unwrap();
    fs::remove_dir_all(root.path().join("160/train/bird")).unwrap();
    fs::create_dir(root.path().join("160/train/ape")).unwrap();
    fs::write(root.path().join("160/train/ape/a.jpg"), jpeg()).unwrap();
    fs::remove_dir_all(root.path().join("160/val/cat")).unwrap();
    says("160", "/160 has the class ape, which ");

    assert!(refused(&Location::Embedded, "160").contains("but no path to data was given"));
    let archive = root.path().join("pictures.tar");
    fs::write(&archive, tar_of(&[("cat/a.jpg", &jpeg()), ("dog/b.jpg", &jpeg())])).unwrap();
    assert!(refused(&at(&archive), "160").contains("pictures.tar is a file"));
    // Undivided, the copy's folder is a class like the others.
    let flat = tree(&["cat/a.jpg", "dog/b.jpg", "160/cat/a.jpg", "160/dog/b.jpg"]);
    assert!(refused(&at(flat.path()), "160").contains("/160 lies among the class folders"));
}

/// 2,062 photos; the last fifth of every class held out.
#[test]
fn sign_digits_are_divided_as_in_the_reference_run() {
    let Some(path) = shared("sign-digits-jpeg.tar") else { return };
    let Pair { train, val } = open_pair(&at(&path), None, 0.2).unwrap();
    assert_eq!((train.num_images(), val.num_images()), (1_644, 418));
    assert_eq!(train.class_names(), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}
