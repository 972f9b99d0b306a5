//! What this process may use: memory from the container's limit, CPUs from its quota.
//!
//! It reads and never decides; where nothing can be read the machine's own sizes stand.

use std::fs;
use std::num::NonZeroUsize;

/// Memory this process and its children may use together, in bytes, and where that number was read.
pub fn memory() -> (u64, &'static str) {
    let limits = [
        ("/sys/fs/cgroup/memory.max", "cgroup v2 memory.max"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "cgroup v1 memory.limit_in_bytes"),
    ];
    let total = total_memory();
    for (path, name) in limits {
        // "max" and v1's huge number both mean no limit.
        if let Some(limit) =
            read(path).and_then(|text| text.parse::<u64>().ok()).filter(|limit| *limit < total)
        {
            return (limit, name);
        }
    }
    (total, "physical memory")
}

/// CPUs this process may use, rounded up, at least one.
pub fn cpus() -> u32 {
    let host = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let host = u32::try_from(host).unwrap_or(u32::MAX);
    quota().map_or(host, |quota| quota.min(host)).max(1)
}

fn quota() -> Option<u32> {
    let text = read("/sys/fs/cgroup/cpu.max")?;
    let (quota, period) = text.split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    u32::try_from(quota.div_ceil(period.max(1))).ok()
}

fn total_memory() -> u64 {
    let kib = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?.to_owned();
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_some_memory_and_a_cpu() {
        assert!(memory().0 > 0 && cpus() > 0);
    }
}
