//! File bytes to pixels: JPEG, PNG and WebP, told apart by content and never by name.
//!
//! The reference is torchvision's default loader: Pillow's `Image.open(f).convert("RGB")`. So alpha is dropped,
//! palettes are looked up, CMYK and YCCK JPEGs are taken to be inverted as Adobe writes them, the first frame
//! stands for an animation, and EXIF orientation is ignored. Grey pictures stay at one channel here: the loader
//! repeats it, which is what `convert` does.
//!
//! Not as Pillow does it:
//! - 16-bit pictures give the high byte. Pillow does so for colour, but clips 16-bit grey at 255, nearly white.
//! - JPEG data that libjpeg repairs with a warning (an impossible Huffman code, bytes astray between segments) are
//!   refused: half a picture of grey is not data. So is a JPEG without its end-of-image marker, even if only the marker is missing.

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    ColorType, ImageDecoder, Limits,
    codecs::{png::PngDecoder, webp::WebPDecoder},
};

use super::{
    error::SampleFault,
    jpeg,
    picture::{Channels, Picture, check_num_pixels},
    transform::Geometry,
    webp::frames_fit,
};

/// The most bytes a picture's file may have. ImageNet's largest has 15 MB.
pub const MAX_FILE_BYTES: u64 = 512 << 20;

/// The most bytes that a PNG's rows and its chunks beside the pixels, unpacked, may take.
const MAX_PNG_EXTRA_BYTES: u64 = 16 << 20;

/// Bytes of a file in which its headers are looked for first.
const HEADERS_BYTES: u64 = 64 << 10;

/// Decodes a picture file over what `into` held.
///
/// # Errors
///
/// Every [`SampleFault`] but those of reading a file; limits are checked before memory is taken.
pub fn decode(file: &[u8], into: &mut Picture) -> Result<(), SampleFault> {
    guarded(|| match Format::of(file)? {
        Format::Jpeg => jpeg::decode(file, into),
        Format::Png => decode_with(png_decoder(file)?, into, png),
        Format::WebP => decode_with(webp_decoder(file)?, into, webp),
    })
}

/// Decoders are other people's code fed with strange files: a panic in one is the file's error.
fn guarded<T>(decode: impl FnOnce() -> Result<T, SampleFault>) -> Result<T, SampleFault> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or(Err(SampleFault::Panicked))
}

/// Decodes what of a picture file a transform needs; keeps its memory from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    parts: jpeg::PartDecoder,
}

impl Decoder {
    /// Decodes of a picture file at least what the geometry needs that `plan` makes of its width and height, over what
    /// `into` held. Returns the geometry for what was decoded. The file is the same afterwards.
    ///
    /// # Errors
    ///
    /// As [`decode`]; damage below the crop may go unnoticed.
    pub(crate) fn decode_for(
        &mut self,
        file: &mut [u8],
        into: &mut Picture,
        plan: impl FnMut(usize, usize) -> Geometry,
    ) -> Result<Geometry, SampleFault> {
        let result = guarded(|| self.decode_part(file, into, plan));
        if let Err(SampleFault::Panicked) = result {
            *self = Self::default();
        }
        result
    }

    fn decode_part(
        &mut self,
        file: &mut [u8],
        into: &mut Picture,
        mut plan: impl FnMut(usize, usize) -> Geometry,
    ) -> Result<Geometry, SampleFault> {
        let mut planned = None;
        if let Format::Jpeg = Format::of(file)? {
            let choose = |width, height| planned.insert(plan(width, height)).crop;
            let begin = self.parts.decode(file, into, choose)?;
            if let (Some((left, top)), Some(Geometry { crop, .. })) = (begin, &mut planned) {
                crop.left -= left;
                crop.top -= top;
            }
        }
        if let Some(geometry) = planned {
            return Ok(geometry);
        }
        decode(file, into)?;
        Ok(plan(into.width(), into.height()))
    }
}

/// What decodes most JPEGs in this build, on this processor.
pub fn jpeg_decoder() -> &'static str {
    jpeg::decoder()
}

/// The `(width, height)` that [`decode`] would give, from the headers alone; what follows them may be missing.
///
/// # Errors
///
/// As [`decode`], as far as headers show it.
pub fn dimensions(file: &[u8]) -> Result<(usize, usize), SampleFault> {
    let (width, height) = guarded(|| {
        Ok(match Format::of(file)? {
            Format::Jpeg => jpeg::dimensions(file)?,
            Format::Png => png_decoder(file)?.dimensions(),
            Format::WebP => webp_decoder(file)?.dimensions(),
        })
    })?;
    check_num_pixels(width.into(), height.into())?;
    Ok((width as usize, height as usize))
}

/// As [`dimensions`], of a file that `read` gives at most so many bytes of, from its start.
///
/// # Errors
///
/// As [`dimensions`], and those of `read`.
pub(crate) fn dimensions_by(
    read: impl Fn(u64) -> Result<Vec<u8>, SampleFault>,
) -> Result<(usize, usize), SampleFault> {
    let start = read(HEADERS_BYTES)?;
    match dimensions(&start) {
        // The headers may be longer, by a colour profile or a thumbnail.
        Err(_) if start.len() as u64 == HEADERS_BYTES => dimensions(&read(MAX_FILE_BYTES)?),
        result => result,
    }
}

