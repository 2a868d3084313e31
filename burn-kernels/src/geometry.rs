//! The extents of a convolution, and which pixels meet in it. Not what is computed with them.

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
        let [batch, height, width, channels_in] = x;
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

    /// Weights of one kernel.
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// The output's pixels, each meeting those of the input that it is made of.
    pub(crate) fn forward(&self) -> Meeting {
        let source = [self.height, self.width];
        Meeting::new(self, [self.out_height(), self.out_width()], source, self.kernel, self.padding, false)
    }

    /// The input's pixels, each meeting those of the output that are made of it.
    pub(crate) fn back(&self) -> Meeting {
        let source = [self.out_height(), self.out_width()];
        Meeting::new(self, [self.height, self.width], source, self.kernel, self.padding, true)
    }
}

/// For each pixel of a target and each tap of the kernel: the pixel of a source that meets it there.
#[derive(Debug, Clone)]
pub(crate) struct Meeting {
    pub(crate) batch: usize,
    pub(crate) target: [usize; 2],
    source: [usize; 2],
    kernel: [usize; 2],
    period: usize,
    /// Of each axis, `[places, taps]`: the source's place, a row's as the number of its first pixel; [`OUTSIDE`] where
    /// the two do not meet.
    at: [Vec<i32>; 2],
}

/// No pixel: the tap lies outside.
pub(crate) const NOWHERE: u32 = u32::MAX;
const OUTSIDE: i32 = -1;

impl Meeting {
    fn new(
        g: &Geometry,
        target: [usize; 2],
        source: [usize; 2],
        kernel: [usize; 2],
        padding: usize,
        back: bool,
    ) -> Self {
        // Where on one axis a target's place meets the source.
        let at = |len: usize, place: usize, tap: usize| {
            let at = if back {
                let distance = (place + padding).checked_sub(tap)?;
                distance.is_multiple_of(g.stride).then(|| distance / g.stride)?
            } else {
                (place * g.stride + tap).checked_sub(padding)?
            };
            (at < len).then_some(at)
        };
        let at = [(0, source[1]), (1, 1)].map(|(axis, step)| {
            let places = (0..target[axis]).flat_map(|place| (0..kernel[axis]).map(move |tap| (place, tap)));
            places
                .map(|(place, tap)| at(source[axis], place, tap).map_or(OUTSIDE, |at| (at * step) as i32))
                .collect()
        });
        Self { batch: g.batch, target, source, kernel, period: if back { g.stride } else { 1 }, at }
    }

    /// Pixels of all targets.
    pub(crate) fn num_targets(&self) -> usize {
        self.batch * self.target[0] * self.target[1]
    }

    /// Rows and columns of this many pixels apart are met by the same taps.
    pub(crate) fn period(&self) -> usize {
        self.period
    }

    /// The taps that meet anything where row and column modulo the period are `phase`.
    pub(crate) fn taps(&self, phase: [usize; 2]) -> Vec<[usize; 2]> {
        let meets = |axis: usize, tap: usize| {
            (phase[axis]..self.target[axis])
                .step_by(self.period)
                .any(|place| self.at[axis][place * self.kernel[axis] + tap] != OUTSIDE)
        };
        let [height, width] = self.kernel;
        let all = (0..height).flat_map(|y| (0..width).map(move |x| [y, x]));
        all.filter(|&[y, x]| meets(0, y) && meets(1, x)).collect()
    }

    /// Of a target's pixel, the number of the pixel that it meets at `tap`; both are counted through all images.
    #[inline]
    fn source_of(&self, pixel: Pixel, [tap_y, tap_x]: [usize; 2]) -> u32 {
        let row = self.at[0][pixel.row * self.kernel[0] + tap_y];
        let column = self.at[1][pixel.column * self.kernel[1] + tap_x];
        if row == OUTSIDE || column == OUTSIDE { NOWHERE } else { pixel.image + (row + column) as u32 }
    }

    /// The pixels of target rows `rows` (counted through all images) that are of `phase`, in order.
    fn pixels(&self, rows: core::ops::Range<usize>, phase: [usize; 2]) -> Vec<Pixel> {
        let ([height, width], period, first) = (self.target, self.period, rows.start);
        let image_len = self.source[0] * self.source[1];
        let mut pixels = Vec::with_capacity(rows.len().div_ceil(period) * width.div_ceil(period));
        for number in rows {
            let (image, row) = (number / height, number % height);
            if row % period == phase[0] {
                pixels.extend((phase[1]..width).step_by(period).map(|column| Pixel {
                    place: ((number - first) * width + column) as u32,
                    image: (image * image_len) as u32,
                    row,
                    column,
                }));
            }
        }
        pixels
    }

    /// Those pixels in tiles of `size`, the last one filled up with its last pixel.
    pub(crate) fn tiles(
        &self,
        rows: core::ops::Range<usize>,
        phase: [usize; 2],
        taps: &[[usize; 2]],
        size: usize,
    ) -> Tiles {
        let pixels = self.pixels(rows, phase);
        let mut sources = Vec::with_capacity(pixels.len().next_multiple_of(size) * taps.len());
        for tile in pixels.chunks(size) {
            for &tap in taps {
                sources.extend(tile.iter().map(|&pixel| self.source_of(pixel, tap)));
                let last = self.source_of(tile[tile.len() - 1], tap);
                sources.extend(core::iter::repeat_n(last, size - tile.len()));
            }
        }
        Tiles { places: pixels.into_iter().map(|pixel| pixel.place).collect(), sources }
    }

    /// For each tap, what each pixel of the target meets there: `[taps, targets]`.
    pub(crate) fn sources_by_tap(&self) -> Vec<u32> {
        use rayon::prelude::*;
        let (height, width) = (self.target[0], self.kernel[1]);
        let image_len = height * self.target[1];
        let mut sources = vec![NOWHERE; self.kernel[0] * width * self.num_targets()];
        sources.par_chunks_exact_mut(image_len).enumerate().for_each(|(index, sources)| {
            let (tap, image) = (index / self.batch, index % self.batch);
            let pixels = self.pixels(image * height..(image + 1) * height, [0, 0]);
            for (source, pixel) in sources.iter_mut().zip(pixels) {
                *source = self.source_of(pixel, [tap / width, tap % width]);
            }
        });
        sources
    }
}

/// A pixel of a target.
#[derive(Debug, Clone, Copy)]
struct Pixel {
    /// Its number among those that are asked for.
    place: u32,
    /// The number of its image's first pixel in the source.
    image: u32,
    row: usize,
    column: usize,
}

/// Some pixels of a target, and whom they meet.
#[derive(Debug)]
pub(crate) struct Tiles {
    /// Each pixel's number.
    pub(crate) places: Vec<u32>,
    /// `[tiles, taps, pixels of a tile]`, or [`NOWHERE`].
    pub(crate) sources: Vec<u32>,
}
