//! Where a random-resized crop lies: torchvision's rule of today and the one of 2018.
//!
//! The cut of Inception (Szegedy et al. 2015, "Going deeper with convolutions", section 6): an area of 8 to 100 %
//! of the picture at an aspect ratio of 3/4 to 4/3. Both rules try ten times and then fall back; they differ in
//! how the ratio is drawn and in the fallback. Source: torchvision 0.29 `transforms.RandomResizedCrop.get_params`;
//! torchvision 0.2.1 (April 2018), the same.

/// The smallest and the largest width over height of a crop.
pub const ASPECT_RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// The tries before the fallback.
const NUM_TRIES: usize = 10;

/// How a random-resized crop is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CropRule {
    /// Ratio uniform in its logarithm; fallback: the largest central crop of an allowed ratio.
    #[default]
    Modern,
    /// torchvision as of 2018: ratio uniform, sides swapped half of the time; fallback: the central square.
    Torchvision2018,
}

/// A rectangle of whole pixels within a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// The first column.
    pub left: usize,
    /// The first row.
    pub top: usize,
    /// The columns.
    pub width: usize,
    /// The rows.
    pub height: usize,
}

/// Draws a crop of a picture of `width` x `height` pixels with an area in `scale`, as fractions of the picture's.
///
/// `uniform` gives numbers in `[0, 1)`. They are drawn in this order, a try at a time: area, ratio, (2018: swap),
/// and if the crop fits, row, column.
pub fn random_crop(
    rule: CropRule,
    width: usize,
    height: usize,
    scale: (f64, f64),
    uniform: &mut dyn FnMut() -> f64,
) -> CropBox {
    let area = (width * height) as f64;
    let (min_ratio, max_ratio) = ASPECT_RATIO;
    for _ in 0..NUM_TRIES {
        let target_area = area * lerp(scale.0, scale.1, uniform());
        let ratio = match rule {
            CropRule::Modern => lerp(min_ratio.ln(), max_ratio.ln(), uniform()).exp(),
            CropRule::Torchvision2018 => lerp(min_ratio, max_ratio, uniform()),
        };
        let mut w = (target_area * ratio).sqrt().round_ties_even() as usize;
        let mut h = (target_area / ratio).sqrt().round_ties_even() as usize;
        if rule == CropRule::Torchvision2018 && uniform() < 0.5 {
            std::mem::swap(&mut w, &mut h);
        }
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = below(height - h + 1, uniform());
            let left = below(width - w + 1, uniform());
            return CropBox { left, top, width: w, height: h };
        }
    }
    let (w, h) = match rule {
        CropRule::Modern => {
            let ratio = width as f64 / height as f64;
            if ratio < min_ratio {
                (width, (width as f64 / min_ratio).round_ties_even() as usize)
            } else if ratio > max_ratio {
                ((height as f64 * max_ratio).round_ties_even() as usize, height)
            } else {
                (width, height)
            }
        }
        CropRule::Torchvision2018 => (width.min(height), width.min(height)),
    };
    CropBox { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

fn lerp(from: f64, to: f64, u: f64) -> f64 {
    from + (to - from) * u
}

/// An integer below `bound`; its probabilities differ by less than `bound` / 2^53.
pub(crate) fn below(bound: usize, u: f64) -> usize {
    ((u * bound as f64) as usize).min(bound - 1)
}
