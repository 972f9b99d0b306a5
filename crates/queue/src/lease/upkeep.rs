//! Upkeep: promotes scheduled jobs that are due, reclaims expired leases, evicts dead letters beyond the
//! caps.
//!
//! Every worker runs it about once a second; concurrent runs are safe. Each run also records its time: after
//! a gap of half a lease, no crash is counted for a grace period of one lease (`lua/reclaim.lua`).

use crate::BUILD;
use crate::error::Error;
use crate::evidence::Buried;
use crate::redis::scripts;
use crate::role::WorkerHandle;
use wm_job::JobId;
use wm_job::duration::millis;
use wm_job::failure::FailureKind;

/// Most jobs promoted in one call.
const PROMOTE_BATCH: u32 = 200;
/// Most leases reclaimed in one call.
const RECLAIM_BATCH: u32 = 100;
/// Most dead letters evicted in one call.
const TRIM_BATCH: u32 = 100;
/// Most calls of each script per upkeep; the rest waits for the next one.
const ROUNDS: u32 = 10;

/// Number of dead letters evicted, by the cap that they exceeded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Evicted because older than `dead_max_age`: expected.
    pub by_age: u64,
    /// Evicted because there were more than `dead_max_count`.
    pub by_count: u64,
    /// Evicted because together they exceeded `dead_max_bytes`.
    pub by_bytes: u64,
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
    /// Dead letters evicted beyond the caps.
    pub evicted: Evicted,
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
        self.reclaim(done).await?;
        self.promote(done).await?;
        self.trim(done).await
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

    async fn reclaim(&self, upkeep: &mut Upkeep) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let mut reply = self
                .call(&scripts::RECLAIM)
                .key(self.inner.keys.dead_kind(FailureKind::CrashLoop))
                .arg(self.inner.config.crashes_max)
                .arg(RECLAIM_BATCH)
                .arg(BUILD)
                .reply()
                .await?;
            upkeep.grace_period = reply.text()? == "grace_period";
            let reclaimed: u32 = reply.number()?;
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
        Ok(())
    }

    async fn trim(&self, upkeep: &mut Upkeep) -> Result<(), Error> {
        let config = &self.inner.config;
        for _ in 0..ROUNDS {
            let mut reply = self
                .call(&scripts::TRIM)
                .arg(config.dead_max_count)
                .arg(millis(config.dead_max_age))
                .arg(config.dead_max_bytes.as_u64())
                .arg(TRIM_BATCH)
                .reply()
                .await?;
            let [age, count, bytes] = [reply.number::<u64>()?, reply.number()?, reply.number()?];
            let evicted = &mut upkeep.evicted;
            evicted.by_age += age;
            evicted.by_count += count;
            evicted.by_bytes += bytes;
            if age + count + bytes < u64::from(TRIM_BATCH) {
                break;
            }
        }
        Ok(())
    }
}
