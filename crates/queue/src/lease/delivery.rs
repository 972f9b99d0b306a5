//! Claiming jobs. `fleet/presence.rs` renews their leases, `settle.rs` settles them.
//!
//! Invariant: a [`Delivery`] is unique. It is not `Clone`, settling consumes it, and no other worker has its
//! token.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::error::Error;
use crate::evidence::Buried;
use crate::ids::LeaseRef;
use crate::ids::WorkerId;
use crate::lease::settled::Settled;
use crate::redis::scripts::{self, ScriptReply};
use crate::role::WorkerHandle;
use crate::{BUILD, Inner};
use wm_job::counts::DeliveryCounts;
use wm_job::failure::Failure;
use wm_job::skip::{Skip, SkipReason};
use wm_job::verdict::DeadLetterReason;
use wm_job::{Job, JobId, LimitsRequest};

/// One claim of a job by one worker. Dropped unsettled, it counts as a crash once its lease expires.
#[must_use]
#[derive(Debug)]
pub struct Delivery {
    /// The job to run, as its producer enqueued it.
    pub job: Job,
    /// How often it was delivered, this time included, and the outcomes.
    pub counts: DeliveryCounts,
    /// Time since it was admitted, by the clock of Redis.
    pub age: Duration,
    /// Limits that an operator granted at replay; usually empty.
    pub granted: LimitsRequest,
    /// Set it where a comparison with the page's earliest version would repeat this one: then none follows.
    pub without_follow_up: bool,
    pub(crate) token: String,
    pub(crate) unique: String,
    exclusive: bool,
    _in_flight: Arc<()>,
}

impl Delivery {
    /// Identifies this delivery's lease, to renew or confirm it.
    pub fn lease(&self) -> LeaseRef {
        LeaseRef { id: self.job.id.clone(), token: self.token.clone() }
    }

    /// True when this job runs exclusively: this worker has nothing else in flight but the jobs of the same claim, all
    /// of which may have crashed a worker, and may claim nothing else.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

/// The result of a claim.
#[must_use]
#[derive(Debug)]
pub enum Claim {
    /// A job to work on.
    Delivery(Box<Delivery>),
    /// An expired or cancelled job: settle it with this skip at once.
    NotNeeded(Box<Delivery>, Skip),
    /// A job whose stored payload this build cannot read; it has been buried.
    Buried(Box<Buried>),
    /// No job is ready.
    Empty,
    /// The queue is paused: no job is claimed until it is resumed.
    Paused,
    /// The jobs in flight over all workers are at `in_flight_max`.
    Full,
    /// A suspect waits until this worker has nothing in flight, or is in flight here: finish all deliveries
    /// before the next claim.
    Exclusive,
    /// There is no memory in Redis for another result: jobs wait until it is made.
    NoRoom(NoRoom),
}

/// Why there is no room for another result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum NoRoom {
    /// Results are at `reports_max_bytes`, and Redis has the only copy of them.
    Reports,
    /// Redis is at `maxmemory`, and not because of this queue's jobs.
    Memory,
}

/// Most jobs per claim, however many are requested: about 2 ms of Redis time.
pub const CLAIM_MOST: usize = 100;

/// The token of one claim. Kept for the next claim when no reply came: jobs may have been claimed.
struct ClaimToken<'q> {
    inner: &'q Inner,
    token: String,
    answered: bool,
}

impl<'q> ClaimToken<'q> {
    fn take(inner: &'q Inner) -> Self {
        let kept = inner.unanswered.lock().pop();
        let token = kept.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        Self { inner, token, answered: false }
    }
}

impl Drop for ClaimToken<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let mut kept = self.inner.unanswered.lock();
            kept.push(std::mem::take(&mut self.token));
        }
    }
}

/// A job as `claim.lua` returns it, in the order of its `FIELDS`.
struct JobRow {
    id: JobId,
    payload: Vec<u8>,
    counts: DeliveryCounts,
    unique: String,
    enqueued_ms: u64,
    expires_ms: u64,
    cancelled: bool,
    granted: LimitsRequest,
}

impl JobRow {
    fn read(id: JobId, reply: &mut ScriptReply) -> Result<Self, Error> {
        let payload = reply.bytes().unwrap_or_default();
        let counts = DeliveryCounts {
            deliveries: reply.number()?,
            failures: reply.number()?,
            ambiguous_exits: reply.number()?,
            crashes: reply.number()?,
            fetch_crashes: reply.number()?,
            postponements: reply.number()?,
            postponed_ms: reply.number()?,
            releases: reply.number()?,
            replays: reply.number()?,
        };
        Ok(Self {
            id,
            payload,
            counts,
            unique: reply.text()?,
            enqueued_ms: reply.number()?,
            expires_ms: reply.number()?,
            cancelled: !reply.text()?.is_empty(),
            granted: LimitsRequest { wall_ms: reply.granted()?, heap_bytes: reply.granted()? },
        })
    }
}

impl WorkerHandle {
    /// Claims the next job; as [`WorkerHandle::claim_many`] with `most` 1.
    ///
    /// # Errors
    /// Those of Redis; no delivery is returned then.
    pub async fn claim(&self, worker: &WorkerId) -> Result<Claim, Error> {
        Ok(self.claim_many(worker, 1).await?.pop().unwrap_or(Claim::Empty))
    }

