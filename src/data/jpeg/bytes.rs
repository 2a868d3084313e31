//! A file's bytes as zune-jpeg reads them, four or one at a time.
//!
//! The decoder's own `ZCursor` leaves the length of a read open, so that each is a call to `memmove`; without them decoding
//! takes 7 % less (benches/RESULTS.md).

use zune_jpeg::zune_core::bytestream::{ZByteIoError, ZByteReaderTrait, ZSeekFrom};

/// The bytes, and where it is; that may be beyond the end.
pub(super) struct Bytes<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    pub(super) fn of(file: &'a [u8]) -> Self {
        Self { file, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        self.file.get(self.at..).unwrap_or_default()
    }
}

impl ZByteReaderTrait for Bytes<'_> {
    #[inline(always)]
    fn read_byte_no_error(&mut self) -> u8 {
        let byte = self.file.get(self.at).copied();
        self.at += 1;
        byte.unwrap_or(0)
    }

    // Within the decoder's loop the length of `into` is known, and the copy is one instruction.
    #[inline(always)]
    fn read_exact_bytes(&mut self, into: &mut [u8]) -> Result<(), ZByteIoError> {
        self.peek_exact_bytes(into)?;
        self.at += into.len();
        Ok(())
    }

    fn read_bytes(&mut self, into: &mut [u8]) -> Result<usize, ZByteIoError> {
        let num_read = self.peek_bytes(into)?;
        self.at += num_read;
        Ok(num_read)
    }

    fn peek_bytes(&mut self, into: &mut [u8]) -> Result<usize, ZByteIoError> {
        let len = self.rest().len().min(into.len());
        into[..len].copy_from_slice(&self.rest()[..len]);
        Ok(len)
    }

    #[inline(always)]
    fn peek_exact_bytes(&mut self, into: &mut [u8]) -> Result<(), ZByteIoError> {
        match self.rest().get(..into.len()) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => return Err(ZByteIoError::NotEnoughBytes(self.rest().len(), into.len())),
        }
        Ok(())
    }

    fn z_seek(&mut self, from: ZSeekFrom) -> Result<u64, ZByteIoError> {
        let at = match from {
            ZSeekFrom::Start(at) => usize::try_from(at).ok(),
            ZSeekFrom::End(by) => {
                isize::try_from(by).ok().and_then(|by| self.file.len().checked_add_signed(by))
            }
            ZSeekFrom::Current(by) => isize::try_from(by).ok().and_then(|by| self.at.checked_add_signed(by)),
        };
        self.at = at.ok_or(ZByteIoError::SeekError("a place before the file"))?;
        Ok(self.at as u64)
    }

    fn is_eof(&mut self) -> Result<bool, ZByteIoError> {
        Ok(self.rest().is_empty())
    }

    fn z_position(&mut self) -> Result<u64, ZByteIoError> {
        Ok(self.at as u64)
    }

    fn read_remaining(&mut self, sink: &mut Vec<u8>) -> Result<usize, ZByteIoError> {
        let rest = self.rest();
        sink.extend_from_slice(rest);
        self.at = self.file.len();
        Ok(rest.len())
    }
}
