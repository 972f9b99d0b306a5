//! Check-ins of cron monitors: Sentry alerts when they do not come, so that silence is an alert too.
//!
//! Invariant: a monitor has one slug for each queue, of characters and a length that Sentry takes.

use ::sentry::protocol::{
    MonitorCheckIn, MonitorCheckInStatus, MonitorConfig, MonitorIntervalUnit, MonitorSchedule,
};
use uuid::Uuid;

use crate::job::text::sha256_hex;

/// Sentry's limit on a slug, in characters.
const MAX_SLUG: usize = 50;
/// How much of the hash of a long name stands in its place.
const HASH_CHARS: usize = 8;
/// A check-in is expected every so many minutes. They are sent twice as often: one that is lost is no alert.
const EVERY_MINUTES: u64 = 1;
/// One check-in is an event and not a run: one that is begun and not ended within this is never sent.
const MAX_RUNTIME_MINUTES: u64 = 1;

/// What checks in, once for a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitor {
    /// Some worker looks after the queue.
    Upkeep,
    /// Jobs are settled, or none waits.
    Progress,
}

impl Monitor {
    fn name(self) -> &'static str {
        match self {
            Self::Upkeep => "wm-upkeep",
            Self::Progress => "wm-progress",
        }
    }

    /// How many minutes a check-in may be late. Upkeep changes hands within 15 s. Progress has to wait for the longest
    /// job, and for a host or a breaker that is probed after a few minutes.
    fn margin_minutes(self) -> u64 {
        match self {
            Self::Upkeep => 2,
            Self::Progress => 10,
        }
    }

    /// The slug of the monitor for `queue`.
    fn slug(self, queue: &str) -> String {
        let whole = format!("{}-{queue}", self.name());
        if whole.len() <= MAX_SLUG {
            return whole;
        }
        let hash = &sha256_hex(queue.as_bytes())[..HASH_CHARS];
        format!("{}-{hash}", &whole[..MAX_SLUG - HASH_CHARS - 1])
    }

    /// A check-in that says all is well, with the monitor's configuration, which creates it in Sentry.
    pub(super) fn check_in(self, queue: &str, environment: &str) -> MonitorCheckIn {
        MonitorCheckIn {
            check_in_id: Uuid::new_v4(),
            monitor_slug: self.slug(queue),
            status: MonitorCheckInStatus::Ok,
            environment: Some(environment.to_owned()),
            duration: None,
            monitor_config: Some(MonitorConfig {
                schedule: MonitorSchedule::Interval {
                    value: EVERY_MINUTES,
                    unit: MonitorIntervalUnit::Minute,
                },
                checkin_margin: Some(self.margin_minutes()),
                max_runtime: Some(MAX_RUNTIME_MINUTES),
                timezone: None,
                failure_issue_threshold: Some(1),
                recovery_threshold: Some(1),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slug_of_every_queue_is_its_own_and_one_that_sentry_takes() {
        let long = "q".repeat(63);
        let slugs = ["analysis", "a_b-c", &long, &(long[1..].to_owned() + "x")]
            .map(|queue| Monitor::Progress.slug(queue));
        assert_eq!(slugs[0], "wm-progress-analysis");
        for slug in &slugs {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
            assert!(slug.len() <= MAX_SLUG && slug.bytes().all(plain), "{slug}");
        }
        assert_ne!(slugs[2], slugs[3]);
    }
}
