//! How a source's pictures lie: contiguous ranges of indices that are cheapest read as a whole, such as the shards of a
//! store or stretches of a disk. Arithmetic; nothing is read.

use std::ops::Range;

/// Pictures of a block where a source does not say more: some 7 MB of ImageNet's files, after which a spinning disk has
/// read for longer than it has moved its head.
const DEFAULT_PICTURES: usize = 64;

/// Contiguous ranges of a source's indices, none of them empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Blocks {
    /// The index after each block's last.
    ends: Vec<u32>,
}

impl Blocks {
    /// Ranges of 64 pictures, the last one shorter.
    pub fn even(num_images: usize) -> Self {
        let num_images = num_images as u32;
        let whole = (1..=num_images / DEFAULT_PICTURES as u32).map(|n| n * DEFAULT_PICTURES as u32);
        let rest = (!num_images.is_multiple_of(DEFAULT_PICTURES as u32)).then_some(num_images);
        Self { ends: whole.chain(rest).collect() }
    }

    /// Ranges of so many pictures each; those of none are left out.
    pub fn of_lengths(lengths: impl IntoIterator<Item = u32>) -> Self {
        let lengths = lengths.into_iter().filter(|&length| length > 0);
        let ends = lengths.scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        Self { ends: ends.collect() }
    }

    /// The number of blocks.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// The indices in block `block`.
    pub fn range(&self, block: usize) -> Range<u32> {
        let start = if block == 0 { 0 } else { self.ends[block - 1] };
        start..self.ends[block]
    }

    /// The block that picture `index` is in.
    pub fn block_of(&self, index: u32) -> usize {
        self.ends.partition_point(|&end| end <= index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_every_picture_once() {
        for num_images in [1, 63, 64, 65, 1000] {
            let blocks = Blocks::even(num_images);
            let all: Vec<u32> = (0..blocks.count()).flat_map(|block| blocks.range(block)).collect();
            assert_eq!(all, (0..num_images as u32).collect::<Vec<_>>());
        }
        let blocks = Blocks::of_lengths([3, 0, 1, 2]);
        assert_eq!(blocks.count(), 3);
        assert_eq!((0..6).map(|index| blocks.block_of(index)).collect::<Vec<_>>(), [0, 0, 0, 1, 2, 2]);
    }
}
