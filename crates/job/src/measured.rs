//! What one child cost, and the limits that it ran under.

use serde::{Deserialize, Serialize};

/// Limits that were in force for one child.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveLimits {
    /// Wall clock in milliseconds.
    pub wall_ms: u64,
    /// CPU time in milliseconds.
    pub cpu_ms: u64,
    /// Heap budget in bytes.
    pub heap_bytes: u64,
    /// Address-space fence in bytes.
    pub address_space_limit_bytes: u64,
    /// Largest reply in bytes.
    pub reply_bytes: u64,
}

/// What was measured of one child.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildUsage {
    /// Wall clock in milliseconds.
    pub wall_ms: u64,
    /// CPU time, user and system, in milliseconds.
    pub cpu_ms: u64,
    /// Peak of the counted heap in bytes, as the child said.
    pub peak_heap_bytes: u64,
    /// Peak resident set in bytes, as the kernel said.
    pub max_rss_bytes: u64,
    /// Exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// Signal, if it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What it was doing, as it last said: `decompress`, `sniff`, `decode`, `text`, `links`, `diff`, `score`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The end of what it wrote to its standard error, if anything. May hold hostile text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// Limits in force.
    pub limits: EffectiveLimits,
    /// Isolation in force, by name: `seccomp`, `landlock`, `rlimits`, ...
    #[serde(default)]
    pub isolation: Vec<String>,
}
