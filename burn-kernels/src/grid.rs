//! How a matrix is cut for a GPU's threads: cubes of threads, each with a block of columns and a part of the rows. A pure
//! function of the matrix, so that sums are taken in the same order every time.

/// Threads of a cube: what every device can run together.
pub(crate) const UNITS: usize = 256;
/// Columns of a cube, at most.
const LANES: usize = 32;
/// Columns of a cube where few rows are left: more threads for them.
const LANES_OF_SUMS: usize = 8;
/// Rows of a thread, at least: what a cube's sum over its threads is worth.
const ROWS: usize = 8;
/// Cubes that fill a GPU: some for each of an H100's 132 processors.
const CUBES: usize = 1024;

/// A matrix in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
    /// Threads of a cube along columns and rows: powers of two.
    pub(crate) cube: [usize; 2],
    /// Cubes along columns and rows.
    pub(crate) cubes: [usize; 2],
    /// Rows of a part, which is a cube's; the last one may have fewer.
    pub(crate) rows_a_part: usize,
}

impl Grid {
    /// For passes over all of the matrix.
    pub(crate) fn new(columns: usize, rows: usize) -> Self {
        let cube = cube(columns, LANES);
        let blocks = columns.div_ceil(cube[0]);
        let most = (CUBES / blocks).max(1);
        let rows_a_part = rows.div_ceil(rows.div_ceil(cube[1] * ROWS).clamp(1, most)).max(1);
        Self { columns, rows, cube, cubes: [blocks, rows.div_ceil(rows_a_part).max(1)], rows_a_part }
    }

    /// For sums down the columns of a matrix of few rows, all by one cube.
    pub(crate) fn of_sums(columns: usize, rows: usize) -> Self {
        let cube = cube(columns, LANES_OF_SUMS);
        Self { columns, rows, cube, cubes: [columns.div_ceil(cube[0]), 1], rows_a_part: rows }
    }
}

fn cube(columns: usize, lanes: usize) -> [usize; 2] {
    let lanes = columns.next_power_of_two().min(lanes);
    [lanes, UNITS / lanes]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns and rows from one to those of a ResNet's largest images.
    fn matrices() -> impl Iterator<Item = (usize, usize)> {
        let columns = [1, 2, 3, 8, 13, 16, 31, 32, 33, 64, 130, 512, 2048];
        let rows = [1, 2, 7, 63, 64, 65, 2047, 9408, 602_112, 3_211_264];
        columns.into_iter().flat_map(move |columns| rows.map(|rows| (columns, rows)))
    }

    #[test]
    fn pieces_are_the_matrix() {
        for (columns, rows) in matrices() {
            for grid in [Grid::new(columns, rows), Grid::of_sums(columns, rows)] {
                let Grid { cube, cubes, rows_a_part, .. } = grid;
                assert!(cube[0] * cube[1] == UNITS && cube[1].is_power_of_two(), "{grid:?}");
                assert!(cubes[0] * cube[0] >= columns && (cubes[0] - 1) * cube[0] < columns, "{grid:?}");
                assert!(cubes[1] * rows_a_part >= rows && (cubes[1] - 1) * rows_a_part < rows, "{grid:?}");
            }
        }
    }

    #[test]
    fn there_are_neither_too_many_cubes_nor_idle_threads() {
        for (columns, rows) in matrices() {
            let grid = Grid::new(columns, rows);
            assert!(grid.cubes[0] * grid.cubes[1] <= CUBES, "{grid:?}");
            // Several parts only of enough rows for all threads.
            assert!(grid.cubes[1] == 1 || grid.rows_a_part >= grid.cube[1] * ROWS / 2, "{grid:?}");
            assert!(grid.cube[0] < 2 * columns, "{grid:?}");
        }
        assert_eq!(Grid::new(8, 802_816).cubes, [1, CUBES], "a GPU is filled");
    }
}
