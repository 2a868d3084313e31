//! What tests share: a data set small enough for a second of training, the command as a process, a run's files in a form
//! that can be compared, backends, and Python where it is there.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part of this")]

use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

#[path = "../../burn-kernels/tests/common/devices.rs"]
mod devices;
#[allow(unused_imports, reason = "as above")]
pub use devices::{cpus, devices, gpus, is_gpu, tolerance};

/// Nothing in these tests takes so long: past it something hangs.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits for what comes by itself.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

pub const NUM_CLASSES: usize = 4;
/// Side of the pictures.
pub const SIDE: usize = 28;
/// Training pictures: [`STEPS_PER_EPOCH`] batches of 16 and 5 left over.
pub const NUM_TRAIN: usize = 165;
pub const NUM_VAL: usize = 40;
pub const STEPS_PER_EPOCH: u64 = 10;
/// Of the recipe [`TINY`]: an epoch in the first phase, two in the second.
pub const NUM_STEPS: u64 = 30;

/// Knuth's MMIX generator: the same numbers everywhere.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A grey picture of `class`: a bright quarter in noise.
pub fn pattern(class: usize, random: &mut Random) -> Vec<u8> {
    let half = SIDE / 2;
    let pixel = |at: usize| {
        let quarter = at / SIDE / half * 2 + at % SIDE / half;
        (if quarter == class { 120 } else { 0 }) + random.below(130) as u8
    };
    (0..SIDE * SIDE).map(pixel).collect()
}

/// Writes MNIST's four files, divided into training and validation.
pub fn write_idx(folder: &Path) {
    let mut random = Random(1);
    for (part, count) in [("train", NUM_TRAIN), ("t10k", NUM_VAL)] {
        let header = |magic: u32, dims: &[usize]| {
            let dims = dims.iter().map(|&dim| dim as u32);
            [magic].into_iter().chain(dims).flat_map(u32::to_be_bytes).collect::<Vec<u8>>()
        };
        let mut images = header(0x803, &[count, SIDE, SIDE]);
        let mut labels = header(0x801, &[count]);
        for index in 0..count {
            images.extend(pattern(index % NUM_CLASSES, &mut random));
            labels.push((index % NUM_CLASSES) as u8);
        }
        fs::write(folder.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
}

/// A folder with [`write_idx`]'s data in `data`.
pub fn data() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("data")).unwrap();
    write_idx(&temp.path().join("data"));
    temp
}

/// Writes `per_class` PNGs into a folder for each class, and returns the files of each.
pub fn write_folder(folder: &Path, per_class: usize) -> Vec<Vec<PathBuf>> {
    let mut random = Random(2);
    let class = |class: usize| {
        let subfolder = folder.join(format!("class{class}"));
        fs::create_dir_all(&subfolder).unwrap();
        let picture = |index: usize| {
            let path = subfolder.join(format!("{index:03}.png"));
            let pixels = pattern(class, &mut random);
            image::save_buffer(&path, &pixels, SIDE as u32, SIDE as u32, image::ColorType::L8).unwrap();
            path
        };
        (0..per_class).map(picture).collect()
    };
    (0..NUM_CLASSES).map(class).collect()
}

/// A file of the data that the project's issues stand on, or a visible word that it is not there.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if !path.exists() {
        eprintln!("SKIP: ../shared/data/{name} is not there");
        return None;
    }
    Some(path)
}

/// The interpreter that `PYTHON` names, else `python3`; or a visible word that it, or one of the packages, is not there.
pub fn python(packages: &[&str]) -> Option<Command> {
    const LOOK: &str = "import importlib.util, sys; \
                        print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))";
    let python = env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let look = match Command::new(&python).args(["-c", LOOK]).args(packages).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("SKIP: there is no {python} (PYTHON names another one)");
            return None;
        }
        look => Output::of(look.unwrap()).ok(),
    };
    let missing = look.stdout.trim();
    if !missing.is_empty() {
        eprintln!("SKIP: {python} has no {missing} (PYTHON names another one)");
        return None;
    }
    Some(Command::new(python))
}

