//! What variables say, launcher by launcher, and what is refused.

use std::collections::HashMap;

use super::{
    nodes::{BadNodes, expand, tasks_on},
    *,
};
use crate::config::{Config, Trust, Wire};

fn said(vars: &[(&str, &str)]) -> Result<Option<Identity>> {
    let vars: HashMap<_, _> = vars.iter().copied().collect();
    identity(&|name| vars.get(name).map(|value| (*value).to_owned()))
}

fn found(vars: &[(&str, &str)]) -> Identity {
    said(vars).unwrap().unwrap()
}

fn refused(vars: &[(&str, &str)]) -> String {
    said(vars).unwrap_err().to_string()
}

const TORCHRUN: [(&str, &str); 7] = [
    ("RANK", "5"),
    ("WORLD_SIZE", "8"),
    ("LOCAL_RANK", "1"),
    ("LOCAL_WORLD_SIZE", "4"),
    ("MASTER_ADDR", "node0"),
    ("MASTER_PORT", "29400"),
    ("TORCHELASTIC_RESTART_COUNT", "2"),
];
const SLURM: [(&str, &str); 9] = [
    ("SLURM_STEP_ID", "0"),
    ("SLURM_NODEID", "1"),
    ("SLURM_STEP_TASKS_PER_NODE", "1,3"),
    ("SLURM_PROCID", "3"),
    ("SLURM_NTASKS", "4"),
    ("SLURM_LOCALID", "1"),
    ("SLURM_JOB_NODELIST", "gnode[07-08,10]"),
    ("SLURM_JOB_ID", "1234567"),
    ("SLURM_RESTART_COUNT", "1"),
];
const OWN: [(&str, &str); 4] = [
    ("BURN_DIST_RANK", "0"),
    ("BURN_DIST_WORLD_SIZE", "2"),
    ("BURN_DIST_MASTER_ADDR", "10.0.0.1"),
    ("BURN_DIST_MASTER_PORT", "1234"),
];

fn place(identity: &Identity) -> (&'static str, String, String) {
    let Identity { source, rank, master_addr, master_port, .. } = identity;
    (source, rank.to_string(), format!("{master_addr}:{master_port}"))
}

fn placed(source: &'static str, rank: &str, master: &str) -> (&'static str, String, String) {
    (source, rank.to_owned(), master.to_owned())
}

#[test]
fn no_launcher_is_no_error() {
    assert_eq!(said(&[]).unwrap(), None);
    assert_eq!(said(&[("MASTER_ADDR", "a"), ("MASTER_PORT", "1"), ("RANK", "")]).unwrap(), None);
}

#[test]
fn torchrun_says_everything() {
    let identity = found(&TORCHRUN);
    assert_eq!(place(&identity), placed("torchrun", "5 of 8", "node0:29400"));
    assert_eq!((identity.local_rank, identity.local_world_size, identity.generation), (Some(1), Some(4), 2));
}

