//! From a picture of any size to an image of a given one: the crops and flips of training and evaluation.
//!
//! Each is first decided, a pure function of the picture's size and the random stream ([`Geometry`]), and then
//! carried out. Sizes, offsets and pixels are torchvision's on PIL images: the resize is antialiased and bilinear.

use super::{
    crop::{self, CropBox, CropRule},
    error::DataError,
    picture::{Channels, Picture},
    random::Stream,
    resize::Resizer,
};

/// The largest side that pictures are brought to, in pixels.
pub const MAX_SIZE: usize = 4096;

/// How a picture becomes an image of a given size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transform {
    /// A random part of the picture, resized: training on photos.
    ///
    /// torchvision: `RandomResizedCrop(size, scale)`, then `RandomHorizontalFlip()` if `flip`.
    RandomResizedCrop {
        /// The side of the result.
        size: usize,
        /// The least and the greatest area of the crop, as fractions of the picture's.
        scale: (f64, f64),
        /// How the crop is drawn.
        rule: CropRule,
        /// Whether half of the results are mirrored.
        flip: bool,
    },
    /// A random square of the picture with a black margin: training on small pictures.
    ///
    /// torchvision: `Resize(size)` (nothing to do for a picture of that short side),
    /// `RandomCrop(size, padding=padding)`, then `RandomHorizontalFlip()` if `flip`.
    PadAndCrop {
        /// The side of the result.
        size: usize,
        /// The margin on every side.
        padding: usize,
        /// Whether half of the results are mirrored.
        flip: bool,
    },
    /// The middle of the picture: evaluation.
    ///
    /// torchvision: `Resize(resize)`, `CenterCrop(size)`; black where `resize` is less than `size`.
    CenterCrop {
        /// The side of the result.
        size: usize,
        /// The short side of the picture before the crop.
        resize: usize,
    },
    /// The middle of the picture, of another shape than a square: evaluation by batches of like pictures
    /// ([`super::Rectangles`]).
    ///
    /// torchvision: `Resize(resize)`, `CenterCrop((height, width))`.
    CenterRectangle {
        /// The columns of the result.
        width: usize,
        /// The rows of the result.
        height: usize,
        /// The short side of the picture before the crop.
        resize: usize,
    },
}

impl Transform {
    /// The `(width, height)` of the result.
    pub fn shape(&self) -> (usize, usize) {
        match *self {
            Self::RandomResizedCrop { size, .. }
            | Self::PadAndCrop { size, .. }
            | Self::CenterCrop { size, .. } => (size, size),
            Self::CenterRectangle { width, height, .. } => (width, height),
        }
    }

    /// Refuses sizes of 0 or above [`MAX_SIZE`], and scales that are not `0 < low <= high <= 1`.
    ///
    /// # Errors
    ///
    /// [`DataError::Setting`].
    pub fn check(&self) -> Result<(), DataError> {
        let side = |field, value: usize| {
            let reason = || format!("expected 1 to {MAX_SIZE} pixels, got {value}");
            if (1..=MAX_SIZE).contains(&value) {
                Ok(())
            } else {
                Err(DataError::Setting { field, reason: reason() })
            }
        };
        let (width, height) = self.shape();
        side("size", width).and(side("size", height))?;
        match *self {
            Self::RandomResizedCrop { scale: (low, high), .. }
                if !(0.0 < low && low <= high && high <= 1.0) =>
            {
                let reason = format!("expected 0 < low <= high <= 1, got {low} and {high}");
                Err(DataError::Setting { field: "scale", reason })
            }
            Self::PadAndCrop { padding, .. } if padding > MAX_SIZE => {
                let reason = format!("expected at most {MAX_SIZE} pixels, got {padding}");
                Err(DataError::Setting { field: "padding", reason })
            }
            Self::CenterCrop { resize, .. } | Self::CenterRectangle { resize, .. } => side("resize", resize),
            _ => Ok(()),
        }
    }

    /// Decides what is done to a picture of `width` x `height` pixels.
    pub fn plan(&self, width: usize, height: usize, stream: &mut Stream) -> Geometry {
        let whole = CropBox { left: 0, top: 0, width, height };
        let mut uniform = || stream.uniform();
        match *self {
            Self::RandomResizedCrop { size, scale, rule, flip } => {
                let crop = crop::random_crop(rule, width, height, scale, &mut uniform);
                Geometry { crop, resized: (size, size), window: (0, 0), flip: flip && uniform() < 0.5 }
            }
            Self::PadAndCrop { size, padding, flip } => {
                let resized = short_side_to(width, height, size);
                let mut offset = |side: usize| {
                    crop::below(side + 2 * padding - size + 1, uniform()) as isize - padding as isize
                };
                let top = offset(resized.1);
                let left = offset(resized.0);
                Geometry { crop: whole, resized, window: (left, top), flip: flip && uniform() < 0.5 }
            }
            Self::CenterCrop { resize, .. } | Self::CenterRectangle { resize, .. } => {
                let resized = short_side_to(width, height, resize);
                let shape = self.shape();
                let window = (centered(resized.0, shape.0), centered(resized.1, shape.1));
                Geometry { crop: whole, resized, window, flip: false }
            }
        }
    }
}

