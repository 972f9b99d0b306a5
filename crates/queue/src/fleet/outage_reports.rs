//! Outages that several workers see: each shares what it sees, and one of them reports it, once per outage.
//!
//! Invariant: an outage begins when the first worker sees it and is over when no worker does any more, whether they
//! said so or died. What is reported of it is claimed as any alert ([`WorkerHandle::claim_alert`]): its beginning,
//! that it lasts, and its end, in this order.

use crate::error::Error;
use crate::ids::WorkerId;
use crate::redis::scripts;
use crate::role::WorkerHandle;

/// A worker's view of an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageReport<'a> {
    /// It lasts; repeat with each heartbeat.
    Ongoing {
        /// What failed, for the alert.
        detail: &'a str,
        /// This worker has reported it by itself, while Redis was away.
        reported: bool,
    },
    /// It happened at one moment and has no end.
    Once {
        /// What happened, for the alert.
        detail: &'a str,
    },
    /// It is over for this worker.
    Over,
}

impl WorkerHandle {
    /// Records what `worker` sees of an outage. `what` is a constant, so that the number of keys is bounded.
    ///
    /// # Errors
    /// Those of Redis; then the others do not know of it.
    pub async fn outage(
        &self,
        what: &'static str,
        worker: &WorkerId,
        report: OutageReport<'_>,
    ) -> Result<(), Error> {
        let (ongoing, reported, detail, once) = match report {
            OutageReport::Ongoing { detail, reported } => (true, reported, detail, false),
            OutageReport::Once { detail } => (true, false, detail, true),
            OutageReport::Over => (false, false, "", false),
        };
        let keys = &self.inner.keys;
        let call = self.call(&scripts::OUTAGE);
        let call = call.key(keys.outage(what)).key(keys.alert_outage(what)).key(keys.alerts_due());
        let call = call.arg(worker.as_str()).arg(u8::from(ongoing)).arg(u8::from(reported));
        call.arg(what).arg(detail).arg(u8::from(once)).reply().await.map(drop)
    }
}
