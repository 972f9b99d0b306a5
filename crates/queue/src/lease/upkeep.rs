//! Upkeep: what is due is promoted, what was left behind is taken over, what is too old is forgotten.
//!
//! Every worker does it, about once a second; two at once do no harm. It also keeps time for the guard against mass
//! blame: where it has not run for half a lease, nobody is blamed for one lease (`lua/reclaim.lua`).

use crate::BUILD;
use crate::error::Error;
use crate::redis::scripts;
use crate::role::WorkerHandle;
use wm_job::JobId;
use wm_job::duration::millis;
use wm_job::failure::FailureKind;
use wm_job::verdict::DeadLetterReason;

/// Jobs that one script promotes.
const PROMOTE_BATCH: u32 = 200;
/// Leases that one script takes over.
const RECLAIM_BATCH: u32 = 100;
/// Dead letters that one script evicts.
const TRIM_BATCH: u32 = 100;
/// Rounds of each per upkeep: what is left over waits for the next.
const ROUNDS: u32 = 10;

/// A job that was buried by the queue itself, for whoever alerts.
#[derive(Debug, Clone, PartialEq)]
pub struct Buried {
    /// Its id, by which the dead letter is found.
    pub id: JobId,
    /// `<from>..<to>`, empty where the payload was no job.
    pub pair: String,
    /// Why.
    pub reason: DeadLetterReason,
}

/// Dead letters that were forgotten, by the cap that each was beyond.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// They had grown as old as they may: as it is meant to be.
    pub by_age: u64,
    /// They were too many.
    pub by_count: u64,
    /// All of them together were too big.
    pub by_bytes: u64,
}

impl Evicted {
    /// Those that somebody might still have wanted.
    pub fn untimely(&self) -> u64 {
        self.by_count + self.by_bytes
    }
}

/// What upkeep did.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Upkeep {
    /// Jobs whose time had come.
    pub promoted: u64,
    /// Leases that ran out and were taken over.
    pub reclaimed: u64,
    /// Jobs that were buried as `crash_loop`.
    pub buried: Vec<Buried>,
    /// Dead letters that were forgotten.
    pub evicted: Evicted,
    /// True while nobody is blamed, because nobody kept time.
    pub grace_period: bool,
}

impl WorkerHandle {
    /// Does one round of upkeep.
    ///
    /// # Errors
    /// Those of Redis; what was done before is done, and not told: see [`Queue::run_upkeep`].
    pub async fn upkeep(&self) -> Result<Upkeep, Error> {
        let mut upkeep = Upkeep::default();
        self.run_upkeep(&mut upkeep).await?;
        Ok(upkeep)
    }

    /// The same, telling what was done even where a later step fails: a burial that is told to nobody is no alert.
    ///
    /// # Errors
    /// Those of Redis.
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
