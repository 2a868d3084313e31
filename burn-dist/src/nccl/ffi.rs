//! NCCL's library, loaded at run time, and a communicator of it. The one file with `unsafe` of the feature `nccl`: every
//! call into the library is here, with the contract that it keeps. Not when operations run (`operation`).
//!
//! Types are those of cudarc's bindings. Its loader is not used, for it looks for `libnccl.so`, which only development
//! packages have, and panics where a function is missing. Contracts are quoted from `nccl.h` (2.30) and from NCCL's user
//! guide, <https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/>, pages "Communicator Creation and Management
//! Functions" (comms) and "Creating a Communicator" (usage).

#![allow(unsafe_code, reason = "a C library without a safe binding: each block has its proof")]

use std::{
    any::Any,
    error::Error,
    ffi::{CStr, c_char, c_int, c_void},
    mem::offset_of,
    ptr::{null, null_mut},
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use burn::cubecl::{client::Client, cuda::CudaRuntime, server::Handle};
use cubecl_runtime::runtime::Runtime;
use cudarc::{
    driver::{CudaContext, CudaEvent, CudaStream},
    nccl::sys::{cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId},
};
use libloading::Library;

/// What packages call it: the run-time ones first.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// The first version with communicators that do not block, as NCCL writes it: 2.14.0.
const MIN_VERSION: c_int = 21_400;
/// `NCCL_API_MAGIC` and `NCCL_CONFIG_UNDEF_INT` of `nccl.h`.
const MAGIC: u32 = 0xcafe_beef;
const UNDEFINED: c_int = c_int::MIN;
/// For an abort to come back. Some have hung (NVIDIA/nccl issues 863, 1013): past it the communicator is left as it is.
const ABORT_PATIENCE: Duration = Duration::from_secs(10);

/// An `ncclResult_t`. As a number: a newer library may return what an enum of today does not have.
type Code = c_int;
const SUCCESS: Code = 0;
const IN_PROGRESS: Code = 7;

/// A communicator's number: made by one rank, given to all.
pub(crate) type Id = [u8; 128];

/// The functions that are called, by the signatures of `nccl.h`.
pub(crate) struct Functions {
    get_version: unsafe extern "C" fn(*mut c_int) -> Code,
    get_unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> Code,
    init_rank: unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> Code,
    async_error: unsafe extern "C" fn(ncclComm_t, *mut Code) -> Code,
    all_reduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        ncclDataType_t,
        ncclRedOp_t,
        ncclComm_t,
        cudaStream_t,
    ) -> Code,
    abort: unsafe extern "C" fn(ncclComm_t) -> Code,
    error_string: unsafe extern "C" fn(Code) -> *const c_char,
    last_error: unsafe extern "C" fn(ncclComm_t) -> *const c_char,
}

