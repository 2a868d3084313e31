//! Results that are made in parallel, in memory whose pages nobody touched before the thread that fills them: to have a
//! large vector zeroed first, by one thread, costs as much as a pass of batch norm.

use core::mem::MaybeUninit;

use rayon::prelude::*;

/// Vectors of `len` floats whose pieces of `piece` floats `fill` gets, with their index, as zeros.
#[expect(unsafe_code, reason = "memory that is filled by several threads")]
pub(crate) fn fresh<const N: usize>(
    len: usize,
    piece: usize,
    fill: impl Fn(usize, [&mut [f32]; N]) + Sync,
) -> [Vec<f32>; N] {
    let mut vectors = [(); N].map(|()| Vec::with_capacity(len));
    let mut pieces = vectors.each_mut().map(|vector| vector.spare_capacity_mut()[..len].chunks_mut(piece));
    let pieces: Vec<[&mut [MaybeUninit<f32>]; N]> = (0..len.div_ceil(piece))
        .map(|_| pieces.each_mut().map(|each| each.next().expect("as many")))
        .collect();
    pieces.into_par_iter().enumerate().for_each(|(index, pieces)| {
        fill(index, pieces.map(zeroed));
    });
    for vector in &mut vectors {
        // SAFETY: the pieces are all of the first `len` floats, which the capacity has, and `zeroed` wrote every one.
        unsafe { vector.set_len(len) };
    }
    vectors
}

#[expect(unsafe_code, reason = "memory that is filled by several threads")]
fn zeroed(piece: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    for value in &mut *piece {
        value.write(0.0);
    }
    // SAFETY: the same floats, borrowed as exclusively, and each was written just now.
    unsafe { core::slice::from_raw_parts_mut(piece.as_mut_ptr().cast(), piece.len()) }
}
