//! Elects the alert leader: of the workers that see the same outage, one reports it, once per outage.
//!
//! Invariant: an alert leader that stops renewing its entry for one lease without having reported is
//! replaced. So an alert is not lost with its worker, and workers that join later in the same outage do not
//! report it again.

use crate::error::Error;
use crate::ids::WorkerId;
use crate::redis::scripts;
use crate::role::WorkerHandle;

/// A worker's view of an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageReport {
    /// It lasts; repeat with each heartbeat.
    Ongoing,
    /// It is over for this worker.
    Over,
}

/// Which worker is to report an outage.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertLeader {
    /// The calling worker is to report it.
    Us,
    /// Another worker is to, and has not reported it yet.
    Another,
    /// No worker: it is already reported, or over.
    Nobody,
}

impl WorkerHandle {
    /// Records whether `worker` sees an outage of `what`, and whether its own alert was delivered; returns
    /// the alert leader. `what` is a constant, so that the number of keys is bounded.
    ///
    /// # Errors
    /// Those of Redis; then no leader is elected.
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
