//! A summary of the queue's state, for people and programs.
//!
//! Invariant: every part is read by itself. One that cannot be read is named in `unreadable`, and the rest is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Queue;
use crate::error::Error;
use crate::fleet::alerts::AlertsRejected;
use crate::inspect::ceilings::Ceilings;
use crate::inspect::control::{Fields, Paused, pauses_of};
use crate::inspect::host_loads::HostLoad;
use crate::inspect::hosts::RestingHosts;
use crate::inspect::memory::{self, Memory};
pub use crate::inspect::parts::UnreadableKey;
use crate::inspect::parts::{Reads, Replies};
use crate::inspect::rates::Rates;
use crate::inspect::workers::WORKERS_MAX;
pub use crate::inspect::workers::WorkerStatus;
use crate::redis::keys::Keys;
use crate::redis::scripts;
use crate::redis::server::Server;
use crate::role::WorkerHandle;
use crate::settings::Setting;
use wm_job::duration::millis;
use wm_job::failure::FailureKind;

/// Share of a cap at which to warn, before the oldest is evicted.
pub const NEARLY_FULL: f64 = 0.8;

/// Waiting jobs looked at for the oldest one that still waits.
const OLDEST_LOOK: usize = 10;
/// How long a published status counts.
const GLANCE_TTL: Duration = Duration::from_secs(120);
/// Time without a claim, while jobs wait and nothing runs, after which a queue is stalled: two heartbeats.
const STALLED_MS: u64 = 10_000;

/// A summary of the queue's state. The numbers are read one after another, not at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// When it was read, in milliseconds since 1970 by the clock of Redis.
    pub at_ms: u64,
    /// Payloads not yet ingested.
    pub inbox: u64,
    /// Jobs that can be claimed now.
    pub ready: u64,
    /// Jobs that wait until they are due.
    pub scheduled: u64,
    /// Claimed jobs over all workers, whether they are fetched or analysed.
    pub in_flight: u64,
    /// Of these, those that had not entered a child when their worker, which is not silent, sent its last heartbeat.
    /// Unknown, and 0, in a glance; so is `analysing`.
    pub fetching: u64,
    /// Those that were in a child then, or being delivered.
    pub analysing: u64,
    /// Suspects that wait to run exclusively.
    pub exclusive: u64,
    /// Number of dead letters.
    pub dead: u64,
    /// Bytes of dead letters.
    pub dead_bytes: u64,
    /// Number of dead letters above which the oldest are evicted.
    pub dead_max_count: u64,
    /// Bytes of dead letters above which the oldest are evicted.
    pub dead_max_bytes: u64,
    /// Number of dead letters by kind, without zeros.
    pub dead_by_kind: BTreeMap<FailureKind, u64>,
    /// Number of waiting jobs at which no more are admitted.
    pub backlog_max: u64,
    /// Time since the oldest waiting job was admitted, in milliseconds: of any priority, also one that waits for its
    /// host; or since the inbox was last empty, where that is longer.
    pub oldest_ready_ms: Option<u64>,
    /// Use of the ceilings that apply over all workers.
    pub ceilings: Ceilings,
    /// The hosts that rest, and that their jobs wait for.
    pub resting: RestingHosts,
    /// The pause that lasts longest, while the queue is paused.
    pub paused: Option<Paused>,
    /// All pauses in force, longest first.
    pub pauses: Vec<Paused>,
    /// Time since a job was last claimed, in milliseconds.
    pub last_claim_ms: Option<u64>,
    /// The worker that looks after the queue.
    pub looker: Option<String>,
    /// What the queue's keys take up.
    pub memory: Memory,
    /// Since when Sentry has refused all alerts.
    pub alerts_rejected: Option<AlertsRejected>,
    /// The server; None where its `INFO` cannot be read.
    pub server: Option<Server>,
    /// Counters of the last hour: `admitted`, `done`, `skipped`, `skipped:<reason>`, `dead:<kind>`, ...
    pub last_hour: BTreeMap<String, u64>,
    /// The same of the last 24 hours.
    pub last_day: BTreeMap<String, u64>,
    /// How fast jobs come in and end.
    pub rates: Rates,
    /// Of the scheduled jobs, those that wait for a host. Unknown, and 0, in a glance, which has no `rates` and no `hosts`
    /// either.
    pub waiting_for_hosts: u64,
    /// The ten hosts that hold up most jobs, most first.
    pub hosts: Vec<HostLoad>,
    /// Workers whose status entry has not expired.
    #[serde(skip_deserializing)]
    pub workers: Vec<WorkerStatus>,
    /// What could not be read; its numbers above are 0.
    pub unreadable: Vec<UnreadableKey>,
    /// Keys that have another type than they should, each with what to do.
    pub wrong_types: Vec<String>,
}

