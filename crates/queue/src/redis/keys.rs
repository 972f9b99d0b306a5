//! Every Redis key of a queue is born here, once.
//!
//! All keys of one queue share the hash tag `{name}`, so that they live in one slot of a cluster.
//! The fields of `job:<id>`, one HASH per job, written only by the scripts:
//!
//! | field | while | what |
//! |---|---|---|
//! | `payload` | always (not: undecodable) | the job in its canonical form |
//! | `state` | always | ready, scheduled, leased, solo, dead |
//! | `score` | always | its place in `ready`, kept through retry, release and solo |
//! | `enqueued_ms`, `expires_ms`, `unique` | always | admission, expiry, the lock it holds |
//! | `next`, `next_unique` | live, until it ends | the payload of the job that follows it, and that one's lock |
//! | `deliveries` `failures` `ambiguous_exits` `crashes` `postponements` `releases` `replays` | once counted | the judge's arithmetic |
//! | `token` `worker` `claimed_ms` | in flight | who has it (`worker` stays, as evidence) |
//! | `settled` | after a settle | the token that settled it, so that asking twice is answered alike |
//! | `content` `build` `hosts` `started` | once its versions were known | what it compares, the build that knew it, whom it visits; the token that was let in |
//! | `suspect` | until replayed | its content crashed a worker before: it runs alone |
//! | `waits_for_host` | scheduled, waiting for a host | that host |
//! | `last_failure` `postponed_ms` | after a retry | the last failure; how long counted postponements put it off |
//! | `granted_wall_ms` `granted_heap_bytes` | after a replay that raised them | the limits it runs under |
//! | `cancel` | once asked for | nobody wants it any more |
//! | `died_ms` `kind` `reason` `size` | dead | the evidence, and what it weighs |
//! | `raw` `raw_length` `raw_hash` | dead, undecodable | the first 64 KiB of what was no job |

use time::OffsetDateTime;

use crate::error::Error;
use wm_job::JobId;
use wm_job::failure::FailureKind;

/// The version of the key space. A build refuses to touch a newer one.
pub(crate) const SCHEMA: u64 = 2;
/// The longest name of a queue.
const MAX_NAME_BYTES: usize = 63;

/// The keys of one queue.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys of the queue `name`, which matches `[a-z0-9][a-z0-9_-]{0,62}`: no name may reach into other keys.
    pub(crate) fn new(name: &str) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if name.len() > MAX_NAME_BYTES || !starts || !name.bytes().all(plain) {
            return Err(Error::Config(format!(
                "queue name {name:?}: 1 to {MAX_NAME_BYTES} of a-z 0-9 _ -, the first a letter or a digit"
            )));
        }
        Ok(Self { prefix: format!("wm:{{{name}}}:") })
    }

    /// What all keys of the queue begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// The keys that every script declares, in the order in which `lua/common.lua` names them.
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

    /// STREAM of what became of jobs, capped.
    pub(crate) fn events(&self) -> String {
        self.key("events")
    }

    /// ZSET of ids by their place in the order.
    pub(crate) fn ready(&self) -> String {
        self.key("ready")
    }

    /// ZSET of ids by the moment they are due.
    pub(crate) fn scheduled(&self) -> String {
        self.key("scheduled")
    }

    /// ZSET of ids by the end of their lease.
    pub(crate) fn lease(&self) -> String {
        self.key("lease")
    }

    /// ZSET of suspects by the moment they came.
    pub(crate) fn exclusive(&self) -> String {
        self.key("exclusive")
    }

    /// ZSET of dead letters by the moment of death.
    pub(crate) fn dead(&self) -> String {
        self.key("dead")
    }

    /// ZSET of the dead letters of one kind.
    pub(crate) fn dead_kind(&self, kind: FailureKind) -> String {
        self.key(&format!("dead:kind:{kind}"))
    }

    /// HASH that exists while the queue is paused.
    pub(crate) fn paused(&self) -> String {
        self.key("paused")
    }

    /// LIST of at most one token.
    pub(crate) fn wake(&self) -> String {
        self.key("wake")
    }

    /// HASH of one day's counters.
    pub(crate) fn stats(&self, now: OffsetDateTime) -> String {
        let day = now.to_offset(time::UtcOffset::UTC).date();
        self.key(&format!("stats:{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day()))
    }

    /// HASH of the schema version and of what upkeep must remember.
    pub(crate) fn meta(&self) -> String {
        self.key("meta")
    }

    /// STREAM of what operators did.
    pub(crate) fn audit(&self) -> String {
        self.key("audit")
    }

    /// HASH of one job.
    pub(crate) fn job(&self, id: &JobId) -> String {
        self.key(&format!("job:{id}"))
    }

    /// STRING that names the live job of a pair.
    pub(crate) fn unique(&self, sha256: &str) -> String {
        self.key(&format!("unique:{sha256}"))
    }

    /// STRING that remembers that a pair was analysed.
    pub(crate) fn done(&self, sha256: &str) -> String {
        self.key(&format!("done:{sha256}"))
    }

    /// STRING with the build under which a content crashed a worker.
    pub(crate) fn suspect(&self, content: &str) -> String {
        self.key(&format!("suspect:{content}"))
    }

    /// SET of the jobs that were let in to a host. Who waits for it is `line:<host>`, known to the scripts alone.
    pub(crate) fn host(&self, host: &str) -> String {
        self.key(&format!("host:{host}"))
    }

    /// ZSET of the hosts that jobs wait for, by the length of their line.
    pub(crate) fn waiting_hosts(&self) -> String {
        self.key("waiting_hosts")
    }

    /// STRING with the report on `<from>..<to>`.
    pub(crate) fn report(&self, pair: &str) -> String {
        self.key(&format!("report:{pair}"))
    }

    /// ZSET of workers by their last heartbeat.
    pub(crate) fn workers(&self) -> String {
        self.key("workers")
    }

    /// ZSET of the workers that see an outage, by the moment until which their word counts; lives for a lease.
    pub(crate) fn outage(&self, what: &str) -> String {
        self.key(&format!("outage:{what}"))
    }

    /// STRING with the worker that is to tell of an outage, `*` once it is told; lives for a lease.
    pub(crate) fn alert_leader(&self, what: &str) -> String {
        self.key(&format!("alert_leader:{what}"))
    }

    /// HASH of one worker's entry.
    pub(crate) fn worker(&self, id: &str) -> String {
        self.key(&format!("worker:{id}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_queue_reaches_into_other_keys() {
        for name in ["analysis", "a", "0_x-9", &"a".repeat(63)] {
            assert!(Keys::new(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "_a", "A", "a}:x", "a b", "a\n", "ä", "a:b", "*", &"a".repeat(64)] {
            assert!(Keys::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn every_key_carries_the_hash_tag() {
        let keys = Keys::new("analysis").unwrap();
        for key in keys.fixed(OffsetDateTime::UNIX_EPOCH) {
            assert!(key.starts_with("wm:{analysis}:"), "{key}");
        }
        assert_eq!(keys.stats(OffsetDateTime::UNIX_EPOCH), "wm:{analysis}:stats:19700101");
        assert_eq!(keys.inbox(), "wm:{analysis}:inbox");
    }
}
