//! Goal: what `deploy` starts on two machines of two ranks ends as promised when a rank is killed, a cable is pulled or
//! the time is up, names the culprit, and goes on to the network of a run that nothing happened to, bit for bit.
//!
//! Method: machines as network namespaces. Each file runs as it is: Slurm's with programs that stand for srun, scontrol
//! and scancel and do what these do; Kubernetes' container by its own command and variables. Rows of the run say where it
//! is, and ranks' own lines what they saw; the deadline only ends a test that hangs.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/kubernetes.rs"]
mod kubernetes;
#[path = "common/machines.rs"]
mod machines;

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{DEADLINE, assert_same_end, data, rows, sets, tiny, wait_until, word};
use kubernetes::started;
use machines::{Bin, Machines, deploy};
use rustix::process::{Pid, Signal, kill_process};

/// Of the contract for a machine that lost its network (`burn-dist`'s table), and for a busy computer.
const SILENCE: Duration = Duration::from_secs(10 + 10);
/// Ten an epoch, of 4 images a rank.
const NUM_STEPS: u64 = 300;

/// The recipe that all tests share, made long enough to be met in the middle.
fn recipe() -> Vec<String> {
    sets(&[
        "phase=[\
            {epochs=1, size=28, batch_size=4, lr=[0.0, 0.05], augment='pad-and-crop', padding=1}, \
            {epochs=29, size=24, batch_size=4, lr=[0.05, 0.0], augment='random-resized-crop'}]",
        "checkpoint.every_steps=7",
    ])
}

/// The words of `sprint train`, without its name and the run's folder.
fn words(data: &Path) -> Vec<String> {
    let mut words = tiny(data, Path::new("unused"));
    let out = words.iter().position(|word| word == "--out").unwrap();
    words.drain(out..out + 2);
    words.remove(0);
    words.extend(recipe());
    words
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Waits for a run to have done a step.
#[track_caller]
fn await_step(run: &Path, step: u64) {
    let rows = || read(&run.join("metrics.jsonl"));
    wait_until(&format!("step {step} does not come"), || rows().contains(&format!("\"step\":{step},")));
}

/// The lines of a machine's output that hold a word.
fn lines<'a>(text: &'a str, with: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(with)).collect()
}

/// A process that does not outlive the test.
struct Job(Child);

impl Job {
    fn start(command: &mut Command, output: &Path) -> Self {
        let out = File::options().append(true).create(true).open(output).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        Self(command.spawn().unwrap())
    }

