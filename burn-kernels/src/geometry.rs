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
        Meeting {
            batch: self.batch,
            target: [self.out_height(), self.out_width()],
            source: [self.height, self.width],
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            back: false,
        }
    }

    /// As [`forward`](Self::forward) of images that were padded: the taps of a kernel's row are one, which meets the first of
    /// its pixels.
    pub(crate) fn forward_by_rows(&self) -> Meeting {
        let source = [self.height + 2 * self.padding, self.width + 2 * self.padding];
        Meeting { source, kernel: [self.kernel[0], 1], padding: 0, ..self.forward() }
    }

    /// The input's pixels, each meeting those of the output that are made of it.
    pub(crate) fn back(&self) -> Meeting {
        let forward = self.forward();
        Meeting { target: forward.source, source: forward.target, back: true, ..forward }
    }
}

/// For each pixel of a target and each tap of the kernel: the pixel of a source that meets it there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meeting {
    pub(crate) batch: usize,
    pub(crate) target: [usize; 2],
    pub(crate) source: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    padding: usize,
    back: bool,
}

/// No pixel: the tap lies outside.
pub(crate) const NOWHERE: u32 = u32::MAX;

impl Meeting {
    /// Pixels of all targets.
    pub(crate) fn num_targets(&self) -> usize {
        self.batch * self.target[0] * self.target[1]
    }

    /// Rows and columns of this many pixels apart are met by the same taps.
    pub(crate) fn period(&self) -> usize {
        if self.back { self.stride } else { 1 }
    }

    /// Where on one axis a target's place meets the source.
    fn at(&self, axis: usize, place: usize, tap: usize) -> Option<usize> {
        let at = if self.back {
            let distance = (place + self.padding).checked_sub(tap)?;
            (distance % self.stride == 0).then(|| distance / self.stride)?
        } else {
            (place * self.stride + tap).checked_sub(self.padding)?
        };
        (at < self.source[axis]).then_some(at)
    }

    /// The taps that meet anything where row and column modulo the period are `phase`.
    pub(crate) fn taps(&self, phase: [usize; 2]) -> Vec<[usize; 2]> {
        let meets = |axis: usize, tap: usize| {
            (phase[axis]..self.target[axis])
                .step_by(self.period())
                .any(|place| self.at(axis, place, tap).is_some())
        };
        let [height, width] = self.kernel;
        let all = (0..height).flat_map(|y| (0..width).map(move |x| [y, x]));
        all.filter(|&[y, x]| meets(0, y) && meets(1, x)).collect()
    }

    /// Of a target's pixel, counted through all images, the number of the pixel that it meets at `tap`.
    fn source_of(&self, image: usize, [y, x]: [usize; 2], [tap_y, tap_x]: [usize; 2]) -> u32 {
        match (self.at(0, y, tap_y), self.at(1, x, tap_x)) {
            (Some(y), Some(x)) => ((image * self.source[0] + y) * self.source[1] + x) as u32,
            _ => NOWHERE,
        }
    }

    /// The pixels of target rows `rows` (counted through all images) that are of `phase`, in order, each as its number
    /// in these rows, its image and its place.
    fn pixels(
        &self,
        rows: core::ops::Range<usize>,
        phase: [usize; 2],
    ) -> impl Iterator<Item = (usize, usize, [usize; 2])> {
        let ([height, width], period, first) = (self.target, self.period(), rows.start);
        let of_phase = rows.filter(move |row| row % height % period == phase[0]);
        of_phase.flat_map(move |row| {
            let columns = (phase[1]..width).step_by(period);
            columns.map(move |x| ((row - first) * width + x, row / height, [row % height, x]))
        })
    }

    /// Those pixels in tiles of `size`, the last one filled up with its last pixel.
    pub(crate) fn tiles(
        &self,
        rows: core::ops::Range<usize>,
        phase: [usize; 2],
        taps: &[[usize; 2]],
        size: usize,
    ) -> Tiles {
        let pixels: Vec<_> = self.pixels(rows, phase).collect();
        let mut sources = Vec::with_capacity(pixels.len().next_multiple_of(size) * taps.len());
        for tile in pixels.chunks(size) {
            let last = tile[tile.len() - 1];
            for &tap in taps {
                let filled = tile.iter().copied().chain(core::iter::repeat(last)).take(size);
                sources.extend(filled.map(|(_, image, place)| self.source_of(image, place, tap)));
            }
        }
        Tiles { places: pixels.into_iter().map(|(place, ..)| place as u32).collect(), sources }
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
            for (source, (_, image, place)) in sources.iter_mut().zip(pixels) {
                *source = self.source_of(image, place, [tap / width, tap % width]);
            }
        });
        sources
    }
}

/// Some pixels of a target, and whom they meet.
#[derive(Debug)]
pub(crate) struct Tiles {
    /// Each pixel's number.
    pub(crate) places: Vec<u32>,
    /// `[tiles, taps, pixels of a tile]`, or [`NOWHERE`].
    pub(crate) sources: Vec<u32>,
}
