//! Resources available to this process: memory from the container's limit, CPUs from its quota; and how much the
//! container waits for them.
//!
//! If no limit can be read, the sizes of the machine apply.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use super::cgroup::CgroupFile;

const MEMORY: CgroupFile = CgroupFile { v2: "memory.max", controller: "memory", v1: "memory.limit_in_bytes" };
const CPU: CgroupFile = CgroupFile { v2: "cpu.max", controller: "cpu", v1: "cpu.cfs_quota_us" };
const CPU_PERIOD: CgroupFile = CgroupFile { v1: "cpu.cfs_period_us", ..CPU };
// Not in v1.
const CPU_PRESSURE: CgroupFile = CgroupFile { v2: "cpu.pressure", controller: "cpu", v1: "cpu.pressure" };
const MEMORY_PRESSURE: CgroupFile =
    CgroupFile { v2: "memory.pressure", controller: "memory", v1: "memory.pressure" };

/// Share of the last ten seconds, in percent, in which a process of the container waited (`some avg10` of cgroup
/// v2); `None` where the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// For a CPU.
    pub cpu: Option<f64>,
    /// For memory.
    pub memory: Option<f64>,
}

/// Memory in bytes that this process and its children may use together, and the source of that number.
pub fn memory() -> (u64, &'static str) {
    memory_of(Path::new("/"))
}

/// Number of CPUs this process may use, at least one: the smaller of the container's quota, rounded up, and
/// the value reported by std, which rounds a cgroup quota down.
pub fn cpus() -> u32 {
    let host = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let host = u32::try_from(host).unwrap_or(u32::MAX);
    quota(Path::new("/")).map_or(host, |quota| quota.min(host)).max(1)
}

/// Pressure on the container now.
pub fn pressure() -> Pressure {
    pressure_of(Path::new("/"))
}

/// The tightest limit of all groups above this process. `max` in v2 and the huge default of
/// v1 both mean no limit.
fn memory_of(root: &Path) -> (u64, &'static str) {
    let limits = MEMORY.read_all(root).into_iter().filter_map(|found| {
        let name = if found.generation == "cgroup v2" {
            "cgroup v2 memory.max"
        } else {
            "cgroup v1 memory.limit_in_bytes"
        };
        Some((found.text.parse::<u64>().ok()?, name))
    });
    limits.chain([(total_memory(root), "physical memory")]).min_by_key(|(bytes, _)| *bytes).unwrap_or((0, ""))
}

/// CPU quota, rounded up. v2 has quota and period in one file, v1 in two.
fn quota(root: &Path) -> Option<u32> {
    let periods = CPU_PERIOD.read_all(root);
    let quotas = CPU.read_all(root).into_iter().zip(periods).filter_map(|(quota, period)| {
        let (quota, period) = quota.text.split_once(' ').unwrap_or((&quota.text, &period.text));
        let period: u64 = period.parse().ok()?;
        u32::try_from(quota.parse::<u64>().ok()?.div_ceil(period.max(1))).ok()
    });
    quotas.min()
}

/// Pressure on the process's own group, or the nearest above it of which the kernel says it: those higher up are
/// others', too.
fn pressure_of(root: &Path) -> Pressure {
    let some_avg10 = |file: CgroupFile| {
        let own = file.read_all(root).into_iter().next()?;
        let some = own.text.lines().find_map(|line| line.strip_prefix("some "))?;
        some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
    };
    Pressure { cpu: some_avg10(CPU_PRESSURE), memory: some_avg10(MEMORY_PRESSURE) }
}

fn total_memory(root: &Path) -> u64 {
    let kib = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?.to_owned();
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::tests::fake_root;
    use super::*;

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\n");

    #[test]
    fn there_is_always_some_memory_and_a_cpu() {
        assert!(memory().0 > 0 && cpus() > 0);
    }

    #[test]
    fn the_tightest_limit_above_us_is_our_memory() {
        let (own, parent) = ("sys/fs/cgroup/a/b/memory.max", "sys/fs/cgroup/a/memory.max");
        let v1 = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        let (in_v2, in_v1) = (("proc/self/cgroup", "0::/a/b\n"), ("proc/self/cgroup", "4:memory:/x\n0::/\n"));
        for (files, expected) in [
            (vec![MEMINFO], (1_024_000, "physical memory")),
            (vec![MEMINFO, in_v2, (own, "max\n")], (1_024_000, "physical memory")),
            (vec![MEMINFO, in_v2, (own, "5000\n")], (5000, "cgroup v2 memory.max")),
            (vec![MEMINFO, in_v2, (own, "5000\n"), (parent, "4000\n")], (4000, "cgroup v2 memory.max")),
            (vec![MEMINFO, in_v2, (own, "99999999999\n")], (1_024_000, "physical memory")),
            (vec![MEMINFO, in_v1, (v1, "6000\n")], (6000, "cgroup v1 memory.limit_in_bytes")),
            (vec![MEMINFO, in_v1, (v1, "9223372036854771712\n")], (1_024_000, "physical memory")),
            (vec![in_v1, (v1, "nonsense\n")], (u64::MAX, "physical memory")),
        ] {
            assert_eq!(memory_of(fake_root(&files).path()), expected, "{files:?}");
        }
    }

    #[test]
    fn pressure_is_that_of_our_own_group_where_the_kernel_says_it() {
        let of = |percent: &str| {
            format!(
                "some avg10={percent} avg60=1.00 avg300=2.00 total=9\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=9\n"
            )
        };
        let (own, parent) = (of("12.34"), of("56.78"));
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        let cpu = [
            ("sys/fs/cgroup/a/b/cpu.pressure", own.as_str()),
            ("sys/fs/cgroup/a/cpu.pressure", parent.as_str()),
        ];
        let broken = ("sys/fs/cgroup/a/b/memory.pressure", "some avg10=much\n");
        for (files, expected) in [
            (vec![], None),
            (vec![v2], None),
            (vec![v2, cpu[0], cpu[1]], Some(12.34)),
            (vec![v2, cpu[0], broken], Some(12.34)),
            (vec![("proc/self/cgroup", "3:cpu,cpuacct:/\n")], None),
        ] {
            let pressure = pressure_of(fake_root(&files).path());
            assert_eq!(pressure, Pressure { cpu: expected, memory: None }, "{files:?}");
        }
        let memory = ("sys/fs/cgroup/memory.pressure", own.as_str());
        let pressure = pressure_of(fake_root(&[("proc/self/cgroup", "0::/\n"), memory]).path());
        assert_eq!(pressure, Pressure { cpu: None, memory: Some(12.34) });
    }

    #[test]
    fn a_quota_is_rounded_up_to_whole_cpus() {
        let (v2, v1) = (("proc/self/cgroup", "0::/\n"), ("proc/self/cgroup", "3:cpu,cpuacct:/\n"));
        let (max, quota, period) = (
            "sys/fs/cgroup/cpu.max",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us",
        );
        for (files, expected) in [
            (vec![], None),
            (vec![v2, (max, "max 100000\n")], None),
            (vec![v2, (max, "150000 100000\n")], Some(2)),
            (vec![v1, (quota, "-1\n"), (period, "100000\n")], None),
            (vec![v1, (quota, "300000\n"), (period, "100000\n")], Some(3)),
        ] {
            assert_eq!(super::quota(fake_root(&files).path()), expected, "{files:?}");
        }
    }
}
