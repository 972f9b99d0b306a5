//! One look at the queue for all open pages.
//!
//! Invariant: however many pages are open or asked for, one look is taken at a time, and none for a page while the last
//! one is younger than [`INTERVAL`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::READ_TIME;
use crate::ops::status::Look;
use crate::queue::{AuditEntry, Config, OperatorHandle, Status};

/// Between two looks, while somebody looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// Between two points of the trends.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(30);
/// Points of an hour.
const SAMPLES: usize = 120;
/// Rows of the audit on the overview.
const AUDIT_ROWS: usize = 6;

/// A point of the trends.
#[derive(Debug, Clone, Copy)]
struct Sample {
    waiting: u64,
    fetching: u64,
    analysing: u64,
    for_hosts: u64,
    retry: u64,
}

/// What one of the cards shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trend {
    Waiting,
    Fetching,
    Analysing,
    ForHosts,
    Retry,
}

/// A look, and what led to it.
#[derive(Debug, Clone)]
pub(super) struct LiveLook {
    pub(super) look: Look,
    /// The newest rows of the audit; `None` where they were not read.
    pub(super) audit: Option<Vec<AuditEntry>>,
    samples: Vec<Sample>,
    taken: Instant,
}

impl Sample {
    fn of(status: &Status) -> Self {
        Self {
            waiting: status.inbox + status.ready + status.exclusive,
            // As of the last heartbeats, since when some of them may have ended.
            fetching: status.fetching.min(status.in_flight),
            analysing: status.analysing.min(status.in_flight.saturating_sub(status.fetching)),
            for_hosts: status.waiting_for_hosts,
            retry: status.scheduled.saturating_sub(status.waiting_for_hosts),
        }
    }

    fn of_trend(self, trend: Trend) -> u64 {
        match trend {
            Trend::Waiting => self.waiting,
            Trend::Fetching => self.fetching,
            Trend::Analysing => self.analysing,
            Trend::ForHosts => self.for_hosts,
            Trend::Retry => self.retry,
        }
    }
}

impl LiveLook {
    /// The number that a card shows now.
    pub(super) fn count(&self, trend: Trend) -> Option<u64> {
        self.look.status().map(|status| Sample::of(status).of_trend(trend))
    }

    /// Its last hour, as far as this dashboard has run.
    pub(super) fn trend(&self, trend: Trend) -> Vec<u64> {
        self.samples.iter().map(|sample| sample.of_trend(trend)).collect()
    }
}

/// The looks.
pub(super) struct Live {
    config: Config,
    queue: OperatorHandle,
    seen: watch::Sender<Arc<LiveLook>>,
    /// When something was changed here: what was looked at before is not fresh.
    changed: Mutex<Instant>,
    /// Held by who looks.
    looking: tokio::sync::Mutex<()>,
    samples: Mutex<VecDeque<Sample>>,
}

impl Live {
    pub(super) fn new(config: Config, queue: OperatorHandle) -> Self {
        let look = Look::nothing(&config, "nothing was read yet".to_owned());
        let now = Instant::now();
        let taken = now.checked_sub(INTERVAL).unwrap_or(now);
        let seen = LiveLook { look, audit: None, samples: Vec::new(), taken };
        let (seen, _) = watch::channel(Arc::new(seen));
        let (looking, samples) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { config, queue, seen, changed: Mutex::new(now), looking, samples }
    }

    /// What was seen less than [`INTERVAL`] ago, or is seen now.
    pub(super) async fn now(&self) -> Arc<LiveLook> {
        self.younger_than(INTERVAL).await
    }

    async fn younger_than(&self, age: Duration) -> Arc<LiveLook> {
        let is_fresh =
            |seen: &Arc<LiveLook>| seen.taken.elapsed() < age && seen.taken >= *self.changed.lock();
        let fresh = || Some(Arc::clone(&self.seen.borrow())).filter(is_fresh);
        if let Some(seen) = fresh() {
            return seen;
        }
        let _looking = self.looking.lock().await;
        // Somebody else may have looked meanwhile.
        match fresh() {
            Some(seen) => seen,
            None => self.look().await,
        }
    }

    /// Lets the next page look anew: something was changed here.
    pub(super) fn forget(&self) {
        *self.changed.lock() = Instant::now();
    }

    /// Hears of each look; as long as somebody does, looks are taken.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<LiveLook>> {
        self.seen.subscribe()
    }

    /// Looks while somebody listens, and for the trends in any case.
    pub(super) async fn run(&self) {
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sampled: Option<Instant> = None;
        loop {
            tick.tick().await;
            let sample_is_due = sampled.is_none_or(|at| at.elapsed() >= SAMPLE_INTERVAL);
            if self.seen.receiver_count() == 0 && !sample_is_due {
                continue;
            }
            // The last look ended after its tick, so at this one it is a little younger than the interval.
            let seen = self.younger_than(INTERVAL / 2).await;
            if let Some(status) = seen.look.current().filter(|_| sample_is_due) {
                let mut samples = self.samples.lock();
                if samples.len() == SAMPLES {
                    samples.pop_front();
                }
                samples.push_back(Sample::of(status));
                sampled = Some(Instant::now());
            }
        }
    }

    async fn look(&self) -> Arc<LiveLook> {
        let taken = Instant::now();
        let until = taken + READ_TIME;
        let (look, audit) = tokio::join!(
            Look::take(&self.config, &self.queue, until),
            timeout_at(until, self.queue.audit_rows(AUDIT_ROWS)),
        );
        let before = Arc::clone(&self.seen.borrow());
        let look = look.unwrap_or_else(|error| Look::failed(&self.config, &error)).or_before(&before.look);
        let audit = audit.ok().and_then(Result::ok).map(|(rows, _)| rows);
        let samples = self.samples.lock().iter().copied().collect();
        let seen = Arc::new(LiveLook { look, audit, samples, taken });
        self.seen.send_replace(Arc::clone(&seen));
        seen
    }
}
