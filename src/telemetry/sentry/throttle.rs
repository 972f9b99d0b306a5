//! Decides which alert may be sent now, and how many occurrences it represents.
//!
//! Pure: the clock is an argument, nothing is sent here. Callers note occurrences; the sender takes what is
//! due.
//!
//! Invariant: per key at most one batch becomes due in a window, and every noted occurrence is in exactly one
//! batch that was not put back, or still in [`AlertThrottle::pending`].
//!
//! # Why
//! The throttle is the queue: there is no channel behind it that could overflow and lose counts at random.
//! Its memory is bounded by its keys, which are types (kind and stage, or outage), never text.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Counts per key, and the latest example of what was not sent yet.
#[derive(Debug)]
pub(super) struct AlertThrottle<K, S> {
    window: Duration,
    entries: HashMap<K, ThrottleEntry<K, S>>,
}

#[derive(Debug)]
struct ThrottleEntry<K, S> {
    /// When a batch of this key was last taken.
    last_sent: Option<Instant>,
    pending: Option<AlertBatch<K, S>>,
}

/// The pending occurrences of one key, as one event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AlertBatch<K, S> {
    pub(super) key: K,
    pub(super) latest: S,
    pub(super) count: u64,
    /// When the first of them was noted.
    pub(super) since: Instant,
}

impl<K: Copy + Eq + Hash, S> AlertThrottle<K, S> {
    /// A throttle that releases one batch per key and `window`.
    pub(super) fn new(window: Duration) -> Self {
        Self { window, entries: HashMap::new() }
    }

    /// Notes `count` occurrences. True if they get a batch of their own, false if they wait for the end of a
    /// window or join others that wait.
    pub(super) fn note(&mut self, key: K, latest: S, count: u64, now: Instant) -> bool {
        let entry = self.entries.entry(key).or_insert(ThrottleEntry { last_sent: None, pending: None });
        let alone = entry.pending.is_none() && entry.wait_time(self.window, now).is_zero();
        let (before, since) = entry.pending.take().map_or((0, now), |w| (w.count, w.since));
        entry.pending = Some(AlertBatch { key, latest, count: before.saturating_add(count), since });
        alone
    }

    /// Takes one batch that may be sent now; its window begins.
    pub(super) fn due(&mut self, now: Instant) -> Option<AlertBatch<K, S>> {
        let window = self.window;
        self.entries.values_mut().find_map(|entry| {
            if !entry.wait_time(window, now).is_zero() {
                return None;
            }
            let batch = entry.pending.take()?;
            entry.last_sent = Some(now);
            Some(batch)
        })
    }

    /// How long until a batch is due; `None` if nothing is pending.
    pub(super) fn next_due_in(&self, now: Instant) -> Option<Duration> {
        let waiting = self.entries.values().filter(|entry| entry.pending.is_some());
        waiting.map(|entry| entry.wait_time(self.window, now)).min()
    }

    /// Returns a batch that could not be delivered: it waits for the end of its window, together with later
    /// occurrences.
    pub(super) fn put_back(&mut self, batch: AlertBatch<K, S>) {
        let entry = self.entries.entry(batch.key).or_insert(ThrottleEntry { last_sent: None, pending: None });
        let waiting = entry.pending.take();
        let (count, latest) = waiting.map_or((0, batch.latest), |w| (w.count, w.latest));
        entry.pending = Some(AlertBatch { latest, count: count.saturating_add(batch.count), ..batch });
    }

    /// Takes everything pending, regardless of windows: for shutdown.
    pub(super) fn drain(&mut self) -> Vec<AlertBatch<K, S>> {
        self.entries.values_mut().filter_map(|entry| entry.pending.take()).collect()
    }

    /// Number of pending occurrences.
    pub(super) fn pending(&self) -> u64 {
        let waiting = self.entries.values().filter_map(|entry| entry.pending.as_ref());
        waiting.fold(0, |sum, w| sum.saturating_add(w.count))
    }
}

