//! Which steps are measured: image size, batch, number type; and their words, such as `128x256`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::config::Precision;

/// More fits on no device, and the product sizes tensors.
const MAX: usize = 65_536;

/// A batch of square images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Of an image's side, in pixels.
    pub size: usize,
    /// Images a step.
    pub batch_size: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().filter(|number| (1..=MAX).contains(number));
        word.split_once('x')
            .and_then(|(size, batch)| Some(Self { size: number(size)?, batch_size: number(batch)? }))
            .ok_or_else(|| format!("expected pixels and images from 1 to {MAX}, as in 128x256"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.size, self.batch_size)
    }
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Its batch.
    pub size: Size,
    /// The numbers that it computes in.
    pub precision: Precision,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { size, batch_size } = self.size;
        write!(f, "{} of {batch_size} images of {size} px", self.precision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_pixels_and_images() {
        assert_eq!("128x256".parse(), Ok(Size { size: 128, batch_size: 256 }));
        for wrong in ["", "128", "x", "128x", "0x4", "4x0", "128x256x2", "-1x2", "9999999x1", "128 x 256"] {
            assert!(wrong.parse::<Size>().unwrap_err().contains("128x256"), "{wrong}");
        }
    }
}
