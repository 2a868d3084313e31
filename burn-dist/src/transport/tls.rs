//! Mutual TLS 1.3 (RFC 8446) around a TCP connection, as a [`Pipe`]: hides and protects everything, on networks that
//! others can read and write. Both sides show a certificate that comes from the job's own authority; nobody else's counts.
//!
//! Every certificate carries the name `burn-dist`, whatever machine it is for. With OpenSSL 3:
//!
//! ```text
//! openssl req -x509 -newkey ed25519 -nodes -days 30 -subj /CN=our-cluster -keyout ca.key -out ca.pem
//! openssl req -newkey ed25519 -nodes -subj /CN=burn-dist -addext subjectAltName=DNS:burn-dist -keyout node.key -out node.csr
//! openssl x509 -req -in node.csr -CA ca.pem -CAkey ca.key -days 30 -copy_extensions copy -out node.pem
//! ```
//! gives what `BURN_DIST_TLS_CA`, `_KEY` and `_CERT` name.

use std::{
    io::{self, IoSlice, Read, Write},
    net::TcpStream,
    os::fd::BorrowedFd,
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};

use super::{Pipe, Shutter, tcp::TcpPipe};
use crate::{
    config::TlsFiles,
    error::{DistError, Result},
};

/// The name that every certificate of a job carries: ranks are known by their place in the job, not by their machines.
const NAME: &str = "burn-dist";
/// Most bytes that are encrypted ahead of what the socket takes.
const BUFFER_BYTES: usize = 256 << 10;

/// What both sides of a connection need.
pub(crate) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or does not hold what it should.
    pub(crate) fn load(files: &TlsFiles) -> Result<Self> {
        let mut authority = RootCertStore::empty();
        for certificate in certificates(&files.ca)? {
            authority.add(certificate).map_err(|error| wrong(&files.ca, error))?;
        }
        let authority = Arc::new(authority);
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error))?;
        let provider = Arc::new(ring::default_provider());
        let unusable = |error: rustls::Error| wrong(&files.certificate, error);

        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&authority), Arc::clone(&provider))
                .build()
                .map_err(|error| wrong(&files.ca, error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        // Connections live as long as the job: nothing is ever resumed.
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(authority)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }

    /// The side that took the connection.
    pub(crate) fn answer(&self, stream: TcpStream) -> io::Result<TlsPipe> {
        let tls = ServerConnection::new(Arc::clone(&self.server)).map_err(io::Error::other)?;
        TlsPipe::new(stream, tls.into())
    }

    /// The side that opened it.
    pub(crate) fn dial(&self, stream: TcpStream) -> io::Result<TlsPipe> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(&self.client), name).map_err(io::Error::other)?;
        TlsPipe::new(stream, tls.into())
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| wrong(path, error))?;
    if all.is_empty() { Err(wrong(path, "it holds no certificate")) } else { Ok(all) }
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> DistError {
    DistError::config(format!("the TLS file {}: {why}", path.display()))
}

/// A TLS connection that does not block. Its handshake happens while it is read and written.
#[derive(Debug)]
pub(crate) struct TlsPipe {
    tcp: TcpPipe,
    tls: Connection,
    /// Bytes that were decrypted and not read yet.
    num_decrypted: usize,
}

impl TlsPipe {
    fn new(stream: TcpStream, mut tls: Connection) -> io::Result<Self> {
        tls.set_buffer_limit(Some(BUFFER_BYTES));
        Ok(Self { tcp: TcpPipe::new(stream)?, tls, num_decrypted: 0 })
    }

    /// Takes what the socket has. `Ok(false)` is its end.
    fn take(&mut self) -> io::Result<bool> {
        if self.tls.read_tls(&mut Socket(&mut self.tcp))? == 0 {
            return Ok(false);
        }
        match self.tls.process_new_packets() {
            Ok(state) => {
                self.num_decrypted = state.plaintext_bytes_to_read();
                Ok(true)
            }
            Err(error) => {
                // The other side is told why, if it still listens.
                let _ = self.give();
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Gives the socket what it takes.
    fn give(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut Socket(&mut self.tcp))?;
        }
        Ok(())
    }

    /// [`Self::give`]; a socket that takes no more is no error here.
    fn give_some(&mut self) -> io::Result<()> {
        match self.give() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                // It said why before it went, most likely.
                loop {
                    match self.take() {
                        Ok(true) => {}
                        Err(why) if why.kind() == io::ErrorKind::InvalidData => return Err(why),
                        _ => return Err(error),
                    }
                }
            }
            other => other,
        }
    }
}

impl Pipe for TlsPipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(into) {
                Ok(read) => {
                    self.num_decrypted -= read.min(self.num_decrypted);
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Cut off without a farewell: for us an end like any other, as all lengths are known beforehand.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            if !self.take()? {
                return Ok(0);
            }
            // A handshake goes on by answering.
            self.give_some()?;
        }
    }

    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.give_some()?;
        let written = self.tls.writer().write_vectored(from)?;
        if written == 0 && from.iter().any(|slice| !slice.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.give_some()?;
        Ok(written)
    }

    fn holds_bytes(&self) -> bool {
        self.tls.wants_write()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.give()
    }

    fn has_bytes(&self) -> bool {
        self.num_decrypted > 0
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.tcp.fd()
    }

    fn shutter(&self) -> Option<Shutter> {
        self.tcp.shutter()
    }
}

/// The socket, as rustls wants it.
struct Socket<'a>(&'a mut TcpPipe);

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.write(&[IoSlice::new(from)])
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
