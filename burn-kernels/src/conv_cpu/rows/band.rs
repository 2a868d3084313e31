//! Some rows of an image, laid anew with zeros around them.

use core::ops::Range;

/// Channels that lie side by side, where all channels are a multiple of that.
pub(super) const LINE: usize = 16;
/// Values that may be read behind a band.
pub(super) const SPARE: usize = 32;

/// `[rows, blocks of channels, columns, channels of a block]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    /// Of an image.
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    /// Channels of a block: 1, [`LINE`], or all.
    pub(super) block: usize,
    /// Columns of zeros before an image's.
    pub(super) before: usize,
    /// With those of zeros.
    pub(super) columns: usize,
}

impl Band {
    pub(super) fn row_len(&self) -> usize {
        self.columns * self.channels
    }

    pub(super) fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Those rows of an image `[height, width, channels]`; what is above or below it is zeros.
    pub(super) fn copy(&self, image: &[f32], rows: Range<isize>, to: &mut Vec<f32>) {
        // At most once longer than before: what it holds is written over.
        to.resize(rows.len() * self.row_len() + SPARE, 0.0);
        for (row, to) in rows.zip(to.chunks_exact_mut(self.row_len())) {
            let row = usize::try_from(row).ok().filter(|&row| row < self.height);
            let Some(row) = row else {
                to.fill(0.0);
                continue;
            };
            let row = &image[row * self.width * self.channels..][..self.width * self.channels];
            for (block, to) in to.chunks_exact_mut(self.columns * self.block).enumerate() {
                let (before, to) = to.split_at_mut(self.before * self.block);
                let (to, after) = to.split_at_mut(self.width * self.block);
                before.fill(0.0);
                after.fill(0.0);
                if self.block == self.channels {
                    to.copy_from_slice(row);
                    continue;
                }
                let pixels = row.chunks_exact(self.channels);
                if self.block == LINE {
                    for (to, pixel) in to.as_chunks_mut::<LINE>().0.iter_mut().zip(pixels) {
                        to.copy_from_slice(&pixel[block * LINE..][..LINE]);
                    }
                } else {
                    to.iter_mut().zip(pixels).for_each(|(to, pixel)| *to = pixel[block]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_between_zeros() {
        let (height, width, channels) = (3, 2, 32);
        let image: Vec<f32> = (1..=height * width * channels).map(|value| value as f32).collect();
        for block in [1, LINE, channels] {
            let band = Band { height, width, channels, block, before: 1, columns: 5 };
            let mut values = vec![f32::NAN; 7];
            band.copy(&image, -1..4, &mut values);
            for (place, &value) in values[..5 * band.row_len()].iter().enumerate() {
                let (row, rest) = (place / band.row_len(), place % band.row_len());
                let (first, rest) = (rest / (5 * block) * block, rest % (5 * block));
                let (column, channel) = (rest / block, first + rest % block);
                let is_inside = (1..=height).contains(&row) && (1..=width).contains(&column);
                let pixel = || ((row - 1) * width + column - 1) * channels;
                let expected = if is_inside { (pixel() + channel + 1) as f32 } else { 0.0 };
                assert_eq!(value, expected, "row {row}, column {column}, channel {channel} by {block}");
            }
        }
    }
}
