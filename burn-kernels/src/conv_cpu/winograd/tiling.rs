//! Images in tiles. Not what is computed with them.

use super::TILE;
use crate::geometry::{Geometry, NOWHERE};

/// Tiles of images, counted row by row through all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiling {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Tiles of an image.
    pub(super) down: usize,
    pub(super) across: usize,
}

impl Tiling {
    pub(super) fn of(g: &Geometry) -> Self {
        let (down, across) = (g.height.div_ceil(TILE), g.width.div_ceil(TILE));
        Self { batch: g.batch, height: g.height, width: g.width, down, across }
    }

    pub(super) fn num_tiles(&self) -> usize {
        self.batch * self.down * self.across
    }

    /// The first row of pixels, counted through all images, of a row of tiles.
    pub(super) fn first_row(&self, tile_row: usize) -> usize {
        tile_row / self.down * self.height + tile_row % self.down * TILE
    }

    /// A tile's image, and the row and column of its first pixel.
    pub(super) fn place(&self, tile: usize) -> [usize; 3] {
        let row = tile / self.across;
        [row / self.down, row % self.down * TILE, tile % self.across * TILE]
    }

    /// The numbers of the pixels in the square of `side` that begins `before` pixels before a tile.
    pub(super) fn pixels<const SIDE: usize>(&self, tile: usize, before: usize) -> [[u32; SIDE]; SIDE] {
        let [image, top, left] = self.place(tile);
        core::array::from_fn(|i| {
            core::array::from_fn(|j| match ((top + i).checked_sub(before), (left + j).checked_sub(before)) {
                (Some(row), Some(column)) if row < self.height && column < self.width => {
                    ((image * self.height + row) * self.width + column) as u32
                }
                _ => NOWHERE,
            })
        })
    }
}
