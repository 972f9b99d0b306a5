//! Claiming a job, and the right to settle it. Keeping that right is `worker.rs`, using it `settle.rs`.
//!
//! Invariant: a [`Delivery`] exists once. It is not `Clone`, settling consumes it, and its token is known to nobody else.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::error::Error;
use crate::ids::LeaseRef;
use crate::ids::WorkerId;
use crate::lease::settled::Settled;
use crate::lease::upkeep::Buried;
use crate::redis::scripts::{self, Words};
use crate::role::WorkerHandle;
use crate::{BUILD, Inner};
use wm_job::counts::Counts;
use wm_job::failure::Failure;
use wm_job::skip::{Skip, SkipReason};
use wm_job::verdict::DeathReason;
use wm_job::{Job, JobId, LimitsRequest};

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
    pub(crate) token: String,
    pub(crate) unique: String,
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
    /// As many jobs are in hand, all workers together, as may be.
    Full,
    /// A suspect waits for this worker's hands to be empty, or runs in them: finish what is in hand, then claim again.
    Solo,
}

/// Most jobs that one claim takes, however many are asked for: some 2 ms of Redis.
pub const CLAIM_MOST: usize = 100;

/// The token of one claim, given back when no answer came: jobs may have been handed out all the same.
struct Ticket<'q> {
    inner: &'q Inner,
    token: String,
    unanswered: bool,
    answered: bool,
}

impl<'q> Ticket<'q> {
    fn take(inner: &'q Inner) -> Self {
        let kept = inner.unanswered.lock().pop();
        let unanswered = kept.is_some();
        let token = kept.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        Self { inner, token, unanswered, answered: false }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let mut kept = self.inner.unanswered.lock();
            kept.push(std::mem::take(&mut self.token));
        }
    }
}

/// A job as the claim script hands it out, in the order of its `FIELDS`.
struct Handed {
    id: JobId,
    payload: Vec<u8>,
    counts: Counts,
    unique: String,
    enq_ms: u64,
    expires_ms: u64,
    cancelled: bool,
    granted: LimitsRequest,
}

impl Handed {
    fn read(id: JobId, words: &mut Words) -> Result<Self, Error> {
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
        Ok(Self {
            id,
            payload,
            counts,
            unique: words.text()?,
            enq_ms: words.number()?,
            expires_ms: words.number()?,
            cancelled: !words.text()?.is_empty(),
            granted: LimitsRequest { wall_ms: words.granted()?, heap_bytes: words.granted()? },
        })
    }
}

impl WorkerHandle {
    /// Takes the next job, if there is one and this worker may have it; otherwise as [`Queue::claim_many`].
    ///
    /// # Errors
    /// Those of Redis; nothing is in hand then.
    pub async fn claim(&self, worker: &WorkerId) -> Result<Claim, Error> {
        Ok(self.claim_many(worker, 1).await?.pop().unwrap_or(Claim::Empty))
    }

    /// Takes the next jobs, at most so many and at most [`CLAIM_MOST`]; where there is none that this worker may have,
    /// why. Never without an answer, and more than asked for only where that is an older answer that was lost. May be
    /// cancelled: jobs whose answer was lost are handed out again to the next claim of this queue handle.
    ///
    /// # Errors
    /// Those of Redis; nothing is in hand then.
    pub async fn claim_many(&self, worker: &WorkerId, most: usize) -> Result<Vec<Claim>, Error> {
        let mut ticket = Ticket::take(&self.inner);
        let mut words = self
            .call(&scripts::CLAIM)
            .arg(worker.as_str())
            .arg(&ticket.token)
            .arg(Arc::strong_count(&self.inner.hands) - 1)
            .arg(u8::from(ticket.unanswered))
            .arg(most.clamp(1, CLAIM_MOST))
            .arg(self.inner.config.in_flight_max)
            .words()
            .await?;
        ticket.answered = true;
        match words.text()?.as_str() {
            "jobs" => self.delivered(worker, &ticket.token, words).await,
            "empty" => Ok(vec![Claim::Empty]),
            "paused" => Ok(vec![Claim::Paused]),
            "full" => Ok(vec![Claim::Full]),
            "solo" => Ok(vec![Claim::Solo]),
            odd => Err(words.odd(odd)),
        }
    }

    /// Reads what was handed out. One that cannot be buried now runs out of its lease, and is handed out again: no
    /// reason to let go of the others.
    async fn delivered(&self, worker: &WorkerId, token: &str, mut words: Words) -> Result<Vec<Claim>, Error> {
        let now: u64 = words.number()?;
        let alone = words.number::<u8>()? == 1;
        let (mut claims, mut trouble) = (Vec::new(), None);
        while let Some(id) = words.next() {
            let id = JobId::parse(&id).map_err(|e| words.odd(&e))?;
            let handed = Handed::read(id, &mut words)?;
            match Job::restore(&handed.payload) {
                Ok(job) => claims.push(self.claimed(handed, job, token, alone, now)),
                Err(failure) => match self.bury_unreadable(worker, token, handed, failure).await {
                    Ok(buried) => claims.extend(buried),
                    Err(e) => trouble = Some(e),
                },
            }
        }
        match (claims.is_empty(), trouble) {
            (true, Some(e)) => Err(e),
            (true, None) => Ok(vec![Claim::Empty]),
            (false, _) => Ok(claims),
        }
    }

    fn claimed(&self, handed: Handed, job: Job, token: &str, alone: bool, now: u64) -> Claim {
        let delivery = Box::new(Delivery {
            job: Job { id: handed.id, ..job },
            counts: handed.counts,
            age: Duration::from_millis(if handed.enq_ms == 0 {
                0
            } else {
                now.saturating_sub(handed.enq_ms)
            }),
            granted: handed.granted,
            token: token.to_owned(),
            unique: handed.unique,
            alone,
            _hand: Arc::clone(&self.inner.hands),
        });
        if handed.cancelled {
            return Claim::Foregone(delivery, Skip::new(SkipReason::Cancelled, "cancelled by request"));
        }
        if handed.expires_ms != 0 && now > handed.expires_ms {
            let late = Duration::from_millis(now - handed.expires_ms);
            let detail = format!("expired {} before its turn came", humantime::format_duration(late));
            return Claim::Foregone(delivery, Skip::new(SkipReason::Expired, detail));
        }
        Claim::Delivery(delivery)
    }

    /// A stored payload that cannot be read is no reason to hand it out again.
    async fn bury_unreadable(
        &self,
        worker: &WorkerId,
        token: &str,
        handed: Handed,
        failure: Failure,
    ) -> Result<Option<Claim>, Error> {
        let kind = failure.kind;
        let reason = DeathReason {
            kind,
            stage: kind.stage(),
            failure,
            counts: handed.counts,
            bodies: Vec::new(),
            worker: worker.to_string(),
            build: BUILD.to_owned(),
        };
        let lease = LeaseRef { id: handed.id, token: token.to_owned() };
        match self.bury(&lease, &handed.unique, "", &reason, Some(&handed.payload)).await? {
            Settled::Settled => {
                let buried = Buried { id: lease.id, pair: String::new(), reason };
                Ok(Some(Claim::Buried(Box::new(buried))))
            }
            Settled::Superseded => Ok(None),
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
