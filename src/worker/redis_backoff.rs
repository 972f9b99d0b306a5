//! How long to wait before asking a Redis again that did not answer; the same for every loop of the worker.
//!
//! Full jitter, because all workers lose the same Redis in the same moment: those that wait alike come back as a herd.
//! Invariant: it never waits for nothing, so no loop that asks it spins.

use std::time::Duration;

use crate::policy::backoff::full_jitter;
use crate::policy::breaker::PauseBounds;

/// The most that the first wait may be: a connection that was merely cut is mended by then.
const FIRST: Duration = Duration::from_millis(100);
/// The most that any wait may be: so much longer than Redis itself is a worker away.
const LONGEST: Duration = Duration::from_secs(5);

/// The same for the breaker that guards claims.
pub(super) const PAUSES: PauseBounds = PauseBounds { base: FIRST, max: LONGEST };

/// The tries that failed since Redis last answered.
#[derive(Debug, Default)]
pub(super) struct RedisBackoff {
    failed: u32,
}

impl RedisBackoff {
    /// DeliveryCounts one more failure and says how long to wait now.
    pub(super) fn next_delay(&mut self) -> Duration {
        self.failed = self.failed.saturating_add(1);
        full_jitter(FIRST, LONGEST, self.failed, fastrand::f64())
    }

    /// Redis answered.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_differ_and_end_with_the_outage() {
        let mut backoff = RedisBackoff::default();
        let waits: Vec<_> = (0..100).map(|_| backoff.next_delay()).collect();
        assert!(
            waits[0] <= FIRST && waits.iter().all(|wait| (Duration::from_millis(1)..=LONGEST).contains(wait))
        );
        let late = &waits[50..];
        assert!(late.iter().any(|wait| *wait < LONGEST / 4), "from nothing");
        assert!(late.iter().any(|wait| *wait > LONGEST / 4 * 3), "to the ceiling");
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }
}
