//! A picture to the file that a copy has of it: as it is, or smaller and encoded as a JPEG.
//!
//! Smaller pictures are Pillow's (`data::resize`), with chroma at half the resolution as Pillow and libjpeg write it by
//! default. Not here: which pictures, and where they go.

use std::borrow::Cow;

use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};

use crate::data::{Channels, Picture, crop::CropBox, resize::Resizer, transform::short_side_to};

/// What becomes of a data set's pictures in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    /// The file as it is.
    Same,
    /// Encoded anew, with at most so many pixels on the long side.
    LongSide(u32),
    /// With so many pixels on the short side; the file as it is if it has no more.
    ShortSide(u32),
}

/// A copy's file of a picture.
#[derive(Debug)]
pub(super) struct Made<'a> {
    pub(super) file: Cow<'a, [u8]>,
    /// In pixels.
    pub(super) size: (u32, u32),
}

/// Makes pictures; keeps its memory from one to the next.
#[derive(Debug, Default)]
pub(super) struct Maker {
    resizer: Resizer,
    resized: Vec<u8>,
}

impl Maker {
    /// Makes the copy of `picture`, which `file` was decoded to.
    pub(super) fn make<'a>(
        &mut self,
        make: Make,
        quality: u8,
        file: &'a [u8],
        picture: &Picture,
    ) -> Made<'a> {
        let (width, height) = (picture.width(), picture.height());
        let size = make.size(width, height);
        let encoded = size.and_then(|size| self.encode(picture, size, quality).map(|file| (file, size)));
        let (file, (width, height)) = match encoded {
            Some((file, size)) => (Cow::Owned(file), size),
            None => (Cow::Borrowed(file), (width, height)),
        };
        // A picture has at most `MAX_PIXELS` pixels, so neither side is cut off.
        Made { file, size: (width as u32, height as u32) }
    }

    /// A JPEG of the picture at that size; `None` if it has a side that no JPEG can have.
    fn encode(&mut self, picture: &Picture, (width, height): (usize, usize), quality: u8) -> Option<Vec<u8>> {
        let (jpeg_width, jpeg_height) = (u16::try_from(width).ok()?, u16::try_from(height).ok()?);
        let pixels = if (picture.width(), picture.height()) == (width, height) {
            picture.pixels()
        } else {
            let whole = |width, height| CropBox { left: 0, top: 0, width, height };
            let crop = whole(picture.width(), picture.height());
            let part = whole(width, height);
            self.resized.resize(width * height * picture.channels().count(), 0);
            self.resizer.resize(picture, &crop, (width, height), &part, false, &mut self.resized);
            &self.resized
        };
        let color = match picture.channels() {
            Channels::Grey => ColorType::Luma,
            Channels::Rgb => ColorType::Rgb,
        };
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, quality);
        encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
        encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
        // Not with optimised tables: those need a scan for each component, which zune-jpeg decodes to wrong colours.
        encoder.encode(pixels, jpeg_width, jpeg_height, color).ok()?;
        Some(file)
    }
}

impl Make {
    /// The `(width, height)` to encode a picture at; `None` leaves it as it is.
    fn size(self, width: usize, height: usize) -> Option<(usize, usize)> {
        match self {
            Self::Same => None,
            Self::ShortSide(side) if width.min(height) <= side as usize => None,
            Self::ShortSide(side) => Some(short_side_to(width, height, side as usize)),
            Self::LongSide(side) => {
                let (side, long) = (side as usize, width.max(height));
                let smaller = |length: usize| (length * side / long).max(1);
                Some(if long <= side { (width, height) } else { (smaller(width), smaller(height)) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::decode::decode;

    #[test]
    fn sizes_keep_the_aspect() {
        assert_eq!(Make::Same.size(500, 375), None);
        assert_eq!(Make::ShortSide(160).size(500, 375), Some((213, 160)));
        assert_eq!(Make::ShortSide(160).size(120, 375), None);
        assert_eq!(Make::ShortSide(160).size(160, 375), None);
        assert_eq!(Make::LongSide(500).size(1000, 700), Some((500, 350)));
        assert_eq!(Make::LongSide(500).size(300, 200), Some((300, 200)));
        assert_eq!(Make::LongSide(10).size(3000, 2), Some((10, 1)));
    }

    /// A smooth picture comes back within what JPEG loses of it, grey as grey.
    #[test]
    fn what_is_encoded_is_the_picture() {
        for channels in [Channels::Rgb, Channels::Grey] {
            let (mut picture, mut decoded) = (Picture::default(), Picture::default());
            let depth = channels.count();
            for (at, value) in picture.reshape(300, 200, channels).unwrap().iter_mut().enumerate() {
                let (x, y) = (at / depth % 300, at / depth / 300);
                *value = ((x + y) / 2) as u8;
            }
            let made = Maker::default().make(Make::ShortSide(100), 95, b"file", &picture);
            assert_eq!(made.size, (150, 100));
            decode(&made.file, &mut decoded).unwrap();
            assert_eq!((decoded.width(), decoded.height(), decoded.channels()), (150, 100, channels));
            for (at, &value) in decoded.pixels().iter().enumerate() {
                let (x, y) = (at / depth % 150, at / depth / 150);
                assert!((value as usize).abs_diff(x + y) <= 3, "{channels:?} {at}: {value}");
            }
        }
    }

    #[test]
    fn what_no_jpeg_can_hold_stays() {
        let mut picture = Picture::default();
        picture.reshape(70_000, 2, Channels::Grey).unwrap();
        let made = Maker::default().make(Make::LongSide(69_000), 90, b"file", &picture);
        assert_eq!((&*made.file, made.size), (&b"file"[..], (70_000, 2)));
    }
}
