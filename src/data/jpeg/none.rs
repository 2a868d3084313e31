//! Where there is no AVX2 there is no decoder for parts of our own.

use super::{CropBox, Frame};

/// Is never made.
#[derive(Debug)]
pub(super) enum Decoder {}

impl Decoder {
    pub(super) fn new() -> Option<Self> {
        None
    }

    pub(super) fn headers(&mut self, _: &[u8], _: &Frame) -> Option<usize> {
        match *self {}
    }

    pub(super) fn decode(
        &mut self,
        _: &[u8],
        _: &Frame,
        _: CropBox,
        _: &mut [u8],
    ) -> Result<(), &'static str> {
        match *self {}
    }
}
