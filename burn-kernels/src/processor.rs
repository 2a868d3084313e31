//! The widest vectors that this processor has, found at run time. The crate `pulp` would do, but for AVX2: that is behind
//! a feature of its own which flex, whose `pulp` this is, leaves off.

use pulp::{Arch, Simd, WithSimd};

/// What a kernel runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Processor {
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    V4(pulp::x86::V4),
    /// AVX2 and fused products.
    #[cfg(target_arch = "x86_64")]
    V3(pulp::x86::V3),
    /// What `pulp` finds on others.
    Other(Arch),
}

impl Processor {
    pub(crate) fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return Self::V4(simd);
            }
            if let Some(simd) = pulp::x86::V3::try_new() {
                return Self::V3(simd);
            }
        }
        Self::Other(Arch::new())
    }

    /// Whatever this machine can run: each in turn is what a lesser one has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::new(), Self::Other(Arch::Scalar)];
        #[cfg(target_arch = "x86_64")]
        all.extend(pulp::x86::V3::try_new().map(Self::V3));
        all
    }

    #[inline(always)]
    pub(crate) fn dispatch<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::V4(simd) => Simd::vectorize(simd, op),
            #[cfg(target_arch = "x86_64")]
            Self::V3(simd) => Simd::vectorize(simd, op),
            Self::Other(arch) => arch.dispatch(op),
        }
    }

    /// Runs `work` with the vectors' instructions, if it is a closure marked `#[inline(always)]`. Through `dispatch` a closure
    /// is called by way of its `FnOnce::call_once`, which is not always inlined and then compiled for the least processor.
    #[inline(always)]
    pub(crate) fn run<R>(self, work: impl FnMut() -> R) -> R {
        self.dispatch(Inlined(work))
    }
}

struct Inlined<F>(F);

impl<F: FnMut() -> R, R> WithSimd for Inlined<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}
