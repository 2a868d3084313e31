//! The update of SGD on f32 slices, in parallel.

use rayon::prelude::*;

use crate::memory::Buffer;
use crate::processor::Processor;
use crate::sgd::SgdStep;

/// Weights that a thread takes at a time.
const GRAIN: usize = 1 << 14;

/// The new weights; `velocity` becomes the new one.
pub(crate) fn step(weight: &[f32], gradient: &[f32], velocity: &mut [f32], step: SgdStep) -> Buffer {
    let [lr, momentum, decay] = [step.lr, step.momentum, step.weight_decay].map(|factor| factor as f32);
    let processor = Processor::new();
    let mut new = Buffer::of_any(weight.len());
    let parts = new.par_chunks_mut(GRAIN).zip(weight.par_chunks(GRAIN));
    let parts = parts.zip(gradient.par_chunks(GRAIN)).zip(velocity.par_chunks_mut(GRAIN));
    parts.for_each(|(((new, weight), gradient), velocity)| {
        processor.run(
            #[inline(always)]
            || {
                let values = new.iter_mut().zip(weight).zip(gradient).zip(&mut *velocity);
                for (((new, weight), gradient), velocity) in values {
                    let gradient = gradient + weight * decay;
                    *velocity = *velocity * momentum + gradient;
                    let direction = if step.nesterov { gradient + *velocity * momentum } else { *velocity };
                    *new = weight - direction * lr;
                }
            },
        );
    });
    new
}