impl Queue {
    /// Reads the queue's status, in a few round trips.
    ///
    /// # Errors
    /// Those of Redis that concern the whole; see [`Status::unreadable`].
    pub async fn status(&self) -> Result<Status, Error> {
        let (mut status, now, workers) = self.summary().await?;
        if let Some(server) = &mut status.server {
            server.write = self.write_health().await?;
        }
        let counters = self.counters(now, &mut status.unreadable).await?;
        status.rates = counters.rates(now, status.inbox + status.backlog() + status.in_flight);
        (status.last_hour, status.last_day) = (counters.last_hour, counters.last_day);
        status.workers = self.workers(now, &workers, &mut status.unreadable).await?;
        for worker in status.workers.iter().filter(|worker| !worker.silent) {
            status.fetching += worker.fetching;
            status.analysing += worker.analysing;
        }
        if let Some(server) = &mut status.server {
            server.write = self.write_health().await?;
        }
        status.waiting_for_hosts = self.waiting_for_hosts(&mut status.unreadable).await?;
        let Status { ceilings, resting, workers, unreadable, .. } = &mut status;
        status.hosts = self.host_loads(ceilings, resting, workers, unreadable).await?;
        if let Some(seen) = self.last_glance().await? {
            status.memory.full_in_ms = seen.memory.full_in_ms;
        }
        Ok(status)
    }

    /// The status without counters and workers, the time of Redis, and the ids of the workers.
    async fn summary(&self) -> Result<(Status, u64, Vec<String>), Error> {
        let (keys, config) = (&self.inner.keys, &self.inner.config);
        let reads = summary_reads(keys);
        let mut replies = self.read(reads).await?;
        let (seconds, micros): (u64, u64) = replies.next();
        let now = seconds * 1000 + micros / 1000;
        let info: String = replies.next();
        let server = (!info.is_empty()).then(|| Server::read(&info, 0));
        let [inbox, ready, scheduled, in_flight, exclusive, dead] =
            std::array::from_fn(|_| replies.next::<u64>());
        let settings: Vec<Option<String>> = replies.next();
        let own_policy = Setting::ReportsWhenFull.configured(config, &self.inner.sink);
        let text = |at: usize| settings.get(at).and_then(Option::as_deref);
        let number = |at: usize| text(at).and_then(|text| text.parse::<u64>().ok());
        let oldest: Vec<(String, u64)> = replies.next();
        let pauses = pauses_of(replies.next::<Fields>());
        let looker: Option<String> = replies.next();
        let workers: Vec<String> = replies.next();
        let max = server.as_ref().map_or(0, |server| server.maxmemory_bytes);
        let memory = memory::take(&mut replies, keys, max, config);
        let Replies { mut unreadable, .. } = replies;
        let (dead_by_kind, dead_indexes_bytes) = self.dead_by_kind(dead, &mut unreadable).await?;
        let in_flight_max = number(4).and_then(|n| u32::try_from(n).ok()).unwrap_or(config.in_flight_max);
        let host_max = number(5).and_then(|n| u32::try_from(n).ok()).unwrap_or(config.host_in_flight_max);
        let oldest = [self.oldest_waiting(&oldest).await?, number(2).filter(|_| inbox > 0)];
        let since = |then: u64| now.saturating_sub(then);
        let status = Status {
            at_ms: now,
            inbox,
            ready,
            scheduled,
            in_flight,
            exclusive,
            dead,
            dead_bytes: memory.dead_bytes,
            dead_max_count: number(1).unwrap_or(config.dead_max_count),
            dead_max_bytes: memory.dead_cap_bytes,
            dead_by_kind,
            backlog_max: number(0).unwrap_or(config.backlog_max),
            oldest_ready_ms: oldest.into_iter().flatten().min().map(since),
            ceilings: self.ceilings(in_flight_max, host_max, &mut unreadable).await?,
            resting: self.resting_hosts(now, &mut unreadable).await?,
            paused: pauses.first().cloned(),
            pauses,
            last_claim_ms: number(3).map(since),
            looker,
            memory: Memory {
                reports_evict: text(6).unwrap_or(&own_policy) == "evict",
                dead_bytes: memory.dead_bytes + dead_indexes_bytes,
                history_bytes: memory.history_bytes + self.operations_bytes(&mut unreadable).await?,
                ..memory
            },
            server,
            alerts_rejected: self.alerts_rejected(&mut unreadable).await?,
            unreadable,
            wrong_types: self.wrong_types().await?,
            ..Status::default()
        };
        Ok((status, now, workers))
    }

