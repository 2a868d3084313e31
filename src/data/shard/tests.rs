//! Shards written, read back, damaged; and tars that were not written here.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    Catalog, ShardFile, catalog::CATALOG, disk, foreign, foreign::Tars, source::Shards, write::ShardWriter,
};
use crate::data::{DataError, Picture, SampleFault, Source, Split};

const PICTURES: [&str; 4] = ["jpeg_420.jpg", "png_rgb.png", "jpeg_grey.jpg", "webp_lossy.webp"];

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/pictures");
    fs::read(folder.join(name)).unwrap()
}

/// Writes a shard of the four pictures, `KEY` being `key` of the picture's number, and its index.
fn write_shard(folder: &Path, file: &str, key: impl Fn(usize) -> String) -> ShardFile {
    let mut writer = ShardWriter::new(File::create(folder.join(file)).unwrap());
    for (at, picture) in PICTURES.map(fixture).iter().enumerate() {
        let (width, height) = crate::data::decode::dimensions(picture).unwrap();
        writer.append(&key(at), at as u32 % 2, (width as u32, height as u32), picture).unwrap();
    }
    let (_, index) = writer.finish().unwrap();
    let shard = ShardFile {
        file: file.into(),
        num_bytes: fs::metadata(folder.join(file)).unwrap().len(),
        num_images: index.entries.len() as u64,
    };
    assert_eq!(shard.num_bytes, index.tar_bytes);
    fs::write(folder.join(shard.index_file()), index.to_bytes()).unwrap();
    shard
}

/// A folder of two shards, undivided.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(150);
    let shards = vec![
        write_shard(folder.path(), "all-0.tar", |at| format!("a{at}")),
        write_shard(folder.path(), "all-1.tar", |at| format!("cat/{long}/{at}")),
    ];
    let catalog = Catalog::whole(vec!["cat".into(), "dog".into()], shards);
    fs::write(folder.path().join(CATALOG), catalog.to_json()).unwrap();
    folder
}

fn opened(folder: &Path) -> Result<Shards<disk::Disk>, DataError> {
    let catalog = disk::catalog(folder)?.expect("it has a catalogue");
    disk::open(folder, &catalog, Split::Train)
}

/// The pictures, as the files decode by themselves.
fn assert_pictures(source: &dyn Source) {
    for index in 0..source.num_images() {
        let (mut got, mut expected, mut file) = (Picture::default(), Picture::default(), Vec::new());
        let bytes = fixture(PICTURES[index % 4]);
        crate::data::decode::decode(&bytes, &mut expected).unwrap();
        source.read(index, &mut got).unwrap();
        assert_eq!(got, expected);
        assert_eq!(source.dimensions(index).unwrap(), (got.width(), got.height()));
        assert!(source.read_file(index, &mut file).unwrap());
        assert_eq!(file, bytes);
        assert_eq!(source.label(index), index as u32 % 2);
    }
}

#[test]
fn what_was_written_is_read() {
    let folder = prepared();
    let source = opened(folder.path()).unwrap();
    assert_eq!((source.num_images(), source.class_names()), (8, &["cat".to_owned(), "dog".into()][..]));
    assert_eq!(source.ranges().collect::<Vec<_>>(), [0..4, 4..8]);
    assert_pictures(&source);
    let name = |index| source.name(index).strip_prefix(folder.path().to_str().unwrap()).unwrap().to_owned();
    assert_eq!((name(0), name(3)), ("/all-0.tar#a0".into(), "/all-0.tar#a3".into()));
    // Of a name of more than 100 bytes the header before the file has the first.
    assert_eq!(name(5), format!("/all-1.tar#cat/{}", "x".repeat(96)));
}

#[test]
fn a_damaged_picture_is_named() {
    let folder = prepared();
    let path = folder.path().join("all-0.tar");
    let mut tar = fs::read(&path).unwrap();
    let index = disk::load_index(&folder.path().join("all-0.index")).unwrap();
    tar[index.entries[2].offset as usize + 100] ^= 1;
    fs::write(&path, tar).unwrap();
    let error = opened(folder.path()).unwrap().read(2, &mut Picture::default()).unwrap_err();
    assert!(error.name.ends_with("/all-0.tar#a2"), "{error}");
    assert!(matches!(error.fault, SampleFault::Checksum { .. }), "{error}");
    assert!(error.to_string().contains("copy the shard anew"), "{error}");
}

