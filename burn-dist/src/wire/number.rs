//! Numbers that can be moved and combined, and what they become when they travel.
//!
//! Sums in half precision on the wire are kept in 32 bits on every rank: only what travels is rounded.

use bytemuck::{Pod, cast_slice, cast_slice_mut};
use half::{
    bf16, f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};

use crate::config::Wire;

/// How the values of all ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// Their sum.
    Sum,
    /// Their sum divided by the world size; of whole numbers, rounded down.
    Mean,
    /// The largest; a NaN loses against a number.
    Max,
    /// The smallest; a NaN loses against a number.
    Min,
}

impl ReduceOp {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Min => "min",
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A number that a communicator can move and combine: `f32`, `f64`, `u8`, `u32`, `u64`.
pub trait Element: Pod + Send + Sync + sealed::Sealed {
    /// Its name in messages.
    #[doc(hidden)]
    const NAME: &'static str;

    /// `into[i] = op(into[i], from[i])`.
    #[doc(hidden)]
    fn combine(op: ReduceOp, into: &mut [Self], from: &[Self]);

    /// `out[i] = op(a[i], b[i])`.
    #[doc(hidden)]
    fn combined(op: ReduceOp, out: &mut [Self], a: &[Self], b: &[Self]);

    /// Makes final values the same bits on two ranks that computed them from the same numbers: which of two NaNs or of
    /// two zeros survives an operation is not defined.
    #[doc(hidden)]
    fn settle(_values: &mut [Self]) {}

    /// Divides by the world size.
    #[doc(hidden)]
    fn divide(values: &mut [Self], by: usize);

    /// Bytes of an element on the wire.
    #[doc(hidden)]
    fn wire_bytes(_wire: Wire) -> usize {
        size_of::<Self>()
    }

    /// Writes `from` as it travels, if that is not as it lies in memory.
    #[doc(hidden)]
    fn encode(_wire: Wire, _from: &[Self], _into: &mut [u8]) {}

    /// Reads what [`encode`](Self::encode) wrote.
    #[doc(hidden)]
    fn decode(_wire: Wire, _from: &[u8], _into: &mut [Self]) {}

    /// Makes values what a receiver of them would have.
    #[doc(hidden)]
    fn round_as_sent(_wire: Wire, _values: &mut [Self]) {}
}

fn zip<T: Copy>(into: &mut [T], from: &[T], op: impl Fn(T, T) -> T) {
    for (into, from) in into.iter_mut().zip(from) {
        *into = op(*into, *from);
    }
}

fn zip_out<T: Copy>(out: &mut [T], a: &[T], b: &[T], op: impl Fn(T, T) -> T) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = op(*a, *b);
    }
}

macro_rules! common {
    ($type:ty, $add:expr) => {
        const NAME: &'static str = stringify!($type);

        fn combine(op: ReduceOp, into: &mut [Self], from: &[Self]) {
            match op {
                ReduceOp::Sum | ReduceOp::Mean => zip(into, from, $add),
                ReduceOp::Max => zip(into, from, |a, b| a.max(b)),
                ReduceOp::Min => zip(into, from, |a, b| a.min(b)),
            }
        }

        fn combined(op: ReduceOp, out: &mut [Self], a: &[Self], b: &[Self]) {
            match op {
                ReduceOp::Sum | ReduceOp::Mean => zip_out(out, a, b, $add),
                ReduceOp::Max => zip_out(out, a, b, |a, b| a.max(b)),
                ReduceOp::Min => zip_out(out, a, b, |a, b| a.min(b)),
            }
        }

        fn divide(values: &mut [Self], by: usize) {
            let by = by as $type;
            values.iter_mut().for_each(|value| *value /= by);
        }
    };
}

macro_rules! settled {
    () => {
        fn settle(values: &mut [Self]) {
            // Adding zero turns -0 into 0 and leaves the rest.
            values
                .iter_mut()
                .for_each(|value| *value = if value.is_nan() { Self::NAN } else { *value + 0.0 });
        }
    };
}

impl sealed::Sealed for f32 {}
impl Element for f32 {
    common!(f32, |a, b| a + b);
    settled!();

    fn wire_bytes(wire: Wire) -> usize {
        match wire {
            Wire::F32 => 4,
            Wire::F16 | Wire::Bf16 => 2,
        }
    }

    fn encode(wire: Wire, from: &[Self], into: &mut [u8]) {
        let into: &mut [u16] = cast_slice_mut(into);
        match wire {
            Wire::F32 => {}
            Wire::F16 => into.reinterpret_cast_mut::<f16>().convert_from_f32_slice(from),
            Wire::Bf16 => into.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(from),
        }
    }

    fn decode(wire: Wire, from: &[u8], into: &mut [Self]) {
        let from: &[u16] = cast_slice(from);
        match wire {
            Wire::F32 => {}
            Wire::F16 => from.reinterpret_cast::<f16>().convert_to_f32_slice(into),
            Wire::Bf16 => from.reinterpret_cast::<bf16>().convert_to_f32_slice(into),
        }
    }

    fn round_as_sent(wire: Wire, values: &mut [Self]) {
        match wire {
            Wire::F32 => {}
            Wire::F16 => values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32()),
            Wire::Bf16 => values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32()),
        }
    }
}

impl sealed::Sealed for f64 {}
impl Element for f64 {
    common!(f64, |a, b| a + b);
    settled!();
}

macro_rules! whole {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            common!($type, |a: $type, b: $type| a.wrapping_add(b));
        }
    )*};
}
whole!(u8, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_what_a_receiver_sees() {
        for wire in [Wire::F16, Wire::Bf16] {
            let values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 3e4).collect();
            let mut bytes = vec![0; values.len() * f32::wire_bytes(wire)];
            f32::encode(wire, &values, &mut bytes);
            let mut received = vec![0.0; values.len()];
            f32::decode(wire, &bytes, &mut received);
            let mut rounded = values.clone();
            f32::round_as_sent(wire, &mut rounded);
            assert_eq!(received, rounded);
            assert_ne!(received, values);
        }
    }

    #[test]
    fn settled_values_have_one_nan_and_one_zero() {
        let mut values =
            [f32::from_bits(0x7fc0_0001), f32::from_bits(0xffc0_0002), -0.0, 0.0, 1.5, f32::INFINITY];
        f32::settle(&mut values);
        let bits = values.map(f32::to_bits);
        assert_eq!(bits[0], bits[1]);
        assert_eq!(bits[2], bits[3]);
        assert_eq!(values[4..], [1.5, f32::INFINITY]);
    }
}
