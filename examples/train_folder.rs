//! Train on a folder of one's own: `train_folder PICTURES`, where each class has a folder in PICTURES.
//!
//! Without an argument it paints pictures of stripes, lying and standing, and trains on those for seconds.

use std::{env, error::Error, path::Path};

use burn::tensor::Device;
use burn_dist::{Communicator, WorldSize};
use burn_sprint::{
    config::{DataFacts, Plan, Sources},
    data::{Copies, Location},
    record::{ProgressMode, RunInfo},
    train::{Job, Stop, run},
};
use image::{GrayImage, Luma};

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    // Without a preset's name, a folder of pictures gets the preset `photos`.
    let mut sources = Sources { data: env::args_os().nth(1).map(Into::into), ..Sources::default() };
    if sources.data.is_none() {
        sources.data = Some(scratch.path().join("pictures"));
        paint(&scratch.path().join("pictures"))?;
        let short = ["phase.0.epochs=2", "phase.1.epochs=4", "phase.0.batch_size=8", "phase.1.batch_size=8"];
        sources.set = short.map(String::from).to_vec();
    }
    let config = sources.resolve()?;
    let pictures = config.data.path.clone().map_or(Location::Embedded, Location::Path);
    let data = Copies::open(&pictures, None, config.data.val_fraction)?;
    let plan = Plan::new(config, DataFacts::of(&data.main().train), WorldSize::ONE)?;
    let job = Job {
        plan: &plan,
        data: &data,
        device: &Device::flex(),
        comm: Communicator::single(),
        out: &scratch.path().join("run"),
        resume: false,
        rehearse: false,
        stop: &Stop::new(),
        progress: ProgressMode::detect(10.0),
        info: RunInfo::default(),
        now_s: 0.0,
    };
    let accuracy = run(job)?.accuracy.ok_or("the run ended before its first evaluation")?;
    println!("top-1 {:.1} % of {} pictures held out", accuracy.top1, accuracy.num_images);
    Ok(())
}

/// 40 pictures of each class, a folder each.
fn paint(folder: &Path) -> Result<(), Box<dyn Error>> {
    for (class, lying) in [("lying", true), ("standing", false)] {
        std::fs::create_dir_all(folder.join(class))?;
        for i in 0..40 {
            let shade = |x, y| Luma([if (if lying { y } else { x } + i) % 12 < 6 { 220 } else { 30 }]);
            GrayImage::from_fn(48, 48, shade).save(folder.join(class).join(format!("{i}.png")))?;
        }
    }
    Ok(())
}
