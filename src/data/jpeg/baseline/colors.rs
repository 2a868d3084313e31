//! From planes of luma and colour difference to RGB, with AVX2: libjpeg's bytes (`jdsample.c` with "fancy" upsampling,
//! `jdcolor.c`). No `unsafe`: see `resize`.
//!
//! Samples of a coarser plane are spread by a triangle filter: three quarters of the nearer one and one of the farther.

use std::arch::x86_64::{__m128i, __m256i};

use bytemuck::cast;
use pulp::x86::V3;

/// The pixels that are converted at a time.
const PIXELS: usize = 16;

// JFIF's factors with 16 bits behind the point; each less the whole or the double that is added by itself.
const RED_FROM_CR: i16 = 26_345; // 1.402 - 1
const GREEN_FROM_CB: i16 = -22_554; // -0.34414
const GREEN_FROM_CR: i16 = 18_734; // 1 - 0.71414
const BLUE_FROM_CB: i16 = -14_942; // 1.772 - 2

/// A row of a plane as coarse as the picture in neither direction, in height, in width, or in both: the nearer row of the
/// plane, and where the height is less, the other one.
#[derive(Debug, Clone, Copy)]
pub(super) struct CoarseRow<'a> {
    pub(super) near: &'a [u8],
    /// The row, and whether it is the one below.
    pub(super) far: Option<(&'a [u8], bool)>,
    pub(super) is_narrow: bool,
}

/// Spreads a coarse row to samples for each pixel; of its own ends, where they are the picture's, there is one more each.
#[inline(always)]
pub(super) fn spread(row: CoarseRow<'_>, sums: &mut Vec<i16>, into: &mut Vec<u8>) {
    let CoarseRow { near, far, is_narrow } = row;
    sums.clear();
    into.clear();
    match (far, is_narrow) {
        (None, false) => into.extend_from_slice(near),
        (Some((far, is_below)), false) => {
            let bias = if is_below { 2 } else { 1 };
            let both = near.iter().zip(far);
            into.extend(both.map(|(&near, &far)| ((3 * i16::from(near) + i16::from(far) + bias) >> 2) as u8));
        }
        (None, true) => {
            sums.extend(near.iter().map(|&near| i16::from(near)));
            widen::<2>(sums, [1, 2], into);
        }
        (Some((far, _)), true) => {
            sums.extend(near.iter().zip(far).map(|(&near, &far)| 3 * i16::from(near) + i16::from(far)));
            widen::<4>(sums, [8, 7], into);
        }
    }
}

/// Two samples for each sum.
#[inline(always)]
fn widen<const SHIFT: u32>(sums: &[i16], bias: [i16; 2], into: &mut Vec<u8>) {
    let num_sums = sums.len();
    into.resize(2 * num_sums, 0);
    let ([first, ..], [.., last]) = (sums, sums) else { return };
    let left = |here: i16, before: i16| ((3 * here + before + bias[0]) >> SHIFT) as u8;
    let right = |here: i16, after: i16| ((3 * here + after + bias[1]) >> SHIFT) as u8;
    into[0] = left(*first, *first);
    into[2 * num_sums - 1] = right(*last, *last);
    // Between two sums: the right half of one and the left half of the next.
    let between = into[1..2 * num_sums - 1].chunks_exact_mut(2);
    for (two, (&before, &after)) in between.zip(sums.iter().zip(&sums[1..])) {
        two[0] = right(before, after);
        two[1] = left(after, before);
    }
}

/// A row of pixels of its three rows of samples.
#[inline(always)]
pub(super) fn to_rgb(simd: V3, luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
    let num_pixels = luma.len();
    let Some(last) = num_pixels.checked_sub(PIXELS) else {
        return to_rgb_by_padding(simd, luma, cb, cr, into);
    };
    for at in (0..num_pixels).step_by(PIXELS) {
        // The last ones overlap with those before.
        let at = at.min(last);
        let pixels = sixteen(simd, load(&luma[at..]), load(&cb[at..]), load(&cr[at..]));
        into[3 * at..][..3 * PIXELS].copy_from_slice(pixels.as_flattened());
    }
}

