//! Looks, if the feature `look` asks for it, for what libjpeg-turbo is built with: cmake, and for its assembly on x86 nasm
//! (or yasm).

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=PATH");
    if env::var_os("CARGO_FEATURE_LOOK").is_none() {
        return;
    }
    let is_there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let is_x86 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch.starts_with("x86"));
    let mut lacking = Vec::new();
    if !is_there("cmake") {
        lacking.push("cmake");
    }
    if is_x86 && !is_there("nasm") && !is_there("yasm") {
        lacking.push("nasm");
    }
    if !lacking.is_empty() {
        let (names, packages) = (lacking.join(" and "), lacking.join(" "));
        println!(
            "cargo::error=the feature `turbojpeg` builds libjpeg-turbo, which needs {names}: not found in PATH; \
             `apt install {packages}` (or dnf, brew), or build without the feature"
        );
    }
}
