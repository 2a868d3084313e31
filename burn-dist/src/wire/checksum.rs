//! Checksums: against accidents, not against attackers.

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// CRC-32C (Castagnoli) of `bytes`, as in iSCSI: RFC 3720, appendix B.4. TCP's own sum of 16 bits lets real damage
/// through. Cost: about 0.01 ns a byte for bytes that are in cache, where the processor multiplies
/// polynomials of 512 bits.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-64/NVME of the parts, one after the other: for what must be told apart rather than protected.
pub(crate) fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    parts.into_iter().for_each(|part| digest.update(part));
    digest.finalize()
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_sums() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(super::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(super::hash([b"1234".as_slice(), b"56789"]), 0xae8b_1486_0a79_9888);
    }
}