    #[track_caller]
    fn end(mut self) -> i32 {
        let mut status = None;
        wait_until("a job does not end", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `deploy/slurm/train.sbatch` in a cluster of two machines.
struct Slurm {
    machines: Machines,
    bin: Bin,
    folder: tempfile::TempDir,
}

impl Slurm {
    fn new() -> Option<Self> {
        let slurm = Self { machines: Machines::new()?, bin: Bin::new(), folder: data() };
        let quoted = |words: Vec<String>| -> String {
            words.iter().map(|word| format!("'{}' ", word.replace('\'', "'\\''"))).collect()
        };
        for node in 0..2 {
            slurm
                .bin
                .add(&format!("on-node{node}"), &format!("exec {}\"$@\"", quoted(slurm.machines.on(node))));
        }
        slurm.bin.add("scontrol", "[ $1 = show ] && printf 'node0\\nnode1\\n' || echo \"scontrol $*\"");
        // A task on each machine, with what srun tells it; its status is the highest.
        slurm.bin.add(
            "srun",
            "while [[ $1 == -* ]]; do shift; done\n\
             export SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_STEP_TASKS_PER_NODE='1(x2)' SLURM_LOCALID=0\n\
             for node in 0 1; do\n\
               SLURM_PROCID=$node SLURM_NODEID=$node on-node$node \"$@\" >>\"$RUN.node$node\" 2>&1 & pids+=($!)\n\
             done\n\
             status=0; for pid in \"${pids[@]}\"; do\n\
               wait \"$pid\" || { s=$?; status=$((s > status ? s : status)); }\n\
             done; exit \"$status\"",
        );
        slurm.bin.add("squeue", "echo RUNNING");
        // Slurm signals every process of a step, the ranks beside their launchers.
        let [a, b] = [0, 1].map(|node| slurm.machines.namespace(node));
        slurm.bin.add(
            "scancel",
            &format!("[ $1 = --signal=TERM ] && kill -TERM $(ip netns pids {a}; ip netns pids {b})"),
        );
        Some(slurm)
    }

    fn run(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The batch script as Slurm runs it, of a job that was queued again so often.
    fn start(&self, run: &str, restarts: u32) -> Job {
        let vars = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_JOB_NAME", "sprint"),
            ("SLURM_JOB_NODELIST", "node[0-1]"),
            ("SLURM_JOB_NUM_NODES", "2"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_CPUS_ON_NODE", "2"),
            ("SLURM_PROCID", "0"),
            ("SLURM_NODEID", "0"),
            ("SLURM_SUBMIT_DIR", "/"),
            ("NPROC", "2"),
        ];
        let mut command = Command::new(deploy("slurm/train.sbatch"));
        command
            .args(words(&self.run("data")))
            .env("PATH", self.bin.path())
            .env("RUN", self.run(run))
            .envs(vars);
        if restarts > 0 {
            command.env("SLURM_RESTART_COUNT", restarts.to_string());
        }
        Job::start(&mut command, &self.run(&format!("{run}.batch")))
    }

    /// What a machine's launcher and ranks said.
    fn said(&self, run: &str, node: u32) -> String {
        read(&self.run(&format!("{run}.node{node}")))
    }

    /// Waits until both launchers start their ranks again for the `nth` time, and returns their lines of why.
    #[track_caller]
    fn await_restart(&self, run: &str, nth: u32) -> [String; 2] {
        let mark = format!("; starting all ranks again, restart {nth} of 3");
        let line = |node| lines(&self.said(run, node), &mark).first().map(|line| (*line).to_owned());
        let start = Instant::now();
        loop {
            if let [Some(a), Some(b)] = [0, 1].map(line) {
                return [a, b];
            }
            assert!(
                start.elapsed() < DEADLINE,
                "restart {nth}: {}\n{}",
                self.said(run, 0),
                self.said(run, 1)
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn pid_of_rank(&self, node: u32, rank: u32) -> Pid {
        let wanted = format!("BURN_DIST_RANK={rank}").into_bytes();
        let is_it = |pid: &i32| {
            let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            variables.split(|byte| *byte == 0).any(|variable| variable == wanted)
        };
        Pid::from_raw(self.machines.pids(node).into_iter().find(is_it).unwrap()).unwrap()
    }
}

#[test]
fn slurms_job_survives_a_killed_rank_a_pulled_cable_and_its_time_limit() {
    let Some(slurm) = Slurm::new() else { return };
    assert_eq!(slurm.start("whole", 0).end(), 0, "{}{}", slurm.said("whole", 0), slurm.said("whole", 1));
    assert_eq!(rows(&slurm.run("whole")).last().unwrap()["step"], NUM_STEPS);

    let run = slurm.run("run");
    let job = slurm.start("run", 0);
    // A rank dies: every launcher names it, and all start again.
    await_step(&run, 24);
    kill_process(slurm.pid_of_rank(1, 3), Signal::KILL).unwrap();
    for line in slurm.await_restart("run", 1) {
        assert!(line.contains("rank 3 on node1"), "{line}");
    }

    // A machine loses its network. Each side misses the other, and both end within the contract's time.
    await_step(&run, 61);
    assert!(slurm.said("run", 0).contains("resuming after step"), "{}", slurm.said("run", 0));
    slurm.machines.cut(1);
    let cut = Instant::now();
    let [at_0, at_1] = slurm.await_restart("run", 2);
    assert!(cut.elapsed() < SILENCE, "{:?}", cut.elapsed());
    assert!(at_0.contains("rank 2 on node1") || at_0.contains("rank 3 on node1"), "{at_0}");
    assert!(at_1.contains("rank 0 on node0"), "{at_1}");
    slurm.machines.mend(1);

    // The time is nearly up: saved, and queued again.
    await_step(&run, 122);
    kill_process(Pid::from_child(&job.0), Signal::USR1).unwrap();
    assert_eq!(job.end(), 0);
    let batch = read(&slurm.run("run.batch"));
    assert_eq!(lines(&batch, "scontrol requeue 7").len(), 1, "{batch}");
    assert_eq!(lines(&slurm.said("run", 0), "stopped after step").len(), 1, "{}", slurm.said("run", 0));
    assert!(rows(&run).last().unwrap()["step"].as_u64().unwrap() < NUM_STEPS);

    // It comes up again.
    assert_eq!(slurm.start("run", 1).end(), 0, "{}", slurm.said("run", 0));
    assert_same_end(&run, &slurm.run("whole"));
    // Its secret was the job's, and drawn once.
    assert_eq!(fs::metadata(slurm.run("run.secret")).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A pod's container by the file's own command, with the words of a short recipe for its arguments.
fn pod(machines: &Machines, bin: &Bin, folder: &Path, run: &str, index: u32) -> Job {
    let secret = folder.join("secret");
    if !secret.exists() {
        fs::write(&secret, "known to all\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o440)).unwrap();
    }
    let change = |name: &str, value: &str| match name {
        "NPROC" => Some("2".to_owned()),
        "BURN_DIST_SECRET_FILE" => Some(word(&secret)),
        // A folder of the container's.
        _ => Some(word(&folder.join(value.trim_start_matches('/')))),
    };
    let mut of_file = started(index, change);
    let nodes = of_file.command.iter().position(|word| word == "--nnodes").unwrap();
    of_file.command[nodes + 1] = "2".into();
    let own = words(&folder.join("data")).into_iter().chain(["--out".into(), word(&folder.join(run))]);
    let resume = of_file.args.into_iter().filter(|word| word == "--resume");
    let all = of_file.command.into_iter().chain(own).chain(resume);
    let mut command = machines.command(index, all);
    command.env("PATH", bin.path()).envs(of_file.variables);
    Job::start(&mut command, &folder.join(format!("{run}.pod{index}")))
}

#[test]
fn kubernetes_pods_end_when_a_cable_is_pulled_and_go_on_when_they_are_made_again() {
    let Some(machines) = Machines::new() else { return };
    let (bin, temp) = (Bin::new(), data());
    let start = |run: &str| [0, 1].map(|index| pod(&machines, &bin, temp.path(), run, index));
    let said = |run: &str, index: u32| read(&temp.path().join(format!("{run}.pod{index}")));
    for pod in start("whole") {
        assert_eq!(pod.end(), 0, "{}{}", said("whole", 0), said("whole", 1));
    }

    let run = temp.path().join("run");
    let pods = start("run");
    await_step(&run, 33);
    machines.cut(1);
    let cut = Instant::now();
    for pod in pods {
        assert_eq!(pod.end(), 1, "{}{}", said("run", 0), said("run", 1));
    }
    assert!(cut.elapsed() < SILENCE, "{:?}", cut.elapsed());
    // The launcher's own line is the last, and names who was missed; all ranks of a machine miss the same one, each where
    // it waited: they may be an operation apart.
    for (index, missed) in [(0, "node1"), (1, "node0")] {
        let said = said("run", index);
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("error: rank ") && last.contains(&format!(" on {missed}")), "{said}");
        let errors: Vec<_> = said.lines().filter_map(|line| line.split_once("] error: ")).collect();
        let missed: Vec<_> =
            errors.iter().filter_map(|(_, error)| error.split(" at operation ").next()).collect();
        assert!(missed.len() == 2 && missed[0] == missed[1], "{said}");
    }
    assert!(rows(&run).last().unwrap()["step"].as_u64().unwrap() < NUM_STEPS);

    machines.mend(1);
    for pod in start("run") {
        assert_eq!(pod.end(), 0, "{}{}", said("run", 0), said("run", 1));
    }
    assert!(said("run", 0).contains("resuming after step"), "{}", said("run", 0));
    assert_same_end(&run, &temp.path().join("whole"));
}
