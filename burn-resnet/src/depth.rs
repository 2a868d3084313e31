//! The depths that make a ResNet, each with its family and its stages. He et al. 2015, table 1 (ImageNet) and section 4.2
//! (CIFAR).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::ConfigError;

macro_rules! depths {
    ($($variant:ident = $number:literal: $stages:expr, $bottleneck:literal, $family:literal;)*) => {
        /// Number of weighted layers, which names the network and decides its family.
        ///
        /// Reads from and writes to text and serde as the number; `resnet50` is read too.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Depth {
            $(#[doc = concat!("ResNet-", $number, ", of the ", $family, " family.")] $variant = $number,)*
        }

        impl Depth {
            /// Every depth, the CIFAR family's first.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Blocks in each stage.
            #[must_use]
            pub const fn stages(self) -> &'static [usize] {
                match self { $(Self::$variant => &$stages,)* }
            }

            /// Whether blocks are bottlenecks (1x1, 3x3, 1x1 at four times the width) or basic (3x3, 3x3).
            #[must_use]
            pub const fn is_bottleneck(self) -> bool {
                match self { $(Self::$variant => $bottleneck,)* }
            }
        }
    };
}

depths! {
    D8 = 8: [1, 1, 1], false, "CIFAR";
    D20 = 20: [3, 3, 3], false, "CIFAR";
    D32 = 32: [5, 5, 5], false, "CIFAR";
    D44 = 44: [7, 7, 7], false, "CIFAR";
    D56 = 56: [9, 9, 9], false, "CIFAR";
    D110 = 110: [18, 18, 18], false, "CIFAR";
    D18 = 18: [2, 2, 2, 2], false, "ImageNet";
    D34 = 34: [3, 4, 6, 3], false, "ImageNet";
    D50 = 50: [3, 4, 6, 3], true, "ImageNet";
    D101 = 101: [3, 4, 23, 3], true, "ImageNet";
    D152 = 152: [3, 8, 36, 3], true, "ImageNet";
}

impl Depth {
    /// The number itself.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether this is a three-stage network with option-A shortcuts (section 4.2 of the paper).
    #[must_use]
    pub const fn is_cifar(self) -> bool {
        self.stages().len() == 3
    }

    /// Channels that leave a block, as a multiple of its width.
    #[must_use]
    pub const fn expansion(self) -> usize {
        if self.is_bottleneck() { 4 } else { 1 }
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl TryFrom<u64> for Depth {
    type Error = ConfigError;

    fn try_from(number: u64) -> Result<Self, ConfigError> {
        let known = Self::ALL.iter().find(|depth| u64::from(depth.number()) == number);
        known.copied().ok_or_else(|| ConfigError::UnknownDepth { got: number.to_string() })
    }
}

impl FromStr for Depth {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let lower = text.to_ascii_lowercase();
        let number = lower.strip_prefix("resnet").map_or(lower.as_str(), |rest| rest.trim_start_matches('-'));
        let unknown = || ConfigError::UnknownDepth { got: text.chars().take(40).collect() };
        number.parse::<u64>().map_err(|_| unknown())?.try_into().map_err(|_| unknown())
    }
}

impl Serialize for Depth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.number())
    }
}

impl<'de> Deserialize<'de> for Depth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Depth;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a ResNet's depth, such as 50 or \"resnet50\"")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Depth, E> {
                number.try_into().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Depth, E> {
                number.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Depth, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
