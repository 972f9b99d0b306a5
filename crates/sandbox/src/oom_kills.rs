//! Detects kills by the kernel's OOM killer, as evidence for a SIGKILL that the fork server did not send.
//!
//! It reads the counter of the memory cgroup, which does not identify the killed process.

use parking_lot::Mutex;
use std::path::Path;

use super::cgroup::CgroupFile;

const EVENTS: CgroupFile = CgroupFile { v2: "memory.events", controller: "memory", v1: "memory.oom_control" };

/// Last value read from the OOM kill counter; `None` if it is unreadable.
#[derive(Debug)]
pub(super) struct OomKillCounter(Mutex<Option<u64>>);

impl OomKillCounter {
    /// Reads the initial value.
    pub(super) fn new() -> Self {
        Self(Mutex::new(read_kill_count()))
    }

    /// Reads the counter again and describes its change, as a clause for the detail of a
    /// child that was just killed.
    pub(super) fn describe_new_kills(&self) -> &'static str {
        let mut last = self.0.lock();
        let before = std::mem::replace(&mut *last, read_kill_count());
        kills_text(before, *last)
    }
}

fn kills_text(before: Option<u64>, now: Option<u64>) -> &'static str {
    match (before, now) {
        (Some(before), Some(now)) if now > before => {
            "; it has counted a kill here, so the container's memory is too small for its slots"
        }
        (Some(_), Some(_)) => "; but it has counted no kill in this container",
        (None, _) | (_, None) => "",
    }
}

/// OOM kills counted so far in this process's memory cgroup; `None` if unreadable.
fn read_kill_count() -> Option<u64> {
    EVENTS.read_all(Path::new("/")).iter().find_map(|found| parse_kill_count(&found.text))
}

/// Parses the line `oom_kill 3`, which both cgroup versions use.
fn parse_kill_count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|number| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_read_in_both_generations() {
        assert_eq!(parse_kill_count("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"), Some(3));
        assert_eq!(parse_kill_count("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"), Some(4));
        assert_eq!(parse_kill_count("oom 2\n"), None);
    }

    #[test]
    fn a_kill_is_only_blamed_on_the_oom_killer_when_it_counted_one() {
        assert!(kills_text(Some(1), Some(2)).contains("too small"));
        assert!(kills_text(Some(2), Some(2)).contains("no kill"));
        assert_eq!(kills_text(None, Some(2)), "");
        assert_eq!(kills_text(Some(2), None), "");
    }
}