impl Functions {
    /// The library of this machine, loaded by the first call.
    ///
    /// # Errors
    /// There is none, or one that is too old.
    pub(crate) fn get() -> Result<&'static Self, String> {
        static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
        LOADED.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self, String> {
        let mut why = String::new();
        // SAFETY: loading runs the library's initialisers. These are NVIDIA's own, made to be loaded by any program at
        // any time, as every framework does.
        let open = |name: &&str| match unsafe { Library::new(*name) } {
            Ok(library) => Some(library),
            Err(error) => {
                // The first name's reason: it may be there and lack something.
                if why.is_empty() {
                    why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                }
                None
            }
        };
        let Some(library) = NAMES.iter().find_map(open) else {
            return Err(format!("there is no {} ({why})", NAMES.join(" and no ")));
        };
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field's type, which is what the symbol is read as, is the signature that `nccl.h` has under
                // this name since 2.14, which is checked below before anything but `ncclGetVersion` is called. The library
                // is never unloaded, so the pointer stays good.
                *unsafe { library.get(concat!($name, "\0")) }
                    .map_err(|_| concat!("the library has no ", $name).to_owned())?
            };
        }
        let functions = Self {
            get_version: function!("ncclGetVersion"),
            get_unique_id: function!("ncclGetUniqueId"),
            init_rank: function!("ncclCommInitRankConfig"),
            async_error: function!("ncclCommGetAsyncError"),
            all_reduce: function!("ncclAllReduce"),
            abort: function!("ncclCommAbort"),
            error_string: function!("ncclGetErrorString"),
            last_error: function!("ncclGetLastError"),
        };
        std::mem::forget(library);
        let mut version = 0;
        // SAFETY: "Return the NCCL_VERSION_CODE of the NCCL library in the supplied integer": a pointer to one.
        let code = unsafe { (functions.get_version)(&mut version) };
        functions.check(code, null_mut())?;
        if version < MIN_VERSION {
            return Err(format!(
                "the library's version is {version}, expected at least {MIN_VERSION} (2.14)"
            ));
        }
        Ok(functions)
    }

    /// A number for a new communicator.
    ///
    /// # Errors
    /// NCCL finds no network.
    pub(crate) fn new_id(&self) -> Result<Id, String> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: comms: "uniqueId should point to a ncclUniqueId object allocated by the user".
        let code = unsafe { (self.get_unique_id)(&mut id) };
        self.check(code, null_mut())?;
        Ok(id.internal.map(|byte| byte as u8))
    }

    /// An error unless `code` is success or work in progress; with what the library says of it.
    fn check(&self, code: Code, comm: ncclComm_t) -> Result<(), String> {
        if matches!(code, SUCCESS | IN_PROGRESS) {
            return Ok(());
        }
        // SAFETY: comms: both return a string of the library's, for any code, and for any live communicator or none.
        let (what, last) = unsafe { ((self.error_string)(code), (self.last_error)(comm)) };
        let text = |text: *const c_char| {
            // SAFETY: if there is one, it is a C string in static memory, or in the thread's own until its next call.
            if text.is_null() { "".into() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy() }
        };
        Err(format!("NCCL: {} {}", text(what).trim(), text(last).trim()).trim().to_owned())
    }
}

/// A part of the GPU's memory that stays where it is.
pub(crate) struct Region {
    address: u64,
    bytes: u64,
    /// CubeCL's hold on it: "a bound allocation is never freed, handed out again or relocated" while this lives.
    _hold: Box<dyn Any + Send>,
}

impl Region {
    /// The memory behind a tensor of `client`'s, after all that was to be written there before. Waits for that.
    ///
    /// # Errors
    /// It is not a CUDA GPU's; what should have written it failed; it is shorter than `bytes`.
    pub(crate) fn of(client: &Client, handle: Handle, bytes: usize) -> Result<Self, String> {
        let words = |error: &dyn std::fmt::Display| format!("a bucket on the GPU: {error}");
        // From now on this thread's stream waits for whatever the handle's stream was told before ...
        let hold =
            client.get_resource::<<CudaRuntime as Runtime>::Server>(handle).map_err(|error| words(&error))?;
        // ... and this thread for its stream. The stream that the backward pass runs on goes on meanwhile.
        burn::cubecl::future::block_on(client.sync()).map_err(|error| words(&error))?;
        let (address, size) = (hold.resource().ptr, hold.resource().size);
        if size < bytes as u64 {
            return Err(format!("a bucket on the GPU has {size} bytes, expected {bytes}"));
        }
        Ok(Self { address, bytes: bytes as u64, _hold: Box::new(hold) })
    }
}

/// Numbers that are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    const fn of_nccl(self) -> (ncclDataType_t, u64) {
        match self {
            Self::F32 => (ncclDataType_t::ncclFloat32, 4),
            Self::F16 => (ncclDataType_t::ncclFloat16, 2),
            Self::Bf16 => (ncclDataType_t::ncclBfloat16, 2),
        }
    }
}