/// What is done to one picture: cut out `crop`, resize it, look at it through a window, mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The part of the picture that is used.
    pub crop: CropBox,
    /// The `(width, height)` that the part is resized to.
    pub resized: (usize, usize),
    /// The `(left, top)` corner of the result in the resized part; outside of that it is black.
    pub window: (isize, isize),
    /// Whether the result is mirrored, left to right.
    pub flip: bool,
}

/// The `(width, height)` with the short side brought to `side`: torchvision's `Resize(side)`, which cuts off the
/// fraction of the long side.
pub fn short_side_to(width: usize, height: usize, side: usize) -> (usize, usize) {
    if width <= height { (side, side * height / width) } else { (side * width / height, side) }
}

/// The first of `window` pixels in the middle of `side`: torchvision's `CenterCrop`, which rounds half to even,
/// and pads the smaller half before if the window is the larger.
pub fn centered(side: usize, window: usize) -> isize {
    if window > side {
        -(((window - side) / 2) as isize)
    } else {
        ((side - window) as f64 / 2.0).round_ties_even() as isize
    }
}

/// Carries out [`Geometry`]; keeps its memory from picture to picture.
#[derive(Debug, Default)]
pub struct Stage {
    resizer: Resizer,
    resized: Vec<u8>,
}

impl Stage {
    /// Writes the image of `shape` (width, height) and `channels` that `geometry` makes of `picture`.
    ///
    /// A grey picture's channel is repeated for RGB; an RGB picture is not made grey here, but by
    /// [`Picture::make_grey`] beforehand.
    ///
    /// # Shapes
    ///
    /// `out`: `[height, width, channels]`.
    pub fn apply(
        &mut self,
        geometry: &Geometry,
        picture: &Picture,
        shape: (usize, usize),
        channels: Channels,
        out: &mut [u8],
    ) {
        let Geometry { crop, resized, window, flip } = *geometry;
        let (margin_left, left, width) = visible(window.0, resized.0, shape.0);
        let (margin_top, top, height) = visible(window.1, resized.1, shape.1);
        let is_whole = (width, height) == shape;
        if !is_whole {
            out.fill(0);
        }
        if width == 0 || height == 0 {
            return;
        }
        let depth = picture.channels().count();
        let view = if (crop.width, crop.height) == resized {
            let first = ((crop.top + top) * picture.width() + crop.left + left) * depth;
            View { pixels: &picture.pixels()[first..], stride: picture.width() * depth }
        } else {
            let part = CropBox { left, top, width, height };
            if is_whole && depth == channels.count() {
                return self.resizer.resize(picture, &crop, resized, &part, flip, out);
            }
            self.resized.resize(height * width * depth, 0);
            self.resizer.resize(picture, &crop, resized, &part, false, &mut self.resized);
            View { pixels: &self.resized, stride: width * depth }
        };
        let out_rows = out.chunks_exact_mut(shape.0 * channels.count()).skip(margin_top).take(height);
        for (row, out_row) in view.pixels.chunks(view.stride).zip(out_rows) {
            copy_row(&row[..width * depth], depth, margin_left, flip, channels.count(), out_row);
        }
    }
}

/// Pixels of a picture's part: rows `stride` bytes apart.
struct View<'a> {
    pixels: &'a [u8],
    stride: usize,
}

/// Of a window that begins at `offset` in a picture: its pixels before the picture's first one, the first one of the
/// picture in it, and how many are.
fn visible(offset: isize, side: usize, window: usize) -> (usize, usize, usize) {
    let margin = offset.min(0).unsigned_abs().min(window);
    let first = offset.max(0) as usize;
    (margin, first, side.saturating_sub(first).min(window - margin))
}

/// Writes `row` into `out` from pixel `before` on, all of it mirrored if so asked, a grey channel repeated.
fn copy_row(row: &[u8], depth: usize, before: usize, flip: bool, out_depth: usize, out: &mut [u8]) {
    let num_pixels = row.len() / depth;
    let shown = &mut out[before * out_depth..][..num_pixels * out_depth];
    if depth == out_depth {
        shown.copy_from_slice(row);
    } else {
        for (out, &grey) in shown.chunks_exact_mut(out_depth).zip(row) {
            out.fill(grey);
        }
    }
    if flip {
        out.reverse();
        if out_depth > 1 {
            out.chunks_exact_mut(out_depth).for_each(<[u8]>::reverse);
        }
    }
}
