//! The counters that the queue keeps for each job.

use serde::{Deserialize, Serialize};

/// Deliveries of a job and how they ended; input to the judge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryCounts {
    /// Times claimed, including this delivery; a graceful release is subtracted again.
    pub deliveries: u32,
    /// Failed attempts, blamed on the target or the job.
    pub failures: u32,
    /// Times a child died of an unclear cause and the job was run once more because of it.
    #[serde(default)]
    pub ambiguous_exits: u32,
    /// Times the worker disappeared with the job in a child.
    pub crashes: u32,
    /// Times the worker disappeared with the job in flight but not in a child, since it last entered one.
    #[serde(default)]
    pub fetch_crashes: u32,
    /// Postponements counted against the job: infrastructure failures while no breaker was open.
    pub postponements: u32,
    /// Total delay of those postponements in milliseconds; time spent otherwise is not included.
    #[serde(default)]
    pub postponed_ms: u64,
    /// Graceful releases, e.g. at shutdown.
    pub releases: u32,
    /// Times an operator replayed it from the dead letters.
    pub replays: u32,
}
