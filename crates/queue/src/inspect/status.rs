//! A summary of the queue's state, for people and programs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use crate::Queue;
use crate::error::Error;
use crate::fleet::presence::{Presence, RunningJob};
use crate::ids::WorkerId;
use crate::inspect::ceilings::Ceilings;
use crate::inspect::control::{Fields, Paused, paused_of};
use wm_job::JobId;
use wm_job::failure::FailureKind;

/// Most workers listed in a status.
const WORKERS_MAX: usize = 500;

/// Share of a dead-letter cap at which to warn, before the oldest letters are evicted.
pub const DEAD_NEARLY_FULL: f64 = 0.8;

/// A worker, and the age of its last heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// Its status entry; its jobs in flight are shown as still running.
    #[serde(flatten)]
    pub info: Presence,
    /// Time since its last heartbeat in milliseconds.
    pub heartbeat_age_ms: u64,
}

/// A summary of the queue's state. The numbers are read one after another, not at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Payloads not yet ingested.
    pub inbox: u64,
    /// Jobs that can be claimed now.
    pub ready: u64,
    /// Jobs that wait until they are due.
    pub scheduled: u64,
    /// Jobs in flight over all workers.
    pub in_flight: u64,
    /// Suspects that wait to run exclusively.
    pub exclusive: u64,
    /// Number of dead letters.
    pub dead: u64,
    /// Bytes of payloads and evidence in dead letters.
    pub dead_bytes: u64,
    /// Number of dead letters above which the oldest are evicted.
    pub dead_max_count: u64,
    /// Bytes of dead letters above which the oldest are evicted.
    pub dead_max_bytes: u64,
    /// Number of dead letters by kind, without zeros.
    pub dead_by_kind: BTreeMap<FailureKind, u64>,
    /// Number of waiting jobs at which no more are admitted.
    pub backlog_max: u64,
    /// Time since the next ready job was admitted, in milliseconds.
    pub oldest_ready_ms: Option<u64>,
    /// Use of the ceilings that apply over all workers.
    pub ceilings: Ceilings,
    /// Present while the queue is paused.
    pub paused: Option<Paused>,
    /// Today's counters (UTC): `admitted`, `done`, `skipped`, `skipped:<reason>`, `dead:<kind>`, ...
    pub today: BTreeMap<String, u64>,
    /// Workers whose status entry has not expired.
    pub workers: Vec<WorkerStatus>,
}

