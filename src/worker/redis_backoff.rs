//! How long to wait before retrying an unreachable Redis; the same for every loop of the worker.
//!
//! Full jitter, because all workers lose the same Redis at the same moment: equal waits would make them retry
//! together.
//! Invariant: no wait is zero, so no loop that uses it spins.

use std::time::Duration;

use crate::policy::backoff::full_jitter;
use crate::policy::breaker::PauseBounds;

/// Upper bound of the first wait: long enough to reconnect after a dropped connection.
const FIRST: Duration = Duration::from_millis(100);
/// Upper bound of every wait: the longest a worker takes to notice that Redis is back.
const LONGEST: Duration = Duration::from_secs(5);

/// The same bounds for the breaker that guards claims.
pub(super) const PAUSES: PauseBounds = PauseBounds { base: FIRST, max: LONGEST };

/// Failed tries since Redis last answered.
#[derive(Debug, Default)]
pub(super) struct RedisBackoff {
    failed: u32,
}

impl RedisBackoff {
    /// Counts one more failure and returns how long to wait.
    pub(super) fn next_delay(&mut self) -> Duration {
        self.failed = self.failed.saturating_add(1);
        full_jitter(FIRST, LONGEST, self.failed, fastrand::f64())
    }

    /// Resets the count: Redis answered.
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
