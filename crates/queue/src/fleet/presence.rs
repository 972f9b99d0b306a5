//! The status entry of a worker, and the heartbeat that renews its leases.
//!
//! Invariant: one heartbeat renews all the leases it is given, and returns those that are lost.

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

/// Most leases renewed in one call.
const BATCH: usize = 500;
/// Most jobs listed per worker, those that have left the fetch first: usually more than it has slots, and at most about
/// 30 KiB of each heartbeat.
const RUNNING_MAX: usize = 64;

/// A worker's status entry, sent with every heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Presence {
    /// Name of the worker process, never reused.
    pub id: WorkerId,
    /// Host name of its machine.
    pub host: String,
    /// Process id on that host.
    pub pid: u32,
    /// Version of its build, like `1.2.3`.
    pub version: String,
    /// One of `running`, `quiet`, `draining`, `stopped`.
    pub phase: String,
    /// Most jobs that it runs at once.
    pub slots: u32,
    /// Most jobs that it runs at once now: fewer than `slots` while its machine is busy.
    pub slots_limit: u32,
    /// Why these are fewer; `None` where they are not.
    pub slots_limited_by: Option<String>,
    /// Jobs that it runs now.
    pub busy: u32,
    /// Interval of its heartbeats in milliseconds.
    pub heartbeat_every_ms: u64,
    /// State of its circuit breakers that are not closed, by dependency: while there is one, it claims no
    /// jobs, or one at a time.
    pub breakers: BTreeMap<String, String>,
    /// Why each of them opened.
    pub breaker_reasons: BTreeMap<String, String>,
    /// What it knows of the db app, in words; empty without one.
    pub db_app: String,
    /// Its jobs in flight, longest first; at most 64 of them are listed in its entry.
    pub in_flight: Vec<RunningJob>,
}

/// A job in flight at a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningJob {
    /// Id of the job.
    pub id: JobId,
    /// Uuid of the older version, where the job gives it.
    pub from: Option<Uuid>,
    /// Uuid of the newer version.
    pub to: Uuid,
    /// Time since it was claimed, in milliseconds.
    pub in_flight_ms: u64,
    /// Stage that it is in.
    pub stage: Stage,
    /// Time in this stage, in milliseconds.
    pub stage_ms: u64,
    /// Time limit of this stage in milliseconds, where there is one; in the child, its wall-clock limit,
    /// which does not include waiting for memory.
    pub limit_ms: Option<u64>,
    /// Heap use of its child, while there is one.
    pub heap: Option<Heap>,
}

/// Heap use of a child, and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heap {
    /// Private resident memory in bytes.
    pub bytes: u64,
    /// Heap limit in bytes.
    pub limit_bytes: u64,
}

impl Heap {
    /// Use in percent of the limit.
    pub fn percent(&self) -> u64 {
        self.bytes.saturating_mul(100) / self.limit_bytes.max(1)
    }
}

impl RunningJob {
    /// True until both its bodies are there and it has entered a child.
    pub fn is_fetching(&self) -> bool {
        match self.stage {
            Stage::Ingest | Stage::Resolve | Stage::Fetch | Stage::Queue => true,
            Stage::Analyse | Stage::Store | Stage::Deliver => false,
        }
    }

    /// Time in this stage in percent of its limit; None without a limit.
    pub fn percent(&self) -> Option<u64> {
        self.limit_ms.map(|limit| self.stage_ms.saturating_mul(100) / limit.max(1))
    }

    /// Adds `ms` to its times.
    pub(crate) fn later(self, ms: u64) -> Self {
        let [in_flight_ms, stage_ms] = [self.in_flight_ms, self.stage_ms].map(|time| time.saturating_add(ms));
        Self { in_flight_ms, stage_ms, ..self }
    }
}

/// What an operator asks of a worker; it hears so with its next heartbeat.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr, strum::EnumString, strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum WorkerRequest {
    /// Claim nothing more, and go on running.
    Quiet,
    /// Finish by the drain deadline, and exit.
    Stop,
}

/// The leases that a heartbeat found lost or cancelled, and what an operator asks.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Jobs whose lease was lost: stop them, they can no longer be settled.
    pub lost: Vec<JobId>,
    /// Cancelled jobs: stop them and settle them as skipped (`cancelled`).
    pub cancelled: Vec<JobId>,
    /// What an operator asks of this worker, for as long as it lives.
    pub asked: Option<WorkerRequest>,
}

impl WorkerHandle {
    /// Renews `leases` and this worker's status entry. Due every few seconds, at the latest after a third of
    /// a lease without one.
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

    /// Removes the status entry of a worker that stops; of one that dies, it expires after `worker_ttl`.
    ///
    /// # Errors
    /// Those of Redis; the entry then stays until it expires.
    pub async fn leave(&self, worker: &WorkerId) -> Result<(), Error> {
        let keys = &self.inner.keys;
        let mut connection = self.connection().await?;
        redis::pipe()
            .cmd("ZREM")
            .arg(keys.workers())
            .arg(worker.as_str())
            .cmd("UNLINK")
            .arg(keys.worker(worker.as_str()))
            .arg(keys.claim(worker.as_str()))
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
        let (fetching, analysing): (Vec<_>, Vec<_>) =
            worker.in_flight.iter().partition(|job| job.is_fetching());
        let listed: Vec<&RunningJob> = analysing.iter().chain(&fetching).copied().take(RUNNING_MAX).collect();
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
            .arg("slots_limit")
            .arg(worker.slots_limit)
            .arg("slots_limited_by")
            .arg(worker.slots_limited_by.as_deref().unwrap_or_default())
            .arg("busy")
            .arg(worker.busy)
            .arg("heartbeat_every_ms")
            .arg(worker.heartbeat_every_ms)
            .arg("breakers")
            .arg(serde_json::to_string(&worker.breakers).unwrap_or_default())
            .arg("breaker_reasons")
            .arg(serde_json::to_string(&worker.breaker_reasons).unwrap_or_default())
            .arg("db_app")
            .arg(&worker.db_app)
            .arg("fetching")
            .arg(fetching.len())
            .arg("analysing")
            .arg(analysing.len())
            .arg("in_flight")
            .arg(serde_json::to_string(&listed).unwrap_or_default())
            .reply()
            .await?;
        // What a newer build asks is for a newer worker.
        heartbeat.asked = reply.text()?.parse().ok();
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
