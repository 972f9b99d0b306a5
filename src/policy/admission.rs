//! How many jobs fit at once: computes the slots from memory and CPUs, or checks the configured number.
//!
//! Required: `worker + fetch + results + slots * (address_space_limit + buffers) <= memory`. Otherwise the worker refuses
//! to start and shows the arithmetic. Open files are counted likewise.
//!
//! # Why
//! With `memory.oom.group=1`, the Kubernetes default, the kernel kills the whole pod when one child exceeds
//! the container's limit. So no child may be able to reach that limit.

use std::num::NonZeroU32;

use bytesize::ByteSize;

/// Memory of the worker itself without what it fetches: runtime, clients, Redis, metrics (20-40 MiB resident
/// measured, doubled).
pub(crate) const WORKER_BYTES: u64 = 80 << 20;

/// Open files of the worker besides connections of fetches and slots: Redis, the db app, Sentry, the runtime's
/// own, and as many as probes may hold open; rounded up.
const WORKER_FILES: u64 = 256;

/// Open files of the worker for one slot, rounded up: sockets, pipes and pidfds of its fork server and child.
const SLOT_FILES: u64 = 16;

/// The terms of the memory sum, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MemoryBudget {
    /// Memory available to this process and its children together.
    pub memory: u64,
    /// Most memory that fetching takes: bodies that have arrived or wait for a slot, and connections.
    pub fetch: u64,
    /// Most memory of whole results that are being written to the results store; 0 without one.
    pub results: u64,
    /// Address-space limit of one child.
    pub address_space_limit: u64,
    /// Buffers in the worker for one running job: both bodies and the reply.
    pub buffers: u64,
}

impl MemoryBudget {
    fn per_slot(&self) -> u64 {
        self.address_space_limit.saturating_add(self.buffers).max(1)
    }

    /// Memory needed without any slot.
    fn fixed(&self) -> u64 {
        WORKER_BYTES.saturating_add(self.fetch).saturating_add(self.results)
    }

    /// Memory needed for `slots` concurrent jobs, the worker included.
    pub fn needed(&self, slots: u32) -> u64 {
        self.fixed().saturating_add(self.per_slot().saturating_mul(u64::from(slots)))
    }

    /// Upper bound on the address spaces of all children together, after the worker, fetching and the buffers of
    /// `slots` jobs.
    pub(crate) fn children_limit_bytes(&self, slots: u32) -> u64 {
        let buffers = self.buffers.saturating_mul(u64::from(slots));
        self.memory.saturating_sub(self.fixed().saturating_add(buffers))
    }

    /// The sum as text: `80.0 MiB worker + 94.0 MiB fetch + 2 x (384.0 MiB address space + 24.8 MiB buffers) =
    /// 991.5 MiB of 1.0 GiB`.
    pub(crate) fn arithmetic(&self, slots: u32) -> String {
        let size = ByteSize::b;
        let results = match self.results {
            0 => String::new(),
            results => format!(" + {} results", size(results)),
        };
        format!(
            "{} worker + {} fetch{results} + {slots} x ({} address space + {} buffers) = {} of {}",
            size(WORKER_BYTES),
            size(self.fetch),
            size(self.address_space_limit),
            size(self.buffers),
            size(self.needed(slots)),
            size(self.memory)
        )
    }
}

/// The number of slots: as configured if that fits, else as many as fit, at most one per CPU.
///
/// # Errors
/// The arithmetic and the fix, if the sum exceeds the memory.
pub(crate) fn slot_count(asked: Option<NonZeroU32>, cpus: u32, sizes: &MemoryBudget) -> Result<u32, String> {
    let slots = match asked {
        Some(asked) => asked.get(),
        None => {
            let fit = sizes.memory.saturating_sub(sizes.fixed()) / sizes.per_slot();
            u32::try_from(fit).unwrap_or(u32::MAX).min(cpus).max(1)
        }
    };
    if sizes.needed(slots) <= sizes.memory {
        return Ok(slots);
    }
    Err(format!(
        "the slots do not fit this machine's memory: {}; lower sandbox.slots or sandbox.heap, or fetch.memory, or raise the memory limit",
        sizes.arithmetic(slots)
    ))
}

/// Open files that this process needs: fetching's connections, its slots', and its own.
pub(crate) fn open_files(connections: u64, slots: u32) -> u64 {
    connections + u64::from(slots) * SLOT_FILES + WORKER_FILES
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn sizes(memory: u64) -> MemoryBudget {
        MemoryBudget {
            memory,
            fetch: 94 * MIB,
            results: 0,
            address_space_limit: 384 * MIB,
            buffers: 36 * MIB,
        }
    }

    #[test]
    fn slots_are_as_many_as_fit_and_never_more_than_cpus() {
        assert_eq!(slot_count(None, 8, &sizes(1024 * MIB)), Ok(2));
        assert_eq!(slot_count(None, 2, &sizes(64 * 1024 * MIB)), Ok(2));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_arithmetic() {
        for asked in [None, NonZeroU32::new(1)] {
            let refusal = slot_count(asked, 8, &sizes(256 * MIB)).unwrap_err();
            assert!(
                refusal.contains(
                    "94.0 MiB fetch + 1 x (384.0 MiB address space + 36.0 MiB buffers) = 594.0 MiB of 256.0 MiB"
                ),
                "{refusal}"
            );
        }
        let with_store = MemoryBudget { results: 64 * MIB, ..sizes(1024 * MIB) };
        let refusal = slot_count(NonZeroU32::new(2), 8, &with_store).unwrap_err();
        assert!(refusal.contains("94.0 MiB fetch + 64.0 MiB results + 2 x"), "{refusal}");
        assert_eq!(slot_count(NonZeroU32::new(3), 8, &sizes(1434 * MIB)), Ok(3));
        assert!(slot_count(NonZeroU32::new(3), 8, &sizes(1433 * MIB)).is_err());
    }
}
