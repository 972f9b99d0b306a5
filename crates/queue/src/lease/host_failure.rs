//! A failure at a host is recorded before the delivery that failed at it is settled: after some in a row the host
//! rests, and the job waits for it at no cost.
//!
//! # Why
//! A script of its own, not a part of those that settle: only failures pay for it, and whether an attempt is spent is
//! known only once the failure is counted against the host. Between the two calls a worker may vanish; then the host
//! has failed and the job is taken over, both of which are true.

use crate::error::Error;
use crate::intake::admission::priority_offset;
use crate::lease::delivery::Delivery;
use crate::lease::settled::Settled;
use crate::redis::scripts;
use crate::role::WorkerHandle;
use wm_job::duration::millis;
use wm_job::failure::{Blame, Failure, FailureKind};
use wm_job::verdict::Verdict;

/// What is counted while a job waits for a host.
const COUNTER: &str = "host_rests";

impl WorkerHandle {
    /// Records the failure of a host, if `verdict` is about one. None: carry out the verdict.
    pub(crate) async fn record_host_failure(
        &self,
        delivery: &Delivery,
        verdict: &Verdict,
    ) -> Result<Option<Settled>, Error> {
        let Some((failure, host)) = failure_at_host(verdict) else { return Ok(None) };
        let id = &delivery.job.id;
        let mut reply = self
            .call(&scripts::HOST_FAILED)
            .key(self.inner.keys.job(id))
            .arg(&[id.as_str(), &delivery.token, host, failure.kind.as_str()])
            .arg(serde_json::to_string(failure).unwrap_or_default())
            .arg(failure.retry_after.map_or(0, millis))
            .arg(priority_offset(delivery.job.priority))
            .arg(COUNTER)
            .reply()
            .await?;
        match reply.text()?.as_str() {
            "counted" => Ok(None),
            "settled" => Ok(Some(Settled::Settled)),
            "waits" => Ok(Some(Settled::Waits)),
            "superseded" => Ok(Some(Settled::Superseded)),
            other => Err(reply.unexpected(other)),
        }
    }
}

/// The failure that a verdict spends an attempt on, and the host to blame for it.
fn failure_at_host(verdict: &Verdict) -> Option<(&Failure, &str)> {
    let failure = match verdict {
        Verdict::Retry { failure, .. } => failure,
        Verdict::DeadLetter(reason) if reason.kind == FailureKind::Exhausted => &reason.failure,
        Verdict::Done(_) | Verdict::Skip(_) | Verdict::Postpone { .. } | Verdict::DeadLetter(_) => {
            return None;
        }
    };
    let host = failure.host.as_deref().filter(|_| failure.kind.blame() == Blame::Target)?;
    Some((failure, host))
}