/// One rank of an NCCL communicator, on a stream of its own. Ends by an abort, which needs no other rank.
pub(crate) struct Communicator {
    functions: &'static Functions,
    /// Null once it was aborted.
    comm: ncclComm_t,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

// SAFETY: a communicator belongs to a device and not to a thread; what is asked for is that no two threads call at once,
// which `&mut self` in every method sees to, and that the device is the calling thread's, which `bind` sees to.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Begins to join the communicator `id` as `rank` of `world_size`, with the GPU that CUDA counts as `ordinal`. It is
    /// joined once [`is_idle`](Self::is_idle) says so.
    ///
    /// # Errors
    /// CUDA's or NCCL's.
    pub(crate) fn begin(ordinal: usize, id: &Id, rank: usize, world_size: usize) -> Result<Self, String> {
        let functions = Functions::get()?;
        // The device's primary context, which is CubeCL's too.
        let context = CudaContext::new(ordinal).map_err(cuda)?;
        let stream = context.new_stream().map_err(cuda)?;
        let id = ncclUniqueId { internal: id.map(|byte| byte as c_char) };
        let mut config = config();
        let mut joined = Self { functions, comm: null_mut(), context, stream };
        joined.bind()?;
        // SAFETY: comms: "rank must be between 0 and nranks-1 and unique within a communicator clique. Each rank is
        // associated to a CUDA device, which has to be set before calling": ranks are the job's, `bind` set the device.
        // `comm` and `config` point to what outlives the call; the library copies the configuration.
        let code = unsafe {
            (functions.init_rank)(&mut joined.comm, world_size as c_int, id, rank as c_int, &mut config)
        };
        functions.check(code, null_mut())?;
        Ok(joined)
    }

    /// Whether the last call is through on the host: joining, or launching an operation.
    ///
    /// # Errors
    /// What went wrong since, here or at a peer.
    pub(crate) fn is_idle(&mut self) -> Result<bool, String> {
        let comm = self.live()?;
        let mut state = SUCCESS;
        // SAFETY: comms: "Queries the progress and potential errors of asynchronous NCCL operations": a live
        // communicator, and a pointer to an `ncclResult_t`, which is an int in C.
        let code = unsafe { (self.functions.async_error)(comm, &mut state) };
        self.functions.check(code, comm)?;
        self.functions.check(state, comm)?;
        Ok(state != IN_PROGRESS)
    }

    /// Launches the average of `count` numbers of all ranks' `from`, to be in `to`. It is launched once
    /// [`is_idle`](Self::is_idle) says so. Both must stay until it has run, or the communicator was aborted.
    ///
    /// # Errors
    /// NCCL's; a region too short.
    pub(crate) fn average(
        &mut self,
        from: &Region,
        to: &mut Region,
        count: usize,
        number: Number,
    ) -> Result<(), String> {
        let (number, width) = number.of_nccl();
        if from.bytes.min(to.bytes) < count as u64 * width {
            return Err(format!("regions of {} and {} bytes for {count} numbers", from.bytes, to.bytes));
        }
        let comm = self.live()?;
        self.bind()?;
        // SAFETY: "Reduces data arrays of length count in sendbuff using op operation, and leaves identical copies of
        // result on each recvbuff." Both regions are of this device, long enough (above), and stay (their hold); `to` is
        // nobody else's, being `&mut`. What `from` holds was written before it became a region. The stream is the
        // communicator's own, on the same device; a stream of the driver's interface is one of the runtime's.
        let code = unsafe {
            (self.functions.all_reduce)(
                from.address as *const c_void,
                to.address as *mut c_void,
                count,
                number,
                ncclRedOp_t::ncclAvg,
                comm,
                self.stream.cu_stream().cast(),
            )
        };
        self.functions.check(code, comm)
    }

    /// What tells when all that was launched has run.
    ///
    /// # Errors
    /// CUDA's.
    pub(crate) fn mark(&self) -> Result<CudaEvent, String> {
        self.stream.record_event(None).map_err(cuda)
    }

