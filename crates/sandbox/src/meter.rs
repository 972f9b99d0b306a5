//! Memory use of a running job, as reported by the kernel.
//!
//! For display only: the budget is enforced exactly by `heap`.
//!
//! # Why
//! The value comes from the kernel (two short reads in `/proc`), not from the job: a hostile document that
//! takes over the job could forge a value in a shared page.

use parking_lot::Mutex;
use std::fs;
use std::sync::Arc;

use rustix::process::Pid;

/// Memory meter of a slot. Cheap to clone; readable while the slot is borrowed by its job.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Option<MeteredJob>>>);

#[derive(Debug, Clone, Copy)]
struct MeteredJob {
    fork_server: Pid,
    limit_bytes: u64,
}

/// Memory use of a job and its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapUse {
    /// Private resident memory in bytes; slightly more than the heap, as it includes the stack
    /// and memory inherited by fork.
    pub bytes: u64,
    /// Heap budget in bytes.
    pub limit_bytes: u64,
}

/// The job is metered until this guard is dropped.
#[derive(Debug)]
pub(super) struct MeterGuard(Meter);

impl Drop for MeterGuard {
    fn drop(&mut self) {
        *self.0.0.lock() = None;
    }
}

impl Meter {
    /// Starts metering the only child of this fork server, a job with this budget.
    pub(super) fn start(&self, fork_server: Pid, limit_bytes: u64) -> MeterGuard {
        *self.0.lock() = Some(MeteredJob { fork_server, limit_bytes });
        MeterGuard(self.clone())
    }

    /// Current memory use; `None` if no job is running or `/proc` is unreadable.
    pub fn read(&self) -> Option<HeapUse> {
        let MeteredJob { fork_server, limit_bytes } = (*self.0.lock())?;
        let fork_server = fork_server.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{fork_server}/task/{fork_server}/children")).ok()?;
        let job: u32 = children.split_whitespace().next()?.parse().ok()?;
        let pages = fs::read_to_string(format!("/proc/{job}/statm")).ok()?;
        let pages: Vec<u64> = pages.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        // statm starts with: total size, resident, and resident pages that are shared or file-backed.
        let [_, resident, shared, ..] = pages[..] else { return None };
        let bytes = resident.saturating_sub(shared) * rustix::param::page_size() as u64;
        Some(HeapUse { bytes, limit_bytes })
    }
}
