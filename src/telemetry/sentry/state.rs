//! What callers and the sender share: the gate, the open outages, and the books, behind one short lock.
//!
//! It sends nothing and words nothing.
//!
//! Invariant: an occurrence that was noted is told in a sent event, in flight, or waiting in the gate; never nowhere.

use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::Outage;
use super::event::{Sample, TroubleReport, safe_detail};
use super::gate::{Gate, Telling};
use crate::job::failure::{Kind, Stage};

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
    pub untold: u64,
}

/// What an alert's fingerprint is made of; the gate's memory is bounded by how few of these there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    DeadLetter(Kind, Stage),
    Outage(Outage),
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes the sender: something was noted.
    pub(super) noted: Notify,
}

#[derive(Debug)]
struct State {
    gate: Gate<Key, Sample>,
    outages: [Option<OutageState>; Outage::ALL.len()],
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
    told: bool,
}

impl Shared {
    /// Nothing noted yet; one telling of a key per `window`.
    pub(super) fn new(window: Duration) -> Self {
        let state = State {
            gate: Gate::new(window),
            outages: Default::default(),
            counts: AlertCounts::default(),
            in_flight: 0,
        };
        Self { state: Mutex::new(state), noted: Notify::new() }
    }

    /// The lock is held for a few map operations, never across sending; a poisoned one still counts rightly.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Notes `count` occurrences and wakes the sender.
    pub(super) fn note(&self, key: Key, sample: Sample, count: u64) {
        self.note_in(&mut self.lock(), key, sample, count);
    }

    fn note_in(&self, state: &mut State, key: Key, sample: Sample, count: u64) {
        if !state.gate.note(key, sample, count, Instant::now()) {
            state.counts.suppressed += count;
        }
        self.noted.notify_one();
    }

    /// Notes one failure of an outage, which begins with its first.
    pub(super) fn fails(&self, what: Outage, detail: &str) {
        let detail = safe_detail(detail);
        let mut state = self.lock();
        let begins = || OutageState { since: Instant::now(), detail: String::new(), told: false };
        let outage = state.outages[what as usize].get_or_insert_with(begins);
        outage.detail.clone_from(&detail);
        let seconds = outage.since.elapsed().as_secs();
        let report = TroubleReport { what, detail, seconds, over: false };
        self.note_in(&mut state, Key::Outage(what), Sample::Outage(report), 1);
    }

    /// Ends an outage, if there is one.
    pub(super) fn works(&self, what: Outage) {
        let mut state = self.lock();
        let Some(OutageState { since, detail, .. }) = state.outages[what as usize].take() else { return };
        let report = TroubleReport { what, detail, seconds: since.elapsed().as_secs(), over: true };
        self.note_in(&mut state, Key::Outage(what), Sample::Outage(report), 0);
    }

    /// Whether an event of the outage that lasts now was taken.
    pub(super) fn reported(&self, what: Outage) -> bool {
        self.lock().outages[what as usize].as_ref().is_some_and(|outage| outage.told)
    }

    /// Takes one telling that is due, or says how long until one is.
    pub(super) fn take_due(&self, now: Instant) -> Result<Telling<Key, Sample>, Option<Duration>> {
        let mut state = self.lock();
        let telling = state.gate.due(now).ok_or_else(|| state.gate.wait(now))?;
        state.in_flight += telling.count;
        Ok(telling)
    }

    /// Takes all that waits.
    pub(super) fn take_all(&self) -> Vec<Telling<Key, Sample>> {
        let mut state = self.lock();
        let all = state.gate.drain();
        state.in_flight += all.iter().map(|telling| telling.count).sum::<u64>();
        all
    }

    /// Books a delivery that Sentry took.
    pub(super) fn taken(&self, telling: &Telling<Key, Sample>) {
        let mut state = self.lock();
        state.in_flight -= telling.count;
        state.counts.sent += 1;
        // The end of one outage may arrive during the next, which it does not tell of.
        if let Sample::Outage(TroubleReport { what, over: false, .. }) = telling.latest
            && let Some(outage) = &mut state.outages[what as usize]
        {
            outage.told = true;
        }
    }

    /// Books a delivery that failed; what it stood for waits again.
    pub(super) fn given_back(&self, telling: Telling<Key, Sample>) {
        let mut state = self.lock();
        state.in_flight -= telling.count;
        state.counts.failed += 1;
        state.gate.put_back(telling);
    }

    /// The books as they stand.
    pub(super) fn counts(&self) -> AlertCounts {
        let state = self.lock();
        AlertCounts { untold: state.gate.untold() + state.in_flight, ..state.counts }
    }
}
