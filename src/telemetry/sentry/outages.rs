//! The outages that this process reports by itself, because no other worker can: Redis is away, or a task ended.
//!
//! Pure: the clock is an argument, nothing is sent here. Of each kind of outage the events come in this order: it
//! begins, it lasts (at growing intervals), it is over. The next one waits until Sentry has accepted the one before.
//!
//! Invariant: an outage is never reported as over before it was reported as begun; per kind at most one event is sent
//! in a window; every failure is in one event that was accepted, or in [`LocalOutages::pending`].
//!
//! # Why
//! Memory is bounded by the kinds, which are a type: there is no channel that could overflow and lose counts at random.
//! An outage that comes back before its end was reported goes on: a dependency that flaps is one outage.

use std::time::{Duration, Instant};

use super::OutageKind;

const HOUR: Duration = Duration::from_secs(3600);
/// When an outage that lasts is reported again, counted from its beginning; then once a day. Whoever was woken by the
/// first event acts within the hour, or has decided not to; after that it only must not be forgotten.
const REMIND_AFTER: [Duration; 3] = [HOUR, HOUR.saturating_mul(4), HOUR.saturating_mul(24)];

/// How often an event is sent in one form before it is sent in a shorter one: a proxy may refuse one that it passes a
/// moment later.
const TRIES_PER_FORM: u32 = 3;

/// The outages of this process, by kind.
#[derive(Debug)]
pub(super) struct LocalOutages {
    window: Duration,
    kinds: [KindState; OutageKind::ALL.len()],
}

#[derive(Debug, Default)]
struct KindState {
    outage: Option<LocalOutage>,
    /// When an event of this kind was last taken.
    last_taken: Option<Instant>,
    /// Failures in the event that is being delivered, if one is.
    in_flight: Option<u64>,
    /// How often in a row Sentry has refused its event.
    refusals: u32,
}

#[derive(Debug)]
struct LocalOutage {
    since: Instant,
    /// Description of its latest failure.
    detail: String,
    /// Failures that no accepted or delivered event stands for.
    failures: u64,
    /// When it is reported again while it lasts; `None` until Sentry has accepted an event.
    remind_at: Option<Instant>,
    /// When it ended.
    over: Option<Instant>,
}

/// Which event of an outage this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutageEventKind {
    Begins,
    Lasts,
    Over,
}

/// One event to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OutageEvent {
    pub(super) what: OutageKind,
    pub(super) kind: OutageEventKind,
    pub(super) detail: String,
    /// It was refused with its detail, and is sent without.
    pub(super) is_reduced: bool,
    /// How long the outage lasts, or lasted.
    pub(super) lasted: Duration,
    /// Failures that it stands for.
    pub(super) count: u64,
    since: Instant,
}

impl LocalOutages {
    /// No outage; at most one event per kind and `window`.
    pub(super) fn new(window: Duration) -> Self {
        Self { window, kinds: Default::default() }
    }

    /// Notes one failure; the first one begins the outage.
    pub(super) fn failed(&mut self, what: OutageKind, detail: String, now: Instant) {
        let state = &mut self.kinds[what as usize];
        let begins =
            LocalOutage { since: now, detail: String::new(), failures: 0, remind_at: None, over: None };
        let outage = state.outage.get_or_insert(begins);
        if outage.over.take().is_some() && state.in_flight.is_some() && outage.remind_at.is_some() {
            // Its end is being delivered: this is the next outage.
            (outage.since, outage.remind_at, outage.failures) = (now, None, 0);
        }
        outage.detail = detail;
        outage.failures = outage.failures.saturating_add(1);
    }

    /// Notes the end of an outage, if there is one.
    pub(super) fn ended(&mut self, what: OutageKind, now: Instant) {
        if let Some(outage) = &mut self.kinds[what as usize].outage {
            outage.over.get_or_insert(now);
        }
    }

    /// Forgets an outage that is reported by all workers together.
    pub(super) fn forget(&mut self, what: OutageKind) {
        self.kinds[what as usize].outage = None;
    }

    /// Whether Sentry has accepted an event of the ongoing outage.
    pub(super) fn reported(&self, what: OutageKind) -> bool {
        self.kinds[what as usize].outage.as_ref().is_some_and(|outage| outage.remind_at.is_some())
    }