#[test]
fn torchruns_own_store_keeps_its_port() {
    let identity = found(&[TORCHRUN.as_slice(), &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat());
    assert_eq!(identity.master_port, 29401);
}

#[test]
fn slurms_first_node_is_rank_0s() {
    let identity = found(&SLURM);
    assert_eq!(place(&identity), placed("Slurm", "3 of 4", "gnode07:19567"));
    assert_eq!((identity.local_rank, identity.local_world_size, identity.generation), (Some(1), Some(3), 1));
    let with = |more: &[(&'static str, &'static str)]| place(&found(&[SLURM.as_slice(), more].concat()));
    assert_eq!(with(&[("MASTER_ADDR", "b")]), placed("Slurm", "3 of 4", "b:19567"));
    assert_eq!(with(&[("MASTER_PORT", "7")]), placed("Slurm", "3 of 4", "gnode07:7"));
    assert_eq!(with(&[("SLURM_STEP_NODELIST", "x[2-3]")]), placed("Slurm", "3 of 4", "x2:19567"));
}

#[test]
fn a_shell_in_an_allocation_is_no_task() {
    let said_of = |name, value| said(&[SLURM.as_slice(), &[(name, value)]].concat()).unwrap();
    assert_eq!(said_of("SLURM_JOB_NAME", "interactive"), None);
    assert_eq!(said_of("SLURM_JOB_NAME", "bash"), None);
    // salloc's own step, whatever the job's name.
    assert_eq!(said_of("SLURM_STEP_ID", "4294967290"), None);
    assert!(said_of("SLURM_STEP_ID", "7").is_some());
}

/// As sbatch sets them: without `--ntasks`, and with it.
#[test]
fn a_batch_script_is_a_single_process_or_lacks_srun() {
    let batch = [("SLURM_JOB_ID", "2"), ("SLURM_PROCID", "0"), ("SLURM_NODEID", "0"), ("SLURM_LOCALID", "0")];
    assert_eq!(said(&batch).unwrap(), None);
    assert_eq!(said(&[batch.as_slice(), &[("SLURM_NTASKS", "1")]].concat()).unwrap(), None);
    let why = refused(&[batch.as_slice(), &[("SLURM_NTASKS", "8")]].concat());
    assert!(why.contains("SLURM_NTASKS is 8") && why.contains("srun"), "{why}");
}

#[test]
fn tasks_are_counted_node_by_node() {
    let on = |list| (0..5).map(|node| tasks_on(list, node)).collect::<Vec<_>>();
    assert_eq!(on("2(x3),1"), [Some(2), Some(2), Some(2), Some(1), None]);
    assert_eq!(on("4"), [Some(4), None, None, None, None]);
    for wrong in ["", "x", "2(x", "2(x)", "2(3)", "(x2)"] {
        assert_eq!(tasks_on(wrong, 0), None, "{wrong}");
    }
    assert_eq!(tasks_on("1(x4294967295),1", 4_294_967_295), None);
    let why = refused(&[SLURM.as_slice(), &[("SLURM_NODEID", "2")]].concat());
    assert!(why.contains("SLURM_STEP_TASKS_PER_NODE is \"1,3\""), "{why}");
}

/// mpirun in an allocation starts its ranks through srun, and srun may itself speak to an MPI.
#[test]
fn a_launcher_that_slurm_started_goes_before_slurm() {
    let with = |more: &[(&'static str, &'static str)]| found(&[SLURM.as_slice(), more].concat());
    let ompi = [("OMPI_COMM_WORLD_RANK", "6"), ("OMPI_COMM_WORLD_SIZE", "8"), ("MASTER_ADDR", "a")];
    assert_eq!(place(&with(&ompi)), placed("Open MPI", "6 of 8", "a:29500"));
    let hydra = [("PMI_RANK", "6"), ("PMI_SIZE", "8"), ("MASTER_ADDR", "a")];
    assert_eq!(place(&with(&hydra)), placed("PMI", "6 of 8", "a:29500"));
    let srun = [("PMI_RANK", "3"), ("PMI_SIZE", "4")];
    assert_eq!(place(&with(&srun)), placed("Slurm", "3 of 4", "gnode07:19567"));
}

#[test]
fn mpi_and_kubernetes_need_to_be_told_where_rank_0_is() {
    let ompi =
        [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
    let pmi = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "1")];
    let kubernetes = [("JOB_COMPLETION_INDEX", "1"), ("WORLD_SIZE", "2"), ("X", "")];
    for (name, vars) in [("Open MPI", ompi), ("PMI", pmi), ("Kubernetes", kubernetes)] {
        let identity = found(&[vars.as_slice(), &[("MASTER_ADDR", "a")]].concat());
        assert_eq!(place(&identity), placed(name, "1 of 2", "a:29500"));
        let why = refused(&vars);
        assert!(why.contains(name) && why.contains("MASTER_ADDR"), "{why}");
    }
    assert_eq!(found(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")]).rank, Rank::SINGLE);
}

#[test]
fn the_first_launcher_is_taken_whole() {
    let pmi = [("PMI_RANK", "3"), ("PMI_SIZE", "4")];
    let both = [SLURM.as_slice(), &TORCHRUN, &pmi].concat();
    assert_eq!(place(&found(&both)), placed("torchrun", "5 of 8", "node0:29400"));
    let all = [both.as_slice(), &OWN].concat();
    assert_eq!(place(&found(&all)), placed("burn-dist", "0 of 2", "10.0.0.1:1234"));
    assert_eq!(found(&[SLURM.as_slice(), &pmi].concat()).source, "Slurm");
    // Single ones of ours override.
    let moved =
        [TORCHRUN.as_slice(), &[("BURN_DIST_MASTER_PORT", "9"), ("BURN_DIST_GENERATION", "7")]].concat();
    assert_eq!((found(&moved).master_port, found(&moved).generation), (9, 7));
}

#[test]
fn half_a_launcher_is_refused() {
    for (whole, name) in TORCHRUN.iter().enumerate().map(|(at, (name, _))| (at, *name)) {
        let mut vars = TORCHRUN.to_vec();
        vars.remove(whole);
        match name {
            "RANK" | "WORLD_SIZE" | "MASTER_ADDR" | "MASTER_PORT" => {
                let why = refused(&vars);
                assert!(why.contains(&format!("{name} is not")), "{name}: {why}");
            }
            _ => drop(found(&vars)),
        }
    }
    for name in ["BURN_DIST_RANK", "BURN_DIST_WORLD_SIZE", "BURN_DIST_MASTER_ADDR", "BURN_DIST_MASTER_PORT"] {
        let vars: Vec<_> = OWN.into_iter().filter(|(one, _)| *one != name).collect();
        let why = refused(&vars);
        assert!(why.contains(&format!("{name} is not")), "{name}: {why}");
    }
    for name in ["SLURM_NTASKS", "SLURM_JOB_NODELIST", "SLURM_JOB_ID"] {
        let vars: Vec<_> = SLURM.into_iter().filter(|(one, _)| *one != name).collect();
        let why = refused(&vars);
        assert!(why.contains(&format!("{name} is not")), "{name}: {why}");
    }
}

#[test]
fn values_that_cannot_be_are_refused() {
    let with = |name: &'static str, value: &'static str| {
        let mut vars: HashMap<_, _> = TORCHRUN.into_iter().collect();
        vars.insert(name, value);
        refused(&vars.into_iter().collect::<Vec<_>>())
    };
    assert!(with("RANK", "8").contains("rank 8: expected one below the world size 8"));
    assert!(with("RANK", "-1").contains("RANK is \"-1\": expected a whole number"));
    assert!(with("WORLD_SIZE", "0").contains("0 ranks: expected 1 to 1024"));
    assert!(with("WORLD_SIZE", "1025").contains("1025 ranks: expected 1 to 1024"));
    assert!(with("MASTER_PORT", "65536").contains("MASTER_PORT"));
    assert!(with("BURN_DIST_MASTER_PORT", "0").contains("port 0"));
    assert!(with("LOCAL_RANK", "4").contains("local rank 4"));
    let differs = refused(&[SLURM.as_slice(), &[("WORLD_SIZE", "8")]].concat());
    assert!(differs.contains("WORLD_SIZE is 8, but Slurm says 4"), "{differs}");
}

#[test]
fn node_lists_expand() {
    let expanded = |list: &str| expand(list, 100).map(|nodes| nodes.join(" "));
    assert_eq!(expanded("gnode[01-03,10],other").unwrap(), "gnode01 gnode02 gnode03 gnode10 other");
    assert_eq!(expanded("a").unwrap(), "a");
    assert_eq!(expanded("r[0-1]n[8-10]x").unwrap(), "r0n8x r0n9x r0n10x r1n8x r1n9x r1n10x");
    for bad in
        ["", ",", "a,", "a[", "a]", "a[[1]]", "a[1", "a[]", "a[1-]", "a[3-1]", "a[-1]", "a[+1]", "a[1,]"]
    {
        assert!(expand(bad, 100).is_err(), "{bad}");
    }
    assert_eq!(expand("a[9999999999999999999]", 1), Err(BadNodes::Range("9999999999999999999".to_owned())));
}

#[test]
fn a_hostile_node_list_takes_no_memory() {
    let begin = std::time::Instant::now();
    assert_eq!(expand("a[0-999999999999999999]", 3).unwrap(), ["a0", "a1", "a2"]);
    let many = "[0-999999]".repeat(30);
    assert_eq!(expand(&many, 2).unwrap(), ["0".repeat(30), "0".repeat(29) + "1"]);
    assert_eq!(expand(&"a".repeat(300), 1), Err(BadNodes::Name));
    assert!(begin.elapsed().as_secs() < 10);
    // Any text: an answer, no panic, never more than asked for.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut num_good = 0;
    for _ in 0..20_000 {
        let letters: Vec<char> = "a0129[[]]--,,é".chars().collect();
        let list: String = (0..next(12)).map(|_| letters[next(letters.len())]).collect();
        if let Ok(nodes) = expand(&list, 7) {
            num_good += 1;
            assert!((1..=7).contains(&nodes.len()), "{list}");
        }
    }
    assert!(num_good > 100, "{num_good}");
}

fn config(vars: &[(&str, &str)]) -> Result<Config> {
    let names: Vec<_> = vars.iter().map(|(name, _)| (*name).to_owned()).collect();
    let vars: HashMap<_, _> = vars.iter().copied().collect();
    Config::from_vars(&|name| vars.get(name).map(|value| (*value).to_owned()), names)
}

#[test]
fn settings_come_from_variables() {
    let vars = [
        ("BURN_DIST_SECRET", " s "),
        ("BURN_DIST_STREAMS", "2"),
        ("BURN_DIST_WIRE", "bf16"),
        ("BURN_DIST_CHECKSUM", "0"),
        ("BURN_DIST_SHARED_MEMORY", "off"),
        ("BURN_DIST_NCCL", "0"),
        ("BURN_DIST_TIMEOUT_S", "7"),
        ("BURN_DIST_STARTUP_TIMEOUT_S", "8"),
        ("BURN_DIST_FLIGHT_DIR", "somewhere"),
        ("GLOO_SOCKET_IFNAME", "eth0"),
        ("BURN_DIST_RANK", "1"),
    ];
    let config = config(&vars).unwrap();
    assert_eq!(config.trust, Trust::Secret(b" s ".to_vec()));
    assert_eq!((config.agreed.streams, config.agreed.wire), (2, Wire::Bf16));
    assert!(!config.agreed.checksum && !config.agreed.shared_memory && !config.agreed.nccl);
    assert_eq!((config.timeouts.operation.as_secs(), config.timeouts.startup.as_secs()), (7, 8));
    assert_eq!(config.interface.as_deref(), Some("=eth0"));
    assert_eq!(config.flight_dir.unwrap().to_str(), Some("somewhere"));
}

#[test]
fn settings_that_cannot_be_are_refused() {
    for (vars, why) in [
        (vec![("BURN_DIST_SECRT_FILE", "x")], "is BURN_DIST_SECRET_FILE meant?"),
        (vec![("BURN_DIST_STREAM", "2")], "is BURN_DIST_STREAMS meant?"),
        (vec![("BURN_DIST_STREAMS", "65")], "65 streams: expected 1 to 64"),
        (vec![("BURN_DIST_WIRE", "int8")], "expected f32, f16 or bf16"),
        (vec![("BURN_DIST_CHECKSUM", "maybe")], "expected 1 or 0"),
        (vec![("BURN_DIST_TIMEOUT_S", "0")], "expected a whole number of seconds"),
        (vec![("BURN_DIST_TLS_CA", "a"), ("BURN_DIST_TLS_KEY", "b")], "BURN_DIST_TLS_CERT is not"),
        (vec![("BURN_DIST_SECRET", "a"), ("BURN_DIST_INSECURE", "1")], "at most one"),
    ] {
        let error = config(&vars).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(config(&[("BURN_DIST_INSECURE", "1")]).unwrap().trust, Trust::Insecure);
    assert_eq!(config(&[]).unwrap().trust, Trust::LoopbackOnly);
}

#[test]
fn a_secret_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    let try_it = |content: &[u8], mode: u32| {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        config(&[("BURN_DIST_SECRET_FILE", path.to_str().unwrap())]).map(|config| config.trust)
    };
    assert_eq!(try_it(b"hush\r\n", 0o600).unwrap(), Trust::Secret(b"hush".to_vec()));
    assert_eq!(try_it(b"hush", 0o400).unwrap(), Trust::Secret(b"hush".to_vec()));
    for mode in [0o604, 0o620, 0o601, 0o660] {
        let error = try_it(b"hush", mode).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
    assert!(try_it(b"\n", 0o600).unwrap_err().to_string().contains("empty"));
    assert!(try_it(&[b'a'; 4097], 0o600).unwrap_err().to_string().contains("longer than 4096"));
    std::fs::remove_file(&path).unwrap();
    assert!(config(&[("BURN_DIST_SECRET_FILE", path.to_str().unwrap())]).is_err());
}

#[test]
fn a_group_may_read_what_is_roots() {
    use super::settings::is_open_to_others;
    for (uid, mode, is_open) in [
        (1000, 0o600, false),
        (1000, 0o400, false),
        (1000, 0o440, true),
        (0, 0o440, false),
        (0, 0o640, false),
        (0, 0o660, true),
        (0, 0o444, true),
    ] {
        assert_eq!(is_open_to_others(uid, mode), is_open, "{uid} {mode:o}");
    }
}
