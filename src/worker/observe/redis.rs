//! What a worker says of Redis: whether it answers, whether it is well, whether there is room in it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::{DETAIL_BYTES, Observer};
use crate::queue::{self, NoRoom, Orphans, SettingValue, Status, WriteHealth};
use crate::telemetry::sanitize;
use crate::telemetry::sentry::OutageKind;

/// How long after a refused write what another worker saw does not count: it may have looked before.
const REFUSAL_HOLDS: Duration = Duration::from_secs(10);

impl Observer {
    /// A call to Redis failed. Where it is unreachable each worker logs and alerts once per change, because without
    /// Redis nobody reports for all; where it answers and refuses, the state of its health is reported.
    pub(in crate::worker) fn redis_failed(&self, error: &queue::Error) {
        let why = sanitize(&error.to_string(), DETAIL_BYTES);
        match error {
            queue::Error::Full(_)
            | queue::Error::Denied(_)
            | queue::Error::Refused(_)
            | queue::Error::Reply { .. } => {
                // The looks say what is wrong; until the next one this does.
                if self.health.lock().is_empty() {
                    self.unwell(&why);
                }
                return;
            }
            queue::Error::Refusing(what) => {
                self.refuses_writes(&sanitize(what, DETAIL_BYTES));
                return;
            }
            queue::Error::Unavailable(_)
            | queue::Error::NewerSchema { .. }
            | queue::Error::Evicts(_)
            | queue::Error::TooManyOperations { .. }
            | queue::Error::Config(_) => {}
        }
        self.metrics.redis_up(false);
        if !self.redis_reported.swap(true, Ordering::Relaxed) {
            self.alerts.report_outage(OutageKind::Redis, &why);
        }
        match self.redis.set_answers(false) {
            true => {
                error!(error = why, "Redis cannot be reached: jobs in flight continue, nothing is claimed")
            }
            false => debug!(error = why, "Redis still cannot be reached"),
        }
    }

    /// Redis answers and takes no writes. Upkeep fails as well, so no look says so.
    fn refuses_writes(&self, why: &str) {
        *self.writes_refused.lock() = Some(Instant::now());
        self.redis_up();
        self.metrics.redis_health(false, 1);
        self.redis.set_refusal(Some(format!("Redis refuses writes: {why}")));
        if self.health.lock().is_empty() {
            self.unwell(&format!("Redis refuses writes: {why}"));
        }
    }

    /// True when Redis refused a write a moment ago.
    pub(in crate::worker) fn was_refused(&self) -> bool {
        self.writes_refused.lock().is_some_and(|at| at.elapsed() < REFUSAL_HOLDS)
    }

    /// Redis answers, and something is wrong with it (empty: nothing is). Logged and alerted once per change.
    fn unwell(&self, what: &str) {
        let mut known = self.health.lock();
        if *known == what {
            return;
        }
        match (known.is_empty(), what.is_empty()) {
            (_, true) => {
                self.outages.ends(OutageKind::RedisHealth);
                info!("Redis is well again");
            }
            (was_well, false) => {
                warn!(what, "Redis is not well");
                if was_well {
                    let doctor = self.queue.command("doctor");
                    self.outages.begins(OutageKind::RedisHealth, format!("{what} ({doctor})"));
                }
            }
        }
        what.clone_into(&mut known);
    }

    /// Nothing is claimed for want of room in Redis; logged once, until there is room.
    pub(in crate::worker) fn no_room(&self, why: NoRoom) {
        if self.no_room_reported.swap(true, Ordering::Relaxed) {
            return;
        }
        let free = self.queue.command("results free");
        match why {
            NoRoom::Reports => warn!(
                "results are at reports_max_bytes and Redis has the only copy: nothing is claimed until some are freed ({free}) or the budget is raised"
            ),
            NoRoom::Memory => warn!(
                "Redis is at maxmemory, not because of this queue's jobs: nothing is claimed until there is room"
            ),
        }
    }

    /// Jobs are claimed again.
    pub(in crate::worker) fn has_room(&self) {
        if self.no_room_reported.swap(false, Ordering::Relaxed) {
            info!("there is room in Redis again: claiming");
        }
    }

    /// The queue's settings are not this worker's; logged once.
    pub(in crate::worker) fn settings_differ(&self, settings: &[SettingValue]) {
        if settings.is_empty() || self.settings_reported.swap(true, Ordering::Relaxed) {
            return;
        }
        let each = settings.iter().map(|one| {
            let configured = one.configured.as_deref().unwrap_or_default();
            format!("{} is {} (configured {configured})", one.setting.as_str(), one.value)
        });
        let set = self.queue.command("queue set --from-config");
        warn!(
            "the queue's own settings hold, not this worker's configuration: {} ({set} changes them)",
            each.collect::<Vec<_>>().join(", ")
        );
    }

    /// Jobs and index entries that had parted were put together.
    pub(in crate::worker) fn refiled(&self, orphans: Orphans) {
        let Orphans { refiled, removed, duplicates } = orphans;
        if refiled + removed + duplicates > 0 {
            warn!(
                refiled,
                removed, duplicates, "jobs and their indexes had parted: they were put together again"
            );
        }
    }

    /// Redis answered a command.
    pub(in crate::worker) fn redis_up(&self) {
        self.metrics.redis_up(true);
        if self.redis_reported.swap(false, Ordering::Relaxed) {
            self.alerts.resolve_outage(OutageKind::Redis);
        }
        if !self.redis.set_answers(true) {
            info!("Redis answers");
        }
    }

    /// Exports the health of Redis, and reports what is wrong with it.
    pub(super) fn look_at_redis(&self, status: &Status) {
        let problems = status.problems();
        let refusal = status.server.as_ref().filter(|server| server.write != WriteHealth::Ok);
        self.metrics.redis_health(refusal.is_none(), problems.len() as u64);
        self.redis.set_refusal(refusal.and_then(|server| server.problems().into_iter().next()));
        self.unwell(&sanitize(&problems.join("; "), DETAIL_BYTES));
    }
}
