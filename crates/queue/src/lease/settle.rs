//! Carries out a verdict once, atomically, and only while the delivery holds its lease.
//!
//! Invariant: a failed settle returns the delivery and the verdict, so that it can be retried while the lease
//! lasts. Retrying a settle whose reply was lost returns `Settled` again: nothing is written twice.

use std::time::Duration;

use crate::error::Error;
use crate::evidence::RawPayload;
use crate::ids::LeaseRef;
use crate::intake::admission::priority_offset;
use crate::lease::delivery::Delivery;
use crate::lease::result::{Ending, death_report, ended};
use crate::lease::settled::{Settled, settled};
use crate::lease::slot::{SettleCall, SlotCall};
use crate::lease::truncate::{group_sentence, shorten_reason, truncate_reason};
use crate::redis::scripts;
use crate::role::WorkerHandle;
use crate::settings::REDIS_SINK;
use wm_job::duration::millis;
use wm_job::failure::{Failure, Stage};
use wm_job::page::Side;
use wm_job::report::ANALYSIS_VERSION;
use wm_job::skip::SkipReason;
use wm_job::verdict::{DeadLetterReason, PostponeReason, Verdict};

/// A settle that failed, with everything needed to retry it.
#[derive(Debug)]
pub struct Unsettled {
    /// The delivery; its lease may still be held.
    pub delivery: Delivery,
    /// The verdict to carry out.
    pub verdict: Verdict,
    /// The error of the call.
    pub source: Error,
}

/// How an unfinished delivery is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseKind {
    /// The release is counted: after `releases_exclusive` of them the job runs exclusively.
    Counted,
    /// Nothing is counted: its worker stopped, or had to run a suspect, while it was still being fetched. So
    /// deploys one after another make no suspects of the hundreds of jobs that a worker holds.
    WhileFetching,
}

impl ReleaseKind {
    /// As `release.lua` reads it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::WhileFetching => "while_fetching",
        }
    }
}

/// A release that failed, with the delivery to retry it.
#[derive(Debug)]
pub struct Unreleased {
    /// The delivery; its lease may still be held.
    pub delivery: Delivery,
    /// The error of the call.
    pub source: Error,
}

impl WorkerHandle {
    /// Carries out the verdict on a delivery.
    ///
    /// # Errors
    /// Those of Redis, with the delivery and the verdict to retry.
    pub async fn settle(&self, delivery: Delivery, verdict: Verdict) -> Result<Settled, Box<Unsettled>> {
        match self.carry_out(&delivery, &verdict).await {
            Ok(settled) => Ok(settled),
            Err(source) => Err(Box::new(Unsettled { delivery, verdict, source })),
        }
    }

    async fn carry_out(&self, delivery: &Delivery, verdict: &Verdict) -> Result<Settled, Error> {
        if let Some(settled) = self.record_host_failure(delivery, verdict).await? {
            return Ok(settled);
        }
        match verdict {
            Verdict::Done(report) => {
                let ending = Ending::done(&delivery.job.id, report, self.inner.sink != REDIS_SINK);
                self.settle_ended(delivery, ending, report.analysis_version, delivery.without_follow_up).await
            }
            Verdict::Skip(skip) => {
                // Which version is the previous one may change: then only the newer one's fault is for good.
                let is_pair_fixed = delivery.job.from.given().is_some() || skip.side == Some(Side::To);
                let permanent = skip.reason.is_permanent() && is_pair_fixed;
                let ending = Ending::skipped(&delivery.job.id, delivery.job.pair(), skip, permanent);
                let without_follow_up = delivery.without_follow_up || is_the_last_of_its_job(skip.reason);
                self.settle_ended(delivery, ending, ANALYSIS_VERSION, without_follow_up).await
            }
            Verdict::Retry { after, failure } => {
                // An ambiguous exit of the child may not be the job's fault: it does not count as a failed
                // attempt.
                let counted = match failure.kind.stage() {
                    Stage::Analyse => "ambiguous_exits",
                    Stage::Ingest
                    | Stage::Resolve
                    | Stage::Fetch
                    | Stage::Store
                    | Stage::Deliver
                    | Stage::Queue => "failures",
                };
                self.schedule(delivery, verdict.as_str(), *after, failure, counted).await
            }
            Verdict::Postpone { after, because } => {
                let (failure, counted) = match because {
                    PostponeReason::Infrastructure(failure) => (failure, "postponements"),
                    PostponeReason::BreakerOpen(failure) | PostponeReason::Starved(failure) => {
                        (failure, "nothing")
                    }
                    PostponeReason::Suspect => return self.wait_for(delivery, "", verdict.as_str()).await,
                    PostponeReason::HostFull { host } => {
                        return self.wait_for(delivery, host, verdict.as_str()).await;
                    }
                };
                self.schedule(delivery, verdict.as_str(), *after, failure, counted).await
            }
            Verdict::DeadLetter(reason) => {
                let pair = delivery.job.pair();
                self.bury(&delivery.lease(), &delivery.unique, &pair, reason, None).await
            }
        }
    }

