//! Stands for the wide instructions where there are none: it does not exist.

use super::Taps;

#[derive(Debug)]
pub(super) enum Wide {}

impl Wide {
    pub(super) fn new() -> Option<Self> {
        None
    }

    pub(super) fn set<'a>(&mut self, _: impl Iterator<Item = Taps<'a>> + Clone) {
        match *self {}
    }

    pub(super) fn resize_rows(&self, _: &[u8], _: usize, _: &mut [u8], _: usize) -> usize {
        match *self {}
    }

    pub(super) fn add_rows(&self, _: &[u8], _: usize, _: &[i32], _: &mut [u8]) {
        match *self {}
    }
}
