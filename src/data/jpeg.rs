//! JPEG: of most pictures the part that a crop needs, by a decoder of our own with AVX2 (`baseline`); what that does not
//! take, or a processor without AVX2, by libjpeg-turbo under the feature `turbojpeg`, and else by zune-jpeg.
//!
//! Neither crate `image`, which always asks zune-jpeg to make up pixels for data that are missing. A JPEG has no index:
//! all rows above a part must be read. What is below it need not: the others stop there, and a header that states a
//! smaller height makes zune-jpeg stop. Source of the format: ITU-T T.81, annex B.
//!
//! Our pixels are libjpeg-turbo's, and with that Pillow's, to the last bit; zune-jpeg's are within 8 of them, less than 0.4 on
//! average over a picture. What zune-jpeg refuses the others refuse too, and besides an end-of-image marker that comes
//! early, for which zune-jpeg makes up the rest.

#[cfg(target_arch = "x86_64")]
mod baseline;
#[cfg(not(target_arch = "x86_64"))]
#[path = "jpeg/none.rs"]
mod baseline;
mod bytes;

use zune_jpeg::{
    JpegDecoder,
    errors::DecodeErrors,
    zune_core::{colorspace::ColorSpace, options::DecoderOptions},
};

use self::bytes::Bytes;
use super::{
    crop::CropBox,
    decode::one_line,
    error::SampleFault,
    picture::{Channels, Picture, check_num_pixels},
};

/// The largest side a JPEG header can state.
const MAX_JPEG_SIDE: usize = u16::MAX as usize;

/// Decodes a JPEG file over what `into` held.
pub(super) fn decode(file: &[u8], into: &mut Picture) -> Result<(), SampleFault> {
    check(file)?;
    if let Some(frame) = Frame::of(file) {
        let whole = CropBox { left: 0, top: 0, width: frame.width, height: frame.height };
        if decode_baseline(baseline::Decoder::new().as_mut(), file, &frame, whole, into)? {
            return Ok(());
        }
    }
    decode_checked(file, into)
}

/// Decodes a part by our own decoder. False if it does not take the file.
fn decode_baseline(
    decoder: Option<&mut baseline::Decoder>,
    file: &[u8],
    frame: &Frame,
    part: CropBox,
    into: &mut Picture,
) -> Result<bool, SampleFault> {
    let Some(decoder) = decoder else { return Ok(false) };
    let Some(start) = decoder.headers(file, frame) else { return Ok(false) };
    let pixels = into.reshape(part.width, part.height, frame.channels)?;
    decoder.decode(&file[start..], frame, part, pixels).map_err(damaged)?;
    Ok(true)
}

/// By zune-jpeg.
fn decode_checked(file: &[u8], into: &mut Picture) -> Result<(), SampleFault> {
    let (mut decoder, (width, height), space) = headers(file)?;
    let (channels, space) = match space {
        ColorSpace::Luma => (Channels::Grey, ColorSpace::Luma),
        _ => (Channels::Rgb, ColorSpace::RGB),
    };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(space));
    let pixels = into.reshape(width as usize, height as usize, channels)?;
    match decoder.output_buffer_size() {
        Some(bytes) if bytes == pixels.len() => decoder.decode_into(pixels).map_err(fault),
        _ => Err(damaged("its components have no known meaning")),
    }
}

/// The decoder for parts, in words.
pub(super) fn decoder() -> &'static str {
    match baseline::Decoder::new() {
        Some(_) => "our own decoder (AVX2)",
        None if cfg!(feature = "turbojpeg") => "libjpeg-turbo",
        None => "zune-jpeg",
    }
}

/// The `(width, height)` from the headers.
pub(super) fn dimensions(file: &[u8]) -> Result<(u32, u32), SampleFault> {
    Ok(headers(file)?.1)
}

fn fault(error: DecodeErrors) -> SampleFault {
    damaged(one_line(error))
}

fn damaged(reason: impl Into<String>) -> SampleFault {
    SampleFault::Damaged { format: "JPEG", reason: reason.into() }
}

type Jpeg<'a> = JpegDecoder<Bytes<'a>>;

