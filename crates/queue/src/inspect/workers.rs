//! The workers of a queue as their entries show them, and what became of the jobs of those that fell silent.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Queue;
use crate::error::Error;
use crate::fleet::presence::{Presence, RunningJob, WorkerRequest};
use crate::ids::WorkerId;
use crate::inspect::control::{Fields, REASON_MAX_CHARS};
use crate::inspect::parts::{Reads, UnreadableKey};
use crate::redis::scripts;
use crate::role::OperatorHandle;
use crate::settings::AUDIT_MAX;
use wm_job::JobId;

/// Most workers listed in a status.
pub(crate) const WORKERS_MAX: usize = 500;
/// Most workers listed at all: more than one Redis serves; at 32 KiB for each entry this is 160 MB, read in pages.
const FLEET_MAX: usize = 5_000;
/// Heartbeats after which a worker is silent.
const SILENT_HEARTBEATS: u64 = 2;
/// Interval of a worker that does not say its own, in milliseconds.
const USUAL_HEARTBEAT_MS: u64 = 5_000;

/// A worker, and the age of its last heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// Its status entry; its jobs in flight are shown as still running.
    #[serde(flatten)]
    pub info: Presence,
    /// Jobs that it had in flight at its last heartbeat and that had not entered a child.
    pub fetching: u64,
    /// Jobs in a child then, or being delivered.
    pub analysing: u64,
    /// Time since its last heartbeat in milliseconds.
    pub heartbeat_age_ms: u64,
    /// True when two heartbeats are missing: it is dead, stopped, or cut off.
    pub silent: bool,
    /// What an operator asked of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<WorkerRequest>,
    /// Of a silent worker, where its jobs are now: `still leased to it`, `in flight at <worker>`, the state that they
    /// wait in, or `ended`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub taken_over: BTreeMap<String, String>,
}

impl OperatorHandle {
    /// The workers that have an entry, those that were heard last first, and how many there are. At most 5,000 are
    /// read.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn fleet(&self) -> Result<(Vec<WorkerStatus>, u64), Error> {
        let now = self.server_time_ms().await?;
        let mut pipe = redis::pipe();
        pipe.cmd("ZCARD").arg(self.inner.keys.workers());
        pipe.cmd("ZREVRANGE").arg(self.inner.keys.workers()).arg(0).arg(FLEET_MAX - 1);
        let (total, ids): (u64, Vec<String>) = self.ask(&pipe).await?;
        let (mut fleet, mut unreadable) = (Vec::new(), Vec::new());
        for ids in ids.chunks(WORKERS_MAX) {
            fleet.append(&mut self.workers(now, ids, &mut unreadable).await?);
        }
        Ok((fleet, total))
    }

    /// Asks a worker to claim nothing more, or to stop; it hears so with its next heartbeat. False when it has no
    /// entry. Audited; works on a full Redis.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn ask_worker(
        &self,
        worker: &WorkerId,
        request: WorkerRequest,
        by: &str,
        reason: &str,
    ) -> Result<bool, Error> {
        let reason: String = reason.chars().take(REASON_MAX_CHARS).collect();
        let keys = &self.inner.keys;
        let call = self.call(&scripts::ASK_WORKER).key(keys.worker(worker.as_str())).key(keys.audit());
        let call = call.arg(&[worker.as_str(), request.into(), by, &reason]).arg(AUDIT_MAX);
        Ok(call.reply().await?.text()? == "asked")
    }
}

impl Queue {
    /// The workers of `ids` that have an entry; adds what could not be read.
    pub(crate) async fn workers(
        &self,
        now: u64,
        ids: &[String],
        unreadable: &mut Vec<UnreadableKey>,
    ) -> Result<Vec<WorkerStatus>, Error> {
        let mut reads = Reads::default();
        for id in ids {
            reads.add(&["HGETALL"], &self.inner.keys.worker(id), &[]);
        }
        let mut replies = self.read(reads).await?;
        let entries = ids.iter().map(|id| (id, replies.next::<Fields>()));
        let mut workers: Vec<_> = entries.filter_map(|(id, entry)| worker_of(now, id, &entry)).collect();
        unreadable.append(&mut replies.unreadable);
        for worker in workers.iter_mut().filter(|worker| worker.silent) {
            let ids = worker.info.in_flight.iter().map(|job| job.id.clone()).collect();
            worker.taken_over = self.whereabouts(worker.info.id.as_str(), ids).await?;
        }
        Ok(workers)
    }

