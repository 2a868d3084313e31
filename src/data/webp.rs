//! What WebP's decoder does not look at before it takes memory: a lossy frame has a size of its own in its header, and the
//! decoder makes room for it before it compares it with the canvas.
//!
//! Source: RFC 9649 (WebP container), RFC 6386 section 9.1 (VP8 frame header).

use std::iter;

/// Whether no lossy frame, alone or of an animation, is larger than the canvas. `file` begins with `RIFF`, a length and
/// `WEBP`.
pub(super) fn frames_fit(file: &[u8], (width, height): (u32, u32)) -> bool {
    let outer = chunks(file.get(12..).unwrap_or(&[]));
    let mut all = outer.flat_map(|(name, data)| {
        // Place, size and duration of an animation's frame, and its own chunks.
        let inner = data.get(16..).filter(|_| name == b"ANMF");
        iter::once((name, data)).chain(inner.into_iter().flat_map(chunks))
    });
    all.all(|(name, data)| match data.get(6..10) {
        Some(&[w0, w1, h0, h1]) if name == b"VP8 " => {
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3FFF);
            side(w0, w1) <= width && side(h0, h1) <= height
        }
        _ => true,
    })
}

/// The names and contents of chunks that follow each other; the last one may be cut short.
fn chunks(mut rest: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    iter::from_fn(move || {
        let (name, tail) = rest.split_at_checked(4)?;
        let (num_bytes, tail) = tail.split_first_chunk()?;
        let num_bytes = u32::from_le_bytes(*num_bytes) as usize;
        rest = tail.get(num_bytes.next_multiple_of(2)..).unwrap_or(&[]);
        Some((name, tail.get(..num_bytes).unwrap_or(tail)))
    })
}
