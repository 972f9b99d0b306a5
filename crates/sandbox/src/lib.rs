//! The sandbox: a job's bytes are worked on in a child process that cannot hurt anybody.
//!
//! ```text
//! worker (tokio) -- posix_spawn --> fork-server, one per slot -- fork, one per job --> job
//!        \______ control: SEQPACKET, every message with its job ____/             /
//!         \_____________________ data: a STREAM of its own for each job _________/
//! ```
//!
//! It knows nothing of pages: bytes go in, bytes come out, and how it ended has one name out of a closed set. What the
//! work *is* is handed in as a function. Nothing in here decides what to do about a failure.
//!
//! Invariants:
//! - the worker never forks, and no child of it outlives it;
//! - a job's answer counts only if it is complete and its fork-server saw it end well;
//! - after any job the next one finds the slot as if it were the first.
//!
//! # Why
//! A fresh fork of a small, exec'd, single-threaded fork-server for each job. ChildUsage, with every isolation layer in force: 190 us for
//! a trivial job, against 660 us for an exec per job and 16 us for a long-lived child. The last one keeps what a
//! hostile document did to it (1 GiB of resident memory, billed to the next job), has one CPU limit for all its jobs,
//! and needs logic to be replaced; the first two differ by less than a fetch's jitter, but an exec'd child of a large
//! worker reports that worker's peak memory as its own. In the worker itself there is no limit at all: an allocation
//! that fails aborts it, a stack overflow too, and a thread cannot be killed.

mod cgroup;
mod classify;
mod exchange;
mod fork_server;
mod fork_server_handle;
mod harden;
pub mod heap;
#[cfg(feature = "test-hooks")]
pub mod hooks;
mod isolation_layers;
mod job_process;
mod kernel;
mod limits;
pub mod machine;
mod meter;
mod oom_kills;
mod pool;
mod protocol;
mod seccomp;
mod stack_overflow;
mod status_block;

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use self::fork_server::fork_server_main;
pub use self::limits::Limits;
pub use self::meter::{HeapUse, Meter};
pub use self::pool::{Pool, PoolStats, Slot};
pub use self::status_block::set_phase;
use wm_job::measured::ChildUsage;

/// The first argument that makes this program a fork-server; see [`fork_server_main`].
pub const FORK_SERVER_ARG: &str = "--internal-fork-server";

/// What a job does with its bytes: in the child, alone, within its limits.
pub type Work = fn(Task) -> Vec<u8>;

/// `[sandbox]` of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Jobs at a time; 0: computed from memory and CPUs at start.
    pub slots: u32,
    /// Wall clock of a job.
    #[serde(with = "wm_job::duration")]
    pub wall: Duration,
    /// Heap budget of a job.
    pub heap: ByteSize,
    /// Stack of a job.
    pub stack: ByteSize,
    /// Largest reply of a job.
    pub reply: ByteSize,
    /// Largest body after its content encodings were undone.
    pub max_decoded: ByteSize,
    /// How far an operator's replay may raise the wall clock.
    #[serde(with = "wm_job::duration")]
    pub max_wall: Duration,
    /// How far an operator's replay may raise the heap budget.
    pub max_heap: ByteSize,
    /// Which isolation layers must be in force.
    pub isolation: Isolation,
    /// How children come to be.
    pub process: ProcessModel,
}

/// Which isolation layers must be in force for a worker to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Limits, seccomp and Landlock, each proven; or no start.
    Strict,
    /// Limits and seccomp, proven; Landlock where the kernel has it.
    BestEffort,
    /// Limits only: neither seccomp nor Landlock is even tried. A hostile page that takes over the parser then has
    /// the network and what `nobody` may read.
    Reduced,
}

impl Isolation {
    /// The mode's name, as configured.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Strict, Self::BestEffort, Self::Reduced].into_iter().find(|mode| mode.as_str() == name)
    }
}

/// How children come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessModel {
    /// A fork-server serves job after job.
    ForkServer,
    /// A fork-server serves one job and is executed anew for the next: 3.5 times dearer, and nothing at all is shared.
    ExecPerJob,
}

/// Bytes for a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// What to do, in the work's own words.
    pub options: Vec<u8>,
    /// The first body.
    pub a: Vec<u8>,
    /// The second body.
    pub b: Vec<u8>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What the work returned. Made by a process that a hostile page may have taken over: to be checked by whoever
    /// reads it.
    pub body: Vec<u8>,
    /// What it took.
    pub measured: ChildUsage,
}

/// A request, as it reaches the work.
#[derive(Debug)]
pub struct Task {
    /// See [`Request::options`].
    pub options: Vec<u8>,
    /// See [`Request::a`].
    pub a: Vec<u8>,
    /// See [`Request::b`].
    pub b: Vec<u8>,
    /// When to settle for a coarse answer, so that there is one: 0.6 of the wall clock.
    pub soft_deadline: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default configuration's numbers.
    pub(super) fn config() -> Config {
        Config {
            slots: 2,
            wall: Duration::from_secs(10),
            heap: ByteSize::mib(256),
            stack: ByteSize::mib(8),
            reply: ByteSize::mib(16),
            max_decoded: ByteSize::mib(10),
            max_wall: Duration::from_secs(60),
            max_heap: ByteSize::gib(1),
            isolation: Isolation::BestEffort,
            process: ProcessModel::ForkServer,
        }
    }

    #[test]
    fn a_configuration_reads_back_as_it_was_written() {
        let text = toml::to_string(&config()).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config(), "{text}");
        assert!(toml::from_str::<Config>(&format!("{text}\nwal = \"1s\"")).is_err(), "unknown key");
        for mode in [Isolation::Strict, Isolation::BestEffort, Isolation::Reduced] {
            assert_eq!(Isolation::parse(mode.as_str()), Some(mode));
        }
    }
}
