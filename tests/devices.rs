//! `sprint devices`, and what `--device cuda` says where something is missing: on this machine as it is, and beside
//! libraries made for the test that answer as NVIDIA's do.

#![allow(clippy::unwrap_used)]
#![cfg_attr(
    feature = "cuda",
    allow(dead_code, reason = "what is made for the test is no driver to compute with")
)]

mod common;

use std::{fs, path::Path, process::Command};

use common::{Output, command, sprint};

/// The words that follow a device's name.
#[track_caller]
fn row<'a>(output: &'a Output, name: &str) -> &'a str {
    let line = output.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {output:#?}")).trim()
}

#[test]
fn every_device_has_a_line() {
    let output = sprint(["devices"]).ok();
    assert_eq!(row(&output, "flex"), "works");
    for (name, built) in [
        ("ndarray", cfg!(feature = "ndarray")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("vulkan", cfg!(feature = "vulkan")),
    ] {
        let words = row(&output, name);
        assert_eq!(words == format!("not in this build, which takes --features {name}"), !built, "{words}");
    }
    assert_eq!(row(&output, "cuda:0").starts_with("not in this build"), !cfg!(feature = "cuda"));
    // Mesa has words of its own where XDG_RUNTIME_DIR is not set.
    if !cfg!(any(feature = "wgpu", feature = "vulkan")) {
        assert!(output.stderr.is_empty(), "{}", output.stderr);
    }
}

#[test]
fn without_a_driver_the_line_for_cuda_says_so() {
    if ["libcuda.so", "libcuda.so.1"].into_iter().any(loads) {
        eprintln!("SKIP: this machine has NVIDIA's driver");
        return;
    }
    let output = sprint(["devices"]).ok();
    let words = row(&output, "cuda:0");
    assert!(
        words.contains("no NVIDIA driver (libcuda.so.1 cannot be loaded): install the driver"),
        "{words}"
    );
    if cfg!(feature = "cuda") {
        let output = sprint(["train", "--device", "cuda"]);
        let error = output.error(1);
        assert!(error.contains("device cuda cannot be used: no NVIDIA driver"), "{error}");
    }
}

/// Whether the system's loader knows a library.
fn loads(name: &str) -> bool {
    let list = Command::new("/sbin/ldconfig").arg("-p").output();
    list.is_ok_and(|list| String::from_utf8_lossy(&list.stdout).contains(&format!("\t{name} ")))
}

const DRIVER: &str = r#"
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 7; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 7 ? "NVIDIA H100 80GB HBM3" : "Tesla V100-SXM2-16GB", length);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device == 7 ? 9 : 7) : attribute == 76 ? 0 : -1;
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)16 << 30; return 0; }
int cuGetErrorName(int status, const char **name) { *name = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"; return 0; }
"#;

const COMPILER: &str = r"
static const int sms[] = { SMS };
int nvrtcVersion(int *major, int *minor) { *major = MAJOR; *minor = 4; return 0; }
int nvrtcGetNumSupportedArchs(int *count) { *count = sizeof sms / sizeof *sms; return 0; }
int nvrtcGetSupportedArchs(int *list) { for (unsigned i = 0; i < sizeof sms / sizeof *sms; i++) list[i] = sms[i]; return 0; }
";

/// Makes a library in `folder`; whether there was a compiler for it.
fn library(folder: &Path, name: &str, source: &str, defined: &[&str]) -> bool {
    let file = folder.join(name).with_extension("c");
    fs::write(&file, source).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-w", "-o"])
        .arg(folder.join(name))
        .args(defined.iter().map(|word| format!("-D{word}")))
        .arg(file)
        .status();
    made.is_ok_and(|status| status.success())
}

/// What `sprint devices` says of the second card, a V100, beside such libraries.
fn of_the_v100(driver: &[&str], compiler: Option<&[&str]>, has_headers: bool) -> Option<Vec<String>> {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let made = library(folder, "libcuda.so", DRIVER, driver)
        && compiler.is_none_or(|words| library(folder, "libnvrtc.so", COMPILER, words));
    if !made {
        eprintln!("SKIP: there is no C compiler `cc`");
        return None;
    }
    fs::create_dir(folder.join("include")).unwrap();
    for header in ["cuda_fp16.h", "cuda_bf16.h", "mma.h"] {
        if has_headers {
            fs::write(folder.join("include").join(header), "").unwrap();
        }
    }
    let mut command = command(["devices"]);
    command.env("LD_LIBRARY_PATH", folder).env("CUDA_PATH", folder).env_remove("CUDA_VISIBLE_DEVICES");
    let output = Output::of(command.output().unwrap()).ok();
    let lines = output.stdout.lines().filter(|line| line.starts_with("cuda"));
    Some(lines.map(|line| line.replace(&*folder.to_string_lossy(), "TOOLKIT")).collect())
}

/// With a build that has CUDA, the last case would go on to a driver that is none.
#[test]
#[cfg(not(feature = "cuda"))]
fn what_the_libraries_say_decides_what_is_told() {
    let known = ["MAJOR=12", "SMS=70,80,90"];
    let Some(lines) = of_the_v100(&["INIT=0"], Some(&known), true) else { return };
    let built = "not in this build, which takes --features cuda; here";
    let words = "Tesla V100-SXM2-16GB, sm_70, 16 GiB; driver for CUDA 12.4, NVRTC 12.4";
    assert_eq!(lines[1], format!("cuda:1   {built} is {words}"));
    assert!(lines[0].contains("NVIDIA H100 80GB HBM3, sm_90"), "{}", lines[0]);
    assert_eq!(lines.len(), 2);

    for (driver, compiler, has_headers, expected) in [
        (
            "INIT=0",
            Some(&["MAJOR=13", "SMS=75,80,90"]),
            true,
            "NVRTC 13.4 does not compile for Tesla V100-SXM2-16GB",
        ),
        (
            "INIT=0",
            Some(&["MAJOR=13", "SMS=70,80"]),
            true,
            "NVRTC 13.4 is newer than what the driver runs (CUDA 12.4)",
        ),
        ("INIT=0", Some(&known), false, "the CUDA toolkit's headers are not in TOOLKIT/include"),
        ("INIT=803", Some(&known), true, "cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
        ("INIT=100", Some(&known), true, "the NVIDIA driver sees no card"),
    ] {
        let lines = of_the_v100(&[driver], compiler.map(|words| &words[..]), has_headers).unwrap();
        let line = lines.last().unwrap();
        assert!(line.contains(built) && line.contains(expected), "{expected:?} is not in {line:?}");
    }
    if loads("libnvrtc.so") || loads("libnvrtc.so.12") || loads("libnvrtc.so.13") {
        eprintln!("SKIP: this machine has NVRTC");
        return;
    }
    let lines = of_the_v100(&["INIT=0"], None, true).unwrap();
    assert!(lines[1].contains("no NVRTC (libnvrtc.so cannot be loaded)"), "{}", lines[1]);
    assert!(lines[1].contains("at most 12.4") && lines[1].contains("12.x for this card"), "{}", lines[1]);
}
