//! One single-threaded matrix product, `dst (+)= a b`, on slices. The only file with `unsafe`: it proves the bounds that
//! the `gemm` crate takes on trust. Parallelism is the caller's.

/// A matrix inside a slice: element (row, column) is `data[row * row_stride + column * column_stride]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> View<'a> {
    /// Rows one after the other, `row_stride` apart.
    pub(crate) fn rows(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same elements, rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// One past the last element it reads, if that can be counted.
    fn end(&self) -> Option<usize> {
        end(self.rows, self.columns, self.row_stride, self.column_stride)
    }
}

/// One past the largest index of a matrix; 0 for an empty one.
fn end(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Option<usize> {
    if rows == 0 || columns == 0 {
        return Some(0);
    }
    let last_row = (rows - 1).checked_mul(row_stride)?;
    let last_column = (columns - 1).checked_mul(column_stride)?;
    last_row.checked_add(last_column)?.checked_add(1)
}

/// `dst = a b`, or `dst += a b`. Row `i` of the result begins at `dst[i * dst_stride]`; what lies between rows is kept.
///
/// # Panics
/// If the shapes do not agree, a view leaves its slice, or rows of the result overlap.
#[expect(unsafe_code, reason = "the gemm crate takes pointers; every index is checked here")]
pub(crate) fn multiply(dst: &mut [f32], dst_stride: usize, a: View<'_>, b: View<'_>, accumulate: bool) {
    assert_eq!(a.columns, b.rows, "inner extents of a product");
    assert!(a.rows <= 1 || dst_stride >= b.columns, "rows of a product overlap");
    let inside = |end: Option<usize>, len: usize| end.is_some_and(|end| end <= len);
    assert!(inside(a.end(), a.data.len()), "left matrix leaves its slice");
    assert!(inside(b.end(), b.data.len()), "right matrix leaves its slice");
    assert!(inside(end(a.rows, b.columns, dst_stride, 1), dst.len()), "product leaves its slice");
    // SAFETY: gemm reads a[i, p] and b[p, j] and reads or writes dst[i, j], for i < a.rows, p < a.columns = b.rows and
    // j < b.columns, and nothing else. By the assertions above the largest such index of each is inside its slice, so
    // every pointer it forms to an element is in bounds; slices hold at most isize::MAX bytes, so an index that is in
    // bounds fits isize, and so does a stride that is ever multiplied by more than 0 (others are not used, and the cast
    // only changes their value). `dst` is borrowed exclusively, so it overlaps neither `a` nor `b`; its elements are
    // distinct because rows do not overlap. All of it is initialised f32.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_strided_and_transposed_and_keeps_the_gaps() {
        let a: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..12).map(|i| (i * i) as f32).collect();
        // 2x3 with rows 5 apart; (4x3)' = 3x4.
        let a = View::rows(&a, 2, 3, 5);
        let b = View::rows(&b, 4, 3, 3).transposed();
        let mut dst = vec![1.0; 11];
        multiply(&mut dst, 6, a, b, true);
        let mut expected = vec![1.0; 11];
        for i in 0..2 {
            for j in 0..4 {
                for p in 0..3 {
                    expected[i * 6 + j] += a.data[i * 5 + p] * b.data[j * 3 + p];
                }
            }
        }
        assert_eq!(dst, expected);
    }

    #[test]
    #[should_panic(expected = "right matrix leaves its slice")]
    fn refuses_a_short_slice() {
        multiply(&mut [0.0; 4], 2, View::rows(&[0.0; 4], 2, 2, 2), View::rows(&[0.0; 3], 2, 2, 2), false);
    }

    #[test]
    #[should_panic(expected = "product leaves its slice")]
    fn refuses_a_stride_that_overflows() {
        multiply(
            &mut [0.0; 4],
            usize::MAX,
            View::rows(&[0.0; 6], 3, 2, 2),
            View::rows(&[0.0; 4], 2, 2, 2),
            false,
        );
    }
}