/// What a script of `benches/peers` prints, where [`python`] has its package.
pub fn peer(script: &str, package: &str, words: impl IntoIterator<Item = PathBuf>) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(script);
    let output = python(&[package])?.arg(script).args(words).output().unwrap();
    Some(Output::of(output).ok().stdout)
}

/// All files below a folder, by their path in it.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// What a command left.
pub struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Line by line: in one quoted string, a long output is what a log's reader, or the log itself, leaves out.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { status, stdout, stderr } = self;
        write!(f, "status {status}\n-- stdout:\n{stdout}\n-- stderr:\n{stderr}")
    }
}

impl Output {
    pub fn of(output: std::process::Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        // No code: ended by a signal.
        let status = output.status.code().unwrap_or(-1);
        Self { status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The one line that begins with `error: `, where the command failed with `status`, by its own decision.
    #[track_caller]
    pub fn error(&self, status: i32) -> &str {
        assert_eq!(self.status, status, "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let lines: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(lines.len(), 1, "{}", self.stderr);
        assert!(self.stderr.ends_with(&format!("{}\n", lines[0])), "more follows: {}", self.stderr);
        lines[0]
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{self:#?}");
        self
    }
}

/// The built command.
pub fn command<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sprint"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end.
pub fn sprint<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Output::of(command(args).output().unwrap())
}

/// A path as a word of a command line.
pub fn word(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A ResNet-8 of width 4: both kinds of augmentation, two image sizes, [`NUM_STEPS`] steps.
pub const TINY: [&str; 5] = [
    "seed=3",
    "model.depth=8",
    "model.width=4",
    "phase=[\
        {epochs=1, size=28, batch_size=16, lr=[0.0, 0.1], augment='pad-and-crop', padding=1}, \
        {epochs=2, size=24, batch_size=16, lr=[0.1, 0.0], augment='random-resized-crop'}]",
    "checkpoint.every_steps=3",
];

/// `sprint train` of the recipe [`TINY`]. Needs [`write_idx`]'s data, or [`write_folder`]'s.
pub fn tiny(data: &Path, out: &Path) -> Vec<String> {
    let mut words: Vec<String> =
        ["train", "--preset", "default", "--data", &word(data), "--out", &word(out)].map(String::from).into();
    words.extend(sets(&TINY));
    words
}

/// `--set` before each.
pub fn sets<S: AsRef<str>>(assignments: &[S]) -> Vec<String> {
    assignments.iter().flat_map(|assignment| ["--set".to_owned(), assignment.as_ref().to_owned()]).collect()
}

/// The rows of a run without what clocks say.
pub fn rows(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        let keys = row.as_object_mut().unwrap();
        for clock in ["elapsed_s", "eval_s", "images_per_s", "data_wait_s", "comm_wait_s", "comm_s"] {
            keys.remove(clock);
        }
        row
    };
    text.lines().map(row).collect()
}

/// A run's checkpoints by step.
pub fn checkpoints(run: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|path| {
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    found.sort_unstable();
    found
}

/// Makes a folder like that of a run which was killed after it had saved the checkpoint of `step` as its first.
pub fn killed_after(run: &Path, step: u64, copy: &Path) {
    let (_, from) = checkpoints(run).into_iter().find(|(saved, _)| *saved == step).unwrap();
    let to = copy.join("checkpoints").join(format!("step-{step}"));
    fs::create_dir_all(&to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    fs::copy(run.join("metrics.jsonl"), copy.join("metrics.jsonl")).unwrap();
}

/// Cuts a file in half.
pub fn halve(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Weights, their average, the optimizer's state and rows are those of another run, bit for bit.
#[track_caller]
pub fn assert_same_end(got: &Path, expected: &Path) {
    let ((got_step, got_last), (step, last)) =
        (checkpoints(got).pop().unwrap(), checkpoints(expected).pop().unwrap());
    assert_eq!(got_step, step);
    for name in ["model.safetensors", "optimizer.safetensors", "trained.safetensors"] {
        let [got, expected] = [&got_last, &last].map(|folder| fs::read(folder.join(name)).ok());
        assert!(expected.is_some() || name == "trained.safetensors", "{name} is not there");
        assert!(got == expected, "{name} differs");
    }
    let (got, expected) = (rows(got), rows(expected));
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got, expected);
    }
    assert_eq!(got.len(), expected.len());
}
