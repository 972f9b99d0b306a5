//! State shared by callers and the sender: the throttle, the ongoing outages and the counters, behind one
//! short lock.
//!
//! It sends nothing and formats nothing.
//!
//! Invariant: every noted occurrence is in a sent event, in flight, or pending in the throttle.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::OutageKind;
use super::event::{AlertSample, OutageReport, sanitize_detail};
use super::throttle::{AlertBatch, AlertThrottle};
use crate::job::failure::{FailureKind, Stage};

/// Totals of alert events and occurrences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AlertCounts {
    /// Events that Sentry accepted.
    pub sent: u64,
    /// Occurrences without an event of their own; another event includes them in its count.
    pub suppressed: u64,
    /// Failed deliveries; their occurrences are reported later.
    pub failed: u64,
    /// Occurrences that no event has reported yet.
    pub pending: u64,
}

/// The fingerprint of an alert; there are few of them, which bounds the throttle's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum AlertKey {
    DeadLetter(FailureKind, Stage),
    Outage(OutageKind),
}

#[derive(Debug)]
pub(super) struct SharedAlerts {
    /// Locked for a few map operations, never while sending; after a panic the counts are still consistent.
    state: Mutex<AlertState>,
    /// Wakes the sender after a new occurrence.
    pub(super) noted: Notify,
}

#[derive(Debug)]
struct AlertState {
    throttle: AlertThrottle<AlertKey, AlertSample>,
    outages: [Option<OutageState>; OutageKind::ALL.len()],
    counts: AlertCounts,
    /// Occurrences in events that are being delivered.
    in_flight: u64,
}

#[derive(Debug)]
struct OutageState {
    since: Instant,
    /// Description of its latest failure.
    detail: String,
    /// Whether Sentry has accepted an event of it.
    reported: bool,
}

impl SharedAlerts {
    /// Empty state; one batch per key and `window`.
    pub(super) fn new(window: Duration) -> Self {
        let state = AlertState {
            throttle: AlertThrottle::new(window),
            outages: Default::default(),
            counts: AlertCounts::default(),
            in_flight: 0,
        };
        Self { state: Mutex::new(state), noted: Notify::new() }
    }

    /// Notes `count` occurrences and wakes the sender.
    pub(super) fn note(&self, key: AlertKey, sample: AlertSample, count: u64) {
        self.note_in(&mut self.state.lock(), key, sample, count);
    }

    fn note_in(&self, state: &mut AlertState, key: AlertKey, sample: AlertSample, count: u64) {
        if !state.throttle.note(key, sample, count, Instant::now()) {
            state.counts.suppressed += count;
        }
        self.noted.notify_one();
    }

    /// Notes one failure of an outage; the first one starts it.
    pub(super) fn record_failure(&self, what: OutageKind, detail: &str) {
        let detail = sanitize_detail(detail);
        let mut state = self.state.lock();
        let begins = || OutageState { since: Instant::now(), detail: String::new(), reported: false };
        let outage = state.outages[what as usize].get_or_insert_with(begins);
        outage.detail.clone_from(&detail);
        let seconds = outage.since.elapsed().as_secs();
        let report = OutageReport { what, detail, seconds, resolved: false };
        self.note_in(&mut state, AlertKey::Outage(what), AlertSample::Outage(report), 1);
    }

    /// Ends an outage, if there is one.
    pub(super) fn record_recovery(&self, what: OutageKind) {
        let mut state = self.state.lock();
        let Some(OutageState { since, detail, .. }) = state.outages[what as usize].take() else { return };
        let report = OutageReport { what, detail, seconds: since.elapsed().as_secs(), resolved: true };
        self.note_in(&mut state, AlertKey::Outage(what), AlertSample::Outage(report), 0);
    }

    /// Whether Sentry accepted an event of the ongoing outage.
    pub(super) fn reported(&self, what: OutageKind) -> bool {
        self.state.lock().outages[what as usize].as_ref().is_some_and(|outage| outage.reported)
    }

    /// Takes one batch that is due, or returns how long until one is.
    pub(super) fn take_due(
        &self,
        now: Instant,
    ) -> Result<AlertBatch<AlertKey, AlertSample>, Option<Duration>> {
        let mut state = self.state.lock();
        let batch = state.throttle.due(now).ok_or_else(|| state.throttle.next_due_in(now))?;
        state.in_flight += batch.count;
        Ok(batch)
    }

    pub(super) fn take_all(&self) -> Vec<AlertBatch<AlertKey, AlertSample>> {
        let mut state = self.state.lock();
        let all = state.throttle.drain();
        state.in_flight += all.iter().map(|batch| batch.count).sum::<u64>();
        all
    }

    /// Records a delivery that Sentry accepted.
    pub(super) fn record_delivered(&self, batch: &AlertBatch<AlertKey, AlertSample>) {
        let mut state = self.state.lock();
        state.in_flight -= batch.count;
        state.counts.sent += 1;
        // The resolved event of one outage may arrive during the next one, which it does not report.
        if let AlertSample::Outage(OutageReport { what, resolved: false, .. }) = batch.latest
            && let Some(outage) = &mut state.outages[what as usize]
        {
            outage.reported = true;
        }
    }

    /// Records a failed delivery; its occurrences are pending again.
    pub(super) fn record_failed(&self, batch: AlertBatch<AlertKey, AlertSample>) {
        let mut state = self.state.lock();
        state.in_flight -= batch.count;
        state.counts.failed += 1;
        state.throttle.put_back(batch);
    }

    pub(super) fn counts(&self) -> AlertCounts {
        let state = self.state.lock();
        AlertCounts { pending: state.throttle.pending() + state.in_flight, ..state.counts }
    }
}
