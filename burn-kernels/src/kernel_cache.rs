//! What a GPU's library found out by trying, kept on disk for the next process: which kernel is the fastest for a shape.
//!
//! CubeCL would keep it by itself, in a database that all processes of a machine write to at once. Not here: that database
//! (turso 0.8.3, opened in its experimental mode for several processes) panics now and then where two threads use it
//! ("reader slot released by non-owner", turso's issue 7213), and the training with it; `ARCHITECTURE.md` has the
//! measurement. So CubeCL is given a place where no database can be. It then keeps what it finds in memory, as its
//! `persistence::storage::open` says, and this module fills that memory from a file and writes the file anew, whole or not
//! at all. Nothing but time depends on the file.
//!
//! Not here: compiled kernels, unless CubeCL's configuration says `compilation.cache = true`.

#[cfg(any(test, feature = "cube"))]
mod file;

use std::io;

/// Has CubeCL begin with what earlier processes found, and keep what it finds in memory, for [`keep`]. To be called before
/// the first [`Device`](burn::tensor::Device) of a GPU; again, it does nothing. In a build without GPU backends it does
/// nothing at all.
///
/// The file is `NAME.kernels` in CubeCL's folder, both as its configuration says: `target/environment/default.kernels` of
/// the cargo project that the working folder lies in, else `cubecl/default.kernels` in the user's cache folder.
///
/// # Errors
/// One line that names the file: it cannot be read, is damaged, or larger than 256 MiB. Everything is then as if there were
/// none, and the next [`keep`] writes it anew.
///
/// # Cost
/// Reads the file: some megabytes after trainings of a few shapes.
///
/// # Examples
/// ```
/// if let Err(error) = burn_kernels::kernel_cache::open() {
///     eprintln!("kernels are chosen anew: {error}");
/// }
/// // ... Device::cuda(0), a training ...
/// burn_kernels::kernel_cache::keep()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn open() -> io::Result<()> {
    #[cfg(feature = "cube")]
    return cubecl::open();
    #[cfg(not(feature = "cube"))]
    Ok(())
}

/// Adds to the file what this process found since [`open`], and returns how many findings that were. Without that call it
/// does nothing.
///
/// Any number of processes may do so: a reader sees an old file or a new one. Of two that write in the same moment, one
/// is forgotten, until it keeps again.
///
/// # Errors
/// One line that names the file, if it cannot be written; the old one is then untouched. Told once a process.
///
/// # Cost
/// Reads the file, and writes it if something was found.
pub fn keep() -> io::Result<usize> {
    #[cfg(feature = "cube")]
    return cubecl::keep();
    #[cfg(not(feature = "cube"))]
    Ok(0)
}

#[cfg(feature = "cube")]
mod cubecl {
    use std::{
        io,
        path::PathBuf,
        sync::{
            OnceLock,
            atomic::{AtomicBool, Ordering},
        },
    };

    use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
    use cubecl_environment::{
        bundle::{Bundle, import},
        bytes::Bytes,
        environment,
        persistence::{MemoryStorage, storage},
        records::{RecordLevel, RecordsConfig, configure},
    };

    use super::file::{self, Entries};

    /// No database can be made below what is no folder.
    const NOWHERE: &str = "/dev/null/cubecl.db";

    static FILE: OnceLock<PathBuf> = OnceLock::new();
    /// Whether the user has heard that the file cannot be written.
    static FAILED: AtomicBool = AtomicBool::new(false);

    pub(super) fn open() -> io::Result<()> {
        let mut outcome = Ok(());
        FILE.get_or_init(|| {
            // Once it is read the configuration no longer changes the place.
            CubeClRuntimeConfig::get();
            let path = environment::path().with_extension("kernels");
            environment::load(NOWHERE);
            // An account of what was compiled when, which would go into the database, a line at a time.
            configure(RecordsConfig { level: RecordLevel::Off, ..RecordsConfig::default() });
            match file::read(&path) {
                Ok(entries) => drop(import(&Found(entries))),
                Err(error) => outcome = Err(error),
            }
            path
        });
        outcome
    }

    pub(super) fn keep() -> io::Result<usize> {
        let Some(path) = FILE.get() else { return Ok(0) };
        file::add(path, in_memory()).or_else(|error| match FAILED.swap(true, Ordering::Relaxed) {
            true => Ok(0),
            false => Err(error),
        })
    }

    fn in_memory() -> Entries {
        let mut entries = Entries::new();
        for namespace in MemoryStorage::namespaces().into_iter().map(|summary| summary.namespace) {
            storage::open(&namespace).scan(&mut |key, value| {
                entries.insert((namespace.clone(), key.to_vec()), value.to_vec());
            });
        }
        entries
    }

    /// The file's content, in the form that CubeCL takes in.
    #[derive(Debug)]
    struct Found(Entries);

    impl Bundle for Found {
        fn get(&self, namespace: &str, key: &[u8]) -> Option<Bytes> {
            let value = self.0.get(&(namespace.to_owned(), key.to_vec()))?;
            Some(Bytes::from_bytes_vec(value.clone()))
        }

        fn scan(&self, namespace: &str, visit: &mut dyn FnMut(&[u8], &[u8])) {
            let first = (namespace.to_owned(), Vec::new());
            let rest = self.0.range(first..);
            for ((_, key), value) in rest.take_while(|((name, _), _)| name == namespace) {
                visit(key, value);
            }
        }

        fn namespaces(&self) -> Vec<String> {
            let mut names: Vec<String> = self.0.keys().map(|(name, _)| name.clone()).collect();
            names.dedup();
            names
        }

        fn describe(&self) -> String {
            "what earlier processes found".into()
        }
    }
}
