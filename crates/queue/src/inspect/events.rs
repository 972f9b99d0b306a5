//! The queue's external interface: pushing raw payloads to the inbox, and reading the stream of job events.
//!
//! Events are capped and may be lost; the keys are authoritative. They are read here for the demo and for
//! tests.

use redis::streams::StreamRangeReply;

use crate::Queue;
use crate::error::Error;
use crate::role::ProducerHandle;

/// Most payloads pushed in one command.
const PUSH_BATCH: usize = 500;

/// An event of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its stream id, to continue reading after it.
    pub at: String,
    /// Id of the job.
    pub id: String,
    /// Type of the event: `done`, `skipped`, `retried`, `postponed`, `buried`, ...
    pub what: String,
    /// Skip reason or kind of failure; empty otherwise.
    pub why: String,
}

impl ProducerHandle {
    /// Pushes payloads to the inbox unchecked, as a producer in any language does.
    ///
    /// # Errors
    /// Those of Redis; earlier batches may be in the inbox.
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
    /// The events after the stream id `after` (`0` for all), oldest first, at most `limit`.
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
