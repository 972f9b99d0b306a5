//! Upkeep: promotes scheduled jobs that are due, reclaims expired leases, evicts what is beyond its cap, files
//! orphans again.
//!
//! One worker at a time is the *looker*, by a lease of seconds, and runs it about once a second; concurrent runs are
//! safe. Each run also records its time: after a gap of half a lease, no crash is counted for a grace period of one
//! lease (`lua/reclaim.lua`).

use std::time::Duration;

use crate::BUILD;
use crate::error::Error;
use crate::evidence::Buried;
use crate::ids::WorkerId;
use crate::lease::orphans::{Orphans, Search};
use crate::redis::scripts;
use crate::role::WorkerHandle;
use crate::settings::AUDIT_MAX;
use wm_job::JobId;
use wm_job::duration::millis;
use wm_job::failure::FailureKind;

/// Most jobs promoted in one call.
const PROMOTE_BATCH: u32 = 200;
/// Most leases reclaimed in one call.
const RECLAIM_BATCH: u32 = 100;
/// Most dead letters, and most results, evicted in one call.
const TRIM_BATCH: u32 = 100;
/// How long a worker is the looker without having looked again.
const LOOKER_TTL: Duration = Duration::from_secs(4);
/// The same while the queue is empty, and the looker looks less often.
const IDLE_LOOKER_TTL: Duration = Duration::from_secs(8);
/// Most calls of each script per upkeep; the rest waits for the next one.
const ROUNDS: u32 = 10;

/// Number of dead letters evicted, by the cap that they exceeded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Evicted because older than `dead_max_age`: expected.
    pub by_age: u64,
    /// Evicted because there were more than `dead_max_count`.
    pub by_count: u64,
    /// Evicted because together they exceeded `dead_max_bytes`, or 15 % of `maxmemory`.
    pub by_bytes: u64,
    /// Results deleted because older than `report_ttl`: expected.
    pub results_by_age: u64,
    /// Results deleted because together they exceeded their cap, or Redis was near `maxmemory`.
    pub results_by_bytes: u64,
    /// Marks in `done` forgotten because older than `done_ttl`: expected.
    pub done_by_age: u64,
    /// Marks in `done` forgotten because there were more than `done_max_count`.
    pub done_by_count: u64,
    /// Suspects forgotten because older than 30 days: expected.
    pub suspects_by_age: u64,
    /// Suspects forgotten because there were more than `suspects_max_count`.
    pub suspects_by_count: u64,
}

/// Whether a call to [`WorkerHandle::look`] did the work.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// This worker is the looker, and ran upkeep.
    Here,
    /// Another worker is.
    Elsewhere,
}

impl Evicted {
    /// Evicted before their maximum age, because there were too many letters or bytes.
    pub fn untimely(&self) -> u64 {
        self.by_count + self.by_bytes
    }
}

/// Results of one or more upkeep runs.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Upkeep {
    /// Scheduled jobs that became claimable.
    pub promoted: u64,
    /// Expired leases that were reclaimed.
    pub reclaimed: u64,
    /// Jobs buried as `crash_loop`.
    pub buried: Vec<Buried>,
    /// Dead letters and results evicted beyond the caps.
    pub evicted: Evicted,
    /// Jobs and index entries that had parted.
    pub orphans: Orphans,
    /// True while the counter of live jobs and the indexes disagree.
    pub orphans_suspected: bool,
    /// True during the grace period after a gap in upkeep: expired leases are not reclaimed.
    pub grace_period: bool,
}

impl WorkerHandle {
    /// Runs upkeep once and returns its results.
    ///
    /// # Errors
    /// Those of Redis; results of the completed steps are lost: see [`WorkerHandle::run_upkeep`].
    pub async fn upkeep(&self) -> Result<Upkeep, Error> {
        let mut upkeep = Upkeep::default();
        self.run_upkeep(&mut upkeep).await?;
        Ok(upkeep)
    }

    /// Runs upkeep once and adds its results to `done`, so that buried jobs can be alerted on even when a
    /// later step returns an error.
    ///
    /// # Errors
    /// Those of Redis; `done` holds the results of the completed steps.
    pub async fn run_upkeep(&self, done: &mut Upkeep) -> Result<(), Error> {
        self.look_as("", done).await.map(drop)
    }

    /// Runs upkeep if `worker` is the looker or nobody is, and adds its results to `done`.
    ///
    /// # Errors
    /// Those of Redis; `done` holds the results of the completed steps.
    pub async fn look(&self, worker: &WorkerId, done: &mut Upkeep) -> Result<Looked, Error> {
        self.look_as(worker.as_str(), done).await
    }

