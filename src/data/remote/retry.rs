//! When to ask a store again, and when to stop asking. Pure: time and chance are arguments.

use std::time::Duration;

/// The pause before the second try; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A server that is well sends something within so long.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// The pause after `num_tries` tries have failed. `chance`, 0 to 1, spreads those who failed together: half of the pause
/// is fixed ("equal jitter", Brooker 2015).
pub(super) fn pause(num_tries: u32, chance: f64) -> Duration {
    let doublings = num_tries.saturating_sub(1).min(16);
    let whole = (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE);
    whole.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

/// How long a connection may be silent before it is taken to be dead: so that several are tried within `patience`.
pub(super) fn silence(patience: Duration) -> Duration {
    (patience / 8).min(LONGEST_SILENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses = |chance| (1..9).map(|n| pause(n, chance).as_millis()).collect::<Vec<_>>();
        assert_eq!(pauses(1.0), [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pauses(0.0)[..3], [50, 100, 200]);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE);
    }

    #[test]
    fn several_silent_connections_fit_into_the_patience() {
        assert_eq!(silence(Duration::from_secs(240)), Duration::from_secs(30));
        assert_eq!(silence(Duration::from_secs(8)), Duration::from_secs(1));
    }
}
