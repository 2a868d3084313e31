//! The two passes of a resize with AVX2, bit for bit those of plain code. No `unsafe`: the crate `pulp` asks the
//! processor once and gives its instructions as functions.
//!
//! The instruction that does the work multiplies 16-bit numbers and adds them in pairs, so a weight is taken as
//! two numbers of 11 bits, `high * 2^11 + low`. Sums are whole numbers: their order does not matter.

use std::arch::x86_64::{__m128i, __m256i};

use bytemuck::cast;
use pulp::x86::V3;

use super::{ONE_HALF, PRECISION_BITS, Taps, rounded};

/// Bits of the low part of a weight.
const LOW_BITS: u32 = PRECISION_BITS / 2;

/// The rows that are resized at a time.
const NUM_ROWS: usize = 4;

/// The old pixels of a group, and their bytes.
const TAPS: usize = 4;
const TAPS_BYTES: usize = 3 * TAPS;

/// The bytes of a load: those of a group and some more, which are not looked at.
const LOAD_BYTES: usize = 16;

/// The new pixels that are written at a time.
const PIXELS: usize = 4;

/// Two weights for each pair of 16-bit numbers: their high and their low parts.
#[derive(Debug, Clone, Copy, Default)]
struct Weights {
    high: i32,
    low: i32,
}

impl Weights {
    fn new(first: i32, second: i32) -> Self {
        const LOW: i32 = (1 << LOW_BITS) - 1;
        Self { high: first >> LOW_BITS | second >> LOW_BITS << 16, low: first & LOW | (second & LOW) << 16 }
    }

    /// Their high and low parts in all places.
    #[inline(always)]
    fn spread(self, simd: V3) -> [__m256i; 2] {
        [self.high, self.low].map(
            #[inline(always)]
            |part| simd.avx._mm256_set1_epi32(part),
        )
    }
}

/// What a sum is made of: those of the high and of the low parts.
#[derive(Clone, Copy)]
struct Sum {
    high: __m256i,
    low: __m256i,
}

impl Sum {
    #[inline(always)]
    fn new(simd: V3) -> Self {
        Self { high: simd.avx._mm256_setzero_si256(), low: simd.avx._mm256_set1_epi32(ONE_HALF) }
    }

    /// Adds the pairs of 16-bit `numbers`, weighted.
    #[inline(always)]
    fn add(&mut self, simd: V3, numbers: __m256i, [high, low]: [__m256i; 2]) {
        let high = simd.avx2._mm256_madd_epi16(numbers, high);
        let low = simd.avx2._mm256_madd_epi16(numbers, low);
        self.high = simd.avx2._mm256_add_epi32(self.high, high);
        self.low = simd.avx2._mm256_add_epi32(self.low, low);
    }

    #[inline(always)]
    fn rounded(self, simd: V3) -> __m256i {
        let high = simd.avx2._mm256_slli_epi32::<{ LOW_BITS as i32 }>(self.high);
        simd.avx2._mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(simd.avx2._mm256_add_epi32(high, self.low))
    }
}

/// The instructions, and a filter as the row pass takes it.
#[derive(Debug)]
pub(super) struct Wide {
    simd: V3,
    /// The byte of a row at which a new pixel's first old one begins; filled up to whole [`PIXELS`].
    starts: Vec<usize>,
    /// `num_groups` a new pixel: those of the pixels 0 and 1 of the group, those of 2 and 3.
    weights: Vec<[Weights; 2]>,
    num_groups: usize,
    /// The last rows with room behind them.
    last_rows: Vec<u8>,
    /// Of the column pass' row at hand.
    pairs: Vec<Pair>,
}

/// Two rows of the column pass: where the second begins after the first, and their weights in all places.
#[derive(Debug, Clone, Copy)]
struct Pair {
    second: usize,
    high: __m256i,
    low: __m256i,
}

impl Wide {
    /// `None` on a processor without the instructions.
    pub(super) fn new() -> Option<Self> {
        V3::try_new().map(|simd| Self {
            simd,
            starts: Vec::new(),
            weights: Vec::new(),
            num_groups: 1,
            last_rows: Vec::new(),
            pairs: Vec::new(),
        })
    }