    async fn look_as(&self, worker: &str, done: &mut Upkeep) -> Result<Looked, Error> {
        let due = match self.reclaim(worker, done).await? {
            Some(due) => due,
            None => return Ok(Looked::Elsewhere),
        };
        if due {
            self.promote(done).await?;
        }
        self.trim(done).await?;
        if done.orphans_suspected {
            let mut search = self.inner.orphan_search.lock().await;
            if self.search_orphans(&mut search, &mut done.orphans).await? {
                self.recount_jobs(&search).await?;
                *search = Search::default();
                done.orphans_suspected = false;
            }
        }
        Ok(Looked::Here)
    }

    /// Keeps the turn as looker while the queue is empty; false when this worker has lost it, or the queue is empty no
    /// more: look again.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn hold_look(&self, worker: &WorkerId) -> Result<bool, Error> {
        let keys = &self.inner.keys;
        let mut pipe = redis::pipe();
        pipe.cmd("GETEX").arg(keys.looker()).arg("PX").arg(millis(IDLE_LOOKER_TTL));
        pipe.cmd("EXISTS").arg(&[keys.scheduled(), keys.lease(), keys.ready(), keys.exclusive()]);
        let (looker, indexes): (Option<String>, u64) = self.ask(&pipe).await?;
        Ok(looker.as_deref() == Some(worker.as_str()) && indexes == 0)
    }

    /// Gives the turn as looker back, so that another worker takes it at once.
    ///
    /// # Errors
    /// Those of Redis; the turn then ends by itself.
    pub async fn stop_looking(&self, worker: &WorkerId) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(self.inner.keys.looker());
        let (looker,): (Option<String>,) = self.ask(&pipe).await?;
        if looker.as_deref() == Some(worker.as_str()) {
            let mut pipe = redis::pipe();
            pipe.cmd("DEL").arg(self.inner.keys.looker());
            let (_,): (u64,) = self.ask(&pipe).await?;
        }
        Ok(())
    }

    async fn promote(&self, upkeep: &mut Upkeep) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let mut reply = self.call(&scripts::PROMOTE).arg(PROMOTE_BATCH).reply().await?;
            let looked_at: u32 = reply.number()?;
            upkeep.promoted += reply.number::<u64>()?;
            if looked_at < PROMOTE_BATCH {
                break;
            }
        }
        Ok(())
    }

    /// None when another worker is the looker; otherwise whether a scheduled job is due.
    async fn reclaim(&self, worker: &str, upkeep: &mut Upkeep) -> Result<Option<bool>, Error> {
        let mut due = false;
        for _ in 0..ROUNDS {
            let mut reply = self
                .call(&scripts::RECLAIM)
                .key(self.inner.keys.dead_kind(FailureKind::CrashLoop))
                .key(self.inner.keys.looker())
                .key(self.inner.keys.audit())
                .arg(RECLAIM_BATCH)
                .arg(BUILD)
                .arg(worker)
                .arg(millis(LOOKER_TTL))
                .arg(AUDIT_MAX)
                .reply()
                .await?;
            upkeep.grace_period = match reply.text()?.as_str() {
                "another" => return Ok(None),
                "grace_period" => true,
                "reclaimed" => false,
                other => return Err(reply.unexpected(other)),
            };
            let reclaimed: u32 = reply.number()?;
            due = reply.number::<u8>()? == 1;
            upkeep.reclaimed += u64::from(reclaimed);
            while let Some(id) = reply.next() {
                let id = JobId::parse(&id).map_err(|e| reply.unexpected(&e))?;
                let pair = reply.text()?;
                let reason = reply.text()?;
                let reason = serde_json::from_str(&reason).map_err(|_| reply.unexpected(&reason))?;
                upkeep.buried.push(Buried { id, pair, reason });
            }
            if reclaimed < RECLAIM_BATCH {
                break;
            }
        }
        Ok(Some(due))
    }

    async fn trim(&self, upkeep: &mut Upkeep) -> Result<(), Error> {
        let kinds = FailureKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" ");
        for _ in 0..ROUNDS {
            let ttl = millis(self.inner.config.worker_ttl);
            let mut reply = self.call(&scripts::TRIM).arg(TRIM_BATCH).arg(&kinds).arg(ttl).reply().await?;
            let evicted = &mut upkeep.evicted;
            evicted.by_age += reply.number::<u64>()?;
            evicted.by_count += reply.number::<u64>()?;
            evicted.by_bytes += reply.number::<u64>()?;
            evicted.results_by_age += reply.number::<u64>()?;
            evicted.results_by_bytes += reply.number::<u64>()?;
            evicted.done_by_age += reply.number::<u64>()?;
            evicted.done_by_count += reply.number::<u64>()?;
            evicted.suspects_by_age += reply.number::<u64>()?;
            evicted.suspects_by_count += reply.number::<u64>()?;
            let more = reply.number::<u8>()? == 1;
            upkeep.orphans_suspected = reply.number::<i64>()? != reply.number::<i64>()?;
            if !more {
                break;
            }
        }
        Ok(())
    }
}
