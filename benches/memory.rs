//! Resident memory over an hour's worth of batches: not a test, as it takes minutes.
//!
//! First as many batches as a core makes in an hour, of the embedded pictures, which cost little; then real JPEGs for a
//! minute, an epoch each at 128, 224 and 288 pixels in turn, by the loader that a run has. A line every few seconds; it
//! fails if memory ends above 1.5 GiB, or above what it was after the first tenth and a tenth.

use std::{
    env, fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use burn_sprint::data::{
    Channels, CropRule, Loader, LoaderConfig, Location, Pass, SharedSource, Split, Tail, Transform, open,
};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LIMIT_MIB: f64 = 1536.0;
/// 1,100 images a second for an hour.
const IMAGES_AN_HOUR: usize = 1100 * 3600;
const PHOTOS_FOR: Duration = Duration::from_secs(60);

/// Of this process, where the system tells.
fn resident_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024.0)
}

/// Goes through epoch after epoch, as `config` lays them out, until `done` says so of images and time. Returns whether
/// memory stayed flat.
fn watch(
    name: &str,
    source: &SharedSource,
    config: impl Fn(u64) -> LoaderConfig,
    done: impl Fn(usize, Duration) -> f64,
) -> bool {
    let mut loader = Loader::new(source.clone(), config(0)).expect("the settings are sound");
    let started = Instant::now();
    let (mut epoch, mut num_images, mut num_shown, mut early_mib) = (0, 0, 0, None);
    loop {
        let batch = loader.next().expect("an epoch is always added").expect("the pictures are sound");
        if batch.number == 0 {
            epoch += 1;
            loader.add(source.clone(), config(epoch)).expect("the settings are sound");
        }
        num_images += batch.len();
        drop(batch);
        let part = done(num_images, started.elapsed());
        if part * 20.0 < f64::from(num_shown) {
            continue;
        }
        let Some(mib) = resident_mib() else {
            eprintln!("SKIP: no /proc/self/status");
            return true;
        };
        let seconds = started.elapsed().as_secs_f64();
        println!("{name}: {seconds:5.1} s, epoch {epoch}, {num_images} images, {mib:.1} MiB resident");
        num_shown += 1;
        if num_shown == 3 {
            early_mib = Some(mib);
        }
        if part >= 1.0 {
            let is_flat = early_mib.is_some_and(|early| mib < 1.1 * early) && mib < LIMIT_MIB;
            println!("{name}: {}", if is_flat { "flat" } else { "NOT FLAT" });
            return is_flat;
        }
    }
}

fn main() -> ExitCode {
    // Cargo passes `--bench`; a test run of all targets does not, and has no minutes.
    if !env::args().any(|word| word == "--bench") {
        return ExitCode::SUCCESS;
    }
    let pass = |epoch| Pass::Train { seed: 0, epoch, tail: Tail::Drop };
    let embedded = open(&Location::Embedded, Split::Train).expect("it is part of the program");
    let pad_and_crop = Transform::PadAndCrop { size: 28, padding: 2, flip: true };
    let small = |epoch| LoaderConfig::new(pad_and_crop, Channels::Grey, 256, pass(epoch));
    let mut is_flat =
        watch("embedded", &embedded, small, |num_images, _| num_images as f64 / IMAGES_AN_HOUR as f64);

    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/imagenet-200-jpeg.tar");
    match open(&Location::Path(path), Split::Train) {
        Ok(photos) => {
            let phases = |epoch| {
                let (size, batch_size) = [(128, 64), (224, 48), (288, 32)][epoch as usize % 3];
                let crop = Transform::RandomResizedCrop {
                    size,
                    scale: (0.08, 1.0),
                    rule: CropRule::Modern,
                    flip: true,
                };
                LoaderConfig::new(crop, Channels::Rgb, batch_size, pass(epoch))
            };
            is_flat &= watch("photos", &photos, phases, |_, elapsed| {
                elapsed.as_secs_f64() / PHOTOS_FOR.as_secs_f64()
            });
        }
        Err(error) => eprintln!("SKIP: {error}"),
    }
    if is_flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
