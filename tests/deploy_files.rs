//! Goal: what is in `deploy` works as it is: its shell is sound, Kubernetes knows every field, the commands are ones that
//! `sprint` takes, and processes that the launchers start know who they are.
//!
//! Method: variables as launchers really set them (`tests/fixtures/launchers`); Kubernetes' own types; each file run to
//! its end with a program of the launcher's name that starts one process as the launcher would, and with the launcher
//! itself where it is installed.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/kubernetes.rs"]
mod kubernetes;
#[path = "common/machines.rs"]
mod machines;

use std::{
    collections::HashMap,
    env, fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use burn_dist::{Config, Trust, env::identity};
use common::{Output, checkpoints, data, rows, sets, sprint, tiny, wait_until, word};
use k8s_openapi::api::{batch::v1::Job, core::v1::Service, networking::v1::NetworkPolicy};
use kubernetes::{after, container, document, documents, started};
use machines::{Bin, deploy};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const SHELL: [&str; 4] = ["aws/spot.sh", "openmpi/train.sh", "slurm/train.sbatch", "torchrun/train.sh"];

/// Whether a program is installed; says so where not.
fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok();
    if !found {
        eprintln!("SKIP: there is no {program}");
    }
    found
}

fn run(program: &str, words: &[&str]) -> Output {
    Output::of(Command::new(program).args(words).stdin(Stdio::null()).output().unwrap())
}

#[test]
fn the_shell_is_sound() {
    let folders = fs::read_dir(deploy("")).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let shell = files.filter(|file| fs::read_to_string(file).unwrap().starts_with("#!"));
    assert_eq!(shell.count(), SHELL.len(), "a file that this test does not know");
    let has_shellcheck = is_there("shellcheck");
    for file in SHELL.map(deploy) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o111, 0o111, "{}", file.display());
        run("bash", &["-n", &word(&file)]).ok();
        if has_shellcheck {
            run("shellcheck", &[&word(&file)]).ok();
        }
    }
}

/// A launcher's variables, as it set them.
fn variables(file: &str) -> HashMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/launchers").join(file);
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| line.split_once('=').unwrap())
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect()
}

/// Launcher, rank, local rank, ranks of the machine, rank 0's place; or the error.
fn who(vars: &HashMap<String, String>) -> Result<Option<String>, String> {
    let found = identity(&|name| vars.get(name).cloned()).map_err(|error| error.to_string())?;
    Ok(found.map(|it| {
        let local = it.local_rank.zip(it.local_world_size);
        let local = local.map_or(String::new(), |(rank, size)| format!(", {rank} of {size} here"));
        format!("{}: {}{local}, {}:{}", it.source, it.rank, it.master_addr, it.master_port)
    }))
}

#[test]
fn what_launchers_really_set_is_understood() {
    let of = |file, more: &[(&str, &str)]| {
        let mut vars = variables(file);
        vars.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        who(&vars)
    };
    let said = |file, more, expected: &str| assert_eq!(of(file, more).unwrap().unwrap(), expected);
    said("torchrun.env", &[], "torchrun: 1 of 2, 1 of 2 here, localhost:37406");
    said("slurm-task.env", &[], "Slurm: 3 of 4, 1 of 2 here, node0:15001");
    said("slurm-task-pmi2.env", &[], "Slurm: 3 of 4, 1 of 2 here, node0:15001");
    let master = [("MASTER_ADDR", "node0"), ("MASTER_PORT", "29500")];
    said("openmpi.env", &master, "Open MPI: 1 of 2, 1 of 2 here, node0:29500");
    said("openmpi-in-slurm.env", &master, "Open MPI: 3 of 4, 1 of 2 here, node0:29500");
    assert_eq!(of("slurm-batch-single.env", &[]), Ok(None));
    let why = of("slurm-batch.env", &[]).unwrap_err();
    assert!(why.contains("SLURM_NTASKS is 4") && why.contains("put srun before"), "{why}");
    // One rank a pod, without `sprint launch`.
    let pod = [("JOB_COMPLETION_INDEX", "3"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "sprint-0.sprint")];
    let pod = pod.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(who(&pod).unwrap().unwrap(), "Kubernetes: 3 of 4, sprint-0.sprint:29500");
}

/// Read as `T` and written again, a document has lost what Kubernetes does not know.
#[track_caller]
fn is_wholly<T: DeserializeOwned + Serialize>(document: &Value) {
    let typed: T = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(&serde_json::to_value(typed).unwrap(), document);
}