#[cold]
fn to_rgb_by_padding(simd: V3, luma: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
    let padded = |row: &[u8]| {
        let mut all = [0; PIXELS];
        all[..row.len()].copy_from_slice(row);
        cast(all)
    };
    let pixels = sixteen(simd, padded(luma), padded(cb), padded(cr));
    into.copy_from_slice(&pixels.as_flattened()[..into.len()]);
}

#[inline(always)]
fn load(row: &[u8]) -> __m128i {
    let mut bytes = [0_u8; PIXELS];
    bytes.copy_from_slice(&row[..PIXELS]);
    cast(bytes)
}

#[inline(always)]
fn sixteen(simd: V3, luma: __m128i, cb: __m128i, cr: __m128i) -> [[u8; PIXELS]; 3] {
    let center = simd.avx._mm256_set1_epi16(128);
    let luma = simd.avx2._mm256_cvtepu8_epi16(luma);
    let cb = simd.avx2._mm256_sub_epi16(simd.avx2._mm256_cvtepu8_epi16(cb), center);
    let cr = simd.avx2._mm256_sub_epi16(simd.avx2._mm256_cvtepu8_epi16(cr), center);

    let red = simd.avx2._mm256_add_epi16(cr, part(simd, cr, RED_FROM_CR));
    let blue = simd.avx2._mm256_add_epi16(cb, simd.avx2._mm256_add_epi16(cb, part(simd, cb, BLUE_FROM_CB)));
    let factors =
        simd.avx._mm256_set1_epi32(i32::from(GREEN_FROM_CR) << 16 | i32::from(GREEN_FROM_CB) & 0xFFFF);
    let low = green(simd, simd.avx2._mm256_unpacklo_epi16(cb, cr), factors);
    let high = green(simd, simd.avx2._mm256_unpackhi_epi16(cb, cr), factors);
    let green = simd.avx2._mm256_sub_epi16(simd.avx2._mm256_packs_epi32(low, high), cr);
    let [red, green, blue] = [bytes(simd, luma, red), bytes(simd, luma, green), bytes(simd, luma, blue)];

    // Of each of the three vectors of the result: which byte comes from which pixel of a color; N is a zero.
    const N: i8 = -1;
    const PLACES: [[[i8; 16]; 3]; 3] = {
        let mut places = [[[N; 16]; 3]; 3];
        let mut at = 0;
        while at < 3 * PIXELS {
            places[at / 16][at % 3][at % 16] = (at / 3) as i8;
            at += 1;
        }
        places
    };
    let colors = [red, green, blue];
    [mixed(simd, colors, PLACES[0]), mixed(simd, colors, PLACES[1]), mixed(simd, colors, PLACES[2])]
}

#[inline(always)]
fn mixed(simd: V3, colors: [__m128i; 3], places: [[i8; 16]; 3]) -> [u8; 16] {
    let red = simd.ssse3._mm_shuffle_epi8(colors[0], cast(places[0]));
    let green = simd.ssse3._mm_shuffle_epi8(colors[1], cast(places[1]));
    let blue = simd.ssse3._mm_shuffle_epi8(colors[2], cast(places[2]));
    cast(simd.sse2._mm_or_si128(simd.sse2._mm_or_si128(red, green), blue))
}

/// A product, rounded to whole numbers.
#[inline(always)]
fn part(simd: V3, difference: __m256i, factor: i16) -> __m256i {
    let double = simd.avx2._mm256_add_epi16(difference, difference);
    let product = simd.avx2._mm256_mulhi_epi16(double, simd.avx._mm256_set1_epi16(factor));
    simd.avx2._mm256_srai_epi16::<1>(simd.avx2._mm256_add_epi16(product, simd.avx._mm256_set1_epi16(1)))
}

#[inline(always)]
fn green(simd: V3, pairs: __m256i, factors: __m256i) -> __m256i {
    let sum = simd.avx2._mm256_madd_epi16(pairs, factors);
    simd.avx2._mm256_srai_epi32::<16>(simd.avx2._mm256_add_epi32(sum, simd.avx._mm256_set1_epi32(1 << 15)))
}

/// Luma and what a color adds to it.
#[inline(always)]
fn bytes(simd: V3, luma: __m256i, more: __m256i) -> __m128i {
    let sum = simd.avx2._mm256_add_epi16(luma, more);
    let low = simd.avx._mm256_castsi256_si128(sum);
    simd.sse2._mm_packus_epi16(low, simd.avx2._mm256_extracti128_si256::<1>(sum))
}
