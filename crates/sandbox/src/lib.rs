//! The sandbox: runs each job in a child process that is isolated from the worker, the host and other jobs.
//!
//! ```text
//! worker (tokio) -- posix_spawn --> fork server, one per slot -- fork, one per job --> job
//!        \______ control: SEQPACKET, every message with its job id _/             /
//!         \_____________________ data: a separate STREAM for each job ___________/
//! ```
//!
//! The crate is independent of web pages: bytes go in, bytes come out, and every outcome is one of a
//! closed set of failure kinds. The work itself is passed in as a function. How to react to a failure
//! is decided by the caller.
//!
//! Invariants:
//! - the worker never forks, and no child process outlives it;
//! - a reply counts only if it is complete and the fork server saw the job exit successfully;
//! - a job leaves no state behind in its slot.
//!
//! # Why
//! Each job is a fresh fork of a small, exec'd, single-threaded fork server. Measured with every isolation
//! layer in force, a trivial job takes 190 us, against 660 us for an exec per job and 16 us for a long-lived
//! child. A long-lived child keeps the effects of a hostile document (1 GiB of resident memory, charged to
//! the next job), has one CPU limit for all of its jobs, and needs logic to replace it. Fork and exec per job
//! differ by less than the jitter of a fetch, but a child exec'd from a large worker reports that worker's
//! peak memory as its own. Inside the worker no limit could be enforced: a failed allocation or a stack
//! overflow aborts the process, and a thread cannot be killed.

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
mod job_clock;
mod job_process;
mod kernel;
mod limits;
pub mod machine;
mod meter;
mod oom_kills;
mod page_tables;
mod pool;
mod protocol;
mod seccomp;
mod slot_permits;
mod stack_overflow;
mod status_block;

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use self::fork_server::fork_server_main;
pub use self::limits::Limits;
pub use self::meter::{HeapUse, Meter};
pub use self::pool::{Pool, PoolStats, Slot};
pub use self::protocol::ANSWER_MAX_BYTES;
pub use self::status_block::set_phase;
use wm_job::measured::ChildUsage;

/// First command-line argument that starts this program as a fork server; see [`fork_server_main`].
pub const FORK_SERVER_ARG: &str = "--internal-fork-server";

/// The work of a job: maps a request to what it produces. Runs in the child, within the job's limits.
pub type Work = fn(Task) -> Product;

/// What a fork server calls once before its first job: touches what every job touches, so that a job finds it done.
/// It sees nothing that came from outside, and leaves no thread, descriptor or secret behind, which all jobs would
/// inherit.
pub type WarmUp = fn();

/// What the work of a job produces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Product {
    /// What the caller parses, of at most [`ANSWER_MAX_BYTES`].
    pub answer: Vec<u8>,
    /// What the caller only passes on, of at most [`Limits::reply_bytes`].
    pub attachment: Vec<u8>,
}

impl From<Vec<u8>> for Product {
    fn from(answer: Vec<u8>) -> Self {
        Self { answer, attachment: Vec::new() }
    }
}

/// The `[sandbox]` section of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Number of concurrent jobs; 0 computes it from memory and CPUs at start.
    pub slots: u32,
    /// Wall-clock limit of a job, without the time in which it waited for a CPU.
    #[serde(with = "wm_job::duration")]
    pub wall: Duration,
    /// Heap budget of a job, including both bodies and the reply.
    pub heap: ByteSize,
    /// Stack limit of a job.
    pub stack: ByteSize,
    /// Largest whole result that is accepted from a job, compressed.
    pub reply: ByteSize,
    /// Largest body after its content encodings have been decoded.
    pub max_decoded: ByteSize,
    /// Highest wall-clock limit an operator's replay may grant.
    #[serde(with = "wm_job::duration")]
    pub max_wall: Duration,
    /// Highest heap budget an operator's replay may grant.
    pub max_heap: ByteSize,
    /// Isolation layers that must be in force for the worker to start.
    pub isolation: Isolation,
    /// How child processes are created.
    pub process: ProcessModel,
}

/// Smallest heap that a child needs to process any page.
const MIN_HEAP: ByteSize = ByteSize::mib(16);
/// Smallest stack that a parser needs at its maximum depth, with a margin.
const MIN_STACK: ByteSize = ByteSize::kib(256);

impl Config {
    /// Semantic errors in the configuration: the key, and a sentence about it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        // Below these values a child cannot even start: every job would fail and be blamed for it.
        let least = [("heap", self.heap, MIN_HEAP), ("stack", self.stack, MIN_STACK)];
        let small = least.into_iter().filter(|(_, value, least)| value < least);
        small.map(|(key, _, least)| (key, format!("is below the least, {least}"))).collect()
    }
}

/// Isolation layers that must be in force for a worker to start.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::EnumString,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Limits, seccomp and Landlock are required and proven by the self-test; otherwise
    /// the worker does not start.
    Strict,
    /// Limits and seccomp are required and proven; Landlock is used if the kernel supports it.
    BestEffort,
    /// Limits only: neither seccomp nor Landlock is attempted. A hostile page that takes over the parser can
    /// then use the network and read every world-readable file.
    Reduced,
}

impl Isolation {
    /// Name of the mode, as written in the configuration.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How child processes are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessModel {
    /// A fork server serves many jobs, each in a fresh fork.
    ForkServer,
    /// A fork server serves one job and is executed anew for the next: 3.5 times slower, but jobs
    /// share no state at all.
    ExecPerJob,
}

/// Input of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Options in a format defined by the work, opaque to the sandbox.
    pub options: Vec<u8>,
    /// First of the two bodies.
    pub a: Vec<u8>,
    /// Second of the two bodies.
    pub b: Vec<u8>,
}

/// Result of a successful job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What the work produced. It comes from a process that a hostile page may have taken over: the answer must be
    /// validated, and the attachment is only bytes.
    pub product: Product,
    /// Resources that the child used.
    pub measured: ChildUsage,
}

/// A request as it is passed to the work.
#[derive(Debug)]
pub struct Task {
    /// Options in a format defined by the work; see [`Request::options`].
    pub options: Vec<u8>,
    /// First of the two bodies; see [`Request::a`].
    pub a: Vec<u8>,
    /// Second of the two bodies; see [`Request::b`].
    pub b: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the default configuration.
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
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
    }
}
