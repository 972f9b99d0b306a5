//! Workers that see the same outage agree who tells people: one of them, once, and again once it is over and comes back.
//!
//! Invariant: whoever is to tell has a lease's time to say that it is reported; then it is another's turn. So an alert is not
//! lost with the worker that was to send it, and workers that come later in the same outage stay silent.

use crate::error::Error;
use crate::ids::WorkerId;
use crate::redis::scripts;
use crate::role::WorkerHandle;

/// What a worker says of an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageReport {
    /// It lasts; to be said again with each heartbeat.
    Ongoing,
    /// It is over, as far as this worker knows.
    Over,
}

/// Who is to tell people.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertLeader {
    /// Whoever asked.
    Us,
    /// Another worker, which has not said yet that it did.
    Another,
    /// Nobody any more: it is reported, or it is over.
    Nobody,
}

impl WorkerHandle {
    /// Says what `worker` sees of the outage of `what`, and whether its own alert of it has arrived. `what` is a word of
    /// ours, so that there are few.
    ///
    /// # Errors
    /// Those of Redis; then nothing is agreed.
    pub async fn outage(
        &self,
        what: &'static str,
        worker: &WorkerId,
        sight: OutageReport,
        reported: bool,
    ) -> Result<AlertLeader, Error> {
        let mut reply = self
            .call(&scripts::OUTAGE)
            .key(self.inner.keys.outage(what))
            .key(self.inner.keys.alert_leader(what))
            .arg(worker.as_str())
            .arg(u8::from(sight == OutageReport::Ongoing))
            .arg(u8::from(reported))
            .reply()
            .await?;
        match reply.text()?.as_str() {
            "us" => Ok(AlertLeader::Us),
            "another" => Ok(AlertLeader::Another),
            "nobody" => Ok(AlertLeader::Nobody),
            other => Err(reply.unexpected(other)),
        }
    }
}
