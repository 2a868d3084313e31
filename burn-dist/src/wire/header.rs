//! The 64 bytes before every payload. The receiver knows beforehand what must come: a difference is an error, never a
//! reason to allocate.
//!
//! ```text
//!  0 magic u32   4 version u16   6 flags u16    8 generation u32   12 payload crc32c u32
//! 16 seq u64    24 fingerprint u64            32 offset u64        40 bytes u32
//! 44 reserved, zero (16 bytes)                                     60 header crc32c u32
//! ```
//! Little-endian. The last field protects the 60 bytes before it.

use super::checksum::crc32c;

/// "BDST".
const MAGIC: u32 = u32::from_le_bytes(*b"BDST");
const VERSION: u16 = 1;
/// The length of a header.
pub(crate) const HEADER_BYTES: usize = 64;

/// The payload is protected by its checksum.
pub(crate) const CHECKED: u16 = 1;
/// Header and payload are in shared memory.
pub(crate) const SHARED: u16 = 1 << 1;
/// No frame, but a bell: look into shared memory.
pub(crate) const BELL: u16 = 1 << 2;
/// Somewhere up the stream a rank's numbers were not finite.
pub(crate) const NOT_FINITE: u16 = 1 << 3;
const KNOWN_FLAGS: u16 = CHECKED | SHARED | BELL | NOT_FINITE;

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Header {
    pub(crate) flags: u16,
    /// Which start of the job.
    pub(crate) generation: u32,
    /// Of the payload, if [`CHECKED`].
    pub(crate) payload_crc: u32,
    /// The operation's number.
    pub(crate) seq: u64,
    /// The operation's fingerprint.
    pub(crate) fingerprint: u64,
    /// Where in the buffer the payload belongs, in elements.
    pub(crate) offset: u64,
    /// The payload's length.
    pub(crate) bytes: u32,
}

/// Why 64 bytes are no header of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHeader {
    #[error("a frame begins with {0:08x}, which is not this protocol")]
    Magic(u32),
    #[error("a frame of protocol version {0}, expected {VERSION}")]
    Version(u16),
    #[error("a frame header has CRC-32C {got:08x}, it says {said:08x}")]
    Checksum { got: u32, said: u32 },
    #[error("a frame header has unknown flags {0:04x}")]
    Flags(u16),
}

impl Header {
    /// The header as it travels.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(4, &VERSION.to_le_bytes());
        put(6, &self.flags.to_le_bytes());
        put(8, &self.generation.to_le_bytes());
        put(12, &self.payload_crc.to_le_bytes());
        put(16, &self.seq.to_le_bytes());
        put(24, &self.fingerprint.to_le_bytes());
        put(32, &self.offset.to_le_bytes());
        put(40, &self.bytes.to_le_bytes());
        let crc = crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header.
    pub(crate) fn decode(from: &[u8; HEADER_BYTES]) -> Result<Self, BadHeader> {
        let u16_at = |at: usize| u16::from_le_bytes([from[at], from[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn::<u8, 4, _>(|byte| from[at + byte]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn::<u8, 8, _>(|byte| from[at + byte]));
        if u32_at(0) != MAGIC {
            return Err(BadHeader::Magic(u32_at(0)));
        }
        // The sum first: what it does not protect is not believed, a version least of all.
        let (got, said) = (crc32c(&from[..60]), u32_at(60));
        if got != said {
            return Err(BadHeader::Checksum { got, said });
        }
        if u16_at(4) != VERSION {
            return Err(BadHeader::Version(u16_at(4)));
        }
        let flags = u16_at(6);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(BadHeader::Flags(flags));
        }
        Ok(Self {
            flags,
            generation: u32_at(8),
            payload_crc: u32_at(12),
            seq: u64_at(16),
            fingerprint: u64_at(24),
            offset: u64_at(32),
            bytes: u32_at(40),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Header {
        Header {
            flags: CHECKED,
            generation: 3,
            payload_crc: 0xdead_beef,
            seq: 1 << 40,
            fingerprint: u64::MAX - 5,
            offset: 17,
            bytes: 1 << 20,
        }
    }

    #[test]
    fn a_header_comes_back() {
        assert_eq!(Header::decode(&some().encode()), Ok(some()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = some().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = some().encode();
        bytes[4] = 9;
        let crc = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(BadHeader::Version(9)));
    }
}
