//! The feed of what became of jobs, and the manager that any producer uses: both ends as the world outside sees them.
//!
//! Events are hints, capped and loss-tolerant; the truth is in the keys. They are read here for the demo and for tests.

use redis::streams::StreamRangeReply;

use crate::Queue;
use crate::error::Error;
use crate::role::ProducerHandle;

/// Payloads pushed in one command.
const PUSH_BATCH: usize = 500;

/// One thing that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in the feed, to go on reading after it.
    pub at: String,
    /// The job.
    pub id: String,
    /// `done`, `skipped`, `retried`, `postponed`, `buried`, ...
    pub what: String,
    /// The skip reason or the kind of failure, where there is one.
    pub why: String,
}

impl ProducerHandle {
    /// Puts payloads into the inbox, unread, as a producer in any language does.
    ///
    /// # Errors
    /// Those of Redis; earlier batches may be in.
    pub async fn push(&self, payloads: &[Vec<u8>]) -> Result<(), Error> {
        for batch in payloads.chunks(PUSH_BATCH) {
            let mut connection = self.connection().await?;
            redis::cmd("RPUSH")
                .arg(self.inner.keys.inbox())
                .arg(batch)
                .query_async::<u64>(&mut connection)
                .await?;
        }
        Ok(())
    }
}

impl Queue {
    /// The next events after a place in the feed (`0` is its beginning), at most `limit`.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn events(&self, after: &str, limit: usize) -> Result<Vec<Event>, Error> {
        let mut connection = self.connection().await?;
        let reply: StreamRangeReply = redis::cmd("XRANGE")
            .arg(self.inner.keys.events())
            .arg(format!("({after}"))
            .arg("+")
            .arg("COUNT")
            .arg(limit)
            .query_async(&mut connection)
            .await?;
        let events = reply.ids.into_iter().map(|entry| {
            let text = |field: &str| entry.get::<String>(field).unwrap_or_default();
            Event { id: text("id"), what: text("type"), why: text("why"), at: entry.id.clone() }
        });
        Ok(events.collect())
    }
}