    /// Letters of each kind, without zeros, and the bytes of their indexes.
    async fn dead_by_kind(
        &self,
        dead: u64,
        unreadable: &mut Vec<UnreadableKey>,
    ) -> Result<(BTreeMap<FailureKind, u64>, u64), Error> {
        let mut reads = Reads::default();
        let kinds = if dead == 0 { &[][..] } else { FailureKind::ALL };
        for &kind in kinds {
            let key = self.inner.keys.dead_kind(kind);
            reads.add(&["ZCARD"], &key, &[]);
            reads.add(&["MEMORY", "USAGE"], &key, &[]);
        }
        let mut replies = self.read(reads).await?;
        let (mut counts, mut bytes) = (BTreeMap::new(), 0);
        for &kind in kinds {
            let count: u64 = replies.next();
            bytes += replies.next::<u64>();
            if count > 0 {
                counts.insert(kind, count);
            }
        }
        unreadable.append(&mut replies.unreadable);
        Ok((counts, bytes))
    }

    /// When the oldest job that still waits was admitted. The index is a hint: its jobs are asked.
    async fn oldest_waiting(&self, oldest: &[(String, u64)]) -> Result<Option<u64>, Error> {
        let mut reads = Reads::default();
        for (id, _) in oldest {
            reads.add(&["HGET"], &format!("{}job:{id}", self.inner.keys.prefix()), &["state"]);
        }
        let mut replies = self.read(reads).await?;
        let waits =
            |state: Option<String>| matches!(state.as_deref(), Some("ready" | "scheduled" | "exclusive"));
        Ok(oldest.iter().find(|_| waits(replies.next())).map(|(_, since)| *since))
    }

    /// What the looker published last, if that is not too long ago.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn last_glance(&self) -> Result<Option<Status>, Error> {
        let mut reads = Reads::default();
        reads.add(&["GET"], &self.inner.keys.glance(), &[]);
        reads.add_plain("TIME");
        let text: Option<String> = self.read(reads).await?.next();
        Ok(text.as_deref().and_then(Status::from_glance))
    }
}

/// The commands whose replies [`Queue::summary`] takes, in their order.
fn summary_reads(keys: &Keys) -> Reads {
    let mut reads = Reads::default();
    reads.add_plain("TIME");
    reads.add_plain("INFO");
    reads.add(&["LLEN"], &keys.inbox(), &[]);
    for zset in [keys.ready(), keys.scheduled(), keys.lease(), keys.exclusive(), keys.dead()] {
        reads.add(&["ZCARD"], &zset, &[]);
    }
    let meta = [
        "backlog_max",
        "dead_max_count",
        "inbox_since_ms",
        "claimed_ms",
        "in_flight_max",
        "host_in_flight_max",
        "reports_when_full",
    ];
    reads.add(&["HMGET"], &keys.meta(), &meta);
    reads.add(&["ZRANGE"], &keys.waiting(), &["0", &(OLDEST_LOOK - 1).to_string(), "WITHSCORES"]);
    reads.add(&["HGETALL"], &keys.paused(), &[]);
    reads.add(&["GET"], &keys.looker(), &[]);
    reads.add(&["ZREVRANGE"], &keys.workers(), &["0", &(WORKERS_MAX - 1).to_string()]);
    memory::ask(&mut reads, keys);
    reads
}

