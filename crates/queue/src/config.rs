//! The queue's own part of the configuration.
//!
//! Every key stands, with why this number, in `config/default.toml`; there are no defaults here.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use crate::intake::foreign_list::ForeignList;
use crate::redis::address::redacted;

/// The queue that is meant where none is named: `queue.name` as it is built in.
pub const DEFAULT_NAME: &str = "analysis";

/// Where the queue is, and its limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `redis://`, `rediss://`, `redis+unix://` or `redis+sentinel://`; may hold a password, so it is never shown whole.
    #[serde(serialize_with = "without_password")]
    pub url: SecretString,
    /// The certificates, as a file of PEM, that may vouch for a `rediss://` server; empty for those of the machine.
    pub tls_ca: PathBuf,
    /// The queue: `[a-z0-9][a-z0-9_-]{0,62}`.
    pub name: String,
    /// Lists of another job system that are emptied into the inbox.
    pub adopt: Vec<ForeignList>,
    /// Adopt also while a worker of that system is alive on the list.
    pub adopt_beside_others: bool,
    /// Most connections that commands share.
    pub connections: usize,
    /// Longest wait for a connection.
    #[serde(with = "wm_job::duration")]
    pub connect_timeout: Duration,
    /// Longest wait for an answer to a command.
    #[serde(with = "wm_job::duration")]
    pub response_timeout: Duration,
    /// How long a delivery is ours without a heartbeat.
    #[serde(with = "wm_job::duration")]
    pub lease: Duration,
    /// How long a worker's entry outlives its last heartbeat.
    #[serde(with = "wm_job::duration")]
    pub worker_ttl: Duration,
    /// How long a report is kept.
    #[serde(with = "wm_job::duration")]
    pub report_ttl: Duration,
    /// How long it is remembered that a pair was analysed.
    #[serde(with = "wm_job::duration")]
    pub done_ttl: Duration,
    /// Most waiting jobs (ready, scheduled, solo) before nothing more is admitted.
    pub backlog_max: u64,
    /// Most jobs in workers' in_flight at a time, all workers together; 0 is any number.
    pub in_flight_max: u32,
    /// Most of them at one host; 0 is any number.
    pub host_in_flight_max: u32,
    /// Crashes that bury a job.
    pub crashes_max: u32,
    /// Releases after which a job runs alone.
    pub releases_exclusive: u32,
    /// Most dead letters.
    pub dead_max_count: u64,
    /// Greatest age of a dead letter.
    #[serde(with = "wm_job::duration")]
    pub dead_max_age: Duration,
    /// Most bytes of payloads and evidence in dead letters.
    pub dead_max_bytes: ByteSize,
    /// Most events kept in the stream, roughly.
    pub events_max: u64,
}

/// Writes an address as people may see it.
fn without_password<S: Serializer>(url: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redacted(url.expose_secret()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SECTION: &str = r#"
        url = "redis://127.0.0.1:6379/0"
        tls_ca = ""
        name = "analysis"
        adopt = ["sidekiq:queue:analysis"]
        adopt_beside_others = false
        connections = 8
        connect_timeout = "2s"
        response_timeout = "5s"
        lease = "90s"
        worker_ttl = "60s"
        report_ttl = "30days"
        done_ttl = "30days"
        backlog_max = 1_000_000
        in_flight_max = 0
        host_in_flight_max = 64
        crashes_max = 2
        releases_exclusive = 20
        dead_max_count = 100_000
        dead_max_age = "90days"
        dead_max_bytes = "256 MiB"
        events_max = 10_000
    "#;

    /// A section that is good, for tests of what stands in it.
    pub(crate) fn config() -> Config {
        toml::from_str(SECTION).unwrap()
    }

    #[test]
    fn the_section_reads_as_it_is_written_and_knows_no_other_keys() {
        let config = config();
        assert_eq!(config.report_ttl, Duration::from_secs(30 * 86_400));
        assert_eq!(config.dead_max_bytes, ByteSize::mib(256));
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&written).unwrap().lease, config.lease);
        assert!(toml::from_str::<Config>(&format!("{SECTION}\nleese = \"1s\"")).is_err());
    }
}
