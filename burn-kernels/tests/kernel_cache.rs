//! The kernel cache as CubeCL meets it: processes of several threads that come and go on one file. No GPU is needed.

#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
    thread,
};

use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use burn_kernels::kernel_cache;
use cubecl_environment::{
    environment,
    persistence::{Namespace, Store, StoreOptions},
};

const FOLDER: &str = "KERNEL_CACHE_TEST_FOLDER";
const NUM_THREADS: usize = 3;
const NUM_STORES: usize = 8;
const NUM_KEYS: usize = 6;
const NUM_ALL: usize = NUM_THREADS * NUM_STORES * NUM_KEYS;
/// Processes at a time, and how many come one after the other.
const NUM_SLOTS: usize = 3;
const NUM_LIVES: usize = 20;

fn open(folder: &Path) {
    // Reading the configuration sets the folder; it is read once.
    CubeClRuntimeConfig::get();
    environment::set_root(folder);
    kernel_cache::open().unwrap();
}

/// What CubeCL does with a kernel: looks it up, else tries and keeps the result. Returns how many had to be tried.
fn choose(namespace: &str) -> usize {
    let mut num_tried = 0;
    for store in 0..NUM_STORES {
        let namespace = Namespace::scoped("autotune", format!("{namespace}/{store}"));
        let mut store: Store<String, String> = Store::new(StoreOptions::new().storage(namespace));
        for key in 0..NUM_KEYS {
            let (key, value) = (format!("key {key}"), "x".repeat(700 * key));
            match store.get(&key) {
                Some(found) => assert_eq!(found, &value),
                None => {
                    num_tried += 1;
                    store.insert(key, value).unwrap();
                }
            }
        }
    }
    num_tried
}

/// The other processes of the tests below; by itself it does nothing.
#[test]
fn process() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    open(folder.as_ref());
    let work = |thread: usize| {
        // Kernels that nobody else has, too.
        choose(&format!("{}/{thread}", std::process::id()));
        choose(&thread.to_string())
    };
    let threads: Vec<_> = (0..NUM_THREADS).map(|thread| thread::spawn(move || work(thread))).collect();
    let num_tried: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("tried {num_tried}");
    kernel_cache::keep().unwrap();
}

fn spawned(folder: &Path) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "process", "--nocapture"]).env(FOLDER, folder);
    command.output().unwrap()
}

#[track_caller]
fn said(output: &Output, words: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains(words), "{words} is not in\n{}", text(&output.stdout));
}

#[test]
fn one_process_finds_what_another_tried() {
    let temp = tempfile::tempdir().unwrap();
    said(&spawned(temp.path()), &format!("tried {NUM_ALL}"));
    said(&spawned(temp.path()), "tried 0");
    fs::remove_file(temp.path().join("default.kernels")).unwrap();
    said(&spawned(temp.path()), &format!("tried {NUM_ALL}"));
}

/// CubeCL's own database panics here, within the first tens of processes.
#[test]
fn processes_of_several_threads_come_and_go() {
    let temp = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        for _ in 0..NUM_SLOTS {
            scope.spawn(|| {
                for _ in 0..NUM_LIVES {
                    said(&spawned(temp.path()), "tried");
                }
            });
        }
    });
    said(&spawned(temp.path()), "tried 0");
    let names: Vec<_> = fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["default.kernels"]);
}
