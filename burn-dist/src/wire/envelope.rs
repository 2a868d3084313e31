//! Messages of a control connection, whatever they say: a length of 4 bytes, the message, its CRC-32C of 4 bytes, all
//! little-endian. The length counts what follows it. Not the frames of data connections: see [`super::header`].

use super::checksum::crc32c;

const SUM_BYTES: usize = size_of::<u32>();

/// A message as it travels.
///
/// # Errors
/// It would be more than the `max_bytes` that the other side takes; how many.
pub(crate) fn enclose(message: &[u8], max_bytes: usize) -> Result<Vec<u8>, usize> {
    let bytes = message.len() + SUM_BYTES;
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= max_bytes).ok_or(bytes)?;
    Ok([&length.to_le_bytes(), message, &crc32c(message).to_le_bytes()].concat())
}

/// The length of what comes, if it may be that long.
pub(crate) fn body_length(prefix: [u8; 4], max_bytes: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(prefix)).ok().filter(|length| *length <= max_bytes)
}

/// The message in what came behind the length.
///
/// # Errors
/// It is not what was sent, in words.
pub(crate) fn open(body: &[u8]) -> Result<&[u8], String> {
    let Some((message, sum)) = body.split_last_chunk() else {
        return Err(format!(
            "a message of {} bytes, with its checksum it has at least {SUM_BYTES}",
            body.len()
        ));
    };
    let (got, said) = (crc32c(message), u32::from_le_bytes(*sum));
    if got == said {
        return Ok(message);
    }
    let bytes = message.len();
    Err(format!("a message of {bytes} bytes has CRC-32C {got:08x}, its sender computed {said:08x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_and_every_flipped_bit_is_noticed() {
        for message in [b"".as_slice(), b"{\"Heartbeat\":{\"now\":null,\"last_seq\":7}}"] {
            let whole = enclose(message, 100).unwrap();
            let (prefix, body) = whole.split_first_chunk().unwrap();
            assert_eq!((body_length(*prefix, 100), open(body)), (Some(body.len()), Ok(message)));
            for bit in 0..body.len() * 8 {
                let mut body = body.to_vec();
                body[bit / 8] ^= 1 << (bit % 8);
                assert!(open(&body).unwrap_err().contains("its sender computed"), "bit {bit}");
            }
            // Where a length is wrong, another part is taken for the message.
            (0..body.len()).for_each(|length| assert!(open(&body[..length]).is_err(), "{length} bytes"));
        }
    }

    #[test]
    fn too_much_is_neither_sent_nor_taken() {
        assert_eq!(enclose(&[0; 97], 100), Err(101));
        assert_eq!(body_length(100u32.to_le_bytes(), 100), Some(100));
        for length in [101, 1 << 31, u32::MAX] {
            assert_eq!(body_length(length.to_le_bytes(), 100), None);
        }
    }
}
