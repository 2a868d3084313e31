//! `sprint devices`: what this build can compute on here, and what is missing where it cannot.

use super::device;

pub(super) fn devices() {
    for (name, words) in device::survey() {
        println!("{name:<8} {words}");
    }
}
