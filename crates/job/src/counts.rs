//! What the queue counts for each job.

use serde::{Deserialize, Serialize};

/// How often this job was handed out and how that went; the judge's arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryCounts {
    /// Times it was claimed, this one included; graceful releases are taken back.
    pub deliveries: u32,
    /// Attempts that failed for the target's or the job's sake.
    pub failures: u32,
    /// Times a child's death left doubt whose fault it was, and it was run once more for that.
    #[serde(default)]
    pub ambiguous_exits: u32,
    /// Times its worker vanished.
    pub crashes: u32,
    /// Times it was put off for our sake, and that was counted.
    pub postponements: u32,
    /// The time that those postponements put it off, in milliseconds. What passed beside them is not in it.
    #[serde(default)]
    pub postponed_ms: u64,
    /// Times it was handed back gracefully.
    pub releases: u32,
    /// Times an operator put it back from the dead letters.
    pub replays: u32,
}
