//! CRC-32C (Castagnoli), as in iSCSI: RFC 3720, appendix B.4. TCP's own sum of 16 bits lets real damage through.

/// The checksum of `bytes`. Cost: about 0.01 ns a byte for bytes that are in cache, where the processor multiplies
/// polynomials of 512 bits.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_sums() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(super::crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
