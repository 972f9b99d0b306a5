//! Checks of the Redis server: version, eviction policy, persistence, clock, schema.

use std::collections::HashMap;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::Queue;
use crate::error::Error;
use crate::inspect::memory;
use crate::redis::keys;
use crate::redis::pool::Connection;
use crate::redis::scripts;
use crate::role::WorkerHandle;
use crate::settings::Setting;

/// Memory of a waiting job in Redis: its hash, its lock and its places in the indexes. Measured by `benches/queue`
/// with two versions given inline.
const JOB_BYTES: u64 = 1_800;
/// Memory of one mark in `done`, of one suspect, of one event.
const DONE_BYTES: u64 = 20;
const SUSPECT_BYTES: u64 = 400;
const EVENT_BYTES: u64 = 300;
/// Memory of what is bounded by constants: counters of a day, operators' actions.
const HISTORY_BYTES: u64 = 4 << 20;
/// Share of `maxmemory` above which it is worth a warning: intake has stopped.
const NEARLY_FULL: f64 = 0.8;
/// Share of `maxclients` above which it is worth a warning.
const CLIENTS_NEARLY_FULL: f64 = 0.9;

/// Whether Redis takes writes, as it answered to one that changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteHealth {
    /// It does.
    #[default]
    Ok,
    /// It is at `maxmemory`.
    Full,
    /// It refuses: the error, like `MISCONF ...`, `READONLY ...`, `NOREPLICAS ...`.
    Refused(String),
}

/// Properties of a server that decide whether a queue is safe on it, and its health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Server software: `redis` or `valkey`.
    pub flavour: String,
    /// Version of Redis or Valkey, like `7.2.4`.
    pub version: String,
    /// `run_id` of the server, which changes when it restarts.
    pub run_id: String,
    /// Replication role: `master` or `slave`.
    pub role: String,
    /// `maxmemory` in bytes; 0 is unlimited.
    pub maxmemory_bytes: u64,
    /// `maxmemory-policy`: must be `noeviction`.
    pub maxmemory_policy: String,
    /// Memory in use, without what `maxmemory` does not count.
    pub used_bytes: u64,
    /// True when the append-only file is enabled.
    pub aof: bool,
    /// Why the last attempt to persist failed: `rdb`, `aof`; empty where it did not.
    pub persistence_failed: Vec<String>,
    /// Connected clients, and the most that it takes.
    pub clients: u64,
    /// `maxclients`.
    pub clients_max: u64,
    /// Whether it takes writes, as far as that was tried.
    pub write: WriteHealth,
    /// Its clock minus the local clock, in milliseconds; all deadlines use its clock.
    pub clock_ahead_ms: i64,
}

impl Server {
    /// Checks whether a worker may use this server.
    ///
    /// # Errors
    /// [`Error::Evicts`] when Redis may evict keys, and so lose jobs.
    pub fn fit_for_work(&self) -> Result<(), Error> {
        match self.maxmemory_policy.as_str() {
            "noeviction" => Ok(()),
            policy => Err(Error::Evicts(policy.to_owned())),
        }
    }

    /// Memory in use as a share of `maxmemory`; 0 without one.
    pub fn memory_filled(&self) -> f64 {
        match self.maxmemory_bytes {
            0 => 0.0,
            max => self.used_bytes as f64 / max as f64,
        }
    }

