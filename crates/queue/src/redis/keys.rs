//! The names of all Redis keys of a queue.
//!
//! All keys of one queue share the hash tag `{name}`, so they are in one slot of a cluster.
//! The fields of `job:<id>`, one HASH per job, written only by the scripts:
//!
//! | field | present | meaning |
//! |---|---|---|
//! | `payload` | always (unless undecodable) | the job in its canonical form |
//! | `state` | always | ready, scheduled, in_flight, exclusive, dead, trash |
//! | `score` | always | its place in `ready`, kept through release, waiting for a host and exclusive runs |
//! | `priority_offset` | scheduled after a failure or a postponement | it gets a new place, so far behind the newest job |
//! | `enqueued_ms`, `expires_ms`, `unique` | always | time of admission, time of expiry, the lock it holds |
//! | `next`, `next_unique` | live | the payload of its follow-up job, and that job's lock |
//! | `deliveries` `failures` `ambiguous_exits` `crashes` | once counted | its delivery counts |
//! | `fetch_crashes` | once counted, until it enters a child | how often its worker vanished before that |
//! | `postponements` `releases` `replays` | once counted | its other counts |
//! | `token` `worker` `claimed_ms` | in flight | its delivery (`worker` stays, as evidence) |
//! | `bytes` | live | what its hash and its lock take up, as counted in `meta` |
//! | `content` `build` `hosts` | once started | hash of its two bodies, the build that ran it, its hosts |
//! | `entered` | once in a child | the token of the delivery that entered a child last |
//! | `suspect` | until replayed | its content crashed a worker before: it runs exclusively |
//! | `waits_for_host` | scheduled, waiting for a start permit | the host that is full or rests |
//! | `host_failed` | after a failure of its host that counted | the token of the delivery that failed |
//! | `run_at_ms` | once scheduled, until cancelled | when it runs, or ran: its place in `scheduled` |
//! | `last_failure` | after a retry | the failure (JSON) |
//! | `postponed_ms` | after a postponement | total delay of those counted |
//! | `granted_wall_ms` `granted_heap_bytes` | after a replay that raised them | the limits it runs under |
//! | `cancel` | once cancelled | when it was cancelled |
//! | `died_ms` `kind` `reason` `size` | dead, and once replayed until it dies again | the evidence, and its size in bytes |
//! | `group` | once dead | the group that its last death is counted in |
//! | `operation` | replayed in a bulk action, until it ends | that action, which records how it ends |
//! | `unedited` | replayed with another payload, until it dies again | its payload before |
//! | `log` `log_cut` | once a delivery did not end it | its history, a JSON line for each entry; entries not kept |
//! | `raw` `raw_length` `raw_hash` | dead, undecodable | its first 2 KiB, full length and hash |

use crate::config::QueueName;
use wm_job::JobId;
use wm_job::failure::FailureKind;

/// Schema version of the key space. A build refuses to work on a newer one. 3: `done` in segments, results with an
/// index by time, named pauses, settings in `meta`.
pub(crate) const SCHEMA: u64 = 3;

/// Type of a key, as `TYPE` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum KeyType {
    String,
    List,
    Hash,
    Zset,
    Stream,
}

