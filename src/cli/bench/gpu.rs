//! `sprint bench gpu`: what a device does with a training step, as a table and as a file. Without fusion too, where Burn
//! was compiled with it: Burn decides that once a process, so another one of this program measures those steps.

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

/// Burn's own: after so many explorations it looks for no more operations to fuse.
const MAX_EXPLORATIONS: &str = "BURN_FUSION_MAX_EXPLORATIONS";
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
    /// Steps alone, with what fusion the environment says
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
    let fuses = device::fuses(&args.device);
    let is_off = burn::runtime_config().fusion().beam_search.max_explorations == Some(0);
    let request = Request {
        model: &model,
        cases: cases(&args.cases, &args.precision),
        steps_only: args.steps_only,
        limit_s: args.limit as f64,
        variant: match (fuses, is_off) {
            (false, _) => "",
            (true, false) => "fusion",
            (true, true) => "no fusion",
        },
    };
    let host = device::find("flex").ok();
    let mut page = measure(&request, &device, host.as_ref(), |what| eprintln!("{what}"))?;
    page.program = format!("burn-sprint {}", env!("CARGO_PKG_VERSION"));
    page.device.clone_from(&args.device);
    page.card = device::description(&device);
    free(device);
    if fuses && !is_off && !args.steps_only {
        let left_s = args.limit as f64 - started.elapsed().as_secs_f64();
        match left_s > LEAST_S {
            true => {
                let other = without_fusion(args, left_s)?;
                page.steps.extend(other.steps);
                page.not_measured.extend(other.not_measured);
            }
            false => page.not_measured.push("steps without fusion: no time was left".into()),
        }
    }
    if let Some(out) = &args.out {
        let text = serde_json::to_string_pretty(&page).expect("numbers, strings and lists of them are JSON");
        write_atomic(out, text.as_bytes())?;
    }
    print!("{page}");
    Ok(())
}

/// Gives memory back, which the other process is about to take.
fn free(device: Device) {
    device.memory_cleanup();
    // What is not given back is seen by the other one.
    let _ = device.sync();
}

/// The same steps in a process of their own.
fn without_fusion(args: &Args, limit_s: f64) -> Result<Page> {
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
        .env(MAX_EXPLORATIONS, "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(width) = args.width {
        command.args(["--width", &width.to_string()]);
    }
    let status = command.status().map_err(Error::io("start", &program))?;
    if !status.success() {
        return Err(Error::run("the process that measures steps without fusion failed, as it says above"));
    }
    let read = Error::io("read", &file);
    let bytes = fs::metadata(&file).and_then(|file_is| match file_is.len() {
        0..=MAX_PAGE_BYTES => fs::read(&file),
        _ => Err(std::io::ErrorKind::FileTooLarge.into()),
    });
    serde_json::from_slice(&bytes.map_err(read)?)
        .map_err(|error| Error::run(format!("{} is no page of results: {error}", file.display())))
}
