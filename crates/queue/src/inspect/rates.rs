//! The counters of the last hour and day, and how fast jobs come in and end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Queue;
use crate::error::Error;
use crate::inspect::parts::{Reads, UnreadableKey};

/// Length of a bucket of counters; the same as in `lua/common.lua`.
pub(crate) const BUCKET_MS: u64 = 300_000;
/// Buckets of an hour, and of a day.
const HOUR_BUCKETS: u64 = 12;
const DAY_BUCKETS: u64 = 288;
/// Shortest time that a rate is taken over: of less, one job more or less would change it by a lot.
const LEAST_MS: u64 = 10_000;
/// Counters of jobs that have ended.
const ENDS: [&str; 3] = ["done", "skipped", "dead"];

/// Counts by name: `admitted`, `done`, `skipped`, `skipped:<reason>`, `dead:<kind>`, ...
pub(crate) type Counts = BTreeMap<String, u64>;

/// How fast jobs come in and end, over the last five minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// Jobs that ended in a second: analysed, skipped or dead.
    pub ended_per_second: f64,
    /// Jobs that were admitted in a second.
    pub admitted_per_second: f64,
    /// Time in milliseconds until all that waits and runs has ended at this pace; `None` while nothing ends.
    pub all_ended_in_ms: Option<u64>,
    /// Jobs that died in the last hour.
    pub died_last_hour: u64,
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) last_hour: Counts,
    pub(crate) last_day: Counts,
    /// The bucket that is being filled, and the one before.
    newest: Counts,
    previous: Counts,
}

impl Counters {
    /// The rates at `now_ms`, with so many jobs that wait or run.
    pub(crate) fn rates(&self, now_ms: u64, left: u64) -> Rates {
        let ended = self.per_second(&ENDS, now_ms);
        Rates {
            ended_per_second: ended,
            admitted_per_second: self.per_second(&["admitted"], now_ms),
            all_ended_in_ms: (ended > 0.0).then(|| (left as f64 / ended * 1000.0) as u64),
            died_last_hour: self.last_hour.get("dead").copied().unwrap_or(0),
        }
    }

    /// The newest bucket, and the share of the one before that lies within the last five minutes. Where that one is empty
    /// the queue began to work in the newest, and only its time counts.
    fn per_second(&self, names: &[&str], now_ms: u64) -> f64 {
        let sum = |counts: &Counts| names.iter().filter_map(|name| counts.get(*name)).sum::<u64>() as f64;
        let elapsed_ms = now_ms % BUCKET_MS;
        if self.previous.is_empty() {
            return sum(&self.newest) * 1000.0 / elapsed_ms.max(LEAST_MS) as f64;
        }
        let share = (BUCKET_MS - elapsed_ms) as f64 / BUCKET_MS as f64;
        (sum(&self.newest) + sum(&self.previous) * share) * 1000.0 / BUCKET_MS as f64
    }
}

impl Queue {
    /// Reads the counters of the last day.
    pub(crate) async fn counters(
        &self,
        now_ms: u64,
        unreadable: &mut Vec<UnreadableKey>,
    ) -> Result<Counters, Error> {
        let mut reads = Reads::default();
        let newest = now_ms / BUCKET_MS;
        let buckets = newest.saturating_sub(DAY_BUCKETS - 1)..=newest;
        for bucket in buckets.clone() {
            reads.add(&["HGETALL"], &self.inner.keys.stats(bucket), &[]);
        }
        let mut replies = self.read(reads).await?;
        let mut counters = Counters::default();
        for bucket in buckets {
            let counts: Counts = replies.next();
            for (name, count) in &counts {
                if newest - bucket < HOUR_BUCKETS {
                    *counters.last_hour.entry(name.clone()).or_default() += count;
                }
                *counters.last_day.entry(name.clone()).or_default() += count;
            }
            counters.previous = std::mem::replace(&mut counters.newest, counts);
        }
        unreadable.append(&mut replies.unreadable);
        Ok(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn a_rate_is_that_of_the_last_five_minutes_however_far_the_newest_bucket_is() {
        let previous = counts(&[("done", 300), ("admitted", 600)]);
        let newest = counts(&[("done", 50), ("skipped", 40), ("dead", 10), ("dead:gone", 10)]);
        let counters =
            Counters { newest, previous, last_hour: counts(&[("dead", 7)]), ..Counters::default() };
        // A third of the newest bucket has passed, so two thirds of the one before count: (100 + 200) / 300 s.
        let rates = counters.rates(1_000 * BUCKET_MS + 100_000, 90);
        assert_eq!((rates.ended_per_second, rates.died_last_hour), (1.0, 7));
        assert!((rates.admitted_per_second - 400.0 / 300.0).abs() < 1e-9, "{rates:?}");
        assert_eq!(rates.all_ended_in_ms, Some(90_000));
    }

    #[test]
    fn a_queue_that_has_just_begun_is_measured_from_then_on_and_one_where_nothing_ends_has_no_end() {
        let newest = counts(&[("done", 300)]);
        let counters = Counters { newest, ..Counters::default() };
        assert_eq!(counters.rates(BUCKET_MS + 30_000, 0).ended_per_second, 10.0);
        assert_eq!(counters.rates(BUCKET_MS + 1, 0).ended_per_second, 30.0, "over 10 s at least");
        assert_eq!(Counters::default().rates(BUCKET_MS, 5), Rates::default());
    }
}
