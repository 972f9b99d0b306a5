//! OutageKind that all workers of a queue share, and who of them alerts: one alert for an outage, not one per process.
//!
//! With each beat a worker tells the others, through Redis, what it sees (`queue/outage.rs`), and hears who tells people.
//!
//! Invariant: what is seen is reported by somebody. Where Redis does not answer nobody can agree, so each worker that has not
//! heard of a telling tells; all of these have one fingerprint, and are one issue in Sentry.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;

use crate::queue::{AlertLeader, OutageReport, WorkerHandle, WorkerId};
use crate::telemetry::sentry::{Alerts, OutageKind};

/// What this worker sees, and what of it was reported.
pub(super) struct SharedOutages {
    alerts: Alerts,
    queue: WorkerHandle,
    worker: WorkerId,
    seen: Mutex<HashMap<OutageKind, OutageState>>,
}

#[derive(Default)]
struct OutageState {
    /// It ended here and the others do not know yet; and whether our alert of it had arrived.
    ended: Option<bool>,
    ongoing: Option<Ongoing>,
}

struct Ongoing {
    detail: String,
    /// Nothing is left to do for us: we have noted the alert, or know that somebody reported.
    reported: bool,
}

impl SharedOutages {
    pub(super) fn new(alerts: Alerts, queue: WorkerHandle, worker: WorkerId) -> Self {
        Self { alerts, queue, worker, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<OutageKind, OutageState>> {
        // A panic while holding it leaves a whole map: each change is one assignment.
        self.seen.lock()
    }

    /// It begins; somebody alerts soon after the next beat.
    pub(super) fn begins(&self, what: OutageKind, detail: String) {
        self.seen().entry(what).or_default().ongoing = Some(Ongoing { detail, reported: false });
    }

    /// It is over for us; who alerted says so.
    pub(super) fn ends(&self, what: OutageKind) {
        let mut seen = self.seen();
        let Some(trouble) = seen.get_mut(&what).filter(|trouble| trouble.ongoing.is_some()) else { return };
        *trouble = OutageState { ended: Some(self.alerts.reported(what)), ongoing: None };
        self.alerts.resolve_outage(what);
    }

    /// Tells the others what is seen, where Redis `answers`, and alerts where that falls to us.
    pub(super) async fn sync_outages(&self, answers: bool) {
        // Who cannot alert must not be the one to.
        if !self.alerts.is_enabled() {
            return;
        }
        for (what, reported) in self.ended() {
            // A word that is not heard is said again: else the next outage would pass for this one.
            if answers
                && self.queue.outage(what.as_str(), &self.worker, OutageReport::Over, reported).await.is_ok()
            {
                self.seen().entry(what).and_modify(|trouble| trouble.ended = None);
            }
        }
        for what in self.ongoing() {
            let reported = self.alerts.reported(what);
            let leader = match answers {
                true => self.queue.outage(what.as_str(), &self.worker, OutageReport::Ongoing, reported).await,
                false => Ok(AlertLeader::Us),
            };
            match leader {
                Ok(AlertLeader::Us) | Err(_) => self.report(what),
                Ok(AlertLeader::Another) => {}
                Ok(AlertLeader::Nobody) => self.mark_reported(what),
            }
        }
    }

    fn ended(&self) -> Vec<(OutageKind, bool)> {
        self.seen().iter().filter_map(|(what, trouble)| Some((*what, trouble.ended?))).collect()
    }

    fn ongoing(&self) -> Vec<OutageKind> {
        self.seen().iter().filter(|(_, trouble)| trouble.ongoing.is_some()).map(|(what, _)| *what).collect()
    }

    fn report(&self, what: OutageKind) {
        let mut seen = self.seen();
        let ongoing = seen.get_mut(&what).and_then(|trouble| trouble.ongoing.as_mut());
        if let Some(ongoing) = ongoing.filter(|ongoing| !ongoing.reported) {
            ongoing.reported = true;
            self.alerts.report_outage(what, &ongoing.detail);
        }
    }

    fn mark_reported(&self, what: OutageKind) {
        if let Some(ongoing) = self.seen().get_mut(&what).and_then(|trouble| trouble.ongoing.as_mut()) {
            ongoing.reported = true;
        }
    }
}
