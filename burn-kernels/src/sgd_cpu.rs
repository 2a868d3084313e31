//! The update of SGD on f32 slices, in parallel.

use rayon::prelude::*;

use crate::processor::Processor;
use crate::sgd::SgdStep;

/// Weights that a thread takes at a time.
const GRAIN: usize = 1 << 14;

/// `gradient` becomes the new weights, `velocity` the new one.
pub(crate) fn step(weight: &[f32], gradient: &mut [f32], velocity: &mut [f32], step: SgdStep) {
    let [lr, momentum, decay] = [step.lr, step.momentum, step.weight_decay].map(|factor| factor as f32);
    let processor = Processor::new();
    let parts = gradient.par_chunks_mut(GRAIN).zip(weight.par_chunks(GRAIN));
    parts.zip(velocity.par_chunks_mut(GRAIN)).for_each(|((gradient, weight), velocity)| {
        processor.run(
            #[inline(always)]
            || {
                for ((gradient, weight), velocity) in gradient.iter_mut().zip(weight).zip(&mut *velocity) {
                    let decayed = *gradient + weight * decay;
                    *velocity = *velocity * momentum + decayed;
                    let direction = if step.nesterov { decayed + *velocity * momentum } else { *velocity };
                    *gradient = weight - direction * lr;
                }
            },
        );
    });
}