/// The formats that are decoded.
enum Format {
    Jpeg,
    Png,
    WebP,
}

impl Format {
    fn of(file: &[u8]) -> Result<Self, SampleFault> {
        match file {
            [] => Err(SampleFault::Empty),
            [0xFF, 0xD8, 0xFF, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Ok(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::WebP),
            _ => Err(match other_format(file) {
                Some(format) => SampleFault::UnsupportedFormat { format },
                None => SampleFault::NotAPicture,
            }),
        }
    }
}

/// A decoder that has read the headers. Without a limit it would unpack a colour profile to a thousand times its bytes.
fn png_decoder(file: &[u8]) -> Result<PngDecoder<Cursor<&[u8]>>, SampleFault> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_PNG_EXTRA_BYTES);
    PngDecoder::with_limits(Cursor::new(file), limits).map_err(png)
}

fn png(error: image::ImageError) -> SampleFault {
    SampleFault::Damaged { format: "PNG", reason: one_line(error) }
}

/// A decoder that has read the headers.
fn webp_decoder(file: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>, SampleFault> {
    let decoder = WebPDecoder::new(Cursor::new(file)).map_err(webp)?;
    if !frames_fit(file, decoder.dimensions()) {
        let reason = "a frame is larger than the canvas".into();
        return Err(SampleFault::Damaged { format: "WebP", reason });
    }
    Ok(decoder)
}

fn webp(error: image::ImageError) -> SampleFault {
    SampleFault::Damaged { format: "WebP", reason: one_line(error) }
}

/// The formats of torchvision's extensions, and others one meets, that are known but not decoded.
fn other_format(file: &[u8]) -> Option<&'static str> {
    Some(match file {
        // The size of BMP's second header tells it from a text that begins with BM.
        [b'B', b'M', _, _, _, _, _, _, _, _, _, _, _, _, 12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0, ..] => {
            "BMP"
        }
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "TIFF",
        [b'P', b'1'..=b'7', b' ' | b'\t' | b'\n' | b'\r', ..] => "PNM",
        [b'G', b'I', b'F', b'8', ..] => "GIF",
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f', ..] => "AVIF",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h', b'e', b'i', ..] => "HEIC",
        _ => return None,
    })
}

/// PNG and WebP by `image`.
fn decode_with(
    decoder: impl ImageDecoder,
    into: &mut Picture,
    damaged: impl Fn(image::ImageError) -> SampleFault,
) -> Result<(), SampleFault> {
    let (width, height) = decoder.dimensions();
    check_num_pixels(width.into(), height.into())?;
    let color = decoder.color_type();
    let (channels, samples, depth) = match color {
        ColorType::L8 => (Channels::Grey, 1, 1),
        ColorType::La8 => (Channels::Grey, 2, 1),
        ColorType::Rgb8 => (Channels::Rgb, 3, 1),
        ColorType::Rgba8 => (Channels::Rgb, 4, 1),
        ColorType::L16 => (Channels::Grey, 1, 2),
        ColorType::La16 => (Channels::Grey, 2, 2),
        ColorType::Rgb16 => (Channels::Rgb, 3, 2),
        ColorType::Rgba16 => (Channels::Rgb, 4, 2),
        _ => return Err(SampleFault::UnsupportedFormat { format: "floating-point" }),
    };
    let pixels = into.reshape(width as usize, height as usize, channels)?;
    if samples * depth == channels.count() {
        return decoder.read_image(pixels).map_err(damaged);
    }
    let mut wide = vec![0; width as usize * height as usize * samples * depth];
    decoder.read_image(&mut wide).map_err(damaged)?;
    // `image` gives 16-bit samples in native order.
    let high_byte = if cfg!(target_endian = "little") { depth - 1 } else { 0 };
    for (pixel, source) in pixels.chunks_exact_mut(channels.count()).zip(wide.chunks_exact(samples * depth)) {
        for (sample, source) in pixel.iter_mut().zip(source.chunks_exact(depth)) {
            *sample = source[high_byte];
        }
    }
    Ok(())
}

/// A decoder's message on one line, without the quotes of a debug format.
pub(super) fn one_line(error: impl ToString) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ").replace('"', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Transform;

    #[test]
    fn a_panic_on_the_way_is_the_file_s_error() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/pictures");
        let mut file = std::fs::read(path.join("jpeg_420.jpg")).unwrap();
        let (mut decoder, mut picture) = (Decoder::default(), Picture::default());
        let result = decoder.decode_for(&mut file, &mut picture, |_, _| panic!("as a decoder may"));
        assert!(matches!(result, Err(SampleFault::Panicked)), "{result:?}");
        let mut stream = crate::data::random::Stream::of_sample(0, 0, 0);
        let crop = Transform::CenterCrop { size: 16, resize: 16 };
        let plan = |width, height| crop.plan(width, height, &mut stream);
        decoder.decode_for(&mut file, &mut picture, plan).unwrap();
    }
}