    /// Takes a filter for rows of RGB pixels.
    pub(super) fn set<'a>(&mut self, taps: impl Iterator<Item = Taps<'a>> + Clone) {
        let most = taps.clone().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        self.num_groups = most.div_ceil(TAPS).max(1);
        self.starts.clear();
        self.weights.clear();
        for (first, weights) in taps {
            self.starts.push(3 * first);
            let weight = |tap: usize| weights.get(tap).copied().unwrap_or(0);
            self.weights.extend((0..self.num_groups * TAPS).step_by(TAPS).map(|tap| {
                [Weights::new(weight(tap), weight(tap + 1)), Weights::new(weight(tap + 2), weight(tap + 3))]
            }));
        }
        let num_pixels = self.starts.len().next_multiple_of(PIXELS);
        self.starts.resize(num_pixels, 0);
        self.weights.resize(num_pixels * self.num_groups, Default::default());
    }

    /// Resizes RGB rows that begin every `stride` bytes of `rows` into those of `targets`, and returns of how many: all or
    /// none. A target's bytes beyond the new pixels are written over.
    ///
    /// Rows are resized a few at a time, and some bytes behind a row's last pixel are loaded as well. The picture's last rows
    /// do not have these, and are copied to where they do.
    pub(super) fn resize_rows(
        &mut self,
        rows: &[u8],
        stride: usize,
        targets: &mut [u8],
        target_stride: usize,
    ) -> usize {
        let last_start = self.starts.iter().max().copied().unwrap_or(0);
        let needed_bytes = (NUM_ROWS - 1) * stride + last_start + self.window_bytes();
        let num_rows = targets.len() / target_stride;
        let Some(last) = num_rows.checked_sub(NUM_ROWS) else { return 0 };
        for (block, targets) in targets.chunks_exact_mut(NUM_ROWS * target_stride).enumerate() {
            let rows = &rows[block * NUM_ROWS * stride..];
            if rows.len() < needed_bytes {
                break;
            }
            self.resize_four(rows, stride, targets, target_stride);
        }
        let rows = &rows[last * stride..];
        let mut last_rows = std::mem::take(&mut self.last_rows);
        last_rows.clear();
        last_rows.extend_from_slice(&rows[..rows.len().min(needed_bytes)]);
        last_rows.resize(needed_bytes, 0);
        self.resize_four(&last_rows, stride, &mut targets[last * target_stride..], target_stride);
        self.last_rows = last_rows;
        num_rows
    }

    /// Writes the weighted sum of rows that begin `stride` bytes apart.
    pub(super) fn add_rows(&mut self, rows: &[u8], stride: usize, weights: &[i32], target: &mut [u8]) {
        let Self { simd, ref mut pairs, .. } = *self;
        simd.vectorize(
            #[inline(always)]
            || add_rows_by(simd, rows, stride, weights, pairs, target),
        );
    }

    fn window_bytes(&self) -> usize {
        (self.num_groups - 1) * TAPS_BYTES + LOAD_BYTES
    }

    fn resize_four(&self, rows: &[u8], stride: usize, targets: &mut [u8], target_stride: usize) {
        let simd = self.simd;
        let rows = [rows, &rows[stride..], &rows[2 * stride..], &rows[3 * stride..]];
        let (first, second) = targets.split_at_mut(2 * target_stride);
        let ((a, b), (c, d)) = (first.split_at_mut(target_stride), second.split_at_mut(target_stride));
        let targets = [a, b, c, d];
        match self.num_groups {
            1 => simd.vectorize(
                #[inline(always)]
                || self.resize_by::<1>(simd, rows, targets),
            ),
            2 => simd.vectorize(
                #[inline(always)]
                || self.resize_by::<2>(simd, rows, targets),
            ),
            _ => simd.vectorize(
                #[inline(always)]
                || self.resize_by::<0>(simd, rows, targets),
            ),
        }
    }

    /// `GROUPS` is the number of groups if it is not 0.
    #[inline(always)]
    fn resize_by<const GROUPS: usize>(
        &self,
        simd: V3,
        rows: [&[u8]; NUM_ROWS],
        targets: [&mut [u8]; NUM_ROWS],
    ) {
        let num_groups = if GROUPS == 0 { self.num_groups } else { GROUPS };
        let window_bytes = (num_groups - 1) * TAPS_BYTES + LOAD_BYTES;
        // Bytes of a load, by place in the result; N is a zero. The same color of two pixels beside each other.
        const N: i8 = -1;
        let first: [i8; 16] = [0, N, 3, N, 1, N, 4, N, 2, N, 5, N, N, N, N, N];
        let second: [i8; 16] = [6, N, 9, N, 7, N, 10, N, 8, N, 11, N, N, N, N, N];
        let pairs = [
            simd.avx2._mm256_broadcastsi128_si256(cast(first)),
            simd.avx2._mm256_broadcastsi128_si256(cast(second)),
        ];
        let dense: [i8; 16] = [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, N, N, N, N];
        let dense = simd.avx2._mm256_broadcastsi128_si256(cast(dense));
        let [a, b, c, d] = targets;
        let pixels = self.starts.chunks_exact(PIXELS).zip(self.weights.chunks_exact(PIXELS * num_groups));
        for (place, (starts, weights)) in pixels.enumerate() {
            let mut sums = [[simd.avx._mm256_setzero_si256(); PIXELS]; 2];
            for pixel in 0..PIXELS {
                let windows: [&[u8]; NUM_ROWS] = [
                    &rows[0][starts[pixel]..][..window_bytes],
                    &rows[1][starts[pixel]..][..window_bytes],
                    &rows[2][starts[pixel]..][..window_bytes],
                    &rows[3][starts[pixel]..][..window_bytes],
                ];
                let weights = &weights[pixel * num_groups..][..num_groups];
                let mut two = [Sum::new(simd); 2];
                for (group, weights) in weights.iter().enumerate() {
                    let at = group * TAPS_BYTES;
                    let old = [
                        simd.avx._mm256_set_m128i(load16(windows[1], at), load16(windows[0], at)),
                        simd.avx._mm256_set_m128i(load16(windows[3], at), load16(windows[2], at)),
                    ];
                    for k in 0..2 {
                        for half in 0..2 {
                            let numbers = simd.avx2._mm256_shuffle_epi8(old[k], pairs[half]);
                            two[k].add(simd, numbers, weights[half].spread(simd));
                        }
                    }
                }
                sums[0][pixel] = two[0].rounded(simd);
                sums[1][pixel] = two[1].rounded(simd);
            }
            let at = place * 3 * PIXELS;
            let [first, second] = dense_bytes(simd, sums[0], dense);
            a[at..][..16].copy_from_slice(&first);
            b[at..][..16].copy_from_slice(&second);
            let [first, second] = dense_bytes(simd, sums[1], dense);
            c[at..][..16].copy_from_slice(&first);
            d[at..][..16].copy_from_slice(&second);
        }
    }
}

