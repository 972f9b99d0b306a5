//! The limits of one job, in one value, with their arithmetic beside it.
//!
//! Enforcing them is the others': the wall clock is the fork-server's, the heap the allocator's, the rest the kernel's.
//!
//! Invariant: a producer's request only ever lowers a limit; only an operator raises one, up to the ceiling.

use std::time::Duration;

use bytesize::ByteSize;

use super::Config;
use wm_job::LimitsRequest;
use wm_job::duration::millis;
use wm_job::measured::EffectiveLimits;

/// One mebibyte.
const MIB: u64 = 1024 * 1024;
/// What a process needs beside its heap: the binary's own mappings, the stack, the allocator's padding.
const ADDRESS_SPACE_EXTRA_BYTES: u64 = 64 * MIB;
/// How long a fork-server may take beyond the wall clock before the worker stops believing in it.
const REPORT_GRACE: Duration = Duration::from_secs(2);
/// Taking a dead process's memory apart costs about 0.07 ms per MiB where it was measured; this is rounded up.
const TEARDOWN_PER_MIB: Duration = Duration::from_micros(100);

/// The limits of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wall clock from fork to end.
    pub wall: Duration,
    /// Heap budget in bytes, both bodies and the reply included.
    pub heap_bytes: u64,
    /// Stack in bytes.
    pub stack_bytes: u64,
    /// Largest reply in bytes.
    pub reply_bytes: u64,
}

impl Limits {
    /// The configured limits.
    pub fn from_config(config: &Config) -> Self {
        Self {
            wall: config.wall,
            heap_bytes: config.heap.as_u64(),
            stack_bytes: config.stack.as_u64(),
            reply_bytes: config.reply.as_u64(),
        }
    }

    /// The same with a producer's request, which can only lower them.
    #[must_use]
    pub fn lowered(self, requested: LimitsRequest) -> Self {
        let wall = requested.wall_ms.map_or(self.wall, Duration::from_millis);
        let heap = requested.heap_bytes.unwrap_or(self.heap_bytes);
        Self { wall: self.wall.min(wall), heap_bytes: self.heap_bytes.min(heap), ..self }
    }

    /// How far an operator may raise them.
    pub fn ceiling(config: &Config) -> Self {
        Self { wall: config.max_wall, heap_bytes: config.max_heap.as_u64(), ..Self::from_config(config) }
    }

    /// The same with what an operator grants: less or more, up to the ceiling.
    ///
    /// # Errors
    /// What is above the ceiling, in a sentence. It is not cut down to it: whoever grants 2 GiB and gets 1 GiB learns
    /// of it from the next dead letter only.
    pub fn granted(self, requested: LimitsRequest, ceiling: &Self) -> Result<Self, String> {
        let wall = requested.wall_ms.map_or(self.wall, Duration::from_millis);
        let heap_bytes = requested.heap_bytes.unwrap_or(self.heap_bytes);
        if wall > ceiling.wall {
            return Err(format!("a wall clock of {wall:?} is above sandbox.max_wall, {:?}", ceiling.wall));
        }
        if heap_bytes > ceiling.heap_bytes {
            let [heap, most] = [heap_bytes, ceiling.heap_bytes].map(ByteSize::b);
            return Err(format!("a heap of {heap} is above sandbox.max_heap, {most}"));
        }
        Ok(Self { wall, heap_bytes, ..self })
    }

    /// When the work itself should hurry up: 0.6 of the wall clock, so that a coarse answer still gets out in time.
    pub fn soft_deadline(&self) -> Duration {
        self.wall.mul_f64(0.6)
    }

    /// CPU time: a second more than the wall clock, in whole seconds as the kernel counts them. It only matters where
    /// the fork-server cannot keep time.
    pub fn cpu(&self) -> Duration {
        let rounded = if self.wall.subsec_nanos() == 0 { 0 } else { 1 };
        Duration::from_secs(self.wall.as_secs().saturating_add(rounded + 1))
    }

