//! How much memory a running job holds, as the kernel tells it to whoever asks.
//!
//! It is for people to look at, and decides nothing: the budget is kept by `heap`, exactly.
//!
//! # Why
//! The kernel is asked, two short reads in `/proc` for each look, and not the job: a page that job and worker share would
//! be written by whoever took the job over.

use parking_lot::{Mutex, MutexGuard};
use std::fs;
use std::sync::Arc;

use rustix::process::Pid;

/// A slot's meter. Cheap to clone; readable while the slot itself is lent to its job.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Option<MeteredJob>>>);

#[derive(Debug, Clone, Copy)]
struct MeteredJob {
    fork_server: Pid,
    limit_bytes: u64,
}

/// What a job holds of what it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapUse {
    /// Resident memory that is its own, a little more than its heap: its stack and what it was forked with.
    pub bytes: u64,
    /// The budget of its heap.
    pub limit_bytes: u64,
}

/// While it lives a job is metered.
#[derive(Debug)]
pub(super) struct MeterGuard(Meter);

impl Drop for MeterGuard {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, Option<MeteredJob>> {
        // Nothing that may panic happens while it is held.
        self.0.lock()
    }

    /// The only child of this fork-server is a job with this budget.
    pub(super) fn start(&self, fork_server: Pid, limit_bytes: u64) -> MeterGuard {
        *self.lock() = Some(MeteredJob { fork_server, limit_bytes });
        MeterGuard(self.clone())
    }

    /// What the job holds now; `None` where none runs, or the kernel does not say.
    pub fn read(&self) -> Option<HeapUse> {
        let MeteredJob { fork_server, limit_bytes } = (*self.lock())?;
        let fork_server = fork_server.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{fork_server}/task/{fork_server}/children")).ok()?;
        let job: u32 = children.split_whitespace().next()?.parse().ok()?;
        let pages = fs::read_to_string(format!("/proc/{job}/statm")).ok()?;
        let pages: Vec<u64> = pages.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        // Its size, what is resident of it, and what of that belongs to files or others.
        let [_, resident, shared, ..] = pages[..] else { return None };
        let bytes = resident.saturating_sub(shared) * rustix::param::page_size() as u64;
        Some(HeapUse { bytes, limit_bytes })
    }
}
