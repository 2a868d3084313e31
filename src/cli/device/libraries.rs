//! What NVIDIA's libraries on this machine say, through their C interfaces, loaded if they are there: nothing is linked,
//! so any build can ask. Not here: what follows from it (`cuda`).
//!
//! Sources: cuda.h and nvrtc.h of CUDA 12.9; the names and folders that cudarc 0.19.10 and cubecl-cuda 0.11.3 look for.

use std::{
    env,
    ffi::{CStr, c_char, c_int, c_uint},
    path::PathBuf,
};

use libloading::{Library, Symbol};

use super::cuda::{Card, Driver, Found, NoDriver, Nvrtc, Version};

/// In cudarc's order.
const DRIVERS: &[&str] = &["libcuda.so", "libcuda.so.1"];
const COMPILERS: &[&str] = &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11"];
/// Of the toolkit's headers those that a network's kernels include, which come in packages of their own.
const HEADERS: &[&str] = &["cuda_fp16.h", "cuda_bf16.h", "mma.h"];
/// Nobody has more, and the count sizes a list.
const MAX_CARDS: c_int = 1024;
const MAX_SMS: c_int = 1024;

const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;
const NO_DEVICE: c_int = 100;

/// Looks for everything that CUDA takes.
pub(super) fn look() -> Found {
    Found {
        driver: driver(),
        nvrtc: nvrtc(),
        toolkit: toolkit(),
        visible: env::var("CUDA_VISIBLE_DEVICES").ok(),
    }
}

/// The first of `names` that can be loaded. It stays loaded, since Burn is about to load it as well: no address from it
/// goes stale.
fn load(names: &[&str]) -> Option<&'static Library> {
    names.iter().find_map(|name| {
        // SAFETY: the libraries are NVIDIA's, by name, from where the system's loader finds them; what their initialisers
        // do, they do in every CUDA program.
        #[expect(unsafe_code, reason = "C libraries that may not be there")]
        let library = unsafe { Library::new(*name) };
        library.ok().map(|library| &*Box::leak(Box::new(library)))
    })
}

/// A function of a library, of a type that the caller vouches for.
macro_rules! function {
    ($library:expr, $name:literal, fn($($argument:ty),*)) => {{
        // SAFETY: the type is the one that cuda.h and nvrtc.h declare; all of these have been the same since CUDA 11.
        #[expect(unsafe_code, reason = "C functions that may not be there")]
        let function: Result<Symbol<'static, unsafe extern "C" fn($($argument),*) -> c_int>, _> =
            unsafe { $library.get($name) };
        function.map_err(|_| concat!("it has no ", $name).to_owned())
    }};
}

/// Calls a function that writes through pointers to living variables, and reads its status.
macro_rules! call {
    ($function:expr, $($argument:expr),*) => {{
        // SAFETY: every pointer is to a variable or buffer of this function, of the size that the header states, and
        // nothing is kept by the callee.
        #[expect(unsafe_code, reason = "C functions")]
        let status = unsafe { $function($($argument),*) };
        status
    }};
}

fn driver() -> Result<Driver, NoDriver> {
    let library = load(DRIVERS).ok_or(NoDriver::Missing)?;
    ask_driver(library).map_err(NoDriver::Unusable)
}