    /// Where the jobs that `worker` had in flight are now.
    async fn whereabouts(&self, worker: &str, ids: Vec<JobId>) -> Result<BTreeMap<String, String>, Error> {
        let mut reads = Reads::default();
        for id in &ids {
            reads.add(&["HMGET"], &self.inner.keys.job(id), &["state", "worker"]);
        }
        let mut replies = self.read(reads).await?;
        let place = |fields: Vec<Option<String>>| match <[Option<String>; 2]>::try_from(fields) {
            Ok([Some(state), Some(holder)]) if state == "in_flight" && holder == worker => {
                "still leased to it".to_owned()
            }
            Ok([Some(state), Some(holder)]) if state == "in_flight" => format!("in flight at {holder}"),
            Ok([Some(state), _]) => state,
            Ok([None, _]) | Err(_) => "ended".to_owned(),
        };
        Ok(ids.iter().map(|id| (id.to_string(), place(replies.next()))).collect())
    }
}

fn worker_of(now: u64, id: &str, entry: &Fields) -> Option<WorkerStatus> {
    let text = |name: &str| entry.get(name).cloned().unwrap_or_default();
    let heartbeat: u64 = text("heartbeat_ms").parse().ok()?;
    let heartbeat_age_ms = now.saturating_sub(heartbeat);
    let in_flight: Vec<RunningJob> = serde_json::from_str(&text("in_flight")).unwrap_or_default();
    let heartbeat_every_ms = text("heartbeat_every_ms").parse().unwrap_or(USUAL_HEARTBEAT_MS);
    let slots = text("slots").parse().unwrap_or(0);
    let info = Presence {
        id: WorkerId::parse(id).ok()?,
        host: text("host"),
        pid: text("pid").parse().unwrap_or(0),
        version: text("version"),
        phase: text("phase"),
        slots,
        // A worker of an earlier version does not say it, and has no other limit than its slots.
        slots_limit: text("slots_limit").parse().unwrap_or(slots),
        slots_limited_by: Some(text("slots_limited_by")).filter(|why| !why.is_empty()),
        busy: text("busy").parse().unwrap_or(0),
        heartbeat_every_ms,
        breakers: serde_json::from_str(&text("breakers")).unwrap_or_default(),
        breaker_reasons: serde_json::from_str(&text("breaker_reasons")).unwrap_or_default(),
        db_app: text("db_app"),
        in_flight: in_flight.into_iter().map(|job| job.later(heartbeat_age_ms)).collect(),
    };
    let silent = heartbeat_age_ms > SILENT_HEARTBEATS * heartbeat_every_ms;
    let [fetching, analysing] = ["fetching", "analysing"].map(|name| text(name).parse().unwrap_or(0));
    let asked = text("asked").parse().ok();
    let taken_over = BTreeMap::new();
    Some(WorkerStatus { info, fetching, analysing, heartbeat_age_ms, silent, asked, taken_over })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_say_its_limit_uses_all_of_its_slots() {
        let entry = |fields: &[(&str, &str)]| -> Fields {
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let limit = |fields: &[(&str, &str)]| {
            let info = worker_of(0, "w", &entry(fields)).unwrap().info;
            (info.slots, info.slots_limit, info.slots_limited_by)
        };
        let old = [("heartbeat_ms", "0"), ("slots", "4")];
        assert_eq!(limit(&old), (4, 4, None));
        let unlimited = [old[0], old[1], ("slots_limit", "4"), ("slots_limited_by", "")];
        assert_eq!(limit(&unlimited), (4, 4, None));
        let limited = [old[0], old[1], ("slots_limit", "2"), ("slots_limited_by", "cpu.pressure")];
        assert_eq!(limit(&limited), (4, 2, Some("cpu.pressure".to_owned())));
    }
}