    /// What is wrong with it, worst first: each a sentence that ends in what to do.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        match &self.write {
            WriteHealth::Ok => {}
            WriteHealth::Full => found.push(
                "Redis is at maxmemory and refuses writes: raise maxmemory, free results (results free), or discard dead letters"
                    .to_owned(),
            ),
            WriteHealth::Refused(error) => found.push(format!("Redis refuses writes: {error}")),
        }
        if self.maxmemory_policy != "noeviction" && !self.maxmemory_policy.is_empty() {
            let policy = &self.maxmemory_policy;
            found.push(format!("maxmemory-policy is {policy}, which loses jobs: set it to noeviction"));
        }
        if self.role == "slave" {
            found.push("this is a replica: jobs can only be taken from the master".to_owned());
        }
        for what in &self.persistence_failed {
            found.push(format!("the last write of its {what} file failed: see its log, and the disk"));
        }
        if self.write == WriteHealth::Ok && self.memory_filled() >= NEARLY_FULL {
            let percent = self.memory_filled() * 100.0;
            found.push(format!(
                "memory is at {percent:.0} % of maxmemory, and intake has stopped: free results, or raise it"
            ));
        }
        if self.clients as f64 >= self.clients_max as f64 * CLIENTS_NEARLY_FULL && self.clients_max > 0 {
            let Self { clients, clients_max, .. } = self;
            found.push(format!("{clients} of {clients_max} clients are connected (maxclients)"));
        }
        found
    }

    pub(crate) fn read(info: &str, clock_ahead_ms: i64) -> Self {
        let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
        let text = |name: &str| fields.get(name).map_or("", |value| value.trim()).to_owned();
        let number = |name: &str| text(name).parse::<u64>().unwrap_or(0);
        let valkey = text("valkey_version");
        let failed = [
            ("rdb", "rdb_last_bgsave_status"),
            ("aof", "aof_last_write_status"),
            ("aof", "aof_last_bgrewrite_status"),
        ];
        let mut persistence_failed: Vec<String> = failed
            .into_iter()
            .filter(|(_, field)| text(field) == "err")
            .map(|(what, _)| what.to_owned())
            .collect();
        persistence_failed.dedup();
        Self {
            flavour: if valkey.is_empty() { "redis" } else { "valkey" }.to_owned(),
            version: if valkey.is_empty() { text("redis_version") } else { valkey },
            run_id: text("run_id"),
            role: text("role"),
            maxmemory_bytes: number("maxmemory"),
            used_bytes: number("used_memory").saturating_sub(number("mem_not_counted_for_evict")),
            persistence_failed,
            clients: number("connected_clients"),
            clients_max: number("maxclients"),
            write: WriteHealth::Ok,
            maxmemory_policy: text("maxmemory_policy"),
            aof: text("aof_enabled") == "1",
            clock_ahead_ms,
        }
    }
}

