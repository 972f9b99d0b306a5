//! The queue's own part of the configuration.
//!
//! Every key stands, with why this number, in `config/default.toml`; there are no defaults here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::intake::foreign_list::ForeignList;
use crate::redis::address::RedisAddress;

/// The queue that is meant where none is named: `queue.name` as it is built in.
pub const DEFAULT_NAME: &str = "analysis";

/// Where the queue is, and its limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `redis://`, `rediss://`, `redis+unix://` or `redis+sentinel://`.
    pub url: RedisAddress,
    /// The certificates, as a file of PEM, that may vouch for a `rediss://` server; empty for those of the
    /// machine.
    pub tls_ca: PathBuf,
    /// The queue.
    pub name: QueueName,
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
    /// Most bytes of results (reports and how jobs ended); at most 40 % of `maxmemory` whatever it says.
    pub reports_max_bytes: ByteSize,
    /// What happens when the results are at their cap.
    pub reports_when_full: ReportsWhenFull,
    /// How long it is remembered that a pair was analysed.
    #[serde(with = "wm_job::duration")]
    pub done_ttl: Duration,
    /// Most pairs that are remembered as analysed.
    pub done_max_count: u64,
    /// Most contents that are remembered because a worker vanished with them in a child.
    pub suspects_max_count: u64,
    /// Most waiting jobs (ready, scheduled, solo) before nothing more is admitted.
    pub backlog_max: u64,
    /// Most jobs in flight at a time, all workers together; 0 is any number.
    pub in_flight_max: u32,
    /// Most of them at one host; 0 is any number.
    pub host_in_flight_max: u32,
    /// Most of them at one host without a success in the last five minutes; 0 is any number.
    pub new_host_in_flight_max: u32,
    /// Failures in a row, of at least three jobs, after which a host rests; 0 is never.
    pub host_failures_max: u32,
    /// Its first rest; the next one is twice as long.
    #[serde(with = "wm_job::duration")]
    pub host_rest: Duration,
    /// Its longest rest.
    #[serde(with = "wm_job::duration")]
    pub host_rest_max: Duration,
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
    /// What a printed command repeats behind its other words, so that it finds the same Redis: the flags of the command that
    /// prints it. No key of the configuration.
    #[serde(skip)]
    pub command_flags: String,
}

impl Config {
    /// What is wrong although every value could be read: the key, and a sentence. Reads the file of `tls_ca`.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        found.extend(self.url.trusting(&self.tls_ca).err().map(|what| ("tls_ca", what)));
        if self.connections == 0 {
            found.push(("connections", "must be at least 1".to_owned()));
        }
        found
    }
}

/// What happens when the results are at their cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportsWhenFull {
    /// `evict` where annotations are posted to a db app, `wait` where Redis has the only copy.
    Auto,
    /// The oldest results are deleted.
    Evict,
    /// Nothing more is claimed until there is room.
    Wait,
}

/// The longest name of a queue.
const MAX_NAME_BYTES: usize = 63;

/// The name of a queue, `[a-z0-9][a-z0-9_-]{0,62}`: no name can reach into the keys of another queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueName(String);

impl QueueName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for QueueName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if name.len() > MAX_NAME_BYTES || !starts || !name.bytes().all(plain) {
            return Err(format!(
                "a queue's name is 1 to {MAX_NAME_BYTES} of a-z 0-9 _ -, the first a letter or a digit"
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for QueueName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<QueueName> for String {
    fn from(name: QueueName) -> Self {
        name.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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
        reports_max_bytes = "512 MiB"
        reports_when_full = "auto"
        done_ttl = "30days"
        done_max_count = 1_000_000
        suspects_max_count = 10_000
        backlog_max = 1_000_000
        in_flight_max = 0
        host_in_flight_max = 64
        new_host_in_flight_max = 16
        host_failures_max = 5
        host_rest = "10s"
        host_rest_max = "5m"
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

    #[test]
    fn no_name_of_a_queue_reaches_into_other_keys() {
        for name in ["analysis", "a", "0_x-9", &"a".repeat(63)] {
            assert_eq!(name.parse::<QueueName>().map(String::from).as_deref(), Ok(name));
        }
        for name in ["", "-a", "_a", "A", "a}:x", "a b", "a\n", "ä", "a:b", "*", &"a".repeat(64)] {
            assert!(name.parse::<QueueName>().is_err(), "{name}");
        }
    }

    #[test]
    fn certificates_for_an_address_without_tls_are_a_problem_of_tls_ca() {
        let with = |url: &str, ca: &str| Config { url: url.parse().unwrap(), tls_ca: ca.into(), ..config() };
        assert_eq!(with("redis://h", "").problems(), []);
        for (url, ca) in
            [("redis://h", "/ca.pem"), ("rediss://h", "/nowhere/ca.pem"), ("rediss://h", "/dev/null")]
        {
            let problems = with(url, ca).problems();
            assert_eq!(problems.iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["tls_ca"], "{problems:?}");
        }
    }
}