impl<K, S> ThrottleEntry<K, S> {
    /// How long until a batch of this key may be sent again.
    fn wait_time(&self, window: Duration, now: Instant) -> Duration {
        self.last_sent.map_or(Duration::ZERO, |last_sent| {
            window.saturating_sub(now.saturating_duration_since(last_sent))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn the_first_is_told_at_once_and_the_next_stands_for_those_that_waited() {
        let start = Instant::now();
        let mut throttle = AlertThrottle::new(WINDOW);
        assert!(throttle.note("a", 0, 1, start));
        assert_eq!(throttle.next_due_in(start), Some(Duration::ZERO));
        assert_eq!(throttle.due(start), Some(AlertBatch { key: "a", latest: 0, count: 1, since: start }));
        for n in 1..=499 {
            assert!(!throttle.note("a", n, 1, start + secs(n)), "{n} has an event of its own");
            if n < 60 {
                assert_eq!(throttle.due(start + secs(n)), None, "{n} was told within the window");
            }
        }
        assert_eq!(throttle.next_due_in(start + secs(50)), Some(secs(10)));
        assert_eq!(
            throttle.due(start + secs(500)),
            Some(AlertBatch { key: "a", latest: 499, count: 499, since: start + secs(1) })
        );
        assert_eq!(
            (throttle.due(start + secs(999)), throttle.next_due_in(start), throttle.pending()),
            (None, None, 0)
        );
    }

    #[test]
    fn keys_do_not_wait_for_each_other() {
        let start = Instant::now();
        let mut throttle = AlertThrottle::new(WINDOW);
        assert!(throttle.note("a", (), 1, start) && throttle.due(start).is_some());
        assert!(throttle.note("b", (), 1, start) && throttle.due(start).is_some());
    }

    #[test]
    fn what_was_not_delivered_is_told_again_after_the_window_with_what_came_since() {
        let start = Instant::now();
        let mut throttle = AlertThrottle::new(WINDOW);
        throttle.note("a", "old", 3, start);
        let failed = throttle.due(start).unwrap();
        throttle.note("a", "new", 4, start + secs(5));
        throttle.put_back(failed);
        assert_eq!(throttle.pending(), 7);
        assert_eq!(throttle.due(start + secs(59)), None);
        assert_eq!(
            throttle.due(start + secs(60)),
            Some(AlertBatch { key: "a", latest: "new", count: 7, since: start })
        );
    }

    #[test]
    fn the_end_takes_everything_whatever_its_window() {
        let start = Instant::now();
        let mut throttle = AlertThrottle::new(WINDOW);
        throttle.note("a", (), 1, start);
        assert!(throttle.due(start).is_some());
        throttle.note("a", (), 2, start);
        throttle.note("b", (), 5, start);
        let mut counts: Vec<_> = throttle.drain().iter().map(|t| (t.key, t.count)).collect();
        counts.sort_unstable();
        assert_eq!((counts, throttle.pending()), (vec![("a", 2), ("b", 5)], 0));
    }

    proptest! {
        #[test]
        fn no_count_is_lost_and_no_window_has_two(steps in prop::collection::vec((0_u8..3, 0_u64..40, any::<bool>()), 1..200)) {
            let (mut now, mut throttle) = (Instant::now(), AlertThrottle::new(WINDOW));
            let (mut noted, mut told, mut last) = (0, 0, HashMap::new());
            for (key, pause, lost) in steps {
                now += secs(pause);
                throttle.note(key, (), 1, now);
                noted += 1;
                while let Some(batch) = throttle.due(now) {
                    if let Some(before) = last.insert(batch.key, now) {
                        prop_assert!(now - before >= WINDOW);
                    }
                    if lost { throttle.put_back(batch) } else { told += batch.count }
                }
                prop_assert_eq!(told + throttle.pending(), noted);
            }
        }
    }
}
