//! What `/proc` says about processes: who descends from whom, who lives, what this process holds.

use std::collections::BTreeSet;
use std::fs;

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

/// This process's resident set in bytes.
///
/// # Panics
/// Where `/proc` cannot be read.
pub fn resident_bytes() -> u64 {
    let pages: u64 =
        fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}
