//! What callers and the sender share: the throttle, the open outages, and the books, behind one short lock.
//!
//! It sends nothing and words nothing.
//!
//! Invariant: an occurrence that was noted is told in a sent event, in flight, or waiting in the throttle; never nowhere.

use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::OutageKind;
use super::event::{AlertSample, OutageReport, sanitize_detail};
use super::throttle::{AlertBatch, AlertThrottle};
use crate::job::failure::{FailureKind, Stage};

/// What became of the alerts so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AlertCounts {
    /// Events that Sentry took.
    pub sent: u64,
    /// Occurrences that got no event of their own; another event says how many it stands for.
    pub suppressed: u64,
    /// Deliveries that failed; what they stood for is told later.
    pub failed: u64,
    /// Occurrences that no event has told yet.
    pub pending: u64,
}

/// What an alert's fingerprint is made of; the throttle's memory is bounded by how few of these there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum AlertKey {
    DeadLetter(FailureKind, Stage),
    Outage(OutageKind),
}

#[derive(Debug)]
pub(super) struct SharedAlerts {
    state: Mutex<AlertState>,
    /// Wakes the sender: something was noted.
    pub(super) noted: Notify,
}

#[derive(Debug)]
struct AlertState {
    throttle: AlertThrottle<AlertKey, AlertSample>,
    outages: [Option<OutageState>; OutageKind::ALL.len()],
    counts: AlertCounts,
    /// Occurrences in events that are on their way.
    in_flight: u64,
}

/// A trouble that lasts.
#[derive(Debug)]
struct OutageState {
    since: Instant,
    /// Its latest failure.
    detail: String,
    /// Sentry took an event of it.
    reported: bool,
}

impl SharedAlerts {
    /// Nothing noted yet; one batch of a key per `window`.
    pub(super) fn new(window: Duration) -> Self {
        let state = AlertState {
            throttle: AlertThrottle::new(window),
            outages: Default::default(),
            counts: AlertCounts::default(),
            in_flight: 0,
        };
        Self { state: Mutex::new(state), noted: Notify::new() }
    }

    /// The lock is held for a few map operations, never across sending; a poisoned one still counts rightly.
    fn lock(&self) -> MutexGuard<'_, AlertState> {
        self.state.lock()
    }

    /// Notes `count` occurrences and wakes the sender.
    pub(super) fn note(&self, key: AlertKey, sample: AlertSample, count: u64) {
        self.note_in(&mut self.lock(), key, sample, count);
    }

    fn note_in(&self, state: &mut AlertState, key: AlertKey, sample: AlertSample, count: u64) {
        if !state.throttle.note(key, sample, count, Instant::now()) {
            state.counts.suppressed += count;
        }
        self.noted.notify_one();
    }

    /// Notes one failure of an outage, which begins with its first.
    pub(super) fn record_failure(&self, what: OutageKind, detail: &str) {
        let detail = sanitize_detail(detail);
        let mut state = self.lock();
        let begins = || OutageState { since: Instant::now(), detail: String::new(), reported: false };
        let outage = state.outages[what as usize].get_or_insert_with(begins);
        outage.detail.clone_from(&detail);
        let seconds = outage.since.elapsed().as_secs();
        let report = OutageReport { what, detail, seconds, resolved: false };
        self.note_in(&mut state, AlertKey::Outage(what), AlertSample::Outage(report), 1);
    }

    /// Ends an outage, if there is one.
    pub(super) fn record_recovery(&self, what: OutageKind) {
        let mut state = self.lock();
        let Some(OutageState { since, detail, .. }) = state.outages[what as usize].take() else { return };
        let report = OutageReport { what, detail, seconds: since.elapsed().as_secs(), resolved: true };
        self.note_in(&mut state, AlertKey::Outage(what), AlertSample::Outage(report), 0);
    }

    /// Whether an event of the outage that lasts now was taken.
    pub(super) fn reported(&self, what: OutageKind) -> bool {
        self.lock().outages[what as usize].as_ref().is_some_and(|outage| outage.reported)
    }

    /// Takes one batch that is due, or says how long until one is.
    pub(super) fn take_due(
        &self,
        now: Instant,
    ) -> Result<AlertBatch<AlertKey, AlertSample>, Option<Duration>> {
        let mut state = self.lock();
        let batch = state.throttle.due(now).ok_or_else(|| state.throttle.next_due_in(now))?;
        state.in_flight += batch.count;
        Ok(batch)
    }

    /// Takes all that waits.
    pub(super) fn take_all(&self) -> Vec<AlertBatch<AlertKey, AlertSample>> {
        let mut state = self.lock();
        let all = state.throttle.drain();
        state.in_flight += all.iter().map(|batch| batch.count).sum::<u64>();
        all
    }

    /// Books a delivery that Sentry took.
    pub(super) fn record_delivered(&self, batch: &AlertBatch<AlertKey, AlertSample>) {
        let mut state = self.lock();
        state.in_flight -= batch.count;
        state.counts.sent += 1;
        // The end of one outage may arrive during the next, which it does not tell of.
        if let AlertSample::Outage(OutageReport { what, resolved: false, .. }) = batch.latest
            && let Some(outage) = &mut state.outages[what as usize]
        {
            outage.reported = true;
        }
    }

    /// Books a delivery that failed; what it stood for waits again.
    pub(super) fn record_failed(&self, batch: AlertBatch<AlertKey, AlertSample>) {
        let mut state = self.lock();
        state.in_flight -= batch.count;
        state.counts.failed += 1;
        state.throttle.put_back(batch);
    }

    /// The books as they stand.
    pub(super) fn counts(&self) -> AlertCounts {
        let state = self.lock();
        AlertCounts { pending: state.throttle.pending() + state.in_flight, ..state.counts }
    }
}