impl Queue {
    /// Memory of the queue in bytes with everything at its cap, by the settings in force; and the sum. `max` is
    /// `maxmemory`, 0 where there is none: results take at most 40 % of it, dead letters 15 %.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn weight_at_ceilings(&self, max: u64) -> Result<(u64, String), Error> {
        let [backlog, done, suspects, events, reports, dead] = self
            .stored_numbers([
                Setting::BacklogMax,
                Setting::DoneMaxCount,
                Setting::SuspectsMaxCount,
                Setting::EventsMax,
                Setting::ReportsMaxBytes,
                Setting::DeadMaxBytes,
            ])
            .await?;
        let reports = memory::cap(reports, max, memory::REPORTS_SHARE);
        let dead = memory::cap(dead, max, memory::DEAD_SHARE);
        let counts = [
            (backlog, JOB_BYTES, Setting::BacklogMax),
            (done, DONE_BYTES, Setting::DoneMaxCount),
            (suspects, SUSPECT_BYTES, Setting::SuspectsMaxCount),
            (events, EVENT_BYTES, Setting::EventsMax),
        ];
        let each = counts.iter().map(|(count, bytes, _)| count.saturating_mul(*bytes));
        let total = each.fold(reports + dead + HISTORY_BYTES, u64::saturating_add);
        let term = |(count, bytes, setting): &(u64, u64, Setting)| {
            format!("queue.{} {count} x {bytes} B", setting.as_str())
        };
        let sum = format!(
            "{} + results {} + dead letters {} + history {}",
            counts.iter().map(term).collect::<Vec<_>>().join(" + "),
            ByteSize::b(reports),
            ByteSize::b(dead),
            ByteSize::b(HISTORY_BYTES)
        );
        Ok((total, sum))
    }

    /// Keys of this queue that have another type than they should, each with what to do: nothing reads such a key.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn wrong_types(&self) -> Result<Vec<String>, Error> {
        let keys: Vec<_> = self.inner.keys.fixed().into_iter().chain(self.inner.keys.others()).collect();
        let mut pipe = redis::pipe();
        for (key, _) in &keys {
            pipe.cmd("TYPE").arg(key);
        }
        let types: Vec<String> = self.ask(&pipe).await?;
        let wrong = keys.into_iter().zip(types).filter_map(|((key, wanted), found)| {
            let wanted: &str = wanted.into();
            (found != "none" && found != wanted).then(|| {
                format!(
                    "key {key} is a {found} and should be a {wanted}: see who wrote it, then RENAME or DEL it"
                )
            })
        });
        Ok(wrong.collect())
    }

    /// Whether Redis takes writes: asks for one that changes nothing.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn write_health(&self) -> Result<WriteHealth, Error> {
        let mut connection = self.connection().await?;
        let seq = self.inner.keys.seq();
        let tried: Result<u64, _> =
            redis::cmd("SETRANGE").arg(seq).arg(0).arg("").query_async(&mut connection).await;
        match tried {
            Ok(_) => Ok(WriteHealth::Ok),
            Err(error) => match error.code() {
                Some("OOM") => Ok(WriteHealth::Full),
                Some("WRONGTYPE" | "NOPERM") => Ok(WriteHealth::Ok),
                Some(_) => Ok(WriteHealth::Refused(error.to_string())),
                None => Err(error.into()),
            },
        }
    }

    /// Reads the server's properties, tries a write, and checks that this build supports the keys' schema. All other
    /// checks are in [`Server::fit_for_work`].
    ///
    /// # Errors
    /// Those of Redis, and [`Error::NewerSchema`].
    pub async fn preflight(&self) -> Result<Server, Error> {
        let mut connection = self.connection().await?;
        let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
        let before = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let after = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        let ours = i64::try_from(i128::midpoint(before, after)).unwrap_or(0);
        drop(connection);
        let server = Server::read(&info, seconds * 1000 + micros / 1000 - ours);
        Ok(Server { write: self.write_health().await?, ..server })
    }

    /// Checks the schema version; None where none is stored.
    pub(crate) async fn check_schema(&self, connection: &mut Connection<'_>) -> Result<Option<u64>, Error> {
        let meta = self.inner.keys.meta();
        let found: Option<u64> = redis::cmd("HGET").arg(&meta).arg("schema").query_async(connection).await?;
        match found {
            Some(found) if found > keys::SCHEMA => Err(Error::NewerSchema { found, known: keys::SCHEMA }),
            found => Ok(found),
        }
    }
}

impl WorkerHandle {
    /// True when the queue's keys are gone, as after a restart of a Redis without persistence, or were never there.
    /// Writes the schema version, so that only one caller gets true.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn has_lost_queue(&self) -> Result<bool, Error> {
        let mut connection = self.connection().await?;
        let found = self.check_schema(&mut connection).await?;
        if found == Some(keys::SCHEMA) {
            return Ok(false);
        }
        drop(connection);
        Ok(self.call(&scripts::SCHEMA).arg(keys::SCHEMA).reply().await?.text()? == "1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_evicts_is_not_fit_for_work() {
        let info = |policy: &str| {
            format!(
                "# Server\r\nredis_version:7.0.15\r\nrun_id:ab\r\nmaxmemory_policy:{policy}\r\naof_enabled:1\r\n"
            )
        };
        let server = Server::read(&info("noeviction"), 3);
        assert_eq!((server.flavour.as_str(), server.version.as_str()), ("redis", "7.0.15"));
        assert!(server.aof && server.fit_for_work().is_ok());
        for policy in ["allkeys-lru", "volatile-ttl", ""] {
            assert!(Server::read(&info(policy), 0).fit_for_work().is_err(), "{policy}");
        }
    }

    #[test]
    fn a_valkey_says_its_own_version() {
        let info = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n";
        let server = Server::read(info, 0);
        assert_eq!((server.flavour.as_str(), server.version.as_str()), ("valkey", "9.1.2"));
    }
}
