//! A cgroup of our own with a limit on memory and CPU, where this machine lets us make one; and what processes
//! weigh.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// One period of the CPU's scheduler, in microseconds.
const PERIOD_US: u64 = 100_000;

/// The cgroup, empty again when it is dropped; or why there is none.
#[derive(Debug)]
pub struct LimitedCgroup {
    dirs: Vec<PathBuf>,
    homes: Vec<PathBuf>,
}

impl LimitedCgroup {
    /// A cgroup of so much CPU, and so many bytes if memory is limited too.
    ///
    /// # Errors
    /// Why this machine has none for us.
    pub fn make(bytes: Option<u64>, cpus: f64) -> Result<Self, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let quota = (cpus * PERIOD_US as f64) as u64;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let mut cgroup = Self { dirs: Vec::new(), homes: Vec::new() };
        let name = format!("wm-cgroup-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            let dir = cgroup.add("/sys/fs/cgroup", path_of(&own, ""), &name)?;
            bytes.map_or(Ok(()), |bytes| write(&dir, "memory.max", bytes))?;
            write(&dir, "cpu.max", format!("{quota} {PERIOD_US}"))?;
        } else {
            if let Some(bytes) = bytes {
                let dir = cgroup.add("/sys/fs/cgroup/memory", path_of(&own, "memory"), &name)?;
                write(&dir, "memory.limit_in_bytes", bytes)?;
            }
            let dir = cgroup.add("/sys/fs/cgroup/cpu", path_of(&own, "cpu"), &name)?;
            write(&dir, "cpu.cfs_quota_us", quota)?;
        }
        Ok(cgroup)
    }

    fn add(&mut self, root: &str, path: Option<&str>, name: &str) -> Result<PathBuf, String> {
        let home =
            Path::new(root).join(path.ok_or("this process is in no such cgroup")?.trim_start_matches('/'));
        let dir = home.join(name);
        fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        self.dirs.push(dir.clone());
        self.homes.push(home);
        Ok(dir)
    }

    /// Does this inside: what is spawned meanwhile stays inside.
    ///
    /// # Errors
    /// This process could not be moved in or out.
    pub fn inside<T>(&self, act: impl FnOnce() -> T) -> Result<T, String> {
        let pid = std::process::id();
        let entered = self.dirs.iter().try_for_each(|dir| write(dir, "cgroup.procs", pid));
        let acted = entered.map(|()| act());
        self.homes.iter().try_for_each(|home| write(home, "cgroup.procs", pid))?;
        acted
    }

    /// The most memory that was in use inside.
    pub fn peak_bytes(&self) -> Option<u64> {
        let names = ["memory.peak", "memory.max_usage_in_bytes"];
        let files = self.dirs.iter().flat_map(|dir| names.map(|name| dir.join(name)));
        files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).next()
    }
}

impl Drop for LimitedCgroup {
    fn drop(&mut self) {
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn path_of<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        controllers.split(',').any(|one| one == controller).then_some(path)
    })
}

fn write(dir: &Path, name: &str, value: impl ToString) -> Result<(), String> {
    let file = dir.join(name);
    fs::write(&file, value.to_string()).map_err(|e| format!("{}: {e}", file.display()))
}

/// What these processes weigh together: each page once, by halves where two share it.
pub fn pss_bytes(pids: &[u32]) -> u64 {
    let one = |pid: &u32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(pss.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    };
    pids.iter().filter_map(one).sum()
}
