//! Claiming a job, and the right to settle it. Keeping that right is `worker.rs`, using it `settle.rs`.
//!
//! Invariant: a [`Delivery`] exists once. It is not `Clone`, settling consumes it, and its token is known to nobody else.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::error::Error;
use super::presence::WorkerId;
use super::scripts::{self, Words};
use super::settle::Settled;
use super::upkeep::Buried;
use super::{BUILD, Inner, Queue};
use crate::job::failure::Failure;
use crate::job::outcome::{Counts, Skip, SkipReason};
use crate::job::verdict::DeathReason;
use crate::job::{Job, JobId, LimitsRequest};

/// The right to settle one delivery, to be passed around while the delivery itself stays with its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRef {
    /// The job.
    pub id: JobId,
    pub(super) token: String,
}

/// One handing-over of a job to one worker. Dropped unsettled, it counts as a crash once its lease runs out.
#[must_use]
#[derive(Debug)]
pub struct Delivery {
    /// What was asked for.
    pub job: Job,
    /// How often it was handed out, this time included, and how that went.
    pub counts: Counts,
    /// Time since it was admitted.
    pub age: Duration,
    /// Limits that an operator granted when putting it back; empty as a rule.
    pub granted: LimitsRequest,
    pub(super) token: String,
    pub(super) unique: String,
    alone: bool,
    _hand: Arc<()>,
}

impl Delivery {
    /// The right to settle it.
    pub fn lease(&self) -> LeaseRef {
        LeaseRef { id: self.job.id.clone(), token: self.token.clone() }
    }

    /// True when this job is a suspect: nothing else is in this worker's hands, and nothing may be added.
    pub fn is_solo(&self) -> bool {
        self.alone
    }
}

/// The answer to a claim.
#[must_use]
#[derive(Debug)]
pub enum Claim {
    /// A job to work on.
    Delivery(Box<Delivery>),
    /// A job that nobody needs any more, expired or cancelled: settle it with this skip at once.
    Foregone(Box<Delivery>, Skip),
    /// A job whose stored payload this build cannot read; it is a dead letter by now.
    Buried(Box<Buried>),
    /// Nothing is ready.
    Empty,
    /// The queue is paused.
    Paused,
    /// A suspect waits for this worker's hands to be empty, or runs in them: finish what is in hand, then claim again.
    Solo,
}

/// The token of one claim, given back when no answer came: the job may have been handed out all the same.
struct Ticket<'q> {
    inner: &'q Inner,
    token: String,
    unanswered: bool,
    answered: bool,
}

impl<'q> Ticket<'q> {
    fn take(inner: &'q Inner) -> Self {
        let kept = inner.unanswered.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        let unanswered = kept.is_some();
        let token = kept.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        Self { inner, token, unanswered, answered: false }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let mut kept = self.inner.unanswered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            kept.push(std::mem::take(&mut self.token));
        }
    }
}

impl Queue {
    /// Takes the next job, if there is one and this worker may have it. May be cancelled: a job whose answer was lost
    /// is handed out again to the next claim of this queue handle.
    ///
    /// # Errors
    /// Those of Redis; nothing is in hand then.
    pub async fn claim(&self, worker: &WorkerId) -> Result<Claim, Error> {
        let mut ticket = Ticket::take(&self.inner);
        let mut words = self
            .call(&scripts::CLAIM)
            .arg(worker.as_str())
            .arg(&ticket.token)
            .arg(Arc::strong_count(&self.inner.hands) - 1)
            .arg(u8::from(ticket.unanswered))
            .words()
            .await?;
        ticket.answered = true;
        match words.text()?.as_str() {
            "job" => self.delivered(worker, std::mem::take(&mut ticket.token), words).await,
            "empty" => Ok(Claim::Empty),
            "paused" => Ok(Claim::Paused),
            "solo" => Ok(Claim::Solo),
            odd => Err(words.odd(odd)),
        }
    }

    async fn delivered(&self, worker: &WorkerId, token: String, mut words: Words) -> Result<Claim, Error> {
        let id = JobId::parse(&words.text()?).map_err(|e| words.odd(&e))?;
        let now: u64 = words.number()?;
        let alone = words.number::<u8>()? == 1;
        let payload = words.bytes().unwrap_or_default();
        let counts = Counts {
            deliveries: words.number()?,
            failures: words.number()?,
            doubts: words.number()?,
            crashes: words.number()?,
            postponements: words.number()?,
            put_off_ms: words.number()?,
            releases: words.number()?,
            replays: words.number()?,
        };
        let unique = words.text()?;
        let since = |then: u64| Duration::from_millis(if then == 0 { 0 } else { now.saturating_sub(then) });
        let age = since(words.number()?);
        let expires: u64 = words.number()?;
        let cancelled = !words.text()?.is_empty();
        let granted = LimitsRequest { wall_ms: words.granted()?, heap_bytes: words.granted()? };
        let job = match Job::restore(&payload) {
            Ok(job) => Job { id, ..job },
            Err(failure) => {
                let lease = LeaseRef { id, token };
                return self.bury_unreadable(worker, &lease, &unique, counts, failure, &payload).await;
            }
        };
        let hand = Arc::clone(&self.inner.hands);
        let delivery = Delivery { job, counts, age, granted, token, unique, alone, _hand: hand };
        let delivery = Box::new(delivery);
        if cancelled {
            return Ok(Claim::Foregone(delivery, Skip::new(SkipReason::Cancelled, "cancelled by request")));
        }
        if expires != 0 && now > expires {
            let late = Duration::from_millis(now - expires);
            let detail = format!("expired {} before its turn came", humantime::format_duration(late));
            return Ok(Claim::Foregone(delivery, Skip::new(SkipReason::Expired, detail)));
        }
        Ok(Claim::Delivery(delivery))
    }

    /// A stored payload that cannot be read is no reason to hand it out again.
    async fn bury_unreadable(
        &self,
        worker: &WorkerId,
        lease: &LeaseRef,
        unique: &str,
        counts: Counts,
        failure: Failure,
        payload: &[u8],
    ) -> Result<Claim, Error> {
        let kind = failure.kind;
        let reason = DeathReason {
            kind,
            stage: kind.stage(),
            failure,
            counts,
            bodies: Vec::new(),
            worker: worker.to_string(),
            build: BUILD.to_owned(),
        };
        match self.bury(lease, unique, "", &reason, Some(payload)).await? {
            Settled::Settled => {
                let id = lease.id.clone();
                Ok(Claim::Buried(Box::new(Buried { id, pair: String::new(), reason })))
            }
            Settled::Superseded => Ok(Claim::Empty),
        }
    }

    /// Says whether a delivery is still ours, and renews its lease while at it: to be asked right before something is
    /// written outside of Redis.
    ///
    /// # Errors
    /// Those of Redis; the answer is then unknown, and nothing may be written.
    pub async fn confirm(&self, lease: &LeaseRef) -> Result<bool, Error> {
        let mut words = self
            .call(&scripts::CONFIRM)
            .key(self.inner.keys.job(&lease.id))
            .arg(lease.id.as_str())
            .arg(&lease.token)
            .words()
            .await?;
        Ok(words.text()? == "held")
    }
}