    /// Takes one event that is due; `at_once` at the end of the process, when nothing waits for its window.
    pub(super) fn take_due(&mut self, now: Instant, at_once: bool) -> Option<OutageEvent> {
        let window = self.window;
        OutageKind::ALL.iter().find_map(|what| {
            let state = &mut self.kinds[*what as usize];
            let wait = state.due_in(window, now, at_once)?;
            if !wait.is_zero() {
                return None;
            }
            let outage = state.outage.as_mut()?;
            let kind = outage.next_event();
            let count = std::mem::take(&mut outage.failures);
            let event = OutageEvent {
                what: *what,
                kind,
                detail: outage.detail.clone(),
                is_reduced: state.refusals >= TRIES_PER_FORM,
                lasted: outage.over.filter(|_| kind == OutageEventKind::Over).unwrap_or(now) - outage.since,
                count,
                since: outage.since,
            };
            (state.in_flight, state.last_taken) = (Some(count), Some(now));
            Some(event)
        })
    }

    /// How long until an event is due; `None` if none will be.
    pub(super) fn next_due_in(&self, now: Instant) -> Option<Duration> {
        self.kinds.iter().filter_map(|state| state.due_in(self.window, now, false)).min()
    }

    /// Records that Sentry accepted an event.
    pub(super) fn delivered(&mut self, event: &OutageEvent, now: Instant) {
        let state = &mut self.kinds[event.what as usize];
        (state.in_flight, state.refusals) = (None, 0);
        let Some(outage) = state.outage.as_mut().filter(|outage| outage.since == event.since) else { return };
        match event.kind {
            OutageEventKind::Begins | OutageEventKind::Lasts => {
                outage.remind_at = Some(remind_at(outage.since, now))
            }
            OutageEventKind::Over => state.outage = None,
        }
    }

    /// Records a failed delivery: the event is due again after its window, with what was noted since.
    pub(super) fn not_delivered(&mut self, event: &OutageEvent, now: Instant) {
        let state = &mut self.kinds[event.what as usize];
        state.in_flight = None;
        let Some(outage) = state.outage.as_mut() else { return };
        outage.failures = outage.failures.saturating_add(event.count);
        if outage.since != event.since {
            // The end was not reported, and it has begun again: it goes on.
            (outage.since, outage.remind_at) = (event.since, Some(remind_at(event.since, now)));
        }
    }

    /// Records that Sentry refused an event; true once it was refused often enough in each form. Then it counts as
    /// delivered, or is tried anew where `of_all` are refused.
    pub(super) fn refused(&mut self, event: &OutageEvent, of_all: bool, now: Instant) -> bool {
        let refusals = self.kinds[event.what as usize].refusals + 1;
        let tries_are_over = refusals >= 2 * TRIES_PER_FORM;
        match tries_are_over && !of_all {
            true => self.delivered(event, now),
            false => self.not_delivered(event, now),
        }
        self.kinds[event.what as usize].refusals = if tries_are_over { 0 } else { refusals };
        tries_are_over
    }

    /// Failures that no accepted event stands for.
    pub(super) fn pending(&self) -> u64 {
        let waiting = |state: &KindState| state.outage.as_ref().map_or(0, |outage| outage.failures);
        self.kinds.iter().map(|state| waiting(state) + state.in_flight.unwrap_or(0)).sum()
    }
}

impl KindState {
    /// How long until the next event may be taken; `None` without one.
    fn due_in(&self, window: Duration, now: Instant, at_once: bool) -> Option<Duration> {
        let outage = self.outage.as_ref().filter(|_| self.in_flight.is_none())?;
        let remind_in = outage.remind_at.map(|at| at.saturating_duration_since(now)).unwrap_or_default();
        let wait = match outage.next_event() {
            OutageEventKind::Begins | OutageEventKind::Over => Duration::ZERO,
            OutageEventKind::Lasts if at_once && outage.failures > 0 => Duration::ZERO,
            OutageEventKind::Lasts => remind_in,
        };
        let held = self.last_taken.map_or(Duration::ZERO, |at| (at + window).saturating_duration_since(now));
        Some(if at_once { wait } else { wait.max(held) })
    }
}

impl LocalOutage {
    fn next_event(&self) -> OutageEventKind {
        match (self.remind_at, self.over) {
            (None, _) => OutageEventKind::Begins,
            (Some(_), Some(_)) => OutageEventKind::Over,
            (Some(_), None) => OutageEventKind::Lasts,
        }
    }
}