    /// Claims the next jobs, at most `most` and at most [`CLAIM_MOST`], or returns the one reason why this
    /// worker gets none. Never empty; more than `most` only when it repeats an older claim whose reply was
    /// lost. Cancel-safe: the next claim on this handle gets the jobs whose reply was lost, unless the worker has
    /// made another claim in between.
    ///
    /// # Errors
    /// Those of Redis; no delivery is returned then.
    pub async fn claim_many(&self, worker: &WorkerId, most: usize) -> Result<Vec<Claim>, Error> {
        let mut claim_token = ClaimToken::take(&self.inner);
        let mut reply = self
            .call(&scripts::CLAIM)
            .key(self.inner.keys.claim(worker.as_str()))
            .arg(worker.as_str())
            .arg(&claim_token.token)
            .arg(Arc::strong_count(&self.inner.in_flight) - 1)
            .arg(most.clamp(1, CLAIM_MOST))
            .reply()
            .await?;
        claim_token.answered = true;
        match reply.text()?.as_str() {
            "jobs" => self.delivered(worker, &claim_token.token, reply).await,
            "empty" => Ok(vec![Claim::Empty]),
            "paused" => Ok(vec![Claim::Paused]),
            "full" => Ok(vec![Claim::Full]),
            "exclusive" => Ok(vec![Claim::Exclusive]),
            "reports_full" => Ok(vec![Claim::NoRoom(NoRoom::Reports)]),
            "no_memory" => Ok(vec![Claim::NoRoom(NoRoom::Memory)]),
            other => Err(reply.unexpected(other)),
        }
    }

    /// Reads the claimed jobs. An unreadable one that cannot be buried now is claimed again after its lease
    /// expires; the others are returned all the same.
    async fn delivered(
        &self,
        worker: &WorkerId,
        token: &str,
        mut reply: ScriptReply,
    ) -> Result<Vec<Claim>, Error> {
        let now: u64 = reply.number()?;
        let exclusive = reply.number::<u8>()? == 1;
        let (mut claims, mut trouble) = (Vec::new(), None);
        while let Some(id) = reply.next() {
            let id = JobId::parse(&id).map_err(|e| reply.unexpected(&e))?;
            let row = JobRow::read(id, &mut reply)?;
            match Job::restore(&row.payload) {
                Ok(job) => claims.push(self.claimed(row, job, token, exclusive, now)),
                Err(failure) => match self.bury_unreadable(worker, token, row, failure).await {
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

    fn claimed(&self, row: JobRow, job: Job, token: &str, exclusive: bool, now: u64) -> Claim {
        let delivery = Box::new(Delivery {
            without_follow_up: false,
            job: Job { id: row.id, ..job },
            counts: row.counts,
            age: Duration::from_millis(if row.enqueued_ms == 0 {
                0
            } else {
                now.saturating_sub(row.enqueued_ms)
            }),
            granted: row.granted,
            token: token.to_owned(),
            unique: row.unique,
            exclusive,
            _in_flight: Arc::clone(&self.inner.in_flight),
        });
        if row.cancelled {
            return Claim::NotNeeded(delivery, Skip::new(SkipReason::Cancelled, "cancelled by request"));
        }
        if row.expires_ms != 0 && now > row.expires_ms {
            let late = Duration::from_millis(now - row.expires_ms);
            let detail = format!("expired {} before it was claimed", humantime::format_duration(late));
            return Claim::NotNeeded(delivery, Skip::new(SkipReason::Expired, detail));
        }
        Claim::Delivery(delivery)
    }

    /// Buries a job whose stored payload cannot be read, so that it is not claimed again. None when the lease
    /// is lost and nothing was written.
    async fn bury_unreadable(
        &self,
        worker: &WorkerId,
        token: &str,
        row: JobRow,
        failure: Failure,
    ) -> Result<Option<Claim>, Error> {
        let kind = failure.kind;
        let reason = DeadLetterReason {
            kind,
            stage: kind.stage(),
            failure,
            counts: row.counts,
            bodies: Vec::new(),
            worker: worker.to_string(),
            build: BUILD.to_owned(),
        };
        let lease = LeaseRef { id: row.id, token: token.to_owned() };
        match self.bury(&lease, &row.unique, "", &reason, Some(&row.payload)).await? {
            Settled::Settled => {
                let buried = Buried { id: lease.id, pair: String::new(), reason };
                Ok(Some(Claim::Buried(Box::new(buried))))
            }
            Settled::Superseded | Settled::Waits => Ok(None),
        }
    }

    /// Renews the lease and returns true when it is still held: call it right before a write outside Redis.
    ///
    /// # Errors
    /// Those of Redis; the lease may be lost, so nothing may be written.
    pub async fn confirm(&self, lease: &LeaseRef) -> Result<bool, Error> {
        let mut reply = self
            .call(&scripts::CONFIRM)
            .key(self.inner.keys.job(&lease.id))
            .arg(lease.id.as_str())
            .arg(&lease.token)
            .reply()
            .await?;
        Ok(reply.text()? == "held")
    }
}
