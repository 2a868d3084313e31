//! What the loss is multiplied by, and what becomes of it when a gradient overflows. Pure: a step's outcome in, the next
//! step's scale out. Who finds the overflow is burn-dist's gradient sink, alike on all ranks.
//!
//! Half precision has no room for small gradients: below 6e-8 f16 has only zero. Multiplying the loss moves all of them
//! up by the same factor, a power of two takes nothing from them, and they are divided again in f32 (Micikevicius et al.
//! 2018, section 3.2, [1710.03740](https://arxiv.org/abs/1710.03740)). The numbers of the dynamic rule are those of
//! PyTorch's `GradScaler`; its scale has no bounds, this one has 1 and 2^24.

use serde::{Deserialize, Serialize};

use crate::config::LossScale;

/// 2^16: the dynamic scale that a run starts with.
const FIRST_EXPONENT: u32 = 16;
/// Beyond it nothing is gained: f16's smallest number, times 2^24, is 1.
const MAX_EXPONENT: u32 = 24;
/// Steps without an overflow after which the dynamic scale doubles.
const GROWTH_INTERVAL: u32 = 2000;
/// Overflows in a row, at a scale that cannot give way, that end a run.
const MAX_STUCK: u32 = 20;

/// The state of the loss scale. Saved with the run's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaler {
    /// The dynamic scale is 2 to this.
    exponent: u32,
    /// Steps without an overflow since it last changed.
    good_steps: u32,
    /// Overflows in a row at a scale that could not give way.
    stuck: u32,
    /// Steps of the run that were skipped.
    skipped_steps: u64,
}

impl Default for Scaler {
    fn default() -> Self {
        Self { exponent: FIRST_EXPONENT, good_steps: 0, stuck: 0, skipped_steps: 0 }
    }
}

impl Scaler {
    /// What the next step's loss is multiplied by.
    pub fn scale(&self, rule: LossScale) -> f64 {
        match rule {
            LossScale::Dynamic => f64::from(self.exponent).exp2(),
            LossScale::Static(scale) => scale,
        }
    }

    /// Takes in whether a step's gradients overflowed, so that it was skipped.
    pub fn update(&mut self, rule: LossScale, overflowed: bool) {
        let is_dynamic = rule == LossScale::Dynamic;
        if !overflowed {
            self.stuck = 0;
            self.good_steps += 1;
            if is_dynamic && self.good_steps >= GROWTH_INTERVAL {
                self.exponent = (self.exponent + 1).min(MAX_EXPONENT);
                self.good_steps = 0;
            }
            return;
        }
        self.skipped_steps += 1;
        self.good_steps = 0;
        if is_dynamic && self.exponent > 0 {
            self.exponent -= 1;
        } else {
            self.stuck += 1;
        }
    }

    /// Steps of the run that were skipped because a gradient was no number.
    pub fn skipped_steps(&self) -> u64 {
        self.skipped_steps
    }

    /// Whether skipping more steps is of no use.
    pub fn is_stuck(&self) -> bool {
        self.stuck >= MAX_STUCK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DYNAMIC: LossScale = LossScale::Dynamic;

    /// (steps, whether they overflow, the scale after them), the last of which is what `torch.amp.GradScaler("cpu")` of
    /// torch 2.15 said when it was fed with gradients of infinity and 1.
    #[test]
    fn goes_as_pytorchs_does() {
        let mut scaler = Scaler::default();
        assert_eq!(scaler.scale(DYNAMIC), 65536.0);
        let runs = [
            (2, true, 16384.0),
            (1999, false, 16384.0),
            (1, false, 32768.0),
            (1999, false, 32768.0),
            (1, true, 16384.0),
            (1999, false, 16384.0),
            (2001, false, 65536.0),
        ];
        for (steps, overflowed, scale) in runs {
            (0..steps).for_each(|_| scaler.update(DYNAMIC, overflowed));
            assert_eq!(scaler.scale(DYNAMIC), scale);
        }
        assert_eq!(scaler.skipped_steps(), 3);
    }

    #[test]
    fn ends_at_its_bounds() {
        let mut scaler = Scaler::default();
        (0..GROWTH_INTERVAL * 10).for_each(|_| scaler.update(DYNAMIC, false));
        assert_eq!(scaler.scale(DYNAMIC), 16_777_216.0);
        (0..MAX_EXPONENT).for_each(|_| scaler.update(DYNAMIC, true));
        assert_eq!(scaler.scale(DYNAMIC), 1.0);
        assert!(!scaler.is_stuck());
        (0..MAX_STUCK - 1).for_each(|_| scaler.update(DYNAMIC, true));
        assert!(!scaler.is_stuck());
        scaler.update(DYNAMIC, true);
        assert!(scaler.is_stuck());
        assert_eq!(scaler.scale(DYNAMIC), 1.0);
        scaler.update(DYNAMIC, false);
        assert!(!scaler.is_stuck());
        assert_eq!(scaler.skipped_steps(), u64::from(MAX_EXPONENT + MAX_STUCK));
    }

    #[test]
    fn a_static_scale_stays_and_is_stuck_at_once() {
        let (mut scaler, rule) = (Scaler::default(), LossScale::Static(1024.0));
        (0..MAX_STUCK - 1).for_each(|_| scaler.update(rule, true));
        assert!(!scaler.is_stuck());
        scaler.update(rule, false);
        (0..MAX_STUCK - 1).for_each(|_| scaler.update(rule, true));
        assert!(!scaler.is_stuck());
        scaler.update(rule, true);
        assert!(scaler.is_stuck());
        assert_eq!(scaler.scale(rule), 1024.0);
    }
}
