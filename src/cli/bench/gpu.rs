//! `sprint bench gpu`: what a device does with a training step, as a table and as a file. On a GPU also without what makes it
//! fast, one by one: that is decided once a process, by the environment, so other ones of this program measure those steps.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use burn::tensor::Device;
use burn_resnet::{Depth, ResNetConfig};

use super::super::device;
use crate::{
    bench::{Page, Request, Size, cases, measure},
    config::Precision,
    error::{Error, Result},
    record::write_atomic,
};

/// Something that a GPU can do without.
struct Without {
    /// In the table.
    name: &'static str,
    /// What the environment says then.
    setting: (&'static str, &'static str),
    /// Whether it says so now.
    is_chosen: fn() -> bool,
}

const WITHOUT: [Without; 2] = [
    Without {
        name: "no fusion",
        // Burn's: after so many explorations it looks for no more operations to fuse.
        setting: ("BURN_FUSION_MAX_EXPLORATIONS", "0"),
        is_chosen: || burn::runtime_config().fusion().beam_search.max_explorations == Some(0),
    },
    Without {
        name: "Burn's norm",
        setting: (burn_kernels::NORM_VARIABLE, burn_kernels::BURNS_NORM),
        is_chosen: burn_kernels::norm_is_burns,
    },
];

/// A page of ours has some kilobytes.
const MAX_PAGE_BYTES: u64 = 1 << 24;
/// Under which no more steps are begun.
const LEAST_S: f64 = 10.0;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Where everything is written, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// cuda, cuda:N, wgpu, vulkan, flex (CPU), ndarray
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    device: String,
    /// Pixels and images of the steps
    #[arg(
        long,
        value_name = "SIZExBATCH,...",
        default_value = "128x256,224x192,288x128",
        value_delimiter = ','
    )]
    cases: Vec<Size>,
    /// The numbers that the network computes in
    #[arg(long, value_name = "TYPE,...", default_value = "f16,f32", value_delimiter = ',', value_parser = precision)]
    precision: Vec<Precision>,
    /// The network's layers: 18, 34, 50, 101, 152, or of the CIFAR family
    #[arg(long, value_name = "LAYERS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=200))]
    depth: u64,
    /// Channels of its first stage [default: those of the paper]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    width: Option<u64>,
    /// Seconds after which nothing new is begun
    #[arg(long, value_name = "SECONDS", default_value_t = 420, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    limit: u64,
    /// Steps alone, with fusion and batch norm as the environment says
    #[arg(long)]
    steps_only: bool,
}

const EXAMPLES: &str = "\
Examples:
  sprint bench gpu --out gpu.json
  sprint bench gpu --device wgpu --depth 8 --width 4 --cases 32x8 --precision f32
  sprint bench gpu --cases 224x64 --precision f16 --steps-only";

fn precision(word: &str) -> Result<Precision, String> {
    let all = [Precision::F32, Precision::F16, Precision::Bf16];
    all.into_iter().find(|known| known.to_string() == word).ok_or_else(|| "expected f32, f16 or bf16".into())
}

pub(super) fn gpu(args: &Args) -> Result<()> {
    let started = Instant::now();
    let depth = Depth::try_from(args.depth).map_err(Error::usage)?;
    let mut model = ResNetConfig::new(depth, 1000).map_err(Error::usage)?;
    if let Some(width) = args.width {
        model = model.with_width(width as usize).map_err(Error::usage)?;
    }
    let device = device::find(&args.device)?;
    let is_gpu = device::is_gpu(&args.device);
    let chosen: Vec<&str> =
        WITHOUT.iter().filter(|without| (without.is_chosen)()).map(|without| without.name).collect();
    let variant = match (is_gpu, &chosen[..]) {
        (false, _) => String::new(),
        (true, []) => "fusion".into(),
        (true, chosen) => chosen.join(", "),
    };
    let request = Request {
        model: &model,
        cases: cases(&args.cases, &args.precision),
        steps_only: args.steps_only,
        limit_s: args.limit as f64,
        variant: &variant,
    };
    let host = device::find("flex").ok();
    let mut page = measure(&request, &device, host.as_ref(), |what| eprintln!("{what}"))?;
    page.program = format!("burn-sprint {}", env!("CARGO_PKG_VERSION"));
    page.device.clone_from(&args.device);
    page.card = device::description(&device);
    leave(device);
    if is_gpu && chosen.is_empty() && !args.steps_only {
        for without in &WITHOUT {
            let left_s = args.limit as f64 - started.elapsed().as_secs_f64();
            if left_s < LEAST_S {
                page.not_measured.push(format!("steps, {}: no time was left", without.name));
                continue;
            }
            let other = steps(args, without, left_s)?;
            page.steps.extend(other.steps);
            page.not_measured.extend(other.not_measured);
        }
    }
    if let Some(out) = &args.out {
        let text = serde_json::to_string_pretty(&page).expect("numbers, strings and lists of them are JSON");
        write_atomic(out, text.as_bytes())?;
    }
    print!("{page}");
    Ok(())
}

/// Leaves to the other process the memory, which it is about to take, and the kernels that were chosen.
fn leave(device: Device) {
    device::keep_kernels();
    device.memory_cleanup();
    // What is not given back is seen by the other one.
    let _ = device.sync();
}

/// The same steps in a process of their own.
fn steps(args: &Args, without: &Without, limit_s: f64) -> Result<Page> {
    let folder = tempfile::tempdir().map_err(Error::io("create", &env::temp_dir()))?;
    let file = folder.path().join("page.json");
    let program = env::current_exe().map_err(Error::io("find", Path::new("this program")))?;
    let words = |all: &[String]| all.join(",");
    let sizes: Vec<String> = args.cases.iter().map(ToString::to_string).collect();
    let precisions: Vec<String> = args.precision.iter().map(ToString::to_string).collect();
    let mut command = Command::new(&program);
    command
        .args(["bench", "gpu", "--steps-only", "--device", &args.device])
        .args(["--cases", &words(&sizes), "--precision", &words(&precisions)])
        .args(["--depth", &args.depth.to_string(), "--limit", &format!("{limit_s:.0}")])
        .arg("--out")
        .arg(&file)
        .env(without.setting.0, without.setting.1)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(width) = args.width {
        command.args(["--width", &width.to_string()]);
    }
    let status = command.status().map_err(Error::io("start", &program))?;
    if !status.success() {
        let name = without.name;
        return Err(Error::run(format!("the process that measures steps, {name}, failed, as it says above")));
    }
    let read = Error::io("read", &file);
    let bytes = fs::metadata(&file).and_then(|file_is| match file_is.len() {
        0..=MAX_PAGE_BYTES => fs::read(&file),
        _ => Err(std::io::ErrorKind::FileTooLarge.into()),
    });
    serde_json::from_slice(&bytes.map_err(read)?)
        .map_err(|error| Error::run(format!("{} is no page of results: {error}", file.display())))
}