    /// The address space limit, behind the heap budget, for memory that goes past our allocator: 1.25 of it and 64 MiB.
    pub fn address_space_limit_bytes(&self) -> u64 {
        self.heap_bytes.saturating_add(self.heap_bytes / 4).saturating_add(ADDRESS_SPACE_EXTRA_BYTES)
    }

    /// When the worker gives a silent fork-server up: the wall clock, two seconds, and the time it takes to tear a full
    /// job down.
    pub fn report_timeout(&self) -> Duration {
        self.wall.saturating_add(self.teardown_timeout())
    }

    /// How long ending a job may take at most.
    pub(super) fn teardown_timeout(&self) -> Duration {
        let mebibytes = u32::try_from(self.address_space_limit_bytes() / MIB).unwrap_or(u32::MAX);
        REPORT_GRACE + TEARDOWN_PER_MIB.saturating_mul(mebibytes)
    }

    /// The same as evidence.
    pub fn effective(&self) -> EffectiveLimits {
        EffectiveLimits {
            wall_ms: millis(self.wall),
            cpu_ms: millis(self.cpu()),
            heap_bytes: self.heap_bytes,
            address_space_limit_bytes: self.address_space_limit_bytes(),
            reply_bytes: self.reply_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    fn requested(wall_ms: u64, heap_bytes: u64) -> LimitsRequest {
        LimitsRequest { wall_ms: Some(wall_ms), heap_bytes: Some(heap_bytes) }
    }

    #[test]
    fn a_producer_lowers_and_never_raises() {
        let limits = Limits::from_config(&config());
        assert_eq!(limits.lowered(LimitsRequest::default()), limits);
        assert_eq!(limits.lowered(requested(u64::MAX, u64::MAX)), limits);
        let lower = limits.lowered(requested(5, 7));
        assert_eq!((lower.wall, lower.heap_bytes), (Duration::from_millis(5), 7));
        assert_eq!((lower.stack_bytes, lower.reply_bytes), (limits.stack_bytes, limits.reply_bytes));
    }

    #[test]
    fn an_operator_raises_as_far_as_the_ceiling_and_is_refused_beyond_it() {
        let (limits, ceiling) = (Limits::from_config(&config()), Limits::ceiling(&config()));
        let granted = |wall_ms, heap_bytes| limits.granted(requested(wall_ms, heap_bytes), &ceiling);
        let raised = granted(20_000, 300 * MIB).unwrap();
        assert_eq!((raised.wall, raised.heap_bytes), (Duration::from_secs(20), 300 * MIB));
        assert_eq!(granted(60_000, 1024 * MIB), Ok(ceiling));
        assert_eq!(limits.granted(LimitsRequest::default(), &ceiling), Ok(limits));
        assert!(granted(60_001, MIB).unwrap_err().contains("60.001s is above sandbox.max_wall, 60s"));
        assert!(granted(1, 1025 * MIB).unwrap_err().contains("1.0 GiB is above sandbox.max_heap, 1.0 GiB"));
    }

    #[test]
    fn the_arithmetic_of_the_default_limits_is_the_designs() {
        let limits = Limits::from_config(&config());
        assert_eq!(limits.soft_deadline(), Duration::from_secs(6));
        assert_eq!(limits.cpu(), Duration::from_secs(11));
        assert_eq!(limits.address_space_limit_bytes(), 384 * MIB);
        assert_eq!(limits.report_timeout(), Duration::from_millis(12_038) + Duration::from_micros(400));
        let odd = Limits { wall: Duration::from_millis(1_001), ..limits };
        assert_eq!(odd.cpu(), Duration::from_secs(3), "rounded up, then one more");
        let huge = Limits { heap_bytes: u64::MAX, ..limits };
        assert_eq!(huge.address_space_limit_bytes(), u64::MAX);
    }
}
