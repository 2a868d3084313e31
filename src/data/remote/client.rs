//! A store's objects as bytes, for callers that wait. The asynchronous client, `object_store`, runs on one thread of its
//! own and is not seen outside of this file.
//!
//! Not here: asking again, which depends on what the bytes are for.

use std::{
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, RetryConfig, aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, http::HttpBuilder, local::LocalFileSystem,
    path::Path,
};
use tokio::{
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{fault::Fault, retry};
use crate::data::{address::Address, error::Away};

/// Pieces of an object that may be on their way to its reader; a piece is what came from the network at once.
const PIECES_AHEAD: usize = 8;

/// A folder of objects.
pub(super) struct Client {
    store: Arc<dyn ObjectStore>,
    address: Address,
    folder: Path,
    patience: Duration,
    runtime: Handle,
    /// The thread ends when this is dropped.
    _running: oneshot::Sender<()>,
}

impl fmt::Debug for Client {
    /// Without the provider's part, which knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

/// An object that is coming.
pub(super) struct Download {
    /// Of the whole object, whatever part of it comes.
    pub(super) object_bytes: u64,
    /// What changes when the object does, if the store has such.
    pub(super) tag: Option<String>,
    pieces: mpsc::Receiver<Result<Bytes, Fault>>,
}

impl Iterator for Download {
    type Item = Result<Bytes, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pieces.blocking_recv()
    }
}

impl Client {
    /// Makes a client, with credentials from the environment or the provider's own chain; asks for nothing yet.
    ///
    /// # Errors
    ///
    /// One line, of settings in the environment that contradict each other.
    pub(super) fn open(address: &Address, patience: Duration) -> Result<Self, String> {
        // Another part of the program may have chosen the same before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let line = |error: object_store::Error| format!("{address}: {}", Fault::from(error).what);
        let io_line = |error: std::io::Error| format!("{address}: {error}");
        let store = connect(address).map_err(line)?;
        let folder = Path::from_url_path(address.path()).map_err(|error| line(error.into()))?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(io_line)?;
        let handle = runtime.handle().clone();
        let (running, dropped) = oneshot::channel();
        let until_dropped = move || {
            // Only ever an error: nothing is sent.
            let _: Result<(), _> = runtime.block_on(dropped);
            runtime.shutdown_background();
        };
        thread::Builder::new().name("store".into()).spawn(until_dropped).map_err(io_line)?;
        Ok(Self { store, address: address.clone(), folder, patience, runtime: handle, _running: running })
    }

    /// What an object is called in messages.
    pub(super) fn name(&self, object: &str) -> String {
        self.address.below(object).to_string()
    }

    /// How long whoever waits for an object waits.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Asks for an object from byte `start` on, and waits for the answer's beginning; `tag`, if the object was seen
    /// before, is what it must still have.
    pub(super) fn get(&self, object: &str, start: u64, tag: Option<String>) -> Result<Download, Fault> {
        let path = Path::parse(format!("{}/{object}", self.folder)).map_err(object_store::Error::from)?;
        let range = (start > 0).then_some(GetRange::Offset(start));
        let options = GetOptions { range, if_match: tag, ..GetOptions::default() };
        let store = self.store.clone();
        let silence = retry::silence(self.patience);
        let (answer, answered) = oneshot::channel();
        let (to_reader, pieces) = mpsc::channel(PIECES_AHEAD);
        self.runtime.spawn(async move {
            let silent = |_| Fault::silence(silence);
            let got = timeout(silence, store.get_opts(&path, options)).await;
            let got = match got.map_err(silent).and_then(|got| Ok(got?)) {
                Ok(got) => got,
                Err(fault) => {
                    // A reader that went away needs no answer, here and below.
                    let _ = answer.send(Err(fault));
                    return;
                }
            };
            let _ = answer.send(Ok((got.meta.size, got.meta.e_tag.clone())));
            let mut stream = got.into_stream();
            loop {
                let piece = match timeout(silence, stream.next()).await.map_err(silent) {
                    Ok(None) => return,
                    Ok(Some(piece)) => piece.map_err(Fault::from),
                    Err(fault) => Err(fault),
                };
                let is_last = piece.is_err();
                if to_reader.send(piece).await.is_err() || is_last {
                    return;
                }
            }
        });
        let gone = |_| Fault::passing("the store's thread is gone");
        let (object_bytes, tag) = answered.blocking_recv().map_err(gone)??;
        Ok(Download { object_bytes, tag, pieces })
    }

    /// An object of at most `limit_bytes`, asked for until it comes or patience is over.
    ///
    /// # Errors
    ///
    /// [`Away`] names it, what came last, and for how long it was tried.
    pub(super) fn read(&self, object: &str, limit_bytes: u64) -> Result<Vec<u8>, Away> {
        let begun = Instant::now();
        let mut num_tries = 0;
        loop {
            let fault = match self.try_read(object, limit_bytes) {
                Ok(bytes) => return Ok(bytes),
                Err(fault) => fault,
            };
            num_tries += 1;
            let waited = begun.elapsed();
            if fault.lasts || waited >= self.patience {
                let waited = (!fault.lasts).then_some(waited);
                return Err(Away { object: self.name(object), what: fault.what, waited });
            }
            thread::sleep(retry::pause(num_tries, chance()).min(self.patience - waited));
        }
    }

    fn try_read(&self, object: &str, limit_bytes: u64) -> Result<Vec<u8>, Fault> {
        let download = self.get(object, 0, None)?;
        let expected_bytes = download.object_bytes;
        if expected_bytes > limit_bytes {
            return Err(Fault::lasting(format!("{expected_bytes} bytes, above the limit of {limit_bytes}")));
        }
        let mut bytes = Vec::new();
        for piece in download {
            bytes.extend_from_slice(&piece?);
            if bytes.len() as u64 > expected_bytes {
                break;
            }
        }
        match bytes.len() as u64 {
            got_bytes if got_bytes == expected_bytes => Ok(bytes),
            got_bytes => Err(Fault::passing(format!("{got_bytes} bytes of {expected_bytes}"))),
        }
    }
}

/// A number from 0 to 1, the same for nobody who fails at the same time.
pub(super) fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness pauses have their shortest length.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

fn connect(address: &Address) -> object_store::Result<Arc<dyn ObjectStore>> {
    // Times and tries are ours: an object is as long as it is, and there is one place that decides to ask again.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let options = ClientOptions::new().with_timeout_disabled();
    // Over plain HTTP only where it is asked for: by the address, or as the providers' own tools take it.
    let plain = |name: &str| std::env::var(name).is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    Ok(match address.scheme() {
        "s3" => Arc::new(
            AmazonS3Builder::from_env()
                .with_url(format!("{}/", address.root()))
                .with_client_options(options.with_allow_http(plain("AWS_ALLOW_HTTP")))
                .with_retry(retry)
                .build()?,
        ),
        "gs" => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_url(format!("{}/", address.root()))
                .with_client_options(options)
                .with_retry(retry)
                .build()?,
        ),
        "az" => Arc::new(
            MicrosoftAzureBuilder::from_env()
                .with_url(format!("{}/", address.root()))
                .with_client_options(options.with_allow_http(plain("AZURE_ALLOW_HTTP")))
                .with_retry(retry)
                .build()?,
        ),
        "file" => Arc::new(LocalFileSystem::new()),
        scheme => Arc::new(
            HttpBuilder::new()
                .with_url(address.root())
                .with_client_options(options.with_allow_http(scheme == "http"))
                .with_retry(retry)
                .build()?,
        ),
    })
}
