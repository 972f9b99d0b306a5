//! The names of all Redis keys of a queue.
//!
//! All keys of one queue share the hash tag `{name}`, so they are in one slot of a cluster.
//! The fields of `job:<id>`, one HASH per job, written only by the scripts:
//!
//! | field | present | meaning |
//! |---|---|---|
//! | `payload` | always (unless undecodable) | the job in its canonical form |
//! | `state` | always | ready, scheduled, in_flight, exclusive, dead |
//! | `score` | always | its place in `ready`, kept through retry, release and exclusive runs |
//! | `enqueued_ms`, `expires_ms`, `unique` | always | time of admission, time of expiry, the lock it holds |
//! | `next`, `next_unique` | live | the payload of its follow-up job, and that job's lock |
//! | `deliveries` `failures` `ambiguous_exits` `crashes` | once counted | its delivery counts |
//! | `postponements` `releases` `replays` | once counted | its other counts |
//! | `token` `worker` `claimed_ms` | in flight | its delivery (`worker` stays, as evidence) |
//! | `settled` | after a settle | the token that settled it, so that a repeated settle gets the same reply |
//! | `content` `build` `hosts` | once started | hash of its two bodies, the build that ran it, its hosts |
//! | `started` | once started | the token of the delivery that got its start permits |
//! | `suspect` | until replayed | its content crashed a worker before: it runs exclusively |
//! | `waits_for_host` | scheduled, waiting for a start permit | the full host |
//! | `last_failure` | after a retry | the failure (JSON) |
//! | `postponed_ms` | after a postponement | total delay of those counted |
//! | `granted_wall_ms` `granted_heap_bytes` | after a replay that raised them | the limits it runs under |
//! | `cancel` | once cancelled | when it was cancelled |
//! | `died_ms` `kind` `reason` `size` | dead | the evidence, and its size in bytes |
//! | `raw` `raw_length` `raw_hash` | dead, undecodable | its first 64 KiB, full length and hash |

use time::OffsetDateTime;

use crate::config::QueueName;
use wm_job::JobId;
use wm_job::failure::FailureKind;

/// Schema version of the key space. A build refuses to work on a newer one.
pub(crate) const SCHEMA: u64 = 2;

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

    /// The keys that every script declares, in the order of `lua/common.lua`.
    pub(crate) fn fixed(&self, now: OffsetDateTime) -> [String; 13] {
        [
            self.inbox(),
            self.ready(),
            self.scheduled(),
            self.lease(),
            self.exclusive(),
            self.key("exclusive_lock"),
            self.dead(),
            self.paused(),
            self.wake(),
            self.events(),
            self.stats(now),
            self.meta(),
            self.key("seq"),
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

    /// HASH that exists while the queue is paused.
    pub(crate) fn paused(&self) -> String {
        self.key("paused")
    }

    /// LIST of at most one element, pushed when a job becomes claimable.
    pub(crate) fn wake(&self) -> String {
        self.key("wake")
    }

    /// HASH of the counters of one day (UTC).
    pub(crate) fn stats(&self, now: OffsetDateTime) -> String {
        let day = now.to_offset(time::UtcOffset::UTC).date();
        self.key(&format!("stats:{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day()))
    }

    /// HASH of the schema version and the state of upkeep.
    pub(crate) fn meta(&self) -> String {
        self.key("meta")
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

    /// STRING that marks a pair as analysed; holds the token that settled it.
    pub(crate) fn done(&self, sha256: &str) -> String {
        self.key(&format!("done:{sha256}"))
    }

    /// STRING with the build that a content crashed.
    pub(crate) fn suspect(&self, content: &str) -> String {
        self.key(&format!("suspect:{content}"))
    }

    /// SET of the jobs with a start permit at a host. Only scripts use its waiters, `host_waiters:<host>`.
    pub(crate) fn host(&self, host: &str) -> String {
        self.key(&format!("host:{host}"))
    }

    /// ZSET of hosts by their number of waiters.
    pub(crate) fn waiting_hosts(&self) -> String {
        self.key("waiting_hosts")
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

    /// STRING with the alert leader of an outage, `*` once it has reported it; lives for a lease.
    pub(crate) fn alert_leader(&self, what: &str) -> String {
        self.key(&format!("alert_leader:{what}"))
    }

    /// HASH of one worker's status entry.
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
        for key in keys.fixed(OffsetDateTime::UNIX_EPOCH) {
            assert!(key.starts_with("wm:{analysis}:"), "{key}");
        }
        assert_eq!(keys.stats(OffsetDateTime::UNIX_EPOCH), "wm:{analysis}:stats:19700101");
        assert_eq!(keys.inbox(), "wm:{analysis}:inbox");
    }
}
