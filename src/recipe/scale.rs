//! A recipe for more or fewer epochs, or for another batch: what changes with them. Pure.

use super::{Phase, Ramp, RampRule};

/// The most epochs that a recipe is stretched to.
const MAX_EPOCHS: f64 = 1e6;

/// Multiplies the number of epochs by `factor`, phase by phase.
///
/// The total is rounded to a whole number; the phases share it in their old proportions by largest remainder, and each
/// keeps at least one epoch. Curves that span several phases, and the epochs between two steps, move along.
///
/// # Errors
/// Why `factor` cannot be.
pub(crate) fn stretch(phases: &mut [Phase], factor: f64) -> Result<(), String> {
    let old: Vec<u32> = phases.iter().map(|phase| phase.epochs).collect();
    let total = old.iter().map(|&epochs| f64::from(epochs)).sum::<f64>() * factor;
    if !(factor > 0.0 && total <= MAX_EPOCHS) {
        return Err(format!("expected a number above 0 that leaves at most {MAX_EPOCHS} epochs"));
    }
    let new = shares(&old, total.round() as u32);
    let (old_ends, new_ends) = (ends(&old), ends(&new));
    for (phase, (old, new)) in phases.iter_mut().zip(old.iter().zip(&new)) {
        phase.epochs = *new;
        for ramp in [Some(&mut phase.lr), phase.momentum.as_mut()].into_iter().flatten() {
            if let Some(over) = ramp.over_mut() {
                *over = over.map(|epoch| moved(epoch, &old_ends, &new_ends));
            }
            if let Ramp::Rule(RampRule::Step { every, .. }) = ramp {
                let stretched = f64::from(*every) * f64::from(*new) / f64::from((*old).max(1));
                *every = stretched.round().max(1.0) as u32;
            }
        }
    }
    Ok(())
}

/// Divides `total` in the proportions of `weights`: each gets its quota's whole part, at least 1, and those with the
/// largest remainders one more, until nothing is left. Where the ones come to more, those that are furthest above their
/// quota give.
fn shares(weights: &[u32], total: u32) -> Vec<u32> {
    let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let quotas: Vec<f64> = weights.iter().map(|&weight| f64::from(weight) / sum * f64::from(total)).collect();
    let mut shares: Vec<u32> = quotas.iter().map(|quota| (quota.floor() as u32).max(1)).collect();
    let total = total.max(weights.len() as u32);
    let lacks = |shares: &[u32], index: usize| quotas[index] - f64::from(shares[index]);
    loop {
        let given: u32 = shares.iter().sum();
        // The first of several that lack the same.
        let order = |a: &usize, b: &usize| lacks(&shares, *a).total_cmp(&lacks(&shares, *b)).then(b.cmp(a));
        if given < total {
            let Some(next) = (0..shares.len()).max_by(order) else { return shares };
            shares[next] += 1;
        } else if given > total {
            let Some(next) = (0..shares.len()).filter(|&index| shares[index] > 1).min_by(order) else {
                return shares;
            };
            shares[next] -= 1;
        } else {
            return shares;
        }
    }
}

/// Where each phase ends, in epochs of the run.
fn ends(epochs: &[u32]) -> Vec<f64> {
    let mut end = 0.0;
    epochs
        .iter()
        .map(|&epochs| {
            end += f64::from(epochs);
            end
        })
        .collect()
}

/// The place among new phases that `epoch` had among the old ones.
fn moved(epoch: f64, old_ends: &[f64], new_ends: &[f64]) -> f64 {
    let phase = old_ends.iter().position(|&end| epoch <= end).unwrap_or(old_ends.len() - 1);
    let begin = |ends: &[f64]| if phase == 0 { 0.0 } else { ends[phase - 1] };
    let (old_begin, new_begin) = (begin(old_ends), begin(new_ends));
    let (old_length, new_length) = (old_ends[phase] - old_begin, new_ends[phase] - new_begin);
    new_begin + (epoch - old_begin) * new_length / old_length
}

/// Gives `world_size` ranks the global batch `global` in the first phase, and others in proportion; multiplies learning
/// rates by what the global batch then is of `planned`, the first phase's so far (Goyal et al. 2017: the linear rule).
///
/// # Errors
/// The number that `global` must be a multiple of.
pub(crate) fn scale_batch(
    phases: &mut [Phase],
    global: usize,
    world_size: usize,
    planned: usize,
) -> Result<(), usize> {
    let Some(first) = phases.first().map(|phase| phase.batch_size) else { return Ok(()) };
    let whole = world_size * first;
    // Every phase's batch size times `global` must be a multiple of it.
    let unit = phases.iter().map(|phase| whole / gcd(whole, phase.batch_size)).fold(1, lcm);
    if global == 0 || !global.is_multiple_of(unit) {
        return Err(unit);
    }
    for phase in phases {
        phase.batch_size = phase.batch_size * global / whole;
        phase.lr.multiply(global as f64 / planned as f64);
    }
    Ok(())
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

fn lcm(a: usize, b: usize) -> usize {
    a / gcd(a, b) * b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_add_up_and_leave_nobody_out() {
        let imagenet18 = [6, 10, 3, 12, 6, 1, 12];
        assert_eq!(shares(&imagenet18, 50), imagenet18);
        assert_eq!(shares(&imagenet18, 100), imagenet18.map(|epochs| 2 * epochs));
        // Quotas 3, 5, 1.5, 6, 3, 0.5, 6: the one half that is left goes to the first that lacks it.
        assert_eq!(shares(&imagenet18, 25), [3, 5, 1, 6, 3, 1, 6]);
        // Quotas 0.96, 1.6, 0.48, 1.92, 0.96, 0.16, 1.92.
        assert_eq!(shares(&imagenet18, 8), [1, 1, 1, 2, 1, 1, 1]);
        assert_eq!(shares(&imagenet18, 1), [1; 7]);
        for total in 1..300 {
            let shared = shares(&imagenet18, total);
            assert_eq!(shared.iter().sum::<u32>(), total.max(7), "{total}");
            assert!(shared.iter().all(|&share| share > 0), "{total}");
        }
    }

    #[test]
    fn an_epoch_keeps_its_place_among_the_phases() {
        let (old, new) = (ends(&[5, 10, 5]), ends(&[1, 20, 4]));
        let places = [0.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0].map(|epoch| moved(epoch, &old, &new));
        assert_eq!(places, [0.0, 0.5, 1.0, 11.0, 21.0, 25.0, 29.0]);
    }
}
