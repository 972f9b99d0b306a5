//! A cache of recently looked-up versions: jobs for consecutive versions of one page are often close in the
//! queue.
//!
//! Invariant: never more than `entries`, none older than `ttl`.
//!
//! # Why
//! First in, first out: all entries have the same lifetime, so the oldest is also the next to expire, and a
//! queue of uuids is all the bookkeeping needed.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use super::version::VersionRecord;

/// A bounded cache of versions by uuid.
#[derive(Debug)]
pub(super) struct VersionCache {
    entries: usize,
    ttl: Duration,
    state: Mutex<CacheState>,
}

#[derive(Debug, Default)]
struct CacheState {
    records: HashMap<Uuid, (Instant, VersionRecord)>,
    order: VecDeque<Uuid>,
}

impl VersionCache {
    /// An empty cache; zero entries disable it.
    pub(super) fn new(entries: usize, ttl: Duration) -> Self {
        Self { entries, ttl, state: Mutex::default() }
    }

    /// The cached version, unless it has expired.
    pub(super) fn get(&self, uuid: Uuid) -> Option<VersionRecord> {
        let state = self.state.lock();
        let (since, record) = state.records.get(&uuid)?;
        (since.elapsed() < self.ttl).then(|| record.clone())
    }

    /// Caches a version, evicting the oldest if the cache is full.
    pub(super) fn put(&self, record: VersionRecord) {
        let mut state = self.state.lock();
        let uuid = record.uuid;
        if state.records.insert(uuid, (Instant::now(), record)).is_some() {
            state.order.retain(|known| *known != uuid);
        }
        state.order.push_back(uuid);
        while state.order.len() > self.entries {
            if let Some(oldest) = state.order.pop_front() {
                state.records.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::version::PreviousVersion;
    use crate::job::skip::{Skip, SkipReason};

    fn record(n: u128) -> VersionRecord {
        let version = Err(Skip::new(SkipReason::NotHttp, ""));
        VersionRecord { uuid: Uuid::from_u128(n), page: None, previous: PreviousVersion::Unknown, version }
    }

    fn kept(cache: &VersionCache, among: u128) -> Vec<u128> {
        (0..among).filter(|n| cache.get(Uuid::from_u128(*n)).is_some()).collect()
    }

    #[test]
    fn only_the_newest_are_kept_and_a_repeat_is_new() {
        let cache = VersionCache::new(3, Duration::from_secs(3_600));
        for n in [0, 1, 2, 0, 3] {
            cache.put(record(n));
        }
        assert_eq!(kept(&cache, 10), [0, 2, 3]);
        assert_eq!(cache.state.lock().records.len(), 3);
    }

    #[test]
    fn nothing_is_kept_without_room_or_without_time() {
        for cache in [VersionCache::new(0, Duration::from_secs(3_600)), VersionCache::new(9, Duration::ZERO)]
        {
            cache.put(record(1));
            assert_eq!(kept(&cache, 2), Vec::<u128>::new());
        }
    }
}
