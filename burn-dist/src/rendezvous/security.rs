//! What a job trusts, ready for use: the key of the proofs, and TLS around connections if asked for.

use std::{
    io,
    net::{IpAddr, TcpStream},
};

use super::proof::Key;
use crate::{
    config::{Config, Trust},
    error::{DistError, Result},
    transport::{Pipe, tcp::TcpPipe},
};

pub(super) struct Security {
    pub(super) key: Key,
    #[cfg(feature = "tls")]
    tls: Option<crate::transport::tls::Tls>,
}

impl Security {
    /// Reads the files that `config` names.
    ///
    /// # Errors
    /// A file that cannot be read or used; TLS in a build without it.
    pub(super) fn new(config: &Config) -> Result<Self> {
        let key = Key::new(match &config.trust {
            Trust::Secret(secret) => secret,
            Trust::LoopbackOnly | Trust::Insecure => &[],
        });
        #[cfg(not(feature = "tls"))]
        if config.tls.is_some() {
            return Err(DistError::config(
                "TLS is asked for, but this program was built without burn-dist's feature `tls`",
            ));
        }
        Ok(Self {
            key,
            #[cfg(feature = "tls")]
            tls: config.tls.as_ref().map(crate::transport::tls::Tls::load).transpose()?,
        })
    }

    /// A connection that came in.
    pub(super) fn answer(&self, stream: TcpStream) -> io::Result<Box<dyn Pipe>> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok(Box::new(tls.answer(stream)?));
        }
        Ok(Box::new(TcpPipe::new(stream)?))
    }

    /// A connection that this process opened.
    pub(super) fn dial(&self, stream: TcpStream) -> io::Result<Box<dyn Pipe>> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Ok(Box::new(tls.dial(stream)?));
        }
        Ok(Box::new(TcpPipe::new(stream)?))
    }
}

/// Whether a job that trusts in this way may use `address`.
///
/// # Errors
/// It may not: nothing would keep strangers of the network out.
pub(super) fn check_reach(config: &Config, address: IpAddr) -> Result<()> {
    if config.trust != Trust::LoopbackOnly || config.tls.is_some() || address.to_canonical().is_loopback() {
        return Ok(());
    }
    Err(DistError::config(format!(
        "{address} can be reached from other machines, and nothing keeps strangers out: give all ranks the same \
         secret (BURN_DIST_SECRET_FILE), or TLS certificates (BURN_DIST_TLS_CA, _CERT, _KEY), or say \
         BURN_DIST_INSECURE=1"
    )))
}