/// A decoder that has read the headers, the `(width, height)`, and the components' meaning.
fn headers(file: &[u8]) -> Result<(Jpeg<'_>, (u32, u32), ColorSpace), SampleFault> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_JPEG_SIDE)
        .set_max_height(MAX_JPEG_SIDE);
    let mut decoder = JpegDecoder::new_with_options(Bytes::of(file), options);
    decoder.decode_headers().map_err(fault)?;
    match (decoder.dimensions(), decoder.input_colorspace()) {
        // Sides of at most MAX_JPEG_SIDE.
        (Some((width, height)), Some(space)) => Ok((decoder, (width as u32, height as u32), space)),
        _ => Err(damaged("no frame header")),
    }
}

/// Refuses what the decoder takes for something else without a word, even in its strict mode: a JPEG without an
/// end-of-image marker after its first scan, of whose last row of blocks it makes up what is missing, and one that is not
/// progressive and has a scan for each component, whose colours it gets wrong.
///
/// Segments before the scan are stepped over, for a thumbnail in one has a marker of its own. Within a scan the bytes
/// of the marker do not occur (ITU-T T.81, F.1.2.3: 0xFF is followed by 0).
fn check(file: &[u8]) -> Result<(), SampleFault> {
    let mut in_frame = 0;
    let mut data: &[u8] = &[];
    for Segment { marker, start, content } in Segments::of(file) {
        match (marker, content) {
            (0xC0 | 0xC1, &[_, _, _, _, _, num_components, ..]) => in_frame = num_components,
            (START_OF_SCAN, &[in_scan, ..]) if in_scan < in_frame => {
                return Err(damaged("its components are in scans of their own, which is not decoded here"));
            }
            (START_OF_SCAN, _) => data = &file[start..],
            _ => {}
        }
    }
    match data.windows(2).rev().any(|pair| pair == [0xFF, 0xD9]) {
        true => Ok(()),
        false => Err(damaged("it ends before its end-of-image marker")),
    }
}

const START_OF_SCAN: u8 = 0xDA;

/// A part of a file that begins with a marker and its length.
struct Segment<'a> {
    marker: u8,
    /// Where in the file what follows the length begins.
    start: usize,
    content: &'a [u8],
}

/// The segments of a file up to its first scan, that included, as far as they follow each other.
struct Segments<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    fn of(file: &'a [u8]) -> Self {
        // Behind the start-of-image marker.
        Self { file, at: 2 }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        while let [0xFF, 0xFF, ..] = self.file.get(self.at..)? {
            self.at += 1;
        }
        let [0xFF, marker, high, low, ..] = *self.file.get(self.at..)? else { return None };
        let start = self.at + 4;
        let end = self.at + 2 + usize::from(u16::from_be_bytes([high, low]));
        let content = self.file.get(start..end)?;
        self.at = if marker == START_OF_SCAN { self.file.len() } else { end };
        Some(Segment { marker, start, content })
    }
}

/// What the headers say of a JPEG of which a part can be decoded.
#[derive(Debug, Clone, Copy)]
struct Frame {
    width: usize,
    height: usize,
    /// Where in the file the height is.
    #[cfg_attr(feature = "turbojpeg", expect(dead_code, reason = "for the other decoder"))]
    height_at: usize,
    /// The blocks that are coded together, in pixels.
    unit: (usize, usize),
    has_restarts: bool,
    channels: Channels,
}

impl Frame {
    /// `None` for what is to be decoded as a whole: unless all of it is in one scan of Huffman-coded, not progressive
    /// data of 8 bits, grey or YCbCr, at most twice as coarse in colour, its rows do not come one after the other, or
    /// decoders may take it differently.
    fn of(file: &[u8]) -> Option<Self> {
        let mut frame = None;
        let mut has_restarts = false;
        for Segment { marker, start, content } in Segments::of(file) {
            match (marker, content) {
                (0xC0 | 0xC1, &[8, y1, y0, x1, x0, num_components, ref components @ ..])
                    if frame.is_none() =>
                {
                    let [height, width] =
                        [[y1, y0], [x1, x0]].map(|side| usize::from(u16::from_be_bytes(side)));
                    let (channels, unit) = match (num_components, components) {
                        (1, [_, _, _]) => (Channels::Grey, (8, 8)),
                        // Numbered from 1, as JFIF has it, or from 0: no decoder takes either for RGB.
                        (3, &[1, luma @ (0x11 | 0x21 | 0x12 | 0x22), _, 2, 0x11, _, 3, 0x11, _])
                        | (3, &[0, luma @ (0x11 | 0x21 | 0x12 | 0x22), _, 1, 0x11, _, 2, 0x11, _]) => {
                            (Channels::Rgb, (8 * usize::from(luma >> 4), 8 * usize::from(luma & 15)))
                        }
                        _ => return None,
                    };
                    let height_at = start + 1;
                    frame = Some(Self { width, height, height_at, unit, has_restarts, channels });
                }
                // Adobe's word on what the components mean, its last byte: YCbCr.
                (0xEE, &[b'A', b'd', b'o', b'b', b'e', .., 1]) if content.len() == 12 => {}
                // Other such words; other frames; a height that comes later.
                (0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xDC | 0xEE, _) => return None,
                (0xDD, _) => has_restarts = true,
                (START_OF_SCAN, &[num_components, ..]) => {
                    let frame: Self = frame?;
                    let is_whole = usize::from(num_components) == frame.channels.count();
                    return (is_whole && frame.width * frame.height > 0)
                        .then_some(Self { has_restarts, ..frame });
                }
                _ => {}
            }
        }
        None
    }

