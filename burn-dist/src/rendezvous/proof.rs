//! Mutual proof of one secret by challenge and response: HMAC-SHA256 (RFC 2104) over everything both sides said so far.
//! It proves who is there. It neither hides nor protects what is said afterwards: on a network that others can write to, TLS does.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::hello::{CHALLENGE_BYTES, HELLO_BYTES};

pub(super) const NONCE_BYTES: usize = 32;
pub(super) const MAC_BYTES: usize = 32;

/// Who proves. Part of what is signed, so that nobody's proof can be sent back to its maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that opened the connection; it proves first, so that a stranger gets nothing to guess secrets on.
    Dialling,
    /// The one that took it.
    Answering,
}

/// The secret, ready for use. Without one it is empty: the exchange is the same and proves nothing.
#[derive(Clone)]
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }
}

/// What is signed: both sides' words, and the session that only members know (zeros while there is none).
pub(super) struct Transcript<'a> {
    pub(super) hello: &'a [u8; HELLO_BYTES],
    pub(super) challenge: &'a [u8; CHALLENGE_BYTES],
    pub(super) session: &'a [u8; 16],
}

impl Transcript<'_> {
    fn mac(&self, key: &Key, side: Side) -> Hmac<Sha256> {
        let Self { hello, challenge, session } = self;
        // Every part has a fixed length: two different transcripts are two different strings.
        key.0
            .clone()
            .chain_update(match side {
                Side::Dialling => b"burn-dist dial",
                Side::Answering => b"burn-dist host",
            })
            .chain_update(hello)
            .chain_update(challenge)
            .chain_update(session)
    }

    pub(super) fn prove(&self, key: &Key, side: Side) -> [u8; MAC_BYTES] {
        self.mac(key, side).finalize().into_bytes().into()
    }

    /// Whether `proof` is that side's. In constant time.
    pub(super) fn verify(&self, key: &Key, side: Side, proof: &[u8]) -> bool {
        self.mac(key, side).verify_slice(proof).is_ok()
    }
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The system has none.
pub(super) fn random<const N: usize>() -> crate::Result<[u8; N]> {
    let mut out = [0; N];
    getrandom::fill(&mut out).map_err(|error| {
        crate::DistError::rendezvous(format!("the system gives no random bytes: {error}"))
    })?;
    Ok(out)
}
