//! Versions that were looked up a moment ago: one page's versions follow each other through the queue.
//!
//! Invariant: never more than `entries`, never older than `ttl`.
//!
//! # Why
//! First in, first out: with one lifetime for all, the oldest is also the next to expire, and a queue of uuids is
//! the whole bookkeeping.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use super::version::Record;

/// A bounded memory of versions.
#[derive(Debug)]
pub(super) struct Cache {
    entries: usize,
    ttl: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    records: HashMap<Uuid, (Instant, Record)>,
    order: VecDeque<Uuid>,
}

impl Cache {
    /// An empty one; no entries means no memory.
    pub(super) fn new(entries: usize, ttl: Duration) -> Self {
        Self { entries, ttl, kept: Mutex::default() }
    }

    /// What is remembered of a version.
    pub(super) fn get(&self, uuid: Uuid) -> Option<Record> {
        let kept = self.kept.lock();
        let (since, record) = kept.records.get(&uuid)?;
        (since.elapsed() < self.ttl).then(|| record.clone())
    }

    /// Remembers a version, forgetting the oldest where there is no room.
    pub(super) fn put(&self, record: Record) {
        let mut kept = self.kept.lock();
        let uuid = record.uuid;
        if kept.records.insert(uuid, (Instant::now(), record)).is_some() {
            kept.order.retain(|known| *known != uuid);
        }
        kept.order.push_back(uuid);
        while kept.order.len() > self.entries {
            if let Some(oldest) = kept.order.pop_front() {
                kept.records.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::version::Previous;
    use crate::job::skip::{Skip, SkipReason};

    fn record(n: u128) -> Record {
        let version = Err(Skip::new(SkipReason::NotHttp, ""));
        Record { uuid: Uuid::from_u128(n), page: None, previous: Previous::Unsaid, version }
    }

    fn kept(cache: &Cache, among: u128) -> Vec<u128> {
        (0..among).filter(|n| cache.get(Uuid::from_u128(*n)).is_some()).collect()
    }

    #[test]
    fn only_the_newest_are_kept_and_a_repeat_is_new() {
        let cache = Cache::new(3, Duration::from_secs(3_600));
        for n in [0, 1, 2, 0, 3] {
            cache.put(record(n));
        }
        assert_eq!(kept(&cache, 10), [0, 2, 3]);
        assert_eq!(cache.kept.lock().records.len(), 3);
    }

    #[test]
    fn nothing_is_kept_without_room_or_without_time() {
        for cache in [Cache::new(0, Duration::from_secs(3_600)), Cache::new(9, Duration::ZERO)] {
            cache.put(record(1));
            assert_eq!(kept(&cache, 2), Vec::<u128>::new());
        }
    }
}
