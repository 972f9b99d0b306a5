//! Which alert may leave now, and how many occurrences it stands for.
//!
//! Pure: the clock is an argument, nothing is sent here. A caller notes what happened; the sender asks what is due.
//!
//! Invariant: of one key at most one telling becomes due in a window, and every noted occurrence is in exactly one
//! telling that was not put back, or still in [`Gate::untold`].
//!
//! # Why
//! The gate is the queue: there is no channel behind it that could overflow and lose counts at random. Its memory is
//! bounded by its keys, which are types (kind and stage, or trouble), never text.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Counts per key, and the latest example of what is not yet told.
#[derive(Debug)]
pub(super) struct Gate<K, S> {
    window: Duration,
    entries: HashMap<K, Entry<S>>,
}

#[derive(Debug)]
struct Entry<S> {
    /// When this key was last handed out to be told.
    told: Option<Instant>,
    waiting: Option<Waiting<S>>,
}

#[derive(Debug)]
struct Waiting<S> {
    latest: S,
    count: u64,
    since: Instant,
}

/// What is to be told of one key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Telling<K, S> {
    /// Of what.
    pub(super) key: K,
    /// The latest example.
    pub(super) latest: S,
    /// How many occurrences this stands for.
    pub(super) count: u64,
    /// When the first of them was noted.
    pub(super) since: Instant,
}

impl<K: Copy + Eq + Hash, S> Gate<K, S> {
    /// A gate that lets one telling of a key through per `window`.
    pub(super) fn new(window: Duration) -> Self {
        Self { window, entries: HashMap::new() }
    }

    /// Notes `count` occurrences. True when they have a telling of their own, false when they wait for a window to
    /// end or join others that wait.
    pub(super) fn note(&mut self, key: K, latest: S, count: u64, now: Instant) -> bool {
        let entry = self.entries.entry(key).or_insert(Entry { told: None, waiting: None });
        let alone = entry.waiting.is_none() && entry.closed_for(self.window, now).is_zero();
        let (before, since) = entry.waiting.take().map_or((0, now), |w| (w.count, w.since));
        entry.waiting = Some(Waiting { latest, count: before.saturating_add(count), since });
        alone
    }

    /// Takes one telling that may leave now; its window begins.
    pub(super) fn due(&mut self, now: Instant) -> Option<Telling<K, S>> {
        let window = self.window;
        self.entries.iter_mut().find_map(|(key, entry)| {
            if !entry.closed_for(window, now).is_zero() {
                return None;
            }
            let telling = entry.take(*key)?;
            entry.told = Some(now);
            Some(telling)
        })
    }

    /// How long until something is due; `None` when nothing waits.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let waiting = self.entries.values().filter(|entry| entry.waiting.is_some());
        waiting.map(|entry| entry.closed_for(self.window, now)).min()
    }

    /// Gives back what could not be delivered: it waits for the end of its window, with what was noted since.
    pub(super) fn put_back(&mut self, telling: Telling<K, S>) {
        let entry = self.entries.entry(telling.key).or_insert(Entry { told: None, waiting: None });
        let waiting = entry.waiting.take();
        let (count, latest) = waiting.map_or((0, telling.latest), |w| (w.count, w.latest));
        let count = count.saturating_add(telling.count);
        entry.waiting = Some(Waiting { latest, count, since: telling.since });
    }

    /// Takes all that waits, whatever its window: for the end of the process.
    pub(super) fn drain(&mut self) -> Vec<Telling<K, S>> {
        self.entries.iter_mut().filter_map(|(key, entry)| entry.take(*key)).collect()
    }

    /// Occurrences that wait to be told.
    pub(super) fn untold(&self) -> u64 {
        let waiting = self.entries.values().filter_map(|entry| entry.waiting.as_ref());
        waiting.fold(0, |sum, w| sum.saturating_add(w.count))
    }
}

impl<S> Entry<S> {
    /// How long until this key may be told again.
    fn closed_for(&self, window: Duration, now: Instant) -> Duration {
        self.told.map_or(Duration::ZERO, |told| window.saturating_sub(now.saturating_duration_since(told)))
    }

    fn take<K>(&mut self, key: K) -> Option<Telling<K, S>> {
        let Waiting { latest, count, since } = self.waiting.take()?;
        Some(Telling { key, latest, count, since })
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
        let mut gate = Gate::new(WINDOW);
        assert!(gate.note("a", 0, 1, start));
        assert_eq!(gate.wait(start), Some(Duration::ZERO));
        assert_eq!(gate.due(start), Some(Telling { key: "a", latest: 0, count: 1, since: start }));
        for n in 1..=499 {
            assert!(!gate.note("a", n, 1, start + secs(n)), "{n} has an event of its own");
            if n < 60 {
                assert_eq!(gate.due(start + secs(n)), None, "{n} was told within the window");
            }
        }
        assert_eq!(gate.wait(start + secs(50)), Some(secs(10)));
        assert_eq!(
            gate.due(start + secs(500)),
            Some(Telling { key: "a", latest: 499, count: 499, since: start + secs(1) })
        );
        assert_eq!((gate.due(start + secs(999)), gate.wait(start), gate.untold()), (None, None, 0));
    }

    #[test]
    fn keys_do_not_wait_for_each_other() {
        let start = Instant::now();
        let mut gate = Gate::new(WINDOW);
        assert!(gate.note("a", (), 1, start) && gate.due(start).is_some());
        assert!(gate.note("b", (), 1, start) && gate.due(start).is_some());
    }

    #[test]
    fn what_was_not_delivered_is_told_again_after_the_window_with_what_came_since() {
        let start = Instant::now();
        let mut gate = Gate::new(WINDOW);
        gate.note("a", "old", 3, start);
        let failed = gate.due(start).unwrap();
        gate.note("a", "new", 4, start + secs(5));
        gate.put_back(failed);
        assert_eq!(gate.untold(), 7);
        assert_eq!(gate.due(start + secs(59)), None);
        assert_eq!(
            gate.due(start + secs(60)),
            Some(Telling { key: "a", latest: "new", count: 7, since: start })
        );
    }

    #[test]
    fn the_end_takes_everything_whatever_its_window() {
        let start = Instant::now();
        let mut gate = Gate::new(WINDOW);
        gate.note("a", (), 1, start);
        assert!(gate.due(start).is_some());
        gate.note("a", (), 2, start);
        gate.note("b", (), 5, start);
        let mut counts: Vec<_> = gate.drain().iter().map(|t| (t.key, t.count)).collect();
        counts.sort_unstable();
        assert_eq!((counts, gate.untold()), (vec![("a", 2), ("b", 5)], 0));
    }

    proptest! {
        #[test]
        fn no_count_is_lost_and_no_window_has_two(steps in prop::collection::vec((0_u8..3, 0_u64..40, any::<bool>()), 1..200)) {
            let (mut now, mut gate) = (Instant::now(), Gate::new(WINDOW));
            let (mut noted, mut told, mut last) = (0, 0, HashMap::new());
            for (key, pause, lost) in steps {
                now += secs(pause);
                gate.note(key, (), 1, now);
                noted += 1;
                while let Some(telling) = gate.due(now) {
                    if let Some(before) = last.insert(telling.key, now) {
                        prop_assert!(now - before >= WINDOW);
                    }
                    if lost { gate.put_back(telling) } else { told += telling.count }
                }
                prop_assert_eq!(told + gate.untold(), noted);
            }
        }
    }
}
