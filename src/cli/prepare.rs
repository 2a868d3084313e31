//! `sprint prepare`: words of a preparation, its progress, and the search for damaged pictures.

use std::{collections::BTreeSet, path::PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    data::{Location, check, open_parts},
    error::{Error, Result},
    prepare::{DEFAULT_QUALITY, Preparation, Settings},
};

/// Make data ready: copies in other sizes and shards; or find damaged pictures.
///
/// Pictures stay as they are unless --max-side says otherwise. Killed and run again it goes on. At the end every picture
/// that was written is read back and checked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A folder with a folder for each class (or with train/ and val/), a tar of such, shards, or a folder with ImageNet's
    /// three archives (training, validation, development kit)
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// The folder to make; the data's own, to add copies to it
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    out: Option<PathBuf>,
    /// Copies of so many pixels on the short side, below --out; phases read them by `data = "160"`
    #[arg(long, value_name = "PIXELS,..", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(8..=4096))]
    sizes: Vec<u32>,
    /// Write shards (WebDataset tars, each with an index), shuffled, instead of picture files
    #[arg(long)]
    shards: bool,
    /// Pictures of a shard [default: 256 to 4096, by the number of all]
    #[arg(long, value_name = "N", requires = "shards", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    per_shard: Option<u32>,
    /// Encode all pictures anew, with at most so many pixels on the long side: smaller and faster to read, and lossy
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(8..=65_535))]
    max_side: Option<u32>,
    /// JPEG quality of copies and of --max-side [default: 90]
    #[arg(long, value_name = "1-100", value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: Option<u8>,
    /// Of the order in shards
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Leave out pictures that cannot be read, and name them
    #[arg(long)]
    skip_bad_files: bool,
    /// Write nothing: decode every picture of --data, and name those that are damaged
    #[arg(long, conflicts_with_all = ["out", "sizes", "shards", "max_side", "quality", "skip_bad_files"])]
    check: bool,
}

const EXAMPLES: &str = "\
Examples:
  sprint prepare --data photos/ --out photos/ --sizes 160,352     copies beside photos/train and photos/val
  sprint prepare --data imagenet/ --out ready/ --sizes 160,352 --shards
  sprint prepare --data photos.tar --out small/ --shards --max-side 500 --quality 90
  sprint prepare --check --data ready/";

pub(super) fn prepare(args: Args) -> Result<()> {
    let Some(out) = args.out.clone().filter(|_| !args.check) else { return check(&args) };
    let settings = settings(args, out)?;
    ctrlc::set_handler(|| {
        eprintln!("stopped; what is whole is kept: the same line goes on from there");
        std::process::exit(130);
    })
    .map_err(|error| Error::run(format!("cannot listen for Ctrl-C: {error}")))?;
    if let Some(side) = settings.max_side {
        eprintln!(
            "pictures are encoded anew, at most {side} pixels long, at JPEG quality {}: they lose detail",
            settings.quality
        );
    }
    let preparation = Preparation::open(settings)?;
    preparation.check_space()?;
    let num_images = preparation.num_images();
    let bar = bar(num_images, "written");
    let written = preparation.write(|n| bar.inc(n))?;
    bar.finish_and_clear();
    for error in &written.skipped {
        eprintln!("left out: {error}");
    }
    let bar = self::bar(num_images * preparation.folders().count() as u64, "checked");
    let num_left_out = preparation.verify(&written, |n| bar.inc(n))?;
    bar.finish_and_clear();
    let skipped = match num_left_out {
        0 => String::new(),
        n => format!(", {n} bad ones left out"),
    };
    let folders: Vec<String> = preparation.folders().map(|folder| folder.display().to_string()).collect();
    println!("{num_images} pictures{skipped}, written and checked: {}", folders.join(", "));
    Ok(())
}

fn settings(args: Args, out: PathBuf) -> Result<Settings> {
    let Args { data, sizes, shards, per_shard, max_side, quality, seed, skip_bad_files, .. } = args;
    if quality.is_some() && sizes.is_empty() && max_side.is_none() {
        return Err(Error::usage(
            "--quality is that of what is encoded anew: give --sizes or --max-side with it",
        ));
    }
    Ok(Settings {
        data,
        out,
        sizes: BTreeSet::from_iter(sizes),
        shards,
        per_shard,
        max_side,
        quality: quality.unwrap_or(DEFAULT_QUALITY),
        seed,
        skip_bad_files,
    })
}

/// Names the damaged pictures of a data set on standard output.
fn check(args: &Args) -> Result<()> {
    let (mut num_images, mut num_damaged) = (0, 0);
    for (_, source) in open_parts(&Location::Path(args.data.clone()))? {
        num_images += source.num_images();
        let bar = bar(source.num_images() as u64, "checked");
        let damaged = check::damaged(&*source, |n| bar.inc(n));
        bar.finish_and_clear();
        num_damaged += damaged.len();
        for error in damaged {
            println!("{error}");
        }
    }
    if num_damaged > 0 {
        let data = args.data.display();
        return Err(Error::run(format!("{num_damaged} of {num_images} pictures of {data} are damaged")));
    }
    println!("{num_images} pictures, none damaged");
    Ok(())
}

fn bar(num_images: u64, what: &str) -> ProgressBar {
    let style =
        format!("{{bar:30}} {{human_pos}} of {{human_len}} pictures {what}  {{per_sec}}  {{eta}} left");
    ProgressBar::new(num_images).with_style(ProgressStyle::with_template(&style).expect("a fixed template"))
}