impl Queue {
    /// Reads the queue's status, in a few round trips.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn status(&self) -> Result<Status, Error> {
        let (keys, config) = (&self.inner.keys, &self.inner.config);
        let mut pipe = redis::pipe();
        pipe.cmd("TIME").cmd("LLEN").arg(keys.inbox());
        for zset in [keys.ready(), keys.scheduled(), keys.lease(), keys.exclusive(), keys.dead()] {
            pipe.cmd("ZCARD").arg(zset);
        }
        pipe.cmd("HGET").arg(keys.meta()).arg("dead_bytes");
        pipe.cmd("ZRANGE").arg(keys.ready()).arg(&["0", "0"]);
        pipe.cmd("HGETALL").arg(keys.paused());
        pipe.cmd("HGETALL").arg(keys.stats(OffsetDateTime::now_utc()));
        pipe.cmd("ZREVRANGE").arg(keys.workers()).arg(0).arg(WORKERS_MAX - 1);
        type Glance =
            ((u64, u64), u64, u64, u64, u64, u64, u64, Option<u64>, Vec<String>, Fields, Fields, Vec<String>);
        let glance: Glance = self.ask(&pipe).await?;
        let ((seconds, micros), inbox, ready, scheduled, in_flight, exclusive, dead, dead_bytes, ..) = glance;
        let (.., first, paused, today, workers) = glance;
        let now = seconds * 1000 + micros / 1000;
        Ok(Status {
            inbox,
            ready,
            scheduled,
            in_flight,
            exclusive,
            dead,
            dead_bytes: dead_bytes.unwrap_or(0),
            dead_max_count: config.dead_max_count,
            dead_max_bytes: config.dead_max_bytes.as_u64(),
            dead_by_kind: self.dead_by_kind().await?,
            backlog_max: config.backlog_max,
            oldest_ready_ms: self.waited(now, first.first()).await?,
            ceilings: self.ceilings().await?,
            paused: paused_of(paused),
            today: today.into_iter().filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect(),
            workers: self.workers(now, workers).await?,
        })
    }

    async fn dead_by_kind(&self) -> Result<BTreeMap<FailureKind, u64>, Error> {
        let mut pipe = redis::pipe();
        for &kind in FailureKind::ALL {
            pipe.cmd("ZCARD").arg(self.inner.keys.dead_kind(kind));
        }
        let counts: Vec<u64> = self.ask(&pipe).await?;
        Ok(FailureKind::ALL.iter().copied().zip(counts).filter(|(_, n)| *n > 0).collect())
    }

    async fn waited(&self, now: u64, first: Option<&String>) -> Result<Option<u64>, Error> {
        let Some(Ok(id)) = first.map(|id| JobId::parse(id)) else { return Ok(None) };
        let mut pipe = redis::pipe();
        pipe.cmd("HGET").arg(self.inner.keys.job(&id)).arg("enqueued_ms");
        let (admitted,): (Option<u64>,) = self.ask(&pipe).await?;
        Ok(admitted.map(|then| now.saturating_sub(then)))
    }

    async fn workers(&self, now: u64, ids: Vec<String>) -> Result<Vec<WorkerStatus>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in &ids {
            pipe.cmd("HGETALL").arg(self.inner.keys.worker(id));
        }
        let entries: Vec<Fields> = self.ask(&pipe).await?;
        Ok(ids.into_iter().zip(entries).filter_map(|(id, entry)| worker_of(now, &id, &entry)).collect())
    }
}

fn worker_of(now: u64, id: &str, entry: &Fields) -> Option<WorkerStatus> {
    let text = |name: &str| entry.get(name).cloned().unwrap_or_default();
    let heartbeat: u64 = text("heartbeat_ms").parse().ok()?;
    let heartbeat_age_ms = now.saturating_sub(heartbeat);
    let in_flight: Vec<RunningJob> = serde_json::from_str(&text("in_flight")).unwrap_or_default();
    let info = Presence {
        id: WorkerId::parse(id).ok()?,
        host: text("host"),
        pid: text("pid").parse().unwrap_or(0),
        version: text("version"),
        phase: text("phase"),
        slots: text("slots").parse().unwrap_or(0),
        busy: text("busy").parse().unwrap_or(0),
        breakers: serde_json::from_str(&text("breakers")).unwrap_or_default(),
        in_flight: in_flight.into_iter().map(|job| job.later(heartbeat_age_ms)).collect(),
    };
    Some(WorkerStatus { info, heartbeat_age_ms })
}

impl Status {
    /// Waiting jobs, as `backlog_max` counts them.
    pub fn backlog(&self) -> u64 {
        self.ready + self.scheduled + self.exclusive
    }

    /// Waiting jobs as a share of `backlog_max`.
    pub fn backlog_filled(&self) -> f64 {
        share(self.backlog(), self.backlog_max)
    }

    /// Jobs in flight as a share of `in_flight_max`; 0 when that is unlimited.
    pub fn in_flight_filled(&self) -> f64 {
        match self.ceilings.in_flight_max {
            0 => 0.0,
            most => share(self.in_flight, most.into()),
        }
    }

    /// Dead letters as a share of their count or byte cap, whichever is higher.
    pub fn dead_filled(&self) -> f64 {
        share(self.dead, self.dead_max_count).max(share(self.dead_bytes, self.dead_max_bytes))
    }

    /// Dead letters evicted today (UTC) by count or bytes, not by age.
    pub fn evicted_today(&self) -> u64 {
        self.today.get("evicted").copied().unwrap_or(0)
    }

    /// Time since the next ready job was admitted.
    pub fn oldest_ready(&self) -> Option<Duration> {
        self.oldest_ready_ms.map(Duration::from_millis)
    }
}

fn share(of: u64, most: u64) -> f64 {
    of as f64 / most.max(1) as f64
}