/// When an outage that is reported now is reported again.
fn remind_at(since: Instant, now: Instant) -> Instant {
    let [.., last] = REMIND_AFTER;
    REMIND_AFTER.iter().map(|after| since + *after).find(|at| *at > now).unwrap_or(now + last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    const WHAT: OutageKind = OutageKind::Redis;

    fn taken(outages: &mut LocalOutages, at: Instant) -> Option<(OutageEventKind, u64)> {
        let event = outages.take_due(at, false)?;
        outages.delivered(&event, at);
        Some((event.kind, event.count))
    }

    #[test]
    fn an_outage_that_lasts_is_reported_again_after_one_four_and_24_hours_and_then_daily() {
        let start = Instant::now();
        let mut outages = LocalOutages::new(WINDOW);
        outages.failed(WHAT, "down".to_owned(), start);
        assert_eq!(taken(&mut outages, start), Some((OutageEventKind::Begins, 1)));
        let mut hours = Vec::new();
        for hour in 0..80 {
            let at = start + HOUR * hour;
            outages.failed(WHAT, "still down".to_owned(), at);
            if let Some((kind, _)) = taken(&mut outages, at) {
                assert_eq!(kind, OutageEventKind::Lasts);
                hours.push(hour);
            }
        }
        assert_eq!(hours, [1, 4, 24, 48, 72]);
        outages.ended(WHAT, start + HOUR * 80);
        assert_eq!(taken(&mut outages, start + HOUR * 81), Some((OutageEventKind::Over, 7)));
        assert_eq!((taken(&mut outages, start + HOUR * 999), outages.pending()), (None, 0));
    }

    #[test]
    fn an_event_that_is_refused_is_sent_without_its_detail_and_then_given_up_unless_all_are_refused() {
        let start = Instant::now();
        let mut outages = LocalOutages::new(WINDOW);
        outages.failed(WHAT, "down".to_owned(), start);
        for of_all in [true, false] {
            for refusals in 0..6 {
                let event = outages.take_due(start, true).unwrap();
                assert_eq!((event.count, event.is_reduced), (1, refusals >= 3));
                assert_eq!(outages.refused(&event, of_all, start), refusals == 5);
            }
        }
        assert_eq!((outages.take_due(start, true), outages.pending()), (None, 0));
        outages.ended(WHAT, start + WINDOW);
        let over = outages.take_due(start + WINDOW, false).unwrap();
        assert_eq!((over.kind, over.is_reduced), (OutageEventKind::Over, false), "its end is another event");
    }

    #[test]
    fn the_end_of_an_outage_that_was_not_reported_yet_comes_after_its_beginning() {
        let start = Instant::now();
        let mut outages = LocalOutages::new(WINDOW);
        outages.failed(WHAT, "down".to_owned(), start);
        let lost = outages.take_due(start, false).unwrap();
        outages.ended(WHAT, start + WINDOW / 2);
        assert_eq!(outages.take_due(start + WINDOW * 2, false), None, "while one is under way");
        outages.not_delivered(&lost, start + WINDOW);
        let begins = outages.take_due(start + WINDOW * 2, false).unwrap();
        assert_eq!((begins.kind, begins.count), (OutageEventKind::Begins, 1));
        outages.delivered(&begins, start + WINDOW * 2);
        assert_eq!(outages.next_due_in(start + WINDOW * 2), Some(WINDOW));
        let over = outages.take_due(start + WINDOW * 3, false).unwrap();
        assert_eq!((over.kind, over.lasted), (OutageEventKind::Over, WINDOW / 2));
    }

    #[test]
    fn an_outage_that_comes_back_before_its_end_was_reported_goes_on() {
        let start = Instant::now();
        let mut outages = LocalOutages::new(WINDOW);
        outages.failed(WHAT, "down".to_owned(), start);
        assert_eq!(taken(&mut outages, start), Some((OutageEventKind::Begins, 1)));
        for second in 1..50 {
            let at = start + Duration::from_secs(second);
            outages.ended(WHAT, at);
            outages.failed(WHAT, "down again".to_owned(), at);
            assert_eq!(taken(&mut outages, at), None);
        }
        outages.ended(WHAT, start + WINDOW);
        assert_eq!(taken(&mut outages, start + WINDOW), Some((OutageEventKind::Over, 49)));
    }
}
