//! What a worker says of itself, and the heartbeat by which it keeps its leases.
//!
//! Invariant: one heartbeat renews everything that is in hand at one moment, and names what is not in hand any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Error;
use crate::ids::LeaseRef;
use crate::ids::WorkerId;
use crate::redis::scripts;
use crate::role::WorkerHandle;
use wm_job::JobId;
use wm_job::duration::millis;
use wm_job::failure::Stage;

/// Leases that one script renews.
const BATCH: usize = 500;
/// Jobs that one worker tells of: more than it has slots as a rule, and at most some 30 KiB of each heartbeat.
const RUNNING_MAX: usize = 64;

/// What a worker says of itself with every heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Presence {
    /// Its name.
    pub id: WorkerId,
    /// The machine it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Its build.
    pub version: String,
    /// `running`, `quiet`, `draining`, `stopped`.
    pub phase: String,
    /// Jobs it can run at once.
    pub slots: u32,
    /// Jobs it runs now.
    pub busy: u32,
    /// Its breakers that are not closed, by thing: while there is one, it claims nothing, or one job at a time.
    pub breakers: BTreeMap<String, String>,
    /// What it runs, the longest first; no more than the first 64 are told.
    pub in_flight: Vec<RunningJob>,
}

/// A job in a worker's hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningJob {
    /// The job.
    pub id: JobId,
    /// The older version, where the job names it.
    pub from: Option<Uuid>,
    /// The newer version.
    pub to: Uuid,
    /// Time since it was claimed, in milliseconds.
    pub in_flight_ms: u64,
    /// Where on its way it is.
    pub stage: Stage,
    /// Time since it came there, in milliseconds.
    pub stage_ms: u64,
    /// How long it may stay there, where that is limited; in the child, where it may have waited for memory first, this
    /// is its wall clock.
    pub limit_ms: Option<u64>,
    /// What its child holds of the heap that it may have, while there is a child.
    pub heap: Option<Heap>,
}

/// How near a child is to the end of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heap {
    /// What it holds: resident, and nobody else's.
    pub bytes: u64,
    /// The budget.
    pub limit_bytes: u64,
}

impl Heap {
    /// How much of it is gone, in percent.
    pub fn percent(&self) -> u64 {
        self.bytes.saturating_mul(100) / self.limit_bytes.max(1)
    }
}

impl RunningJob {
    /// How much of its limit is gone, in percent.
    pub fn percent(&self) -> Option<u64> {
        self.limit_ms.map(|limit| self.stage_ms.saturating_mul(100) / limit.max(1))
    }

    /// The same so much later, if nothing has changed.
    pub(crate) fn later(self, ms: u64) -> Self {
        let [in_flight_ms, stage_ms] = [self.in_flight_ms, self.stage_ms].map(|time| time.saturating_add(ms));
        Self { in_flight_ms, stage_ms, ..self }
    }
}

/// The answer to a heartbeat.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Leases that are somebody else's by now: stop that work, it can no longer be settled.
    pub lost: Vec<JobId>,
    /// Jobs that nobody wants any more: stop that work and settle it as `cancelled`.
    pub cancelled: Vec<JobId>,
}

impl WorkerHandle {
    /// Renews every lease in hand and says that this worker lives. Due every few seconds, and well before a third of a
    /// lease is over.
    ///
    /// # Errors
    /// Those of Redis; the leases may or may not have been renewed.
    pub async fn heartbeat(&self, worker: &Presence, leases: &[LeaseRef]) -> Result<Heartbeat, Error> {
        let mut heartbeat = Heartbeat::default();
        let mut batches = leases.chunks(BATCH);
        self.heartbeat_batch(worker, batches.next().unwrap_or_default(), &mut heartbeat).await?;
        for batch in batches {
            self.heartbeat_batch(worker, batch, &mut heartbeat).await?;
        }
        Ok(heartbeat)
    }

    /// Takes a worker that stops out of sight of the others. One that dies is taken out when its heartbeats stay away.
    ///
    /// # Errors
    /// Those of Redis; it is then shown until its entry's time is over.
    pub async fn leave(&self, worker: &WorkerId) -> Result<(), Error> {
        let keys = &self.inner.keys;
        let mut connection = self.connection().await?;
        redis::pipe()
            .cmd("ZREM")
            .arg(keys.workers())
            .arg(worker.as_str())
            .cmd("UNLINK")
            .arg(keys.worker(worker.as_str()))
            .query_async::<()>(&mut connection)
            .await?;
        Ok(())
    }

    async fn heartbeat_batch(
        &self,
        worker: &Presence,
        leases: &[LeaseRef],
        heartbeat: &mut Heartbeat,
    ) -> Result<(), Error> {
        let keys = &self.inner.keys;
        let told = &worker.in_flight[..worker.in_flight.len().min(RUNNING_MAX)];
        let mut call = self
            .call(&scripts::HEARTBEAT)
            .key(keys.workers())
            .key(keys.worker(worker.id.as_str()))
            .arg(worker.id.as_str())
            .arg(millis(self.inner.config.worker_ttl))
            .arg(leases.len());
        for lease in leases {
            call = call.arg(lease.id.as_str()).arg(&lease.token);
        }
        let mut reply = call
            .arg(&["host", worker.host.as_str(), "version", worker.version.as_str()])
            .arg(&["phase", worker.phase.as_str()])
            .arg("pid")
            .arg(worker.pid)
            .arg("slots")
            .arg(worker.slots)
            .arg("busy")
            .arg(worker.busy)
            .arg("breakers")
            .arg(serde_json::to_string(&worker.breakers).unwrap_or_default())
            .arg("in_flight")
            .arg(serde_json::to_string(told).unwrap_or_default())
            .reply()
            .await?;
        while let Some(id) = reply.next() {
            let id = JobId::parse(&id).map_err(|e| reply.unexpected(&e))?;
            match reply.text()?.as_str() {
                "lost" => heartbeat.lost.push(id),
                "cancelled" => heartbeat.cancelled.push(id),
                other => return Err(reply.unexpected(other)),
            }
        }
        Ok(())
    }
}
