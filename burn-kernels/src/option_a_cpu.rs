//! Option A and its gradient, image by image on all cores.

use crate::memory::{Buffer, filled};

/// Every second pixel of images `[height, width, own channels]` among zero channels.
pub(crate) fn forward([height, width, own]: [usize; 3], channels: usize, x: &[f32]) -> Buffer {
    let (image_len, row_len) = (height * width * own, width * own);
    let out_row = width.div_ceil(2) * channels;
    let out_len = height.div_ceil(2) * out_row;
    let before = (channels - own) / 2;
    let [y] = filled(x.len() / image_len * out_len, out_len, |image, [y]| {
        let rows = x[image * image_len..][..image_len].chunks_exact(row_len).step_by(2);
        for (y, x) in y.chunks_exact_mut(out_row).zip(rows) {
            y.fill(0.0);
            let pixels = y.chunks_exact_mut(channels).zip(x.chunks_exact(own).step_by(2));
            pixels.for_each(|(y, x)| y[before..before + own].copy_from_slice(x));
        }
    });
    y
}

/// Gradient of the images, given that of the output.
pub(crate) fn input_grad([height, width, own]: [usize; 3], channels: usize, grad: &[f32]) -> Buffer {
    let (image_len, row_len) = (height * width * own, width * own);
    let out_row = width.div_ceil(2) * channels;
    let out_len = height.div_ceil(2) * out_row;
    let before = (channels - own) / 2;
    let [x] = filled(grad.len() / out_len * image_len, image_len, |image, [x]| {
        x.fill(0.0);
        let rows = grad[image * out_len..][..out_len].chunks_exact(out_row);
        for (x, grad) in x.chunks_exact_mut(row_len).step_by(2).zip(rows) {
            let pixels = x.chunks_exact_mut(own).step_by(2).zip(grad.chunks_exact(channels));
            pixels.for_each(|(x, grad)| x.copy_from_slice(&grad[before..before + own]));
        }
    });
    x
}
