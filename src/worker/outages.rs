//! Outages that all workers of a queue see, and which worker alerts: one alert per outage, not one per
//! process.
//!
//! With each heartbeat a worker shares through Redis what it sees (`queue/outage.rs`) and reads which worker
//! is the alert leader.
//!
//! Invariant: every outage seen is reported. Without Redis the workers cannot agree, so each worker that has
//! not read that the outage was reported alerts by itself; all of these alerts have one fingerprint, and are
//! one issue in Sentry.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;

use crate::queue::{AlertLeader, OutageReport, WorkerHandle, WorkerId};
use crate::telemetry::sentry::{Alerts, OutageKind};

/// The outages this worker sees, and which of them were reported.
pub(super) struct SharedOutages {
    alerts: Alerts,
    queue: WorkerHandle,
    worker: WorkerId,
    seen: Mutex<HashMap<OutageKind, LocalOutage>>,
}

#[derive(Default)]
struct LocalOutage {
    /// It ended here and this is not yet shared; the value is whether our alert was delivered.
    ended: Option<bool>,
    ongoing: Option<Ongoing>,
}

struct Ongoing {
    detail: String,
    /// Nothing left to do here: our alert is noted, or another worker has reported it.
    reported: bool,
}

impl SharedOutages {
    pub(super) fn new(alerts: Alerts, queue: WorkerHandle, worker: WorkerId) -> Self {
        Self { alerts, queue, worker, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<OutageKind, LocalOutage>> {
        // A panic while holding the lock leaves a consistent map: each change is one assignment.
        self.seen.lock()
    }

    /// Records the start of an outage; one worker alerts soon after the next heartbeat.
    pub(super) fn begins(&self, what: OutageKind, detail: String) {
        self.seen().entry(what).or_default().ongoing = Some(Ongoing { detail, reported: false });
    }

    /// Records that it ended for this worker; the worker that alerted resolves the alert.
    pub(super) fn ends(&self, what: OutageKind) {
        let mut seen = self.seen();
        let Some(trouble) = seen.get_mut(&what).filter(|trouble| trouble.ongoing.is_some()) else { return };
        *trouble = LocalOutage { ended: Some(self.alerts.reported(what)), ongoing: None };
        self.alerts.resolve_outage(what);
    }

    /// Shares what is seen if Redis `answers`, and alerts if this worker is the alert leader.
    pub(super) async fn sync_outages(&self, answers: bool) {
        // A worker that cannot send alerts must not become the alert leader.
        if !self.alerts.is_enabled() {
            return;
        }
        for (what, reported) in self.ended() {
            // Repeated until Redis has it: otherwise the next outage would be taken for this one.
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
