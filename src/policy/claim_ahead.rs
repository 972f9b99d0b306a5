//! How many jobs a worker claims ahead of its slots, so that a free slot finds bodies that are fetched already.
//!
//! Invariant: a worker never has more than [`Limits::in_flight`] jobs, and never more than [`Limits::resolving`]
//! that wait for the db app.
//!
//! # Why
//! As many jobs must be fetched at once as slots finish while one is fetched: a handful where the host is near,
//! hundreds where each answer takes a second. So the window is found by trying. It grows quickly while a slot is
//! idle, because idle slots cost throughput at once, and shrinks by one for each pair of bodies that finds others
//! waiting. Claiming as much as the limit allows instead would take jobs away from workers that could run them now.

use std::time::{Duration, Instant};

/// The window at its smallest, per slot: bodies of a near host arrive faster than children end.
const SMALLEST_PER_SLOT: usize = 4;
/// Pairs that may wait for each slot before the window shrinks: one that runs next, and one behind it.
const WAITING_PER_SLOT: usize = 2;
/// An idle slot makes the window grow at most once in this time. The window of one second's latency is reached
/// in about half of that second.
const GROWTH_INTERVAL: Duration = Duration::from_millis(50);

/// The most that may be claimed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Slots of the worker.
    pub slots: usize,
    /// Jobs in flight, whatever they do.
    pub in_flight: usize,
    /// Jobs whose versions are looked up: more than the db app is asked for at once would only wait.
    pub resolving: usize,
}

/// What the jobs in flight do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Looking up their versions, or waiting for a permit at their hosts.
    pub resolving: usize,
    /// Fetching bodies.
    pub fetching: usize,
    /// Fetched, waiting for a slot.
    pub waiting: usize,
    /// In a child.
    pub in_child: usize,
    /// Being posted to the db app, or settled.
    pub ending: usize,
}

impl JobCounts {
    /// Jobs that have not entered a child yet.
    pub fn ahead(self) -> usize {
        self.resolving + self.fetching + self.waiting
    }

    /// Each count with its name.
    pub fn by_name(self) -> [(&'static str, usize); 5] {
        let Self { resolving, fetching, waiting, in_child, ending } = self;
        [
            ("resolving", resolving),
            ("fetching", fetching),
            ("waiting", waiting),
            ("in_child", in_child),
            ("ending", ending),
        ]
    }

    /// All of them.
    pub fn total(self) -> usize {
        self.ahead() + self.in_child + self.ending
    }
}

/// The window of one worker.
#[derive(Debug)]
pub struct ClaimAhead {
    limits: Limits,
    window: usize,
    grown_at: Option<Instant>,
}

impl ClaimAhead {
    /// A window at its smallest.
    pub fn new(limits: Limits) -> Self {
        Self { limits, window: limits.slots * SMALLEST_PER_SLOT, grown_at: None }
    }

    /// How many jobs to claim now, after growing the window where it keeps a slot idle; 0 for none.
    pub fn room(&mut self, jobs: JobCounts, now: Instant) -> usize {
        let idle = jobs.in_child < self.limits.slots && jobs.waiting == 0;
        self.grow_if(idle && jobs.ahead() >= self.window, now);
        let Limits { in_flight, resolving, .. } = self.limits;
        let room = (self.window.saturating_sub(jobs.ahead()))
            .min(in_flight.saturating_sub(jobs.total()))
            .min(resolving.saturating_sub(jobs.resolving));
        // A claim costs Redis more than the job in it, so a few are claimed at once, unless a slot is idle.
        let few = (self.window / 4).clamp(1, (resolving / 2).max(1));
        if room >= few || idle { room } else { 0 }
    }

    /// Both bodies of a job have arrived; `waiting` pairs wait for a slot now, this one included.
    pub fn fetched(&mut self, waiting: usize) {
        if waiting > self.limits.slots * WAITING_PER_SLOT {
            self.window = (self.window - 1).max(self.limits.slots * SMALLEST_PER_SLOT);
        }
    }

    /// Grows the window where it keeps a slot idle, but not twice within [`GROWTH_INTERVAL`].
    fn grow_if(&mut self, keeps_idle: bool, now: Instant) {
        let since = *self.grown_at.get_or_insert(now);
        if keeps_idle && now.duration_since(since) >= GROWTH_INTERVAL {
            self.window = (self.window + self.window.div_ceil(2)).min(self.limits.in_flight);
            self.grown_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { slots: 2, in_flight: 512, resolving: 16 };

    fn fetching(fetching: usize) -> JobCounts {
        JobCounts { fetching, ..JobCounts::default() }
    }

    #[test]
    fn a_near_host_is_claimed_for_with_the_smallest_window() {
        let (mut ahead, now) = (ClaimAhead::new(LIMITS), Instant::now());
        assert_eq!(ahead.room(JobCounts::default(), now), 8);
        let busy = JobCounts { in_child: 2, waiting: 2, fetching: 5, ..JobCounts::default() };
        assert_eq!(ahead.room(busy, now), 0, "one place is not worth a call");
        assert_eq!(ahead.room(JobCounts { fetching: 4, ..busy }, now), 2);
    }

    #[test]
    fn idle_slots_make_the_window_grow_to_what_a_slow_host_needs_and_no_further_than_the_limit() {
        let (mut ahead, begun) = (ClaimAhead::new(LIMITS), Instant::now());
        let (mut claimed, mut at_half_a_second) = (0, 0);
        for tick in 0..400 {
            let room = ahead.room(fetching(claimed), begun + Duration::from_millis(5) * tick);
            assert!(room <= LIMITS.resolving);
            claimed += room;
            if tick == 100 {
                at_half_a_second = claimed;
            }
        }
        assert!(at_half_a_second > 200, "{at_half_a_second}");
        assert_eq!(claimed, LIMITS.in_flight);
    }

    #[test]
    fn bodies_that_wait_make_the_window_shrink_again() {
        let (mut ahead, now) = (ClaimAhead::new(LIMITS), Instant::now());
        ahead.window = 100;
        ahead.fetched(4);
        assert_eq!(ahead.window, 100, "two for each slot are no more than it takes");
        (0..200).for_each(|_| ahead.fetched(5));
        assert_eq!(ahead.window, 8);
        let waiting = JobCounts { in_child: 2, waiting: 8, ..JobCounts::default() };
        assert_eq!(ahead.room(waiting, now), 0);
    }

    #[test]
    fn neither_a_slow_db_app_nor_what_waits_for_it_is_claimed_for() {
        let (mut ahead, now) = (ClaimAhead::new(LIMITS), Instant::now());
        ahead.window = 300;
        let resolving = JobCounts { resolving: 16, ..JobCounts::default() };
        assert_eq!(ahead.room(resolving, now), 0);
        assert_eq!(ahead.window, 300, "more jobs would not help");
        let ending = JobCounts { ending: 512, ..JobCounts::default() };
        assert_eq!(ahead.room(ending, now), 0);
    }

    #[test]
    fn jobs_that_hang_do_not_keep_others_from_being_claimed() {
        let (mut ahead, begun) = (ClaimAhead::new(LIMITS), Instant::now());
        let rooms = (0..10).map(|tick| ahead.room(fetching(64), begun + GROWTH_INTERVAL * tick));
        assert!(rooms.into_iter().any(|room| room > 0));
    }
}