#[test]
fn shards_that_do_not_fit_together_are_refused() {
    let refused = |change: &dyn Fn(&Path)| {
        let folder = prepared();
        change(folder.path());
        let error = opened(folder.path()).unwrap_err().to_string();
        error.strip_prefix(folder.path().to_str().unwrap()).unwrap_or(&error).to_owned()
    };
    let cut = |name: &'static str| {
        move |folder: &Path| {
            let file = File::options().write(true).open(folder.join(name)).unwrap();
            file.set_len(file.metadata().unwrap().len() - 20).unwrap();
        }
    };
    let error = refused(&cut("all-1.tar"));
    assert!(error.starts_with("/all-1.tar has ") && error.contains("its index says"), "{error}");
    let error = refused(&cut("all-1.index"));
    assert_eq!(error, "/all-1.index speaks of 4 pictures and has 120 bytes");
    let error = refused(&|folder| fs::remove_file(folder.join("all-0.tar")).unwrap());
    assert!(error.contains("all-0.tar does not exist"), "{error}");
    let catalog = |from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let text = fs::read_to_string(folder.join(CATALOG)).unwrap();
            fs::write(folder.join(CATALOG), text.replace(from, to)).unwrap();
        }
    };
    let error = refused(&catalog("\"num_bytes\": ", "\"num_bytes\": 1"));
    assert!(error.starts_with("/all-0.tar has ") && error.contains("shards.json says 1"), "{error}");
    let error = refused(&catalog("\"num_images\": 4", "\"num_images\": 5"));
    assert_eq!(error, "/all-0.index has 4 pictures, shards.json has 5");
    let error = refused(&catalog(",\n    \"dog\"", ""));
    assert_eq!(error, "/all-0.tar has the label 1, expected below 1, the number of classes");
    let error = refused(&catalog("{", "["));
    assert!(error.starts_with("/shards.json cannot be read"), "{error}");
}

/// The same tars without catalogue and index: as those that others wrote.
fn foreign() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = prepared();
    for name in [CATALOG, "all-0.index", "all-1.index"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let Some(Tars::Whole(tars)) = Tars::find(folder.path()) else { panic!("there are tars") };
    (folder, tars)
}

#[test]
fn the_index_of_others_tars_is_made_and_kept() {
    let (folder, tars) = foreign();
    let source = foreign::open(&tars).unwrap();
    assert_eq!((source.num_images(), source.class_names()), (8, &["0".to_owned(), "1".into()][..]));
    assert_pictures(&source);
    // What is kept is what the tars' writer knew, and is used: without it the damage would be taken for the picture.
    let written = prepared();
    for name in ["all-0.index", "all-1.index"] {
        let made = fs::read(folder.path().join(format!(".burn-sprint-{name}"))).unwrap();
        assert_eq!(made, fs::read(written.path().join(name)).unwrap(), "{name}");
    }
    let kept = folder.path().join(".burn-sprint-all-0.index");
    let index = disk::load_index(&kept).unwrap();
    let made = fs::metadata(&kept).unwrap().modified().unwrap();
    let mut tar = fs::read(&tars[0]).unwrap();
    tar[index.entries[0].offset as usize + 100] ^= 1;
    fs::write(&tars[0], tar).unwrap();
    File::options().write(true).open(&tars[0]).unwrap().set_modified(made).unwrap();
    let error = foreign::open(&tars).unwrap().read(0, &mut Picture::default()).unwrap_err();
    assert!(matches!(error.fault, SampleFault::Checksum { .. }), "{error}");
    // A newer tar's index is made anew.
    let later = made + std::time::Duration::from_secs(1);
    File::options().write(true).open(&tars[0]).unwrap().set_modified(later).unwrap();
    let error = foreign::open(&tars).unwrap().read(0, &mut Picture::default());
    assert!(!matches!(error.map_err(|error| error.fault), Err(SampleFault::Checksum { .. })));
}

/// As its tar's writer may have put one there for another program.
#[test]
fn an_index_that_is_not_ours_stays() {
    let (folder, tars) = foreign();
    let theirs = folder.path().join("all-0.index");
    fs::write(&theirs, "theirs").unwrap();
    for _ in 0..2 {
        assert_pictures(&foreign::open(&tars).unwrap());
        assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    }
}