#[test]
fn kubernetes_knows_every_field() {
    for document in documents() {
        match document["kind"].as_str().unwrap() {
            "Service" => is_wholly::<Service>(&document),
            "NetworkPolicy" => is_wholly::<NetworkPolicy>(&document),
            "Job" => is_wholly::<Job>(&document),
            other => panic!("no schema for {other}"),
        }
    }
}

#[test]
fn the_parts_of_kubernetes_file_fit_together() {
    let (job, service, policy) = (document("Job"), document("Service"), document("NetworkPolicy"));
    let (spec, name) = (&job["spec"], job["metadata"]["name"].as_str().unwrap());
    let pod = &spec["template"]["spec"];

    let words = started(0, |_, _| None).command;
    assert_eq!(after(&words, "--nnodes"), spec["completions"].to_string());
    assert_eq!(spec["completions"], spec["parallelism"]);
    // Pod 0's name, by the Service; and the pods that it is for.
    let service_name = service["metadata"]["name"].as_str().unwrap();
    assert_eq!(pod["subdomain"], service_name);
    assert!(after(&words, "--master").starts_with(&format!("{name}-0.{service_name}:")));
    let label = "batch.kubernetes.io/job-name";
    assert_eq!(service["spec"]["selector"][label], name);
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"][label], name);
    assert_eq!(policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"][label], name);
    // Those of one index would else be counted with those of all.
    assert_eq!(spec["completionMode"], "Indexed");
    assert!(spec["backoffLimitPerIndex"].is_u64() && spec["backoffLimit"].is_null());
    // What podFailurePolicy and backoffLimitPerIndex ask for.
    assert_eq!((&spec["podReplacementPolicy"], &pod["restartPolicy"]), (&"Failed".into(), &"Never".into()));
    for rule in spec["podFailurePolicy"]["rules"].as_array().unwrap() {
        let of = &rule["onExitCodes"]["containerName"];
        assert!(of.is_null() || of == &container()["name"]);
    }

    let mounts = container()["volumeMounts"].as_array().unwrap().clone();
    let volumes: Vec<_> = pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    assert_eq!(mounts.iter().map(|mount| &mount["name"]).collect::<Vec<_>>(), volumes);
    let at = |name: &str| {
        let mount = mounts.iter().find(|mount| mount["name"] == name).unwrap();
        (mount["mountPath"].as_str().unwrap(), mount["readOnly"] == true)
    };
    let pod_0 = started(0, |_, _| None);
    assert_eq!(pod_0.variables["BURN_DIST_SECRET_FILE"], format!("{}/secret", at("secret").0));
    assert_eq!(at("shm").0, "/dev/shm");
    assert_eq!(pod_0.variables["XDG_CACHE_HOME"], at("cache").0);
    assert!(Path::new(after(&pod_0.args, "--data")).starts_with(at("data").0));
    assert!(Path::new(after(&pod_0.args, "--out")).starts_with(at("runs").0) && !at("runs").1);
    assert!(pod_0.args.contains(&"--resume".to_owned()), "a pod that is made again must go on");

    // The container file's user is the pod's.
    let user = pod["securityContext"]["runAsUser"].to_string();
    let file = fs::read_to_string(deploy("container/Containerfile")).unwrap();
    assert!(
        file.contains(&format!("useradd --uid {user} ")) && file.contains(&format!("USER {user}:{user}\n"))
    );
    assert_eq!(pod["securityContext"]["fsGroup"].to_string(), user);
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(file.contains(&format!("FROM rust:{rust}-")), "the workspace wants Rust {rust}");
}

/// Kubernetes' volume of a secret belongs to root; `fsGroup` lets the pod's group read it, whatever the mode says.
#[test]
fn a_secret_as_kubernetes_mounts_it_is_accepted() {
    let volumes = document("Job")["spec"]["template"]["spec"]["volumes"].clone();
    let secret = volumes.as_array().unwrap().iter().find(|volume| volume["name"] == "secret").unwrap();
    let mode = u32::try_from(secret["secret"]["defaultMode"].as_u64().unwrap()).unwrap();
    assert_eq!(mode, 0o400);
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: a file of root's needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, "hush\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o440)).unwrap();
    let vars = |name: &str| (name == "BURN_DIST_SECRET_FILE").then(|| word(&path));
    let config = Config::from_vars(&vars, ["BURN_DIST_SECRET_FILE".to_owned()]).unwrap();
    assert_eq!(config.trust, Trust::Secret(b"hush".to_vec()));
}

/// The words of a run that says what it would do.
const DRY: [&str; 3] = ["--preset", "imagenet18-16", "--dry-run"];
/// What such a run of 32 ranks prints.
const OF_32: &str = "images of 1,000 classes, 32 ranks\n";

#[test]
fn the_command_of_kubernetes_is_one_of_sprints() {
    let pod = started(0, |name, _| (name == "NPROC").then(|| "2".to_owned()));
    assert_eq!(pod.command[0], "sprint");
    let mut args = pod.args;
    // The pictures are not here.
    let at = args.iter().position(|word| word == "--data").unwrap();
    args.drain(at..at + 2);
    let output = sprint(pod.command[1..].iter().chain(&args).chain([&"--dry-run".to_owned()])).ok();
    assert!(output.stdout.contains(OF_32), "{}", output.stdout);
}

/// A file of `deploy`, with programs of our own in front of the system's.
fn script(file: &str, bin: &Bin) -> Command {
    let mut command = Command::new(deploy(file));
    command.env("PATH", bin.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn the_command_of_slurm_is_one_of_sprints() {
    let (bin, folder) = (Bin::new(), tempfile::tempdir().unwrap());
    bin.add("scontrol", "[ \"$*\" = 'show hostnames node[0-15]' ] && printf 'node%d\\n' {0..15}");
    bin.add(
        "srun",
        "while [[ $1 == -* ]]; do shift; done\n\
         SLURM_STEP_ID=0 SLURM_NTASKS=16 SLURM_STEP_TASKS_PER_NODE='1(x16)' exec \"$@\"",
    );
    let run = folder.path().join("a/b");
    let mut vars = variables("slurm-batch.env");
    for (name, value) in [("SLURM_JOB_NODELIST", "node[0-15]"), ("SLURM_JOB_NUM_NODES", "16"), ("NPROC", "2")]
    {
        vars.insert(name.to_owned(), value.to_owned());
    }
    let output = script("slurm/train.sbatch", &bin).args(DRY).envs(vars).env("RUN", &run).output().unwrap();
    let output = Output::of(output).ok();
    assert!(output.stdout.contains(OF_32), "{output:#?}");
    let secret = fs::metadata(run.with_extension("secret")).unwrap();
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    assert!(secret.len() > 32);
}

/// What is wrong with the words ends the job with status 2, at once.
#[test]
fn slurms_job_ends_as_its_step_does() {
    let (bin, folder) = (Bin::new(), tempfile::tempdir().unwrap());
    bin.add("scontrol", "[ $1 = show ] && echo node0 || echo requeued");
    bin.add("srun", "while [[ $1 == -* ]]; do shift; done; exec \"$@\"");
    let vars = variables("slurm-batch-single.env");
    let output = script("slurm/train.sbatch", &bin)
        .args(["--prset", "default"])
        .envs(vars)
        .envs([("NPROC", "1"), ("RUN", &word(&folder.path().join("run")))])
        .output()
        .unwrap();
    let output = Output::of(output);
    assert_eq!(output.status, 2, "{output:#?}");
    assert!(output.stderr.contains("--prset"), "{output:#?}");
    assert!(!output.stdout.contains("requeued"), "{output:#?}");
}

#[test]
fn the_command_of_torchrun_is_one_of_sprints() {
    let bin = Bin::new();
    bin.add(
        "torchrun",
        "while [[ $1 == -* ]]; do\n\
         case $1 in --nnodes) n=$2;; --nproc-per-node) p=$2;; --no-python) shift; continue;; esac; shift 2; done\n\
         RANK=0 LOCAL_RANK=0 WORLD_SIZE=$((n * p)) LOCAL_WORLD_SIZE=$p MASTER_ADDR=a MASTER_PORT=1 \
         OMP_NUM_THREADS=1 TORCHELASTIC_USE_AGENT_STORE=True exec \"$@\"",
    );
    let vars = [("NNODES", "16"), ("NPROC", "2"), ("MASTER", "a:29400"), ("JOB", "1"), ("RESTARTS", "1")];
    let out = ["--out", "unused"];
    let output = script("torchrun/train.sh", &bin).args(DRY).args(out).envs(vars).output().unwrap();
    let output = Output::of(output).ok();
    assert!(output.stdout.contains(OF_32), "{output:#?}");
}

/// mpirun takes along what `-x` names, and nothing else.
#[test]
fn the_command_of_open_mpi_is_one_of_sprints() {
    let bin = Bin::new();
    bin.add(
        "mpirun",
        "named=(PATH=\"$PATH\")\n\
         while [[ $1 == -* ]]; do case $1 in\n\
         -x) named+=(\"$2=${!2}\"); shift 2;; --mca) shift 3;; *) shift 2;; esac; done\n\
         exec env -i \"${named[@]}\" OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=32 OMPI_COMM_WORLD_LOCAL_RANK=0 \
         OMPI_COMM_WORLD_LOCAL_SIZE=2 \"$@\"",
    );
    let vars = [("HOSTS", "node0:2,node1:2"), ("NPROC", "2"), ("BURN_DIST_SECRET_FILE", "unused")];
    let out = ["--out", "unused"];
    let output = script("openmpi/train.sh", &bin).args(DRY).args(out).envs(vars).output().unwrap();
    let output = Output::of(output).ok();
    assert!(output.stdout.contains(OF_32), "{output:#?}");
}

/// A port that is free now.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// That a run of two ranks is whole.
#[track_caller]
fn assert_trained(run: &Path) {
    let rows = rows(run);
    assert_eq!(rows.last().unwrap()["reason"], "done");
    let phase = rows.iter().find(|row| row["event"] == "phase").unwrap();
    assert_eq!(phase["global_batch_size"], 32, "two ranks of 16");
}

#[test]
fn torchrun_itself_starts_two_ranks() {
    let python = env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    // Beside the interpreter, or wherever it is found.
    let beside = Path::new(&python).with_file_name("torchrun");
    let torchrun = if python.contains('/') { word(&beside) } else { "torchrun".into() };
    if !is_there(&torchrun) {
        return;
    }
    let (bin, temp) = (Bin::new(), data());
    bin.add("torchrun", &format!("exec '{torchrun}' \"$@\""));
    let run = temp.path().join("run");
    let port = free_port();
    let master = format!("localhost:{port}");
    let vars = [("NNODES", "1"), ("NPROC", "2"), ("MASTER", &master), ("JOB", &port), ("RESTARTS", "0")];
    let words = tiny(&temp.path().join("data"), &run);
    // Without `train`, which the file says.
    let output = script("torchrun/train.sh", &bin).args(&words[1..]).envs(vars).output().unwrap();
    Output::of(output).ok();
    assert_trained(&run);
}

#[test]
fn mpirun_itself_starts_two_ranks() {
    if !is_there("mpirun") {
        return;
    }
    let (bin, temp) = (Bin::new(), data());
    let run = temp.path().join("run");
    let secret = temp.path().join("secret");
    fs::write(&secret, "hush").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let root = [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")];
    let port = free_port();
    let vars = [("HOSTS", "localhost:2"), ("NPROC", "2"), ("MASTER_PORT", &port), ("RESTARTS", "0")];
    let words = tiny(&temp.path().join("data"), &run);
    let output = script("openmpi/train.sh", &bin)
        .args(&words[1..])
        .envs(root)
        .envs(vars)
        .env("BURN_DIST_SECRET_FILE", &secret)
        .output()
        .unwrap();
    Output::of(output).ok();
    assert_trained(&run);
}

/// The machine's own data say nothing until a file is there; then the run is stopped and its state saved.
#[test]
fn a_spot_machines_notice_stops_the_run() {
    let (bin, temp) = (Bin::new(), data());
    let (run, notice) = (temp.path().join("run"), temp.path().join("notice"));
    bin.add(
        "curl",
        &format!(
            "case $* in *api/token) echo token;; *spot/instance-action) [ -e '{}' ];; esac",
            notice.display()
        ),
    );
    let endless = sets(&["phase.1.epochs=10000"]);
    let child = script("aws/spot.sh", &bin)
        .args(["sprint", "launch", "--nproc", "1", "--"])
        .args(tiny(&temp.path().join("data"), &run).iter().chain(&endless))
        .env("SPOT_EVERY_S", "0.05")
        .spawn()
        .unwrap();
    let rows = || fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    wait_until("the run does not begin", || rows().contains("\"step\":12,"));
    fs::write(&notice, "").unwrap();
    let output = Output::of(child.wait_with_output().unwrap());
    assert_eq!(output.status, 130, "{output:#?}");
    assert!(output.stderr.contains("taken away within two minutes"), "{}", output.stderr);
    assert!(output.stderr.contains("state saved"), "{}", output.stderr);
    assert!(!checkpoints(&run).is_empty());

    // A command that ends by itself: with its status.
    let output = script("aws/spot.sh", &bin).args(["sh", "-c", "exit 7"]).output().unwrap();
    assert_eq!(Output::of(output).status, 7);
}
