//! State shared by callers and the sender: the outages of this process and the counters, behind one short lock.
//!
//! It sends nothing and formats nothing.
//!
//! Invariant: every noted occurrence is in a sent event, in flight, or pending.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::OutageKind;
use super::event::sanitize_detail;
use super::outages::{LocalOutages, OutageEvent};
use super::sender::Delivery;

/// Totals of alert events and occurrences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AlertCounts {
    /// Events that Sentry accepted.
    pub sent: u64,
    /// Occurrences without an event of their own; another event includes them in its count.
    pub suppressed: u64,
    /// Failed deliveries; their occurrences are reported later.
    pub failed: u64,
    /// Events that Sentry refused however they were sent.
    pub given_up: u64,
    /// Sentry rejects all that is sent: the DSN is not its own any more.
    pub rejected: bool,
    /// Occurrences that no event has reported yet: those of this process, and the queue's dead letters.
    pub pending: u64,
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
    outages: LocalOutages,
    counts: AlertCounts,
    /// When the process ends, whatever was not sent by then.
    leaves_by: Option<Instant>,
}

impl SharedAlerts {
    /// Empty state; one event per kind of outage and `window`.
    pub(super) fn new(window: Duration) -> Self {
        let (outages, counts) = (LocalOutages::new(window), AlertCounts::default());
        let state = AlertState { outages, counts, leaves_by: None };
        Self { state: Mutex::new(state), noted: Notify::new() }
    }

    /// Notes one failure of an outage; the first one starts it.
    pub(super) fn record_failure(&self, what: OutageKind, detail: &str) {
        let detail = sanitize_detail(detail);
        self.state.lock().outages.failed(what, detail, Instant::now());
        self.noted.notify_one();
    }

    /// Ends an outage, if there is one.
    pub(super) fn record_recovery(&self, what: OutageKind) {
        self.state.lock().outages.ended(what, Instant::now());
        self.noted.notify_one();
    }

    /// Forgets an outage that is reported by all workers together.
    pub(super) fn forget(&self, what: OutageKind) {
        self.state.lock().outages.forget(what);
    }

    /// Whether Sentry accepted an event of the ongoing outage.
    pub(super) fn reported(&self, what: OutageKind) -> bool {
        self.state.lock().outages.reported(what)
    }

    /// Takes one event that is due, or returns how long until one is.
    pub(super) fn take_due(&self, now: Instant) -> Result<OutageEvent, Option<Duration>> {
        let outages = &mut self.state.lock().outages;
        outages.take_due(now, false).ok_or_else(|| outages.next_due_in(now))
    }

    /// Takes one event, whatever its window.
    pub(super) fn take_any(&self, now: Instant) -> Option<OutageEvent> {
        self.state.lock().outages.take_due(now, true)
    }

    /// Records how the delivery of an outage's event ended.
    pub(super) fn record_outage_event(&self, event: &OutageEvent, delivery: Delivery) {
        let now = Instant::now();
        self.record_delivery(event.count, delivery == Delivery::Accepted);
        match delivery {
            Delivery::Accepted => self.state.lock().outages.delivered(event, now),
            Delivery::Failed { .. } => self.state.lock().outages.not_delivered(event, now),
            Delivery::Refused { status } => {
                let of_all = Delivery::is_of_credentials(status);
                let tries_are_over = self.state.lock().outages.refused(event, of_all, now);
                match (tries_are_over, of_all) {
                    (false, _) => {}
                    (true, true) => self.reject(status),
                    (true, false) => {
                        tracing::warn!(
                            outage = event.what.as_str(),
                            status,
                            "an alert was given up: it is refused however it is sent"
                        );
                        self.record_given_up();
                    }
                }
            }
        }
    }

    /// Counts an event that is not sent again.
    pub(super) fn record_given_up(&self) {
        self.state.lock().counts.given_up += 1;
    }

    /// Notes that Sentry rejects all that is sent, and says so where it was not known.
    pub(super) fn reject(&self, status: u16) {
        if !std::mem::replace(&mut self.state.lock().counts.rejected, true) {
            tracing::error!(status, "Sentry rejects all alerts: wm-analyzer sentry test tells why");
        }
    }

    /// Whether Sentry rejects all that is sent.
    pub(super) fn is_rejected(&self) -> bool {
        self.state.lock().counts.rejected
    }

    /// Counts one delivery of an event that stands for `count` occurrences.
    pub(super) fn record_delivery(&self, count: u64, accepted: bool) {
        let counts = &mut self.state.lock().counts;
        if accepted {
            counts.rejected = false;
            counts.sent += 1;
            counts.suppressed += count.saturating_sub(1);
        } else {
            counts.failed += 1;
        }
    }

    /// Records how many dead letters of the queue no event has reported yet.
    pub(super) fn set_queue_pending(&self, letters: u64) {
        self.state.lock().counts.pending = letters;
    }

    /// The end of `deadline`, counted from the first call.
    pub(super) fn leaves_by(&self, deadline: Duration) -> Instant {
        *self.state.lock().leaves_by.get_or_insert_with(|| Instant::now() + deadline)
    }

    pub(super) fn counts(&self) -> AlertCounts {
        let state = self.state.lock();
        AlertCounts { pending: state.counts.pending + state.outages.pending(), ..state.counts }
    }
}
