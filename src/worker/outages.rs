//! Outages that all workers of a queue see: one event per outage, not one per process.
//!
//! With each heartbeat a worker shares through Redis what it sees (`WorkerHandle::outage`); what is reported of it is
//! claimed there by one worker (`alerting.rs`).
//!
//! Invariant: every outage seen is reported. Without Redis the workers cannot agree, so each reports by itself what it
//! could not share; all of these events have one fingerprint, and are one issue in Sentry.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;

use crate::queue::{self, OutageReport, WorkerHandle, WorkerId};
use crate::telemetry::sentry::{Alerts, OutageKind};

/// The outages this worker sees, and which of them are shared.
pub(super) struct SharedOutages {
    alerts: Alerts,
    queue: WorkerHandle,
    worker: WorkerId,
    seen: Mutex<HashMap<OutageKind, SeenOutage>>,
}

#[derive(Debug, Clone)]
struct SeenOutage {
    detail: String,
    view: LocalView,
    /// Redis has it, or had it: its end must be shared.
    shared: bool,
    /// It is reported by this worker alone.
    alone: bool,
}

/// What this worker sees of an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LocalView {
    Ongoing,
    /// It happened at one moment and has no end.
    Once,
    Over,
}

impl SharedOutages {
    pub(super) fn new(alerts: Alerts, queue: WorkerHandle, worker: WorkerId) -> Self {
        Self { alerts, queue, worker, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<OutageKind, SeenOutage>> {
        // A panic while holding the lock leaves a consistent map: each change is one assignment.
        self.seen.lock()
    }

    /// Records an outage that this worker sees; one worker reports it soon after the next heartbeat.
    pub(super) fn begins(&self, what: OutageKind, detail: String) {
        self.sees(what, detail, LocalView::Ongoing);
    }

    /// Records what happened at one moment; one worker reports it soon after the next heartbeat.
    pub(super) fn happened(&self, what: OutageKind, detail: String) {
        self.sees(what, detail, LocalView::Once);
    }

    fn sees(&self, what: OutageKind, detail: String, view: LocalView) {
        let mut seen = self.seen();
        let new = SeenOutage { detail: String::new(), view, shared: false, alone: false };
        let outage = seen.entry(what).or_insert(new);
        (outage.detail, outage.view) = (detail, view);
    }

    /// Records that it ended for this worker.
    pub(super) fn ends(&self, what: OutageKind) {
        let mut seen = self.seen();
        let Some(outage) = seen.get_mut(&what) else { return };
        outage.view = LocalView::Over;
        if outage.alone {
            self.alerts.resolve_outage(what);
            seen.remove(&what);
        }
    }

    /// Shares what is seen if Redis `answers`, and otherwise reports it. True if something was shared.
    pub(super) async fn sync_outages(&self, answers: bool) -> bool {
        // Where alerts are off no worker reports what is shared.
        if !self.alerts.is_enabled() {
            return false;
        }
        let all: Vec<_> = self.seen().iter().map(|(what, outage)| (*what, outage.clone())).collect();
        let mut any = false;
        for (what, outage) in all {
            let shared = answers && self.share(what, &outage).await.is_ok();
            any |= shared;
            match shared {
                true => self.was_shared(what, outage.view),
                false => self.report_alone(what),
            }
        }
        any
    }

    async fn share(&self, what: OutageKind, outage: &SeenOutage) -> Result<(), queue::Error> {
        let detail = outage.detail.as_str();
        let ongoing = OutageReport::Ongoing { detail, reported: self.alerts.reported(what) };
        let share = async |report| self.queue.outage(what.as_str(), &self.worker, report).await;
        match outage.view {
            LocalView::Ongoing => share(ongoing).await,
            LocalView::Once => share(OutageReport::Once { detail }).await,
            LocalView::Over => {
                if !outage.shared {
                    share(ongoing).await?; // it was short, and is reported all the same
                }
                share(OutageReport::Over).await
            }
        }
    }

    fn was_shared(&self, what: OutageKind, view: LocalView) {
        let mut seen = self.seen();
        let Some(outage) = seen.get_mut(&what) else { return };
        if std::mem::take(&mut outage.alone) {
            self.alerts.forget_outage(what);
        }
        outage.shared = true;
        if view != LocalView::Ongoing && outage.view == view {
            seen.remove(&what);
        }
    }

    /// Reports what Redis does not know. An outage that it knows was reported, or will be once Redis is back.
    fn report_alone(&self, what: OutageKind) {
        let mut seen = self.seen();
        let Some(outage) = seen.get_mut(&what) else { return };
        if outage.shared || outage.alone {
            return;
        }
        outage.alone = true;
        self.alerts.report_outage(what, &outage.detail);
        if outage.view == LocalView::Over {
            self.alerts.resolve_outage(what);
            seen.remove(&what);
        }
    }
}
