//! The first messages between strangers: of fixed size, so that nobody's length sizes a buffer. What they claim is
//! believed only after the proof ([`super::proof`]). Pure: no socket.
//!
//! ```text
//! hello (64 bytes, dialling side)     challenge (48 bytes, answer)     verdict (33 bytes, after the proof)
//!  0 "BDSTMEET"                        0 "BDSTMEET"                     0 code
//!  8 version u16                       8 version u16                    1 HMAC of the answering side
//! 10 purpose u8   11 zero             10 zero (6 bytes)
//! 12 stream u16   14 zero (2 bytes)   16 nonce (32 bytes)
//! 16 rank u32     20 to rank u32
//! 24 world u32    28 generation u32
//! 32 nonce (32 bytes)
//! ```
//! Little-endian. The first 10 bytes of both stay as they are in every version to come.

use super::proof::{MAC_BYTES, NONCE_BYTES};

const MAGIC: [u8; 8] = *b"BDSTMEET";
/// Of the rendezvous and all that is said on control and data connections.
pub(super) const PROTOCOL: u16 = 2;
pub(super) const HELLO_BYTES: usize = 64;
pub(super) const CHALLENGE_BYTES: usize = 48;
pub(super) const VERDICT_BYTES: usize = 1 + MAC_BYTES;
const _: () = assert!(HELLO_BYTES <= crate::limits::MAX_HELLO_BYTES);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A rank joins at rank 0.
    Control,
    /// Payloads between two ranks of a job that has met.
    Data,
}

/// Who dials, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) purpose: Purpose,
    /// Which of several data connections.
    pub(super) stream: u16,
    /// The dialling rank.
    pub(super) rank: u32,
    /// The rank that it means to reach.
    pub(super) to: u32,
    pub(super) world_size: u32,
    pub(super) generation: u32,
    pub(super) nonce: [u8; NONCE_BYTES],
}

/// The answer: something fresh to prove oneself on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) nonce: [u8; NONCE_BYTES],
}

/// What the answering side thinks of the dialling side's proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Proved; here is ours.
    Accepted([u8; MAC_BYTES]),
    /// Another secret, or another job.
    NotProved,
}

/// Why a first message is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHello {
    #[error("it does not speak this protocol")]
    Magic,
    #[error("it speaks version {0} of the protocol, expected {PROTOCOL}")]
    Version(u16),
    #[error("its first message has a field that cannot be")]
    Field,
}

fn preamble() -> [u8; 10] {
    let mut out = [0; 10];
    out[..8].copy_from_slice(&MAGIC);
    out[8..].copy_from_slice(&PROTOCOL.to_le_bytes());
    out
}

fn check_preamble(from: &[u8]) -> Result<(), BadHello> {
    match from {
        [magic @ .., low, high] if *magic == MAGIC => match u16::from_le_bytes([*low, *high]) {
            PROTOCOL => Ok(()),
            other => Err(BadHello::Version(other)),
        },
        _ => Err(BadHello::Magic),
    }
}

impl Hello {
    /// Whether the first bytes of a hello, however many came, can be one's.
    pub(super) fn check_beginning(bytes: &[u8]) -> Result<(), BadHello> {
        let compared = bytes.len().min(MAGIC.len());
        if bytes[..compared] == MAGIC[..compared] { Ok(()) } else { Err(BadHello::Magic) }
    }

    pub(super) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &preamble());
        put(
            10,
            &[match self.purpose {
                Purpose::Control => 1,
                Purpose::Data => 2,
            }],
        );
        put(12, &self.stream.to_le_bytes());
        put(16, &self.rank.to_le_bytes());
        put(20, &self.to.to_le_bytes());
        put(24, &self.world_size.to_le_bytes());
        put(28, &self.generation.to_le_bytes());
        put(32, &self.nonce);
        out
    }

    pub(super) fn decode(from: &[u8; HELLO_BYTES]) -> Result<Self, BadHello> {
        check_preamble(&from[..10])?;
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| from[at + byte]));
        let purpose = match from[10] {
            1 => Purpose::Control,
            2 => Purpose::Data,
            _ => return Err(BadHello::Field),
        };
        if from[11] != 0 || from[14..16] != [0, 0] {
            return Err(BadHello::Field);
        }
        Ok(Self {
            purpose,
            stream: u16::from_le_bytes([from[12], from[13]]),
            rank: u32_at(16),
            to: u32_at(20),
            world_size: u32_at(24),
            generation: u32_at(28),
            nonce: std::array::from_fn(|byte| from[32 + byte]),
        })
    }
}

impl Challenge {
    pub(super) fn encode(&self) -> [u8; CHALLENGE_BYTES] {
        let mut out = [0; CHALLENGE_BYTES];
        out[..10].copy_from_slice(&preamble());
        out[16..].copy_from_slice(&self.nonce);
        out
    }

    pub(super) fn decode(from: &[u8; CHALLENGE_BYTES]) -> Result<Self, BadHello> {
        check_preamble(&from[..10])?;
        if from[10..16] != [0; 6] {
            return Err(BadHello::Field);
        }
        Ok(Self { nonce: std::array::from_fn(|byte| from[16 + byte]) })
    }
}

impl Verdict {
    pub(super) fn encode(&self) -> [u8; VERDICT_BYTES] {
        let mut out = [0; VERDICT_BYTES];
        match self {
            Self::Accepted(mac) => {
                out[0] = 1;
                out[1..].copy_from_slice(mac);
            }
            Self::NotProved => out[0] = 2,
        }
        out
    }

    pub(super) fn decode(from: &[u8; VERDICT_BYTES]) -> Result<Self, BadHello> {
        match from[0] {
            1 => Ok(Self::Accepted(std::array::from_fn(|byte| from[1 + byte]))),
            2 => Ok(Self::NotProved),
            _ => Err(BadHello::Field),
        }
    }
}