    async fn settle_ended(
        &self,
        delivery: &Delivery,
        ending: Ending,
        analysis_version: u32,
        without_follow_up: bool,
    ) -> Result<Settled, Error> {
        let (keys, id) = (&self.inner.keys, &delivery.job.id);
        let call = SettleCall {
            keys: [keys.job(id), keys.unique(&delivery.unique)],
            id: id.to_string(),
            token: delivery.token.clone(),
            ended: ended(id, &ending.pair, ending.state, &ending.why),
            done: if ending.marked { self.done_name(&ending.pair, analysis_version) } else { Vec::new() },
            without_follow_up,
            ending,
        };
        let held = self.in_batch(SlotCall::Settle(Box::new(call))).await?;
        Ok(if held { Settled::Settled } else { Settled::Superseded })
    }

    async fn schedule(
        &self,
        delivery: &Delivery,
        state: &str,
        after: Duration,
        failure: &Failure,
        counted: &str,
    ) -> Result<Settled, Error> {
        let last = serde_json::to_string(failure).unwrap_or_default();
        let mut reply = self
            .call(&scripts::SCHEDULE)
            .key(self.inner.keys.job(&delivery.job.id))
            .arg(&[delivery.job.id.as_str(), &delivery.token, state])
            .arg(millis(after))
            .arg(&[failure.kind.as_str(), &last, &delivery.job.pair(), counted])
            .arg(priority_offset(delivery.job.priority))
            .arg(group_sentence(&failure.detail))
            .reply()
            .await?;
        settled(&mut reply)
    }

    /// Requeues a job that waits for a start permit at `host` or, when `host` is empty, to run exclusively.
    async fn wait_for(&self, delivery: &Delivery, host: &str, counted: &str) -> Result<Settled, Error> {
        let id = &delivery.job.id;
        let call = self.call(&scripts::WAIT_FOR_HOST).key(self.inner.keys.job(id));
        settled(&mut call.arg(&[id.as_str(), &delivery.token, host, counted]).reply().await?)
    }

    /// Buries a delivery; `unreadable` is its payload when that is not a job.
    pub(crate) async fn bury(
        &self,
        lease: &LeaseRef,
        unique: &str,
        pair: &str,
        reason: &DeadLetterReason,
        unreadable: Option<&[u8]>,
    ) -> Result<Settled, Error> {
        let keys = &self.inner.keys;
        let raw = unreadable.map(RawPayload::of);
        let call = self
            .call(&scripts::BURY)
            .key(keys.job(&lease.id))
            .key(keys.unique(unique))
            .key(keys.dead_kind(reason.kind))
            .arg(&[lease.id.as_str(), &lease.token, reason.kind.as_str()])
            .arg(&[truncate_reason(reason), shorten_reason(reason)])
            .arg(pair)
            .arg(ended(&lease.id, pair, "dead", reason.kind.as_str()))
            .arg(death_report(&lease.id, reason));
        let call = match &raw {
            Some(raw) => call.arg(&raw.head[..]).arg(raw.length).arg(&raw.hash),
            None => call.arg(&["", "", ""]),
        };
        let host = reason.host().unwrap_or_default();
        let call = call.arg(&[host.as_str(), &group_sentence(&reason.failure.detail), &reason.build]);
        let call = call.arg(if reason.kind.kills_child() { host.as_str() } else { "" });
        settled(&mut call.reply().await?)
    }

    /// Releases an unfinished delivery: un-counts it and returns the job to its old place.
    ///
    /// # Errors
    /// Those of Redis, with the delivery to retry.
    pub async fn release(&self, delivery: Delivery, kind: ReleaseKind) -> Result<Settled, Box<Unreleased>> {
        let call = self.call(&scripts::RELEASE).key(self.inner.keys.job(&delivery.job.id)).arg(&[
            delivery.job.id.as_str(),
            &delivery.token,
            &delivery.job.pair(),
            kind.as_str(),
        ]);
        match call.reply().await.and_then(|mut reply| settled(&mut reply)) {
            Ok(settled) => Ok(settled),
            Err(source) => Err(Box::new(Unreleased { delivery, source })),
        }
    }
}

/// True for a skip after which a comparison with the page's earliest version is not wanted: the job was cancelled, or the
/// newer version is that version.
fn is_the_last_of_its_job(reason: SkipReason) -> bool {
    match reason {
        SkipReason::Cancelled | SkipReason::NoPrevious | SkipReason::SameVersion => true,
        SkipReason::WrongOrder
        | SkipReason::AlreadyDone
        | SkipReason::NotHttp
        | SkipReason::MediaType
        | SkipReason::MediaTypeUnknown
        | SkipReason::Extension
        | SkipReason::Content
        | SkipReason::UnlikeContent
        | SkipReason::Undecodable
        | SkipReason::Expired => false,
    }
}
