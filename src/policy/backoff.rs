//! Full-jitter exponential backoff: a delay drawn uniformly between zero and a ceiling that doubles.
//!
//! # Why
//! The crate `backoff` is unmaintained (RUSTSEC-2025-0012). Keeping it was a deliberate decision; it is
//! confined to this file, and only its arithmetic is used: without its clock and random source, the ceiling
//! depends on the attempt alone.

use std::time::Duration;

use crate::job::duration::millis;
use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff as _;

/// After this many doublings every ceiling is the maximum (base 1 ms would have reached 12 days).
const MAX_DOUBLINGS: u32 = 30;

/// Longest delay before attempt `spent + 1`, after `spent` failed attempts: `base * 2^(spent - 1)`, at most
/// `max`.
pub fn ceiling(base: Duration, max: Duration, spent: u32) -> Duration {
    let mut backoff = ExponentialBackoffBuilder::new()
        .with_initial_interval(base.min(max))
        .with_max_interval(max)
        .with_multiplier(2.0)
        .with_randomization_factor(0.0)
        .with_max_elapsed_time(None)
        .build();
    let mut delay = base.min(max);
    for _ in 0..spent.clamp(1, MAX_DOUBLINGS) {
        delay = backoff.next_backoff().unwrap_or(max);
    }
    delay
}

/// The delay before attempt `spent + 1`: `chance` (0 to 1) of the ceiling, in whole milliseconds and at least
/// one.
pub(crate) fn full_jitter(base: Duration, max: Duration, spent: u32, chance: f64) -> Duration {
    let drawn = ceiling(base, max, spent).mul_f64(chance.clamp(0.0, 1.0));
    Duration::from_millis(millis(drawn).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_ceiling_doubles_and_stops_at_the_maximum() {
        let minute = Duration::from_secs(60);
        let ceilings: Vec<u64> = (0..9).map(|n| ceiling(SECOND, minute, n).as_secs()).collect();
        assert_eq!(ceilings, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(ceiling(SECOND, minute, u32::MAX), minute);
    }

    #[test]
    fn a_delay_is_its_chance_of_the_ceiling_and_never_nothing() {
        let max = Duration::from_secs(60);
        assert_eq!(full_jitter(SECOND, max, 3, 0.5), Duration::from_secs(2));
        assert_eq!(full_jitter(SECOND, max, 3, 1.0), Duration::from_secs(4));
        assert_eq!(full_jitter(SECOND, max, 3, 0.0), Duration::from_millis(1));
    }
}
