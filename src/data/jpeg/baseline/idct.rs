//! The inverse cosine transform of a block in whole numbers, with AVX2: the bytes of libjpeg's `jidctint.c`, its "slow"
//! method, which Pillow and torchvision decode with. No `unsafe`: see `resize`.
//!
//! Source: C. Loeffler, A. Ligtenberg, G. Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications" (1989), as
//! `jidctint.c` has it, each rotation as sums of two products: the instruction for it multiplies 16-bit numbers and adds
//! them in pairs.

use std::arch::x86_64::{__m128i, __m256i};

use bytemuck::cast;
use pulp::x86::V3;

use super::huffman::{BLOCK, Coefficients};

/// Bits behind the point of the factors, and of what the first pass gives.
const FACTOR_BITS: i32 = 13;
const FIRST_PASS_BITS: i32 = 2;
/// What is shifted out after each pass; the transform is scaled by 8.
const FIRST_SHIFT: i32 = FACTOR_BITS - FIRST_PASS_BITS;
const SECOND_SHIFT: i32 = FACTOR_BITS + FIRST_PASS_BITS + 3;

const ONE: i16 = 1 << FACTOR_BITS;
// Named by their values.
const F0_298: i16 = 2446;
const F0_390: i16 = 3196;
const F0_541: i16 = 4433;
const F0_765: i16 = 6270;
const F0_899: i16 = 7373;
const F1_175: i16 = 9633;
const F1_501: i16 = 12299;
const F1_847: i16 = 15137;
const F1_961: i16 = 16069;
const F2_053: i16 = 16819;
const F2_562: i16 = 20995;
const F3_072: i16 = 25172;

/// What a block's coefficients are to be multiplied by, row by row.
pub(super) type Factors = [i16; BLOCK];

/// Writes a block's 8 x 8 samples, in rows `stride` bytes apart.
#[inline(always)]
pub(super) fn write(simd: V3, from: &Coefficients, factors: &Factors, into: &mut [u8], stride: usize) {
    let rows = [
        product(simd, from, factors, 0),
        product(simd, from, factors, 1),
        product(simd, from, factors, 2),
        product(simd, from, factors, 3),
        product(simd, from, factors, 4),
        product(simd, from, factors, 5),
        product(simd, from, factors, 6),
        product(simd, from, factors, 7),
    ];
    let columns = transposed(simd, pass::<FIRST_SHIFT>(simd, rows));
    let rows = transposed(simd, pass::<SECOND_SHIFT>(simd, columns));
    let center = simd.sse2._mm_set1_epi8(-128);
    for k in 0..4 {
        let two = simd.sse2._mm_packs_epi16(rows[2 * k], rows[2 * k + 1]);
        let [first, second]: [[u8; 8]; 2] = cast(simd.sse2._mm_add_epi8(two, center));
        into[2 * k * stride..][..8].copy_from_slice(&first);
        into[(2 * k + 1) * stride..][..8].copy_from_slice(&second);
    }
}

/// As [`write`], of a block that has nothing but its first coefficient.
#[inline(always)]
pub(super) fn write_flat(first: i16, factors: &Factors, into: &mut [u8], stride: usize) {
    let sample = ((i32::from(first.wrapping_mul(factors[0])) + 4) >> 3) + 128;
    for row in into.chunks_mut(stride).take(8) {
        row[..8].fill(sample.clamp(0, 255) as u8);
    }
}

/// A row of coefficients as they were before they were coded.
#[inline(always)]
fn product(simd: V3, from: &Coefficients, factors: &Factors, row: usize) -> __m128i {
    simd.sse2._mm_mullo_epi16(eight(&from[8 * row..]), eight(&factors[8 * row..]))
}

#[inline(always)]
fn eight(numbers: &[i16]) -> __m128i {
    let mut row = [0_i16; 8];
    row.copy_from_slice(&numbers[..8]);
    cast(row)
}

/// The pairs of two rows, in order.
#[inline(always)]
fn pairs(simd: V3, a: __m128i, b: __m128i) -> __m256i {
    simd.avx._mm256_set_m128i(simd.sse2._mm_unpackhi_epi16(a, b), simd.sse2._mm_unpacklo_epi16(a, b))
}

/// `a * first + b * second` of pairs.
#[inline(always)]
fn turned(simd: V3, pairs: __m256i, first: i16, second: i16) -> __m256i {
    let factors = i32::from(second) << 16 | i32::from(first) & 0xFFFF;
    simd.avx2._mm256_madd_epi16(pairs, simd.avx._mm256_set1_epi32(factors))
}

