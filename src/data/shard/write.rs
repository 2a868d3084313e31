//! A shard being written: a tar's bytes, and the index of what went into it.

use std::io::{self, Write};

use super::index::{Entry, ShardIndex};

/// Writes pictures and their classes as `webdataset` expects them: `KEY.cls`, then `KEY.jpg`.
pub(crate) struct ShardWriter<W: Write> {
    tar: tar::Builder<Counted<W>>,
    entries: Vec<Entry>,
}

impl<W: Write> ShardWriter<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { tar: tar::Builder::new(Counted { to, num_bytes: 0 }), entries: Vec::new() }
    }

    /// Appends a picture's file and its class. A key has no dot and no other picture has it.
    ///
    /// # Errors
    ///
    /// What `to` says, and [`io::ErrorKind::InvalidInput`] for a file of 4 GiB.
    pub(crate) fn append(
        &mut self,
        key: &str,
        label: u32,
        (width, height): (u32, u32),
        file: &[u8],
    ) -> io::Result<()> {
        let num_bytes = u32::try_from(file.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.file(&format!("{key}.cls"), label.to_string().as_bytes())?;
        self.file(&format!("{key}.{}", extension(file)), file)?;
        // A tar's files end on whole blocks of 512 bytes.
        let offset = self.tar.get_ref().num_bytes - u64::from(num_bytes).next_multiple_of(512);
        self.entries.push(Entry { offset, num_bytes, label, width, height, crc32c: crc32c::crc32c(file) });
        Ok(())
    }

    /// Ends the tar.
    ///
    /// # Errors
    ///
    /// What `to` says.
    pub(crate) fn finish(self) -> io::Result<(W, ShardIndex)> {
        let Counted { to, num_bytes } = self.tar.into_inner()?;
        Ok((to, ShardIndex { tar_bytes: num_bytes, entries: self.entries }))
    }

    /// The same bytes whenever and by whomever they are written.
    fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.tar.append_data(&mut header, path, bytes)
    }
}

/// A picture's extension, by its content.
pub(crate) fn extension(file: &[u8]) -> &'static str {
    match file {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => "jpg",
    }
}

/// Counts what is written.
struct Counted<W> {
    to: W,
    num_bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.num_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