fn ask_driver(library: &'static Library) -> Result<Driver, String> {
    let init = function!(library, "cuInit", fn(c_uint))?;
    let version = function!(library, "cuDriverGetVersion", fn(*mut c_int))?;
    let count = function!(library, "cuDeviceGetCount", fn(*mut c_int))?;
    let get = function!(library, "cuDeviceGet", fn(*mut c_int, c_int))?;
    let name = function!(library, "cuDeviceGetName", fn(*mut c_char, c_int, c_int))?;
    let attribute = function!(library, "cuDeviceGetAttribute", fn(*mut c_int, c_int, c_int))?;
    let total = function!(library, "cuDeviceTotalMem_v2", fn(*mut usize, c_int))?;
    let done = |what: &str, status: c_int| match status {
        0 => Ok(()),
        status => Err(format!("{what}: {}", status_name(library, status))),
    };

    let mut cuda = 0;
    done("cuDriverGetVersion", call!(version, &mut cuda))?;
    let cuda = Version { major: cuda.unsigned_abs() / 1000, minor: cuda.unsigned_abs() % 1000 / 10 };
    match call!(init, 0) {
        NO_DEVICE => return Ok(Driver { cuda, cards: Vec::new() }),
        status => done("cuInit", status)?,
    }
    let mut num_cards = 0;
    done("cuDeviceGetCount", call!(count, &mut num_cards))?;
    let mut cards = Vec::new();
    for ordinal in 0..num_cards.min(MAX_CARDS) {
        let (mut device, mut major, mut minor, mut memory_bytes) = (0, 0, 0, 0usize);
        done("cuDeviceGet", call!(get, &mut device, ordinal))?;
        let mut text = [0 as c_char; 256];
        done("cuDeviceGetName", call!(name, text.as_mut_ptr(), text.len() as c_int - 1, device))?;
        done("cuDeviceGetAttribute", call!(attribute, &mut major, COMPUTE_CAPABILITY_MAJOR, device))?;
        done("cuDeviceGetAttribute", call!(attribute, &mut minor, COMPUTE_CAPABILITY_MINOR, device))?;
        done("cuDeviceTotalMem", call!(total, &mut memory_bytes, device))?;
        let letters = text.iter().take_while(|&&letter| letter != 0).map(|&letter| letter as u8);
        cards.push(Card {
            name: String::from_utf8_lossy(&letters.collect::<Vec<u8>>()).into_owned(),
            sm: major.unsigned_abs() * 10 + minor.unsigned_abs(),
            memory_bytes: memory_bytes as u64,
        });
    }
    Ok(Driver { cuda, cards })
}

/// The driver's own name for a status, else its number.
fn status_name(library: &'static Library, status: c_int) -> String {
    let number = format!("error {status}");
    let Ok(name) = function!(library, "cuGetErrorName", fn(c_int, *mut *const c_char)) else { return number };
    let mut text = std::ptr::null();
    if call!(name, status, &mut text) != 0 || text.is_null() {
        return number;
    }
    // SAFETY: a status of 0 means that the pointer is to a constant string, ended by a zero, of the library, which is
    // never unloaded.
    #[expect(unsafe_code, reason = "a C string")]
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}

fn nvrtc() -> Option<Nvrtc> {
    let library = load(COMPILERS)?;
    let version = function!(library, "nvrtcVersion", fn(*mut c_int, *mut c_int)).ok()?;
    let (mut major, mut minor) = (0, 0);
    if call!(version, &mut major, &mut minor) != 0 {
        return None;
    }
    let version = Version { major: major.unsigned_abs(), minor: minor.unsigned_abs() };
    Some(Nvrtc { version, sms: compiles_for(library).unwrap_or_default() })
}

fn compiles_for(library: &'static Library) -> Option<Vec<u32>> {
    let count = function!(library, "nvrtcGetNumSupportedArchs", fn(*mut c_int)).ok()?;
    let list = function!(library, "nvrtcGetSupportedArchs", fn(*mut c_int)).ok()?;
    let mut num_sms = 0;
    if call!(count, &mut num_sms) != 0 || !(1..=MAX_SMS).contains(&num_sms) {
        return None;
    }
    let mut sms = vec![0; num_sms as usize];
    (call!(list, sms.as_mut_ptr()) == 0).then(|| sms.into_iter().map(c_int::unsigned_abs).collect())
}

/// Where cubecl-cuda takes the toolkit from.
fn toolkit() -> Option<(PathBuf, bool)> {
    let folder = match env::var_os("CUDA_PATH") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let usual = [
                ("/usr/local/cuda", "/usr/local/cuda"),
                ("/opt/cuda", "/opt/cuda"),
                ("/usr/bin/nvcc", "/usr"),
            ];
            let (_, folder) = usual.into_iter().find(|(sign, _)| PathBuf::from(sign).exists())?;
            folder.into()
        }
    };
    let include = folder.join("include");
    let whole = HEADERS.iter().all(|header| include.join(header).is_file());
    Some((folder, whole))
}