impl WorkerHandle {
    /// Reads the status without counters and workers, as the looker does each time it looks.
    ///
    /// # Errors
    /// As [`Queue::status`].
    pub async fn glance(&self) -> Result<Status, Error> {
        Ok(self.summary().await?.0)
    }

    /// Publishes a glance for the gauges of the other workers.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn publish_glance(&self, status: &Status) -> Result<(), Error> {
        let text = serde_json::to_string(status).unwrap_or_default();
        let call = self.call(&scripts::PUBLISH).key(self.inner.keys.glance());
        call.arg(text).arg(millis(GLANCE_TTL)).arg(status.inbox).reply().await.map(drop)
    }

    /// The looker's name and the glance that it published last ([`Status::from_glance`]), in one command.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn published(&self) -> Result<(Option<String>, Option<String>), Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("MGET").arg(self.inner.keys.looker()).arg(self.inner.keys.glance());
        let (found,): (Vec<Option<String>>,) = self.ask(&pipe).await?;
        let mut found = found.into_iter();
        Ok((found.next().flatten(), found.next().flatten()))
    }
}

impl Status {
    /// Reads a published glance; None for one that another build wrote and this one cannot read.
    pub fn from_glance(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

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

    /// Dead letters evicted in the last 24 hours by count or bytes, not by age.
    pub fn evicted_last_day(&self) -> u64 {
        self.last_day.get("evicted").copied().unwrap_or(0)
    }

    /// Time since the oldest waiting job was admitted.
    pub fn oldest_waiting(&self) -> Option<Duration> {
        self.oldest_ready_ms.map(Duration::from_millis)
    }

    /// True when nothing is claimed because results are at their cap and Redis has the only copy of them.
    pub fn waits_for_reports(&self) -> bool {
        !self.memory.reports_evict && self.memory.reports_filled() >= 1.0
    }

    /// What is wrong with Redis and this queue's keys in it, worst first: each a sentence that ends in what to do.
    pub fn problems(&self) -> Vec<String> {
        let server = self.server.iter().flat_map(Server::problems);
        server.chain(self.wrong_types.iter().cloned()).collect()
    }

    /// Why work waits although it should run; None where all is well. Needs [`Status::workers`].
    pub fn stalled(&self) -> Option<String> {
        let waiting = self.ready + self.exclusive + self.inbox;
        if waiting == 0 || self.paused.is_some() {
            return None;
        }
        let silent = self.workers.iter().filter(|worker| worker.silent).count();
        match (self.workers.len(), silent) {
            (0, _) => return Some(format!("{waiting} jobs wait and no worker lives")),
            (all, silent) if all == silent => {
                return Some(format!("{waiting} jobs wait and all {all} workers are silent"));
            }
            _ => {}
        }
        let idle = self.ready + self.exclusive > 0
            && self.in_flight == 0
            && self.last_claim_ms.is_none_or(|ms| ms > STALLED_MS)
            && self.oldest_ready_ms.is_some_and(|ms| ms > STALLED_MS);
        let since = self.last_claim_ms.map(Duration::from_millis);
        let since = since.map_or("ever".to_owned(), |since| format!("for {} s", since.as_secs()));
        let is_full = self.server.as_ref().is_some_and(|server| server.memory_filled() >= 1.0);
        idle.then(|| match self.waits_for_reports() {
            false if is_full => format!("{waiting} jobs wait, and Redis is at maxmemory"),
            true => format!("{waiting} jobs wait for room for their results"),
            false => format!("{waiting} jobs wait, nothing runs, and none was claimed {since}"),
        })
    }
}

fn share(of: u64, most: u64) -> f64 {
    of as f64 / most.max(1) as f64
}