/// The second header is damaged after the index was kept: nobody looks at it again.
#[test]
fn a_single_tar_with_a_kept_index_is_not_gone_through() {
    let (_folder, tars) = foreign();
    let open = || crate::data::open(&crate::data::Location::Path(tars[0].clone()), Split::Train);
    assert_eq!(open().unwrap().num_images(), 4);
    let changed = fs::metadata(&tars[0]).unwrap().modified().unwrap();
    let mut tar = fs::read(&tars[0]).unwrap();
    // After the first class: its header, and its one digit's block.
    tar[1024 + 150] ^= 1;
    fs::write(&tars[0], tar).unwrap();
    File::options().write(true).open(&tars[0]).unwrap().set_modified(changed).unwrap();
    assert_pictures(&*open().unwrap());
}

/// A tar of plain headers, each with its content, and what else to do to the first.
fn tar_of(files: &[(&str, &[u8])], harm: impl Fn(&mut tar::Header)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard-0.tar");
    let mut builder = tar::Builder::new(File::create(&path).unwrap());
    for (at, (name, bytes)) in files.iter().enumerate() {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        // Written as it is: the crate's own setter refuses names that lead out.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        if at == 0 {
            harm(&mut header);
        }
        builder.append(&header, *bytes).unwrap();
    }
    builder.finish().unwrap();
    drop(builder);
    (folder, path)
}

#[test]
fn others_tars_that_are_wrong_are_refused() {
    let picture = fixture("jpeg_420.jpg");
    let refused = |files: &[(&str, &[u8])], harm: fn(&mut tar::Header)| {
        let (_folder, path) = tar_of(files, harm);
        let error = foreign::open(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains("shard-0.tar"), "{error}");
        error
    };
    let none = |_: &mut tar::Header| {};
    let error = refused(&[("../a.jpg", &picture), ("../a.cls", b"0")], none);
    assert!(error.contains("entry ../a.jpg leads out of the archive"), "{error}");
    let error = refused(&[("a.jpg", &picture), ("a.cls", b"0")], |header| header.as_mut_bytes()[150] ^= 1);
    assert!(error.contains("checksum"), "{error}");
    let error = refused(&[("a.jpg", &picture), ("a.cls", b"0")], |header| {
        header.set_size(1 << 40);
        header.set_cksum();
    });
    assert!(error.contains("a.jpg ends after the archive does"), "{error}");
    let error = refused(&[("a.jpg", &picture), ("b.cls", b"0")], none);
    assert!(error.contains("has a with 1 pictures and 0 classes (.cls), expected one of each"), "{error}");
    let error = refused(&[("a.cls", b"cat"), ("a.jpg", &picture)], none);
    assert!(error.contains("has a.cls with \"cat\", expected a class' number below 1048576"), "{error}");
    let error = refused(&[("a.cls", b"4000000000"), ("a.jpg", &picture)], none);
    assert!(error.contains("below 1048576"), "{error}");
    let error = refused(&[("a.cls", &[b'0'; 100]), ("a.jpg", &picture)], none);
    assert!(error.contains("a file of 100 bytes, 20 are the limit"), "{error}");
}

#[test]
fn parts_are_told_by_their_names() {
    let (_shard, shard) = tar_of(&[("a.cls", b"0")], |_| {});
    let folder = tempfile::tempdir().unwrap();
    let touch = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(&shard, &path).unwrap();
        path
    };
    assert_eq!(Tars::find(folder.path()), None);
    fs::write(folder.path().join("no shard.tar"), [0; 1024]).unwrap();
    assert_eq!(Tars::find(folder.path()), None);
    // Damaged, it may have been one, unless it lies about beside class folders.
    let noise = folder.path().join("no shard.tar");
    fs::write(&noise, [1; 1024]).unwrap();
    assert_eq!(Tars::find(folder.path()), Some(Tars::Whole(vec![noise.clone()])));
    fs::create_dir(folder.path().join("cat")).unwrap();
    assert_eq!(Tars::find(folder.path()), None);
    fs::remove_dir(folder.path().join("cat")).unwrap();
    fs::remove_file(noise).unwrap();
    let odd = touch("pictures.tar");
    assert_eq!(Tars::find(folder.path()), Some(Tars::Whole(vec![odd.clone()])));
    let train = vec![touch("imagenet-train-000000.tar"), touch("imagenet-train-000001.tar")];
    let val = vec![touch("imagenet-val-000000.tar")];
    assert!(matches!(Tars::find(folder.path()), Some(Tars::Whole(tars)) if tars.len() == 4));
    fs::remove_file(odd).unwrap();
    assert_eq!(Tars::find(folder.path()), Some(Tars::Divided { train, val }));
    let (train, val) = (vec![touch("train/a.tar")], vec![touch("validation/a.tar")]);
    assert_eq!(Tars::find(folder.path()), Some(Tars::Divided { train, val }));
}
