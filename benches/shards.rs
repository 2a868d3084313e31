//! How long a data set of ImageNet's size takes to open from its index alone, in what memory; and what a checksum costs.
//!
//! No picture is there: the tars are holes of the right length, and the indexes are written by hand, as the format says.

use std::{
    fs::{self, File},
    path::Path,
    time::Instant,
};

use burn_sprint::data::{Location, OnBadFile, Split, open, shuffle, sizes};

const NUM_IMAGES: u32 = 1_281_167;
const NUM_CLASSES: u32 = 1000;
const PER_SHARD: u32 = 4096;
/// Of a picture, as ImageNet's mean.
const FILE_BYTES: u32 = 110_000;
/// What a picture takes in a tar: two headers, a class, and whole blocks.
const SAMPLE_BYTES: u64 = 1536 + (FILE_BYTES as u64).next_multiple_of(512);

fn write_shard(folder: &Path, number: u32) -> String {
    let num_images = (NUM_IMAGES - number * PER_SHARD).min(PER_SHARD);
    let tar_bytes = u64::from(num_images) * SAMPLE_BYTES + 1024;
    let mut index = b"BSindex1".to_vec();
    index.extend(tar_bytes.to_le_bytes());
    index.extend(u64::from(num_images).to_le_bytes());
    for at in 0..num_images {
        index.extend((u64::from(at) * SAMPLE_BYTES + 1536).to_le_bytes());
        let label = (at * 7919 + number) % NUM_CLASSES;
        index.extend([FILE_BYTES, label, 500, 375 + at % 100, at].into_iter().flat_map(u32::to_le_bytes));
    }
    index.extend(crc32c::crc32c(&index).to_le_bytes());
    let name = format!("train-{number:05}");
    fs::write(folder.join(format!("{name}.index")), index).expect("there is room");
    let tar = File::create(folder.join(format!("{name}.tar"))).expect("there is room");
    tar.set_len(tar_bytes).expect("a hole takes no room");
    format!(r#"{{"file": "{name}.tar", "num_bytes": {tar_bytes}, "num_images": {num_images}}}"#)
}

/// The most memory that the process had, in MiB, where the system says.
fn peak_mib() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or("unknown".into(), |kib| (kib / 1024).to_string())
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shards: Vec<String> =
        (0..NUM_IMAGES.div_ceil(PER_SHARD)).map(|number| write_shard(folder.path(), number)).collect();
    let classes: Vec<String> = (0..NUM_CLASSES).map(|class| format!("\"n{class:08}\"")).collect();
    let catalog = format!(
        r#"{{"format": "burn-sprint-shards-1", "classes": [{}], "train": [{}]}}"#,
        classes.join(", "),
        shards.join(", ")
    );
    fs::write(folder.path().join("shards.json"), catalog).expect("there is room");

    println!("before: peak {} MiB", peak_mib());
    let start = Instant::now();
    let source = open(&Location::Path(folder.path().into()), Split::Train).expect("the shards are whole");
    println!(
        "{} pictures in {} shards opened in {:.3} s",
        source.num_images(),
        shards.len(),
        start.elapsed().as_secs_f64()
    );
    let start = Instant::now();
    let sizes = sizes::of(&*source, OnBadFile::Fail, None, |_| ()).expect("the index has them");
    println!("{} sizes for rectangles in {:.3} s", sizes.len(), start.elapsed().as_secs_f64());
    let start = Instant::now();
    let order = shuffle::order(NUM_IMAGES, 0, 0);
    println!(
        "an epoch's order of {} in {:.3} s; peak {} MiB",
        order.len(),
        start.elapsed().as_secs_f64(),
        peak_mib()
    );

    let file = vec![0xA5; FILE_BYTES as usize];
    let (start, mut sum) = (Instant::now(), 0);
    for _ in 0..10_000 {
        sum ^= crc32c::crc32c(std::hint::black_box(&file));
    }
    let micros = start.elapsed().as_secs_f64() * 100.0;
    println!("checksum of {FILE_BYTES} bytes: {micros:.1} us ({sum:08x})");
}
