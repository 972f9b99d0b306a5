//! Reads files of the control groups above this process, in cgroup v1 and v2: limits, quotas, counters.
//!
//! It returns their text without interpreting it.
//!
//! # Why
//! A limit may be set on the process's own group, which a container sees at the root of the mount, or on any
//! ancestor, as for a systemd unit; the tightest one applies. In a container the path reported by the kernel
//! may not exist, and the root of the mount is the process's own group.

use std::fs;
use std::path::{Component, Path};

/// A cgroup setting, identified by its file name in each version.
#[derive(Debug)]
pub(super) struct CgroupFile {
    /// File name in cgroup v2.
    pub(super) v2: &'static str,
    /// Name of the controller in cgroup v1.
    pub(super) controller: &'static str,
    /// File name in cgroup v1.
    pub(super) v1: &'static str,
}

/// Content of one cgroup file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CgroupValue {
    /// File content without surrounding white space.
    pub(super) text: String,
    /// Either `cgroup v1` or `cgroup v2`.
    pub(super) generation: &'static str,
}

impl CgroupFile {
    /// Reads the file in the process's own group and in all of its ancestors, in this order. `root`
    /// is `/` except in tests.
    pub(super) fn read_all(&self, root: &Path) -> Vec<CgroupValue> {
        let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        own.lines().filter_map(|line| self.read_own_and_ancestors(root, line)).flatten().collect()
    }

    /// Reads the groups of one line of `/proc/self/cgroup`: `0::/path` in v2, `7:memory:/path` in v1.
    fn read_own_and_ancestors(&self, root: &Path, line: &str) -> Option<Vec<CgroupValue>> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, Path::new(parts.next()?));
        let (mount, file, generation) = match controllers {
            "" => ("", self.v2, "cgroup v2"),
            list if list.split(',').any(|name| name == self.controller) => {
                (self.controller, self.v1, "cgroup v1")
            }
            _ => return None,
        };
        let mount = root.join("sys/fs/cgroup").join(mount);
        // A path outside the mount (`/..`, as seen from inside a namespace) is unusable; fall back to the
        // root of the mount.
        let leads_out = path.components().any(|part| part == Component::ParentDir);
        let groups = if leads_out { Path::new("/") } else { path }.ancestors();
        let read = |group: &Path| {
            let text = fs::read_to_string(mount.join(group.strip_prefix("/").ok()?).join(file)).ok()?;
            Some(CgroupValue { text: text.trim().to_owned(), generation })
        };
        Some(groups.filter_map(read).collect())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const MEMORY_MAX: CgroupFile =
        CgroupFile { v2: "memory.max", controller: "memory", v1: "memory.limit_in_bytes" };

    /// Creates a directory that contains these files, as a substitute for `/`.
    pub(in super::super) fn fake_root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn texts(files: &[(&str, &str)]) -> Vec<String> {
        MEMORY_MAX.read_all(fake_root(files).path()).into_iter().map(|found| found.text).collect()
    }

    #[test]
    fn a_groups_own_word_comes_first_and_then_that_of_each_above_it() {
        let unit = [
            ("proc/self/cgroup", "0::/system.slice/wm.service\n"),
            ("sys/fs/cgroup/system.slice/wm.service/memory.max", "300\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
        ];
        assert_eq!(texts(&unit), ["300", "max"]);
        let v1 = [
            ("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/docker/a\n0::/\n"),
            ("sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", "1"),
            ("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "2"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3"),
        ];
        assert_eq!(texts(&v1), ["1", "2", "3"]);
    }

    #[test]
    fn in_a_container_the_mounts_root_is_its_own_group() {
        for path in ["/", "/kubepods/pod1/abc", "/../../abc"] {
            let line = format!("0::{path}\n");
            let container = [("proc/self/cgroup", line.as_str()), ("sys/fs/cgroup/memory.max", "7\n")];
            assert_eq!(texts(&container), ["7"], "{path}");
        }
        assert_eq!(texts(&[("proc/self/cgroup", "0::/../../..\n"), ("memory.max", "9")]), [""; 0]);
        assert_eq!(texts(&[]), [""; 0]);
    }
}
