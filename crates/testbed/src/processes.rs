//! What `/proc` says about processes: who descends from whom, who lives, what this process holds.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// What this process holds: compared before and after.
#[derive(Debug, PartialEq, Eq)]
pub struct ProcessResources {
    /// Open descriptors.
    pub descriptors: usize,
    /// Children and their children.
    pub descendants: BTreeSet<u32>,
}

impl ProcessResources {
    /// What this process holds now.
    ///
    /// # Panics
    /// Where `/proc` cannot be read.
    pub fn current() -> Self {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
        Self { descriptors, descendants: descendants(std::process::id()) }
    }

    /// True when this process now holds nothing that it did not hold then. (It may hold less: children of an
    /// earlier test, collected since.)
    ///
    /// # Panics
    /// Where `/proc` cannot be read.
    pub fn has_no_leak_now(&self) -> bool {
        let now = Self::current();
        now.descriptors <= self.descriptors && now.descendants.is_subset(&self.descendants)
    }
}

/// Children of a process and their children, zombies included.
///
/// # Panics
/// Where `/proc` cannot be read.
pub fn descendants(of: u32) -> BTreeSet<u32> {
    let families: Vec<(u32, u32)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent(pid)?)))
        .collect();
    let mut found = BTreeSet::from([of]);
    loop {
        let more: Vec<u32> = families
            .iter()
            .filter(|(pid, ppid)| found.contains(ppid) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            found.remove(&of);
            return found;
        }
        found.extend(more);
    }
}

/// The fields of `/proc/<pid>/stat` from the state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// True while the process lives; a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

/// CPU time of a process and of the children that it has waited for, in steps of the kernel's clock tick; nothing if
/// it is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Of the process itself.
    pub own: Duration,
    /// Of its children, and theirs.
    pub children: Duration,
}

/// The CPU time of a process so far.
pub fn cpu_time(pid: u32) -> CpuTime {
    let Some(fields) = stat(pid) else { return CpuTime::default() };
    // utime, stime, cutime and cstime are the fields 14 to 17, and the state is the third.
    let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    let time =
        |ticks: u64| Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
    CpuTime { own: time(ticks(14) + ticks(15)), children: time(ticks(16) + ticks(17)) }
}

/// This process's resident set in bytes.
///
/// # Panics
/// Where `/proc` cannot be read.
pub fn resident_bytes() -> u64 {
    resident_bytes_of(std::process::id()).unwrap()
}

/// A process's resident set in bytes, while it is there.
pub fn resident_bytes_of(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