#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys of the queue `name`.
    pub(crate) fn new(name: &QueueName) -> Self {
        Self { prefix: format!("wm:{{{name}}}:") }
    }

    /// `wm:{<name>}:`, the start of each key.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// The keys that every script declares, in the order of `lua/common.lua`, and the type of each.
    pub(crate) fn fixed(&self) -> [(String, KeyType); 16] {
        [
            (self.inbox(), KeyType::List),
            (self.ready(), KeyType::Zset),
            (self.scheduled(), KeyType::Zset),
            (self.lease(), KeyType::Zset),
            (self.exclusive(), KeyType::Zset),
            (self.key("exclusive_lock"), KeyType::String),
            (self.dead(), KeyType::Zset),
            (self.paused(), KeyType::Hash),
            (self.wake(), KeyType::List),
            (self.events(), KeyType::Stream),
            (self.meta(), KeyType::Hash),
            (self.seq(), KeyType::String),
            (self.waiting(), KeyType::Zset),
            (self.results(), KeyType::Zset),
            (self.suspects(), KeyType::Zset),
            (self.done_segments(), KeyType::Zset),
        ]
    }

    /// The other keys that exist once per queue, and the type of each.
    pub(crate) fn others(&self) -> [(String, KeyType); 17] {
        [
            (self.workers(), KeyType::Zset),
            (self.audit(), KeyType::Stream),
            (self.trash(), KeyType::Zset),
            (self.dead_groups(), KeyType::Zset),
            (self.operations(), KeyType::Zset),
            (self.waiting_hosts(), KeyType::Zset),
            (self.host_breakers(), KeyType::Hash),
            (self.key("child_kills"), KeyType::Hash),
            (self.key("failed_hosts"), KeyType::Zset),
            (self.resting_hosts(), KeyType::Zset),
            (self.host_rests(), KeyType::Hash),
            (self.key("proven_hosts"), KeyType::Zset),
            (self.looker(), KeyType::String),
            (self.glance(), KeyType::String),
            (self.alerts(), KeyType::Hash),
            (self.alerts_due(), KeyType::Zset),
            (self.alerts_claimed(), KeyType::Hash),
        ]
    }

    /// LIST of payloads as producers pushed them.
    pub(crate) fn inbox(&self) -> String {
        self.key("inbox")
    }

    /// STREAM of job events, capped.
    pub(crate) fn events(&self) -> String {
        self.key("events")
    }

    /// ZSET of claimable job ids by score.
    pub(crate) fn ready(&self) -> String {
        self.key("ready")
    }

    /// ZSET of job ids by the time they are due (ms).
    pub(crate) fn scheduled(&self) -> String {
        self.key("scheduled")
    }

    /// ZSET of job ids in flight by the end of their lease (ms).
    pub(crate) fn lease(&self) -> String {
        self.key("lease")
    }

    /// ZSET of suspects that wait to run exclusively, by the time they were added (ms).
    pub(crate) fn exclusive(&self) -> String {
        self.key("exclusive")
    }

    /// ZSET of dead letters by the time they were buried (ms).
    pub(crate) fn dead(&self) -> String {
        self.key("dead")
    }

    /// ZSET of the dead letters of one kind, by the time they were buried (ms).
    pub(crate) fn dead_kind(&self, kind: FailureKind) -> String {
        self.key(&format!("dead:kind:{kind}"))
    }

    /// ZSET of the discarded letters that can be restored, by the time they were discarded (ms).
    pub(crate) fn trash(&self) -> String {
        self.key("trash")
    }

    /// ZSET of the groups of dead letters, `<kind> <host>`, by their last death (ms).
    pub(crate) fn dead_groups(&self) -> String {
        self.key("dead_groups")
    }

    /// HASH of one group: its counts, its first and last death. Its fields are listed in `common.lua`.
    pub(crate) fn dead_group(&self, name: &str) -> String {
        self.key(&format!("dead_group:{name}"))
    }

    /// ZSET of operators' bulk actions by the time they began (ms).
    pub(crate) fn operations(&self) -> String {
        self.key("operations")
    }

    /// HASH of one of them: what, by, selection, why, jobs, at_ms.
    pub(crate) fn operation(&self, id: &str) -> String {
        self.key(&format!("operation:{id}"))
    }

    /// HASH of its job ids, each with what became of it.
    pub(crate) fn operation_jobs(&self, id: &str) -> String {
        self.key(&format!("operation_jobs:{id}"))
    }

    /// HASH of the pauses in force, by name.
    pub(crate) fn paused(&self) -> String {
        self.key("paused")
    }

    /// LIST of at most one element, pushed when a job becomes claimable.
    pub(crate) fn wake(&self) -> String {
        self.key("wake")
    }

    /// HASH of the counters of five minutes: `bucket` is their start in ms / 300,000. Kept for a day.
    pub(crate) fn stats(&self, bucket: u64) -> String {
        self.key(&format!("stats:{bucket}"))
    }

    /// ZSET of the jobs that could run now or wait for their host, by the time of their admission (ms).
    pub(crate) fn waiting(&self) -> String {
        self.key("waiting")
    }

    /// ZSET of the ids whose result is kept, by the time it was stored (ms).
    pub(crate) fn results(&self) -> String {
        self.key("results")
    }

    /// STRING with the worker that looks after the queue; lives for seconds.
    pub(crate) fn looker(&self) -> String {
        self.key("looker")
    }

    /// STRING with the looker's last status (JSON), from which the other workers export their gauges.
    pub(crate) fn glance(&self) -> String {
        self.key("glance")
    }

    /// HASH of the schema version, the queue's settings, what its keys take up, and the state of upkeep.
    pub(crate) fn meta(&self) -> String {
        self.key("meta")
    }

    /// STRING with the number of the job that was admitted last.
    pub(crate) fn seq(&self) -> String {
        self.key("seq")
    }

    /// STREAM of operators' actions, capped.
    pub(crate) fn audit(&self) -> String {
        self.key("audit")
    }

    /// HASH of one job; its fields are listed above.
    pub(crate) fn job(&self, id: &JobId) -> String {
        self.key(&format!("job:{id}"))
    }

    /// STRING with the id of a pair's live job: its lock.
    pub(crate) fn unique(&self, sha256: &str) -> String {
        self.key(&format!("unique:{sha256}"))
    }

    /// STRING with how the job `id` ended (JSON).
    pub(crate) fn ended(&self, id: &str) -> String {
        self.key(&format!("ended:{id}"))
    }

    /// STRING with the build that a content crashed.
    pub(crate) fn suspect(&self, content: &str) -> String {
        self.key(&format!("suspect:{content}"))
    }

    /// ZSET of the keys of suspects, by the time they were added (ms).
    pub(crate) fn suspects(&self) -> String {
        self.key("suspects")
    }

    /// ZSET of the segments of `done`, by the time they were begun (ms).
    pub(crate) fn done_segments(&self) -> String {
        self.key("done_segments")
    }

    /// SET of the jobs with a start permit at a host.
    pub(crate) fn host(&self, host: &str) -> String {
        self.key(&format!("host:{host}"))
    }

    /// ZSET of hosts by their number of waiters.
    pub(crate) fn waiting_hosts(&self) -> String {
        self.key("waiting_hosts")
    }

    /// HASH of hosts that failed since their last success (JSON), `child_kills` one of those whose pages killed
    /// children; `failed_hosts` is a ZSET of these by their last
    /// failure, `proven_hosts` one of hosts by their last success.
    pub(crate) fn host_breakers(&self) -> String {
        self.key("host_breakers")
    }

    /// ZSET of hosts whose breaker is open, by the end of their rest (ms).
    pub(crate) fn resting_hosts(&self) -> String {
        self.key("resting_hosts")
    }

    /// HASH of hosts that an operator made rest (JSON).
    pub(crate) fn host_rests(&self) -> String {
        self.key("host_rests")
    }

    /// ZSET of the jobs that wait for a host.
    pub(crate) fn host_waiters(&self, host: &str) -> String {
        self.key(&format!("host_waiters:{host}"))
    }

    /// STRING with the number of the last payload of an export that was put into the inbox; lives for a week.
    pub(crate) fn imported(&self, export: &str) -> String {
        self.key(&format!("imported:{export}"))
    }

    /// STRING with the report (JSON) on the pair `<from>..<to>`.
    pub(crate) fn report(&self, pair: &str) -> String {
        self.key(&format!("report:{pair}"))
    }

    /// ZSET of workers by their last heartbeat (ms).
    pub(crate) fn workers(&self) -> String {
        self.key("workers")
    }

    /// ZSET of the workers that see an outage, by the time their entry expires (ms); lives for a lease.
    pub(crate) fn outage(&self, what: &str) -> String {
        self.key(&format!("outage:{what}"))
    }

    /// HASH of the counts of letters that no alert has reported yet.
    pub(crate) fn alerts(&self) -> String {
        self.key("alerts")
    }

    /// ZSET of what is to be reported by the time from which it may be (ms).
    pub(crate) fn alerts_due(&self) -> String {
        self.key("alerts:due")
    }

    /// HASH of the one alert event that a worker is reporting.
    pub(crate) fn alerts_claimed(&self) -> String {
        self.key("alerts:claimed")
    }

    /// HASH of an outage that some worker sees: since when, what it says, how often it was reported.
    pub(crate) fn alert_outage(&self, what: &str) -> String {
        self.key(&format!("alerts:group:outage:{what}"))
    }

    /// STRING with the token and the job ids of a worker's last claim; lives for a lease.
    pub(crate) fn claim(&self, worker: &str) -> String {
        self.key(&format!("claim:{worker}"))
    }

    /// HASH of one worker's status entry; `asked` is what an operator asks of it: quiet, stop.
    pub(crate) fn worker(&self, id: &str) -> String {
        self.key(&format!("worker:{id}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_carries_the_hash_tag() {
        let keys = Keys::new(&"analysis".parse().unwrap());
        for (key, _) in keys.fixed().into_iter().chain(keys.others()) {
            assert!(key.starts_with("wm:{analysis}:"), "{key}");
        }
        assert_eq!(keys.inbox(), "wm:{analysis}:inbox");
    }
}
