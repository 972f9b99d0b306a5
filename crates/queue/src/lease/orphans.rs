//! Finds jobs that stand in no index, and index entries without a job; files them again.
//!
//! The two part only by a hand (`DEL` of an index) or a server that lost writes. Upkeep compares counters of jobs and
//! letters with the sizes of the indexes, and looks only while these disagree, at most 1,000 keys per call.
//!
//! Invariant: the counter is believed to be wrong, and counted anew, only after a whole search that found nothing.

use std::time::{Duration, Instant};

use crate::Queue;
use crate::error::Error;
use crate::redis::scripts;
use crate::role::WorkerHandle;

/// Most keys looked at in one call.
const LOOK_MAX: usize = 1000;
/// A search that was not continued for so long had come to its end: the next one begins anew.
const ABANDONED_AFTER: Duration = Duration::from_secs(15);

/// What a search found so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Orphans {
    /// Jobs put back into an index.
    pub refiled: u64,
    /// Index entries removed that had no job.
    pub removed: u64,
    /// Jobs removed because another job for the same pair is live.
    pub duplicates: u64,
}

/// Where a search is: among all keys, then in one index after another.
#[derive(Debug, Default)]
pub(crate) struct Search {
    place: usize,
    cursor: u64,
    /// When it was continued last.
    continued: Option<Instant>,
    /// It found something.
    found: bool,
    /// Live jobs seen, and their bytes.
    live: u64,
    live_bytes: u64,
}

impl Queue {
    /// By how many the counters of jobs and letters and the indexes disagree, at one moment.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn orphans(&self) -> Result<u64, Error> {
        let mut reply = self.call(&scripts::ORPHANS).arg("").reply().await?;
        let (counted, filed): (i64, i64) = (reply.number()?, reply.number()?);
        Ok(counted.abs_diff(filed))
    }
}

impl WorkerHandle {
    /// Looks at the next keys of a search; true once it has seen all and found nothing. A search that found something
    /// is followed by another: what parted meanwhile may be behind it.
    ///
    /// # Errors
    /// Those of Redis; the search goes on at the same place.
    pub(crate) async fn search_orphans(
        &self,
        search: &mut Search,
        found: &mut Orphans,
    ) -> Result<bool, Error> {
        if search.continued.replace(Instant::now()).is_some_and(|at| at.elapsed() > ABANDONED_AFTER) {
            *search = Search { continued: search.continued, ..Search::default() };
        }
        let keys = &self.inner.keys;
        // The search ends when those agree that are counted, so they come last.
        let indexes = [
            keys.waiting(),
            keys.trash(),
            keys.dead(),
            keys.ready(),
            keys.scheduled(),
            keys.exclusive(),
            keys.lease(),
        ];
        let job_prefix = format!("{}job:", keys.prefix());
        let mut command = match search.place {
            0 => redis::cmd("SCAN"),
            place => {
                let mut command = redis::cmd("ZSCAN");
                command.arg(&indexes[place - 1]);
                command
            }
        };
        command.arg(search.cursor);
        if search.place == 0 {
            command.arg("MATCH").arg(format!("{job_prefix}*"));
        }
        command.arg("COUNT").arg(LOOK_MAX);
        let (cursor, names): (u64, Vec<String>) = {
            let mut connection = self.connection().await?;
            command.query_async(&mut connection).await?
        };
        // ZSCAN returns members and scores in turn.
        let step = if search.place == 0 { 1 } else { 2 };
        let ids = names.iter().step_by(step).map(|name| name.strip_prefix(&job_prefix).unwrap_or(name));
        let (index, from_index) = match search.place.checked_sub(1) {
            Some(at) => (&indexes[at], "1"),
            None => (&indexes[0], ""),
        };
        for batch in ids.collect::<Vec<_>>().chunks(LOOK_MAX) {
            let mut reply = self.call(&scripts::REFILE).key(index).arg(from_index).arg(batch).reply().await?;
            let [refiled, removed, duplicates] = [reply.number::<u64>()?, reply.number()?, reply.number()?];
            search.found |= refiled + removed + duplicates > 0;
            found.refiled += refiled;
            found.removed += removed;
            found.duplicates += duplicates;
            search.live += reply.number::<u64>()?;
            search.live_bytes += reply.number::<u64>()?;
        }
        search.cursor = cursor;
        if cursor == 0 {
            search.place += 1;
        }
        if search.place > indexes.len() && search.found {
            *search = Search { continued: search.continued, ..Search::default() };
        }
        Ok(search.place > indexes.len())
    }

    /// Counts jobs and letters anew, from the indexes, and the bytes of the jobs by those that the search saw.
    pub(crate) async fn recount_jobs(&self, search: &Search) -> Result<(), Error> {
        let each = search.live_bytes as f64 / search.live.max(1) as f64;
        self.call(&scripts::ORPHANS).arg(each).reply().await.map(drop)
    }
}