#[inline(always)]
fn dense_bytes(simd: V3, sums: [__m256i; PIXELS], dense: __m256i) -> [[u8; 16]; 2] {
    let bytes = to_bytes(simd, sums);
    cast(simd.avx2._mm256_shuffle_epi8(bytes, dense))
}

#[inline(always)]
fn to_bytes(simd: V3, [a, b, c, d]: [__m256i; 4]) -> __m256i {
    let first = simd.avx2._mm256_packus_epi32(a, b);
    let second = simd.avx2._mm256_packus_epi32(c, d);
    simd.avx2._mm256_packus_epi16(first, second)
}

#[inline(always)]
fn load16(row: &[u8], at: usize) -> __m128i {
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&row[at..][..16]);
    cast(bytes)
}

#[inline(always)]
fn load32(rows: &[u8], at: usize) -> __m256i {
    let mut bytes = [0_u8; 32];
    bytes.copy_from_slice(&rows[at..][..32]);
    cast(bytes)
}

/// The column pass of one row.
#[inline(always)]
fn add_rows_by(
    simd: V3,
    rows: &[u8],
    stride: usize,
    weights: &[i32],
    pairs: &mut Vec<Pair>,
    target: &mut [u8],
) {
    let zero = simd.avx._mm256_setzero_si256();
    pairs.clear();
    for weights in weights.chunks(2) {
        let second = weights.get(1);
        let [high, low] = Weights::new(weights[0], second.copied().unwrap_or(0)).spread(simd);
        pairs.push(Pair { second: second.map_or(0, |_| stride), high, low });
    }
    let mut column = 0;
    let mut targets = target.chunks_exact_mut(32);
    for target in &mut targets {
        let mut sums = [Sum::new(simd); 4];
        let mut at = column;
        for &Pair { second, high, low } in &*pairs {
            let (first, second) = (load32(rows, at), load32(rows, at + second));
            let weights = [high, low];
            at += 2 * stride;
            let left = simd.avx2._mm256_unpacklo_epi8(first, second);
            let right = simd.avx2._mm256_unpackhi_epi8(first, second);
            sums[0].add(simd, simd.avx2._mm256_unpacklo_epi8(left, zero), weights);
            sums[1].add(simd, simd.avx2._mm256_unpackhi_epi8(left, zero), weights);
            sums[2].add(simd, simd.avx2._mm256_unpacklo_epi8(right, zero), weights);
            sums[3].add(simd, simd.avx2._mm256_unpackhi_epi8(right, zero), weights);
        }
        let [a, b, c, d] = sums;
        let sums = [a.rounded(simd), b.rounded(simd), c.rounded(simd), d.rounded(simd)];
        target.copy_from_slice(&cast::<_, [u8; 32]>(to_bytes(simd, sums)));
        column += 32;
    }
    for (column, target) in (column..).zip(targets.into_remainder()) {
        let values = rows[column..].iter().step_by(stride);
        let sum: i32 = values.zip(weights).map(|(&value, weight)| i32::from(value) * weight).sum();
        *target = rounded(ONE_HALF + sum);
    }
}