    /// Ends what runs on the device, wherever it stands. Whether that came back in time; else regions in use must be left
    /// alone for ever. A communicator that was aborted is none any more.
    pub(crate) fn abort(&mut self) -> bool {
        if self.comm.is_null() {
            return true;
        }
        let comm = std::mem::replace(&mut self.comm, null_mut());
        let (functions, context, stream) =
            (self.functions, Arc::clone(&self.context), Arc::clone(&self.stream));
        let doomed = Doomed { functions, comm, context, stream };
        let (done, aborted) = mpsc::channel();
        // On a thread of its own, so that nobody waits for it without end. Nobody may wait any more: no error.
        let abort = move || {
            let _ = done.send(doomed.abort());
        };
        let started = thread::Builder::new().name("burn-dist NCCL abort".into()).spawn(abort);
        started.is_ok() && aborted.recv_timeout(ABORT_PATIENCE).unwrap_or(false)
    }

    fn live(&self) -> Result<ncclComm_t, String> {
        if self.comm.is_null() { Err("the NCCL communicator was aborted".into()) } else { Ok(self.comm) }
    }

    /// Makes the GPU the calling thread's.
    fn bind(&self) -> Result<(), String> {
        self.context.bind_to_thread().map_err(cuda)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Every operation was waited for, so nothing is lost; unlike ncclCommDestroy it waits for no other rank.
        self.abort();
    }
}

/// The only pointer to a communicator that is to be aborted.
struct Doomed {
    functions: &'static Functions,
    comm: ncclComm_t,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

// SAFETY: as of `Communicator`; `abort` binds the device, and takes the only pointer.
unsafe impl Send for Doomed {}

impl Doomed {
    /// Whether nothing of it runs any more.
    fn abort(self) -> bool {
        if self.context.bind_to_thread().is_err() {
            return false;
        }
        // SAFETY: "Frees resources associated with communicator object and aborts any operations that might still be running
        // on the device." It is live, and nobody can call it again.
        let code = unsafe { (self.functions.abort)(self.comm) };
        // Kernels that were told to quit may still be about to.
        matches!(code, SUCCESS | IN_PROGRESS) && self.stream.synchronize().is_ok()
    }
}

/// NCCL's defaults, but for calls that do not block (`blocking` is 0). It says of itself to be of version
/// 2.14, whose last field is `blocking`, so libraries from that one on read no further and set the rest themselves.
fn config() -> ncclConfig_t {
    ncclConfig_t {
        size: offset_of!(ncclConfig_t, cgaClusterSize),
        magic: MAGIC,
        version: MIN_VERSION as u32,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
        graphUsageMode: UNDEFINED,
        numRmaCtx: UNDEFINED,
        maxP2pPeers: UNDEFINED,
    }
}

/// The GPU's number, the same in every process.
///
/// # Errors
/// CUDA's.
pub(crate) fn gpu_uuid(ordinal: usize) -> Result<[u8; 16], String> {
    let uuid = CudaContext::new(ordinal).and_then(|context| context.uuid()).map_err(cuda)?;
    Ok(uuid.bytes.map(|byte| byte as u8))
}

pub(crate) fn cuda(error: impl std::fmt::Debug) -> String {
    format!("CUDA: {error:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_told_in_one_line() {
        match Functions::get() {
            Ok(_) => eprintln!("SKIP: this machine has NCCL"),
            Err(why) => {
                let begins = ["there is no libnccl.so.2 and no libnccl.so (", "the library"];
                assert!(begins.iter().any(|begin| why.starts_with(begin)), "{why}");
                assert!(!why.contains('\n'), "{why}");
            }
        }
    }

    /// A library reads as many bytes as the configuration says it has, so these must be the fields up to `blocking`.
    #[test]
    fn the_configuration_is_that_of_nccl_2_14() {
        let config = config();
        assert_eq!(config.size, size_of::<usize>() + 2 * size_of::<u32>() + size_of::<c_int>());
        assert_eq!((config.magic, config.version, config.blocking), (0xcafe_beef, 21_400, 0));
    }
}
