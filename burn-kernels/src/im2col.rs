//! The geometry of a convolution, and the copy between an image and the matrix whose product with the weights is the
//! convolution: row (channel, kernel row, kernel column), column = output pixel. Only ever for a few output rows at a
//! time (Chellapilla et al. 2006 unroll the whole; Caffe's `im2col.cpp` is the usual reference).

use core::ops::Range;

/// Extents of a two-dimensional convolution without groups or dilation, padded alike on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) batch: usize,
    pub(crate) channels_in: usize,
    pub(crate) channels_out: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Geometry {
    /// From the shapes of images and weights.
    ///
    /// # Panics
    /// If they do not agree, one is empty, the stride is 0, or the kernel does not fit into the padded image.
    pub(crate) fn new(x: [usize; 4], weight: [usize; 4], stride: usize, padding: usize) -> Self {
        let [batch, channels_in, height, width] = x;
        let [channels_out, weight_in, kernel_height, kernel_width] = weight;
        assert_eq!(
            channels_in, weight_in,
            "conv2d: images {x:?} and weights {weight:?} differ in input channels"
        );
        assert!(stride > 0, "conv2d: stride 0");
        assert!(!x.contains(&0) && channels_out > 0, "conv2d: empty images {x:?} or weights {weight:?}");
        let kernel = [kernel_height, kernel_width];
        assert!(
            kernel.iter().all(|&k| k > 0)
                && height + 2 * padding >= kernel_height
                && width + 2 * padding >= kernel_width,
            "conv2d: kernel {kernel:?} does not fit images {x:?} padded by {padding}"
        );
        Self { batch, channels_in, channels_out, height, width, kernel, stride, padding }
    }

    pub(crate) fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel[0]) / self.stride + 1
    }

    pub(crate) fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel[1]) / self.stride + 1
    }

    /// Pixels of an input plane.
    pub(crate) fn area(&self) -> usize {
        self.height * self.width
    }

    /// Pixels of an output plane.
    pub(crate) fn out_area(&self) -> usize {
        self.out_height() * self.out_width()
    }

    /// Weights of one kernel.
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Weights of one output channel: the rows of the unrolled matrix.
    pub(crate) fn unrolled(&self) -> usize {
        self.channels_in * self.taps()
    }

    /// Whether the image is its own unrolled matrix.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == 1 && self.padding == 0
    }

    /// Unrolls some output rows of some channels: `planes` holds whole input planes, `matrix` gets `taps` rows for each,
    /// of `rows.len() * out_width` columns.
    pub(crate) fn unroll(&self, planes: &[f32], rows: Range<usize>, matrix: &mut [f32]) {
        let columns = rows.len() * self.out_width();
        let same_width = self.stride == 1 && self.out_width() == self.width;
        let taps =
            planes.chunks_exact(self.area()).flat_map(|plane| self.each_tap().map(move |tap| (plane, tap)));
        for (row, (plane, tap)) in matrix.chunks_exact_mut(columns).zip(taps) {
            if same_width {
                self.unroll_shifted(plane, tap, rows.clone(), row);
            } else {
                self.unroll_tap(plane, tap, rows.clone(), row);
            }
        }
    }

    /// The transpose of [`unroll`](Self::unroll): adds every element of the matrix to the pixel it was copied from.
    pub(crate) fn roll_add(&self, matrix: &[f32], rows: Range<usize>, planes: &mut [f32]) {
        let (stride, width, out_width) = (self.stride, self.width, self.out_width());
        let mut sources = matrix.chunks_exact(rows.len() * out_width);
        for plane in planes.chunks_exact_mut(self.area()) {
            for [tap_y, tap_x] in self.each_tap() {
                let source = sources.next().expect("taps rows for each plane");
                let (valid_y, valid_x) = (self.valid_rows(tap_y), self.valid_columns(tap_x));
                if valid_x.is_empty() {
                    continue;
                }
                let first = valid_x.start * stride + tap_x - self.padding;
                for y in valid_y.start.max(rows.start)..valid_y.end.min(rows.end) {
                    let from = &source[(y - rows.start) * out_width..][valid_x.clone()];
                    let to = &mut plane[(y * stride + tap_y - self.padding) * width..][..width];
                    for (to, from) in to[first..].iter_mut().step_by(stride).zip(from) {
                        *to += from;
                    }
                }
            }
        }
    }

    fn each_tap(&self) -> impl Iterator<Item = [usize; 2]> + use<> {
        let [height, width] = self.kernel;
        (0..height).flat_map(move |y| (0..width).map(move |x| [y, x]))
    }

    /// Output rows whose input row at `tap` is inside the image.
    fn valid_rows(&self, tap: usize) -> Range<usize> {
        self.valid(tap, self.height, self.out_height())
    }

    fn valid_columns(&self, tap: usize) -> Range<usize> {
        self.valid(tap, self.width, self.out_width())
    }

    /// The outputs `i` with `0 <= i * stride + tap - padding < extent`; empty at the end where there is none.
    fn valid(&self, tap: usize, extent: usize, outputs: usize) -> Range<usize> {
        let end = (extent + self.padding).saturating_sub(tap).div_ceil(self.stride).min(outputs);
        let start = self.padding.saturating_sub(tap).div_ceil(self.stride).min(end);
        start..end
    }

    /// One row of the matrix for any stride.
    fn unroll_tap(&self, plane: &[f32], [tap_y, tap_x]: [usize; 2], rows: Range<usize>, out: &mut [f32]) {
        let (stride, width) = (self.stride, self.width);
        let (valid_y, valid_x) = (self.valid_rows(tap_y), self.valid_columns(tap_x));
        for (y, out) in rows.zip(out.chunks_exact_mut(self.out_width())) {
            if !valid_y.contains(&y) || valid_x.is_empty() {
                out.fill(0.0);
                continue;
            }
            let from = &plane[(y * stride + tap_y - self.padding) * width..][..width];
            let from = &from[valid_x.start * stride + tap_x - self.padding..];
            out[..valid_x.start].fill(0.0);
            out[valid_x.end..].fill(0.0);
            let out = &mut out[valid_x.clone()];
            if stride == 1 {
                out.copy_from_slice(&from[..out.len()]);
            } else {
                for (to, from) in out.iter_mut().zip(from.iter().step_by(stride)) {
                    *to = *from;
                }
            }
        }
    }

    /// One row of the matrix where output rows are as wide as input rows: a single copy of all rows, shifted, then zeros
    /// where the shift has wrapped around an edge.
    fn unroll_shifted(&self, plane: &[f32], [tap_y, tap_x]: [usize; 2], rows: Range<usize>, out: &mut [f32]) {
        let (width, padding) = (self.width, self.padding);
        let (valid_y, valid_x) = (self.valid_rows(tap_y), self.valid_columns(tap_x));
        let first = valid_y.start.clamp(rows.start, rows.end);
        let last = valid_y.end.clamp(first, rows.end);
        if first == last || valid_x.is_empty() {
            return out.fill(0.0);
        }
        let (head, tail) = ((first - rows.start) * width, (last - rows.start) * width);
        out[..head].fill(0.0);
        out[tail..].fill(0.0);
        let out = &mut out[head..tail];
        // The first and the last valid pixel; between them source and destination run in step.
        let begin = valid_x.start;
        let end = out.len() - (width - valid_x.end);
        let source = (first + tap_y - padding) * width + begin + tap_x - padding;
        out[begin..end].copy_from_slice(&plane[source..][..end - begin]);
        if begin > 0 || valid_x.end < width {
            for row in out.chunks_exact_mut(width) {
                row[..begin].fill(0.0);
                row[valid_x.end..].fill(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every geometry with small extents whose kernel fits.
    fn geometries() -> impl Iterator<Item = Geometry> {
        let extents = [[1, 1], [1, 4], [3, 2], [5, 6]];
        let kernels = [[1, 1], [2, 2], [3, 3], [1, 3], [7, 7]];
        extents
            .into_iter()
            .flat_map(move |[height, width]| {
                kernels.into_iter().flat_map(move |kernel| {
                    (1..4).flat_map(move |stride| {
                        (0..5).map(move |padding| (height, width, kernel, stride, padding))
                    })
                })
            })
            .filter(|&(height, width, kernel, _, padding)| {
                height + 2 * padding >= kernel[0] && width + 2 * padding >= kernel[1]
            })
            .map(|(height, width, [kh, kw], stride, padding)| {
                Geometry::new([1, 2, height, width], [1, 2, kh, kw], stride, padding)
            })
    }

    #[test]
    fn unrolls_what_the_definition_says_and_rolls_back_its_transpose() {
        let mut cases = 0;
        for g in geometries() {
            let planes: Vec<f32> = (1..=2 * g.area()).map(|i| i as f32).collect();
            for (start, end) in [(0, g.out_height()), (g.out_height() / 2, g.out_height())] {
                let columns = (end - start) * g.out_width();
                let mut matrix = vec![f32::NAN; g.unrolled() * columns];
                g.unroll(&planes, start..end, &mut matrix);
                let mut counts = vec![0.0; planes.len()];
                for c in 0..2 {
                    for (t, [ty, tx]) in g.each_tap().enumerate() {
                        for y in start..end {
                            for x in 0..g.out_width() {
                                let got =
                                    matrix[(c * g.taps() + t) * columns + (y - start) * g.out_width() + x];
                                let iy = (y * g.stride + ty).checked_sub(g.padding).filter(|&i| i < g.height);
                                let ix = (x * g.stride + tx).checked_sub(g.padding).filter(|&i| i < g.width);
                                let pixel = iy.zip(ix).map(|(iy, ix)| c * g.area() + iy * g.width + ix);
                                assert_eq!(got, pixel.map_or(0.0, |i| planes[i]), "{g:?} {ty} {tx} {y} {x}");
                                if let Some(i) = pixel {
                                    counts[i] += planes[i];
                                }
                            }
                        }
                    }
                }
                let mut back = vec![0.0; planes.len()];
                g.roll_add(&matrix, start..end, &mut back);
                assert_eq!(back, counts, "{g:?}");
                cases += 1;
            }
        }
        assert!(cases > 300, "{cases}");
    }
}