    /// The rows from the top on that must be decoded for those before `bottom`: whole units, and one more where the
    /// colours of a unit's last row depend on the next.
    #[cfg(not(feature = "turbojpeg"))]
    fn rows_before(&self, bottom: usize) -> usize {
        let unit = self.unit.1;
        let more = if unit > 8 { unit } else { 0 };
        if self.has_restarts { self.height } else { (bottom.next_multiple_of(unit) + more).min(self.height) }
    }
}

/// Decodes parts of JPEG files; keeps what it needs for that from one to the next.
#[derive(Debug)]
pub(super) struct PartDecoder {
    /// `None` on a processor without AVX2.
    baseline: Option<baseline::Decoder>,
    #[cfg(feature = "turbojpeg")]
    turbo: super::turbo::Decoder,
}

impl Default for PartDecoder {
    fn default() -> Self {
        Self {
            baseline: baseline::Decoder::new(),
            #[cfg(feature = "turbojpeg")]
            turbo: Default::default(),
        }
    }
}

impl PartDecoder {
    /// Decodes at least the part of a JPEG file that `choose` picks, given its width and height, and returns where in
    /// the whole picture's what was decoded begins: `(left, top)`. `None` if it is to be decoded as a whole.
    ///
    /// What lies below the part is not looked at, but for the end-of-image marker: damage there goes unnoticed.
    pub(super) fn decode(
        &mut self,
        file: &mut [u8],
        into: &mut Picture,
        choose: impl FnOnce(usize, usize) -> CropBox,
    ) -> Result<Option<(usize, usize)>, SampleFault> {
        let Some(frame) = Frame::of(file) else { return Ok(None) };
        check_num_pixels(frame.width as u64, frame.height as u64)?;
        check(file)?;
        let part = choose(frame.width, frame.height);
        if decode_baseline(self.baseline.as_mut(), file, &frame, part, into)? {
            return Ok(Some((part.left, part.top)));
        }
        #[cfg(not(feature = "turbojpeg"))]
        {
            // The decoder stops after the height that the header states.
            let rows = frame.rows_before(part.top + part.height) as u16;
            file[frame.height_at..][..2].copy_from_slice(&rows.to_be_bytes());
            let done = decode_checked(file, into);
            file[frame.height_at..][..2].copy_from_slice(&(frame.height as u16).to_be_bytes());
            done.map(|()| Some((0, 0)))
        }
        #[cfg(feature = "turbojpeg")]
        {
            // Colours that are coarser depend on the unit beside.
            let unit = frame.unit.0;
            let more = if unit > 8 { unit } else { 0 };
            let left = part.left.saturating_sub(more) / unit * unit;
            let right = (part.left + part.width + more).min(frame.width);
            let part = CropBox { left, width: right - left, ..part };
            let pixels = into.reshape(part.width, part.height, frame.channels)?;
            self.turbo.decode(file, part, frame.channels, pixels).map_err(damaged)?;
            Ok(Some((left, part.top)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jpeg").join(name)).unwrap()
    }

    const NAMES: [&str; 4] = ["part_444.jpg", "part_422.jpg", "part_420.jpg", "part_grey.jpg"];

    /// Parts of a picture of 131 x 118: all of it, corners, a middle, a pixel.
    const PARTS: [CropBox; 6] = [
        CropBox { left: 0, top: 0, width: 131, height: 118 },
        CropBox { left: 0, top: 0, width: 20, height: 9 },
        CropBox { left: 100, top: 90, width: 31, height: 28 },
        CropBox { left: 33, top: 17, width: 50, height: 47 },
        CropBox { left: 37, top: 32, width: 11, height: 16 },
        CropBox { left: 130, top: 64, width: 1, height: 1 },
    ];

    fn part_of(picture: &Picture, part: CropBox) -> Vec<u8> {
        let depth = picture.channels().count();
        let rows = picture.pixels().chunks_exact(picture.width() * depth).skip(part.top).take(part.height);
        rows.flat_map(|row| &row[part.left * depth..][..part.width * depth]).copied().collect()
    }

    fn decode_part(file: &mut [u8], part: CropBox) -> Result<Vec<u8>, SampleFault> {
        let mut picture = Picture::default();
        let begin = PartDecoder::default().decode(file, &mut picture, |_, _| part)?;
        let (left, top) = begin.expect("the picture is one that is decoded in part");
        Ok(part_of(&picture, CropBox { left: part.left - left, top: part.top - top, ..part }))
    }

    #[test]
    fn a_part_is_the_part_of_the_whole() {
        for name in NAMES {
            let mut file = fixture(name);
            let whole = decode_part(&mut file, PARTS[0]).unwrap();
            let mut picture = Picture::default();
            decode(&file, &mut picture).unwrap();
            picture.reshape(131, 118, picture.channels()).unwrap().copy_from_slice(&whole);
            for part in PARTS {
                let before = file.clone();
                assert!(decode_part(&mut file, part).unwrap() == part_of(&picture, part), "{name} {part:?}");
                assert!(file == before, "{name}: the file changed");
            }
        }
    }

    #[test]
    fn rows_below_the_part_are_not_decoded() {
        for name in NAMES {
            let mut picture = Picture::default();
            let part = CropBox { left: 40, top: 3, width: 9, height: 9 };
            PartDecoder::default().decode(&mut fixture(name), &mut picture, |_, _| part).unwrap();
            assert!(picture.height() <= 32, "{name}: {} rows", picture.height());
        }
    }

    /// The fixtures, one with colors half as high, and real pictures.
    fn pictures() -> Vec<(String, Vec<u8>)> {
        let mut pictures: Vec<(String, Vec<u8>)> =
            NAMES.iter().map(|name| (name.to_string(), fixture(name))).collect();
        let mut picture = Picture::default();
        decode(&fixture("part_444.jpg"), &mut picture).unwrap();
        let mut file = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut file, 90);
        encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::R_4_4_0);
        encoder.encode(picture.pixels(), 131, 118, jpeg_encoder::ColorType::Rgb).unwrap();
        assert_eq!(Frame::of(&file).unwrap().unit, (8, 16));
        pictures.push(("4:4:0".into(), file));
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/imagenet-200-jpeg.tar");
        match crate::data::open(&crate::data::Location::Path(archive), crate::data::Split::Train) {
            Ok(source) => pictures.extend((0..source.num_images()).map(|index| {
                let mut file = Vec::new();
                source.read_file(index, &mut file).unwrap();
                (source.name(index), file)
            })),
            Err(error) => eprintln!("SKIP: of real pictures, {error}"),
        }
        pictures
    }

    /// The decoder for parts, and zune-jpeg.
    #[test]
    fn decoders_agree() {
        let (mut sum, mut num_bytes, mut worst, mut worst_mean) = (0, 0, 0, 0.0_f64);
        for (name, mut file) in pictures() {
            let mut whole = Picture::default();
            decode_checked(&file, &mut whole).unwrap();
            if Frame::of(&file).is_none() {
                continue;
            }
            let part = CropBox { left: 0, top: 0, width: whole.width(), height: whole.height() };
            let got = decode_part(&mut file, part).unwrap();
            let differences = got.iter().zip(whole.pixels()).map(|(a, b)| u64::from(a.abs_diff(*b)));
            let mean = differences.clone().sum::<u64>() as f64 / got.len() as f64;
            assert!(mean <= MAX_MEAN_DIFFERENCE, "{name}: {mean}");
            worst_mean = worst_mean.max(mean);
            worst = worst.max(differences.clone().max().unwrap());
            sum += differences.sum::<u64>();
            num_bytes += got.len();
        }
        let mean = sum as f64 / num_bytes as f64;
        eprintln!("mean {mean:.4}, of the worst picture {worst_mean:.4}, worst byte {worst}");
        assert!(worst as f64 <= MAX_DIFFERENCE, "{worst}");
    }

    #[cfg(feature = "turbojpeg")]
    #[test]
    fn our_pixels_are_those_of_libjpeg_turbo() {
        let mut ours = PartDecoder::default();
        if ours.baseline.is_none() {
            eprintln!("SKIP: this processor has no AVX2");
            return;
        }
        let mut turbo = PartDecoder { baseline: None, ..PartDecoder::default() };
        for (name, mut file) in pictures() {
            let Some(Frame { width, height, .. }) = Frame::of(&file) else { continue };
            let [w, h] = [width / 3, height / 5];
            for part in [
                CropBox { left: 0, top: 0, width, height },
                CropBox { left: w, top: h, width: w, height: 2 * h },
                CropBox { left: 1, top: 2 * h + 1, width: w + 1, height: height - 2 * h - 1 },
                CropBox { left: width - w, top: 1, width: w, height: h },
            ] {
                let [got, expected] = [&mut ours, &mut turbo].map(|decoder| {
                    let mut picture = Picture::default();
                    let (left, top) = decoder.decode(&mut file, &mut picture, |_, _| part).unwrap().unwrap();
                    part_of(&picture, CropBox { left: part.left - left, top: part.top - top, ..part })
                });
                assert!(got == expected, "{name} {part:?}");
            }
        }
    }

    /// Of a picture's mean, and of a byte, in 1/255: both compute the same transform in whole numbers of their own.
    const MAX_MEAN_DIFFERENCE: f64 = 0.4;
    const MAX_DIFFERENCE: f64 = 8.0;

    #[test]
    fn what_is_damaged_is_refused() {
        let top = CropBox { left: 40, top: 3, width: 9, height: 9 };
        for name in NAMES {
            let file = fixture(name);
            let scan = Segments::of(&file).find(|segment| segment.marker == START_OF_SCAN).unwrap().start;
            let refused = |mut file: Vec<u8>, part| decode_part(&mut file, part).is_err();
            assert!(refused(file[..file.len() - 2].to_vec(), top), "{name}: no end-of-image marker");
            // A marker where there is none, early in the data, and after the part.
            for (place, expected) in [(scan + 100, true), (file.len() - 60, false)] {
                let mut damaged = file.clone();
                damaged[place..][..2].copy_from_slice(&[0xFF, 0xC4]);
                assert_eq!(refused(damaged.clone(), top), expected, "{name} at {place}");
                assert!(refused(damaged, PARTS[0]), "{name} at {place}: all of it");
            }
            let mut short = file[..scan + 200].to_vec();
            short.extend([0xFF, 0xD9]);
            let is_zune = !cfg!(feature = "turbojpeg") && PartDecoder::default().baseline.is_none();
            assert_eq!(refused(short, PARTS[0]), !is_zune, "{name}: an early end");
        }
    }

    /// The decoder gives such a picture wrong colours.
    #[test]
    fn a_scan_for_each_component_is_refused() {
        let mut file = fixture("scans.jpg");
        assert_eq!(dimensions(&file).unwrap(), (37, 29));
        assert!(Frame::of(&file).is_none());
        let message = decode(&file, &mut Picture::default()).unwrap_err().to_string();
        assert!(message.contains("in scans of their own"), "{message}");
        assert!(
            PartDecoder::default()
                .decode(&mut file, &mut Picture::default(), |_, _| PARTS[1])
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn only_what_is_sure_is_decoded_in_part() {
        let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/pictures");
        for (name, expected) in [
            ("jpeg_444.jpg", true),
            ("jpeg_restarts.jpg", true),
            ("jpeg_exif_rotated.jpg", true),
            ("jpeg_progressive.jpg", false),
            ("jpeg_rgb.jpg", false),
            ("jpeg_cmyk.jpg", false),
            ("jpeg_ycck.jpg", false),
        ] {
            let mut file = fs::read(pictures.join(name)).unwrap();
            assert_eq!(Frame::of(&file).is_some(), expected, "{name}");
            for cut in 0..file.len().min(700) {
                let mut part = file[..cut].to_vec();
                let decoded =
                    PartDecoder::default().decode(&mut part, &mut Picture::default(), |_, _| PARTS[1]);
                assert!(!matches!(decoded, Ok(Some(_))), "{name}: {cut} bytes are taken for all");
            }
            if expected {
                let begin = PartDecoder::default().decode(&mut file, &mut Picture::default(), |w, h| {
                    CropBox { left: 3, top: 4, width: w - 5, height: h - 6 }
                });
                assert!(begin.unwrap().is_some(), "{name}");
            }
        }
    }
}
