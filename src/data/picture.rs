//! A decoded picture in host memory, and what its channels are.

use super::error::SampleFault;

/// The most pixels a picture may have: the number at which Pillow raises `DecompressionBombError`
/// (`2 * MAX_IMAGE_PIXELS` of PIL/Image.py, a quarter GiB at 3 bytes a pixel, twice).
pub const MAX_PIXELS: u64 = 2 * (1024 * 1024 * 1024 / 4 / 3);

/// The channels of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channels {
    /// One: luminance.
    Grey,
    /// Three: red, green, blue.
    Rgb,
}

impl Channels {
    /// 1 or 3.
    pub const fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
        }
    }

    /// The channels of that count, if there are such.
    pub const fn from_count(count: usize) -> Option<Self> {
        match count {
            1 => Some(Self::Grey),
            3 => Some(Self::Rgb),
            _ => None,
        }
    }
}

/// A decoded picture: 8 bits a channel, rows from the top, channels interleaved.
///
/// It is made to be filled again and again: its memory is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: Channels,
    pixels: Vec<u8>,
}

impl Default for Picture {
    fn default() -> Self {
        Self { width: 0, height: 0, channels: Channels::Grey, pixels: Vec::new() }
    }
}

impl Picture {
    /// The pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Grey or RGB.
    pub fn channels(&self) -> Channels {
        self.channels
    }

    /// The bytes.
    ///
    /// # Shapes
    ///
    /// `[height, width, channels]`, row-major.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Gives the picture a shape and returns its pixels to be written over; what they held is unspecified.
    ///
    /// # Errors
    ///
    /// [`SampleFault::TooManyPixels`] above [`MAX_PIXELS`], before any memory is taken.
    pub fn reshape(
        &mut self,
        width: usize,
        height: usize,
        channels: Channels,
    ) -> Result<&mut [u8], SampleFault> {
        check_num_pixels(width as u64, height as u64)?;
        self.width = width;
        self.height = height;
        self.channels = channels;
        self.pixels.resize(width * height * channels.count(), 0);
        Ok(&mut self.pixels)
    }

    /// Turns an RGB picture grey in place, by Pillow's `convert("L")` (ITU-R 601-2 luma in 16-bit fixed point).
    pub fn make_grey(&mut self) {
        if self.channels == Channels::Grey {
            return;
        }
        for i in 0..self.width * self.height {
            self.pixels[i] = luma(self.pixels[3 * i], self.pixels[3 * i + 1], self.pixels[3 * i + 2]);
        }
        self.pixels.truncate(self.width * self.height);
        self.channels = Channels::Grey;
    }
}

/// Pillow's `L24(rgb) + 0x8000 >> 16` (libImaging/Convert.c).
fn luma(red: u8, green: u8, blue: u8) -> u8 {
    // The weights add up to 65,536, so the sum is at most 255.5 * 65,536.
    ((19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue) + 0x8000) >> 16) as u8
}

/// Refuses a picture of no pixel or of more than [`MAX_PIXELS`].
pub(crate) fn check_num_pixels(width: u64, height: u64) -> Result<(), SampleFault> {
    match width.checked_mul(height) {
        Some(1..=MAX_PIXELS) => Ok(()),
        _ => Err(SampleFault::TooManyPixels { width, height }),
    }
}
