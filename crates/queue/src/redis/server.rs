//! Checks of the Redis server: version, eviction policy, persistence, clock, schema.

use std::collections::HashMap;

use serde::Serialize;
use time::OffsetDateTime;

use crate::Queue;
use crate::error::Error;
use crate::redis::keys;
use crate::redis::pool::Connection;
use crate::role::WorkerHandle;

/// Least memory of a waiting job in Redis: its hash, its lock and its place in `ready`. Measured by
/// `benches/queue` with two uuids as payload; inline versions add their length.
const JOB_BYTES: u64 = 1_200;

/// Properties of a server that decide whether a queue is safe on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// True when the append-only file is enabled.
    pub aof: bool,
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

    fn read(info: &str, clock_ahead_ms: i64) -> Self {
        let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
        let text = |name: &str| fields.get(name).map_or("", |value| value.trim()).to_owned();
        let valkey = text("valkey_version");
        Self {
            flavour: if valkey.is_empty() { "redis" } else { "valkey" }.to_owned(),
            version: if valkey.is_empty() { text("redis_version") } else { valkey },
            run_id: text("run_id"),
            role: text("role"),
            maxmemory_bytes: text("maxmemory").parse().unwrap_or(0),
            maxmemory_policy: text("maxmemory_policy"),
            aof: text("aof_enabled") == "1",
            clock_ahead_ms,
        }
    }
}

impl Queue {
    /// Least memory of the queue in bytes with backlog and dead letters at their ceilings; and the formula.
    pub fn weight_at_ceilings(&self) -> (u64, String) {
        let config = &self.inner.config;
        let bytes =
            config.backlog_max.saturating_mul(JOB_BYTES).saturating_add(config.dead_max_bytes.as_u64());
        let sum = format!(
            "queue.backlog_max {} x {JOB_BYTES} bytes + queue.dead_max_bytes {}",
            config.backlog_max, config.dead_max_bytes
        );
        (bytes, sum)
    }

    /// Reads the server's properties, and checks that this build supports the keys' schema. All other checks
    /// are in [`Server::fit_for_work`].
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
        Ok(Server::read(&info, seconds * 1000 + micros / 1000 - ours))
    }

    /// Checks the schema version, and writes it to a new key space; true when this call wrote it.
    pub(crate) async fn check_schema(&self, connection: &mut Connection<'_>) -> Result<bool, Error> {
        let (meta, schema) = (self.inner.keys.meta(), "schema");
        // Reads first: a full Redis refuses even a write that changes nothing.
        let found: Option<u64> = redis::cmd("HGET").arg(&meta).arg(schema).query_async(connection).await?;
        match found {
            Some(found) if found > keys::SCHEMA => Err(Error::NewerSchema { found, known: keys::SCHEMA }),
            Some(_) => Ok(false),
            None => Ok(redis::cmd("HSETNX")
                .arg(&meta)
                .arg(schema)
                .arg(keys::SCHEMA)
                .query_async(connection)
                .await?),
        }
    }
}

impl WorkerHandle {
    /// True when the queue's keys are gone, as after a restart of a Redis without persistence. Writes the
    /// schema version again, so that only one caller gets true.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn has_lost_queue(&self) -> Result<bool, Error> {
        let mut connection = self.connection().await?;
        self.check_schema(&mut connection).await
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