/// The sum and the difference, shifted and brought to 16 bits.
#[inline(always)]
fn butterfly<const SHIFT: i32>(simd: V3, even: __m256i, odd: __m256i) -> (__m128i, __m128i) {
    let sum = simd.avx2._mm256_srai_epi32::<SHIFT>(simd.avx2._mm256_add_epi32(even, odd));
    let difference = simd.avx2._mm256_srai_epi32::<SHIFT>(simd.avx2._mm256_sub_epi32(even, odd));
    let both = simd.avx2._mm256_packs_epi32(sum, difference);
    let both = simd.avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(both);
    (simd.avx._mm256_castsi256_si128(both), simd.avx2._mm256_extracti128_si256::<1>(both))
}

/// The transform of eight columns.
#[inline(always)]
fn pass<const SHIFT: i32>(simd: V3, rows: [__m128i; 8]) -> [__m128i; 8] {
    let one_half = simd.avx._mm256_set1_epi32(1 << (SHIFT - 1));
    let zero_four = pairs(simd, rows[0], rows[4]);
    let sum = simd.avx2._mm256_add_epi32(turned(simd, zero_four, ONE, ONE), one_half);
    let difference = simd.avx2._mm256_add_epi32(turned(simd, zero_four, ONE, -ONE), one_half);
    let two_six = pairs(simd, rows[2], rows[6]);
    let low = turned(simd, two_six, F0_541, F0_541 - F1_847);
    let high = turned(simd, two_six, F0_541 + F0_765, F0_541);
    let even = [
        simd.avx2._mm256_add_epi32(sum, high),
        simd.avx2._mm256_add_epi32(difference, low),
        simd.avx2._mm256_sub_epi32(difference, low),
        simd.avx2._mm256_sub_epi32(sum, high),
    ];

    let seven_three = simd.sse2._mm_add_epi16(rows[7], rows[3]);
    let five_one = simd.sse2._mm_add_epi16(rows[5], rows[1]);
    let sums = pairs(simd, seven_three, five_one);
    let with_three = turned(simd, sums, F1_175 - F1_961, F1_175);
    let with_one = turned(simd, sums, F1_175, F1_175 - F0_390);
    let seven_one = pairs(simd, rows[7], rows[1]);
    let five_three = pairs(simd, rows[5], rows[3]);
    let odd = [
        (turned(simd, seven_one, -F0_899, F1_501 - F0_899), with_one),
        (turned(simd, five_three, -F2_562, F3_072 - F2_562), with_three),
        (turned(simd, five_three, F2_053 - F2_562, -F2_562), with_one),
        (turned(simd, seven_one, F0_298 - F0_899, -F0_899), with_three),
    ];
    let [a, b, c, d] = odd;
    let (r0, r7) = butterfly::<SHIFT>(simd, even[0], simd.avx2._mm256_add_epi32(a.0, a.1));
    let (r1, r6) = butterfly::<SHIFT>(simd, even[1], simd.avx2._mm256_add_epi32(b.0, b.1));
    let (r2, r5) = butterfly::<SHIFT>(simd, even[2], simd.avx2._mm256_add_epi32(c.0, c.1));
    let (r3, r4) = butterfly::<SHIFT>(simd, even[3], simd.avx2._mm256_add_epi32(d.0, d.1));
    [r0, r1, r2, r3, r4, r5, r6, r7]
}

/// Rows for columns.
#[inline(always)]
fn transposed(simd: V3, r: [__m128i; 8]) -> [__m128i; 8] {
    let s = simd.sse2;
    let (a0, a1) = (s._mm_unpacklo_epi16(r[0], r[1]), s._mm_unpackhi_epi16(r[0], r[1]));
    let (b0, b1) = (s._mm_unpacklo_epi16(r[2], r[3]), s._mm_unpackhi_epi16(r[2], r[3]));
    let (c0, c1) = (s._mm_unpacklo_epi16(r[4], r[5]), s._mm_unpackhi_epi16(r[4], r[5]));
    let (d0, d1) = (s._mm_unpacklo_epi16(r[6], r[7]), s._mm_unpackhi_epi16(r[6], r[7]));
    let (e0, e1) = (s._mm_unpacklo_epi32(a0, b0), s._mm_unpackhi_epi32(a0, b0));
    let (e2, e3) = (s._mm_unpacklo_epi32(a1, b1), s._mm_unpackhi_epi32(a1, b1));
    let (f0, f1) = (s._mm_unpacklo_epi32(c0, d0), s._mm_unpackhi_epi32(c0, d0));
    let (f2, f3) = (s._mm_unpacklo_epi32(c1, d1), s._mm_unpackhi_epi32(c1, d1));
    [
        s._mm_unpacklo_epi64(e0, f0),
        s._mm_unpackhi_epi64(e0, f0),
        s._mm_unpacklo_epi64(e1, f1),
        s._mm_unpackhi_epi64(e1, f1),
        s._mm_unpacklo_epi64(e2, f2),
        s._mm_unpackhi_epi64(e2, f2),
        s._mm_unpacklo_epi64(e3, f3),
        s._mm_unpackhi_epi64(e3, f3),
    ]
}
