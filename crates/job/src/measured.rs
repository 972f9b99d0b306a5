//! Resource usage of one child, and its effective limits.

use serde::{Deserialize, Serialize};

/// The limits that applied to one child.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveLimits {
    /// Wall-clock limit in milliseconds.
    pub wall_ms: u64,
    /// CPU-time limit in milliseconds.
    pub cpu_ms: u64,
    /// Heap limit in bytes.
    pub heap_bytes: u64,
    /// Address-space limit in bytes.
    pub address_space_limit_bytes: u64,
    /// Limit on the reply in bytes.
    pub reply_bytes: u64,
}

/// Resource usage of one child.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildUsage {
    /// Wall-clock time in milliseconds.
    pub wall_ms: u64,
    /// CPU time, user and system, in milliseconds.
    pub cpu_ms: u64,
    /// Time in which it got no CPU or had no request yet, in milliseconds; absent if the kernel does not count it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_ms: Option<u64>,
    /// Peak of the counted heap in bytes, as reported by the child.
    pub peak_heap_bytes: u64,
    /// Peak resident set size in bytes, as reported by the kernel; absent in a stored report.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_rss_bytes: u64,
    /// Exit code, if it exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// Signal number, if a signal killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Last phase it reported: `decompress`, `sniff`, `decode`, `text`, `links`, `diff`, `score`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The end of its standard error, if it wrote any. May hold hostile text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// The limits that applied; absent in a stored report, where none was exceeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<EffectiveLimits>,
    /// Active isolation layers, by name: `seccomp`, `landlock`, `rlimits`, ...; likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolation: Vec<String>,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl ChildUsage {
    /// What a report keeps of it: what was used. A failure's evidence has the limits and the isolation, too.
    #[must_use]
    pub fn brief(&self) -> Self {
        let Self { wall_ms, cpu_ms, peak_heap_bytes, .. } = *self;
        Self { wall_ms, cpu_ms, peak_heap_bytes, ..Self::default() }
    }
}
