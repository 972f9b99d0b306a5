//! Tells Sentry that the queue is looked after and that it gets on, so that silence becomes an alert there.
//!
//! Only the looker does, after a look. Invariant: nothing waits for Sentry here; a check-in that is not taken is lost,
//! and the next one follows.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::Shared;
use crate::queue::{SettledLately, Status};
use crate::telemetry::sentry::Monitor;

/// Time between two check-ins: half of what the monitors expect.
const EVERY: Duration = Duration::from_secs(30);

/// What was checked in last.
#[derive(Debug, Default)]
pub(super) struct CheckIns(Mutex<Option<LastCheckIn>>);

#[derive(Debug, Clone, Copy)]
struct LastCheckIn {
    at: Instant,
    settled: SettledLately,
}

impl Shared {
    /// Checks in after a look, where the last time is long enough ago.
    pub(super) async fn check_in(&self, look: &Status) {
        let (alerts, queue) = (&self.worker.alerts, &self.worker.queue);
        let last = *self.check_ins.0.lock();
        if !alerts.checks_in() || last.is_some_and(|last| last.at.elapsed() < EVERY) {
            return;
        }
        alerts.check_in(Monitor::Upkeep, queue.name());
        let settled = match queue.settled_lately(look).await {
            Ok(settled) => settled,
            Err(e) => {
                debug!(error = %e, "no check-in for progress: the counters could not be read");
                return;
            }
        };
        if gets_on(look, last.is_some_and(|last| settled.since(&last.settled))) {
            alerts.check_in(Monitor::Progress, queue.name());
        }
        *self.check_ins.0.lock() = Some(LastCheckIn { at: Instant::now(), settled });
    }
}

/// Whether jobs were settled since the last time, or none could have been. A paused queue stands still on purpose.
fn gets_on(look: &Status, any_settled: bool) -> bool {
    let waiting = look.inbox + look.ready + look.exclusive;
    any_settled || waiting == 0 || look.paused.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_gets_on_where_jobs_are_settled_or_none_could_be() {
        let waiting = Status { ready: 3, ..Status::default() };
        assert!(gets_on(&waiting, true));
        assert!(!gets_on(&waiting, false));
        assert!(gets_on(&Status { in_flight: 2, scheduled: 9, ..Status::default() }, false));
        let paused = Some(crate::queue::Paused {
            name: "default".into(),
            by: "me".into(),
            reason: "a look".into(),
            since_ms: 1,
            until_ms: None,
        });
        assert!(gets_on(&Status { paused, ..waiting }, false), "on purpose");
    }
}
