//! The limits of one job and the values derived from them.
//!
//! They are enforced elsewhere: the wall clock by the fork server, the heap by the allocator,
//! the rest by the kernel.
//!
//! Invariant: a producer's request only ever lowers a limit; only an operator raises one, up to the ceiling.

use std::time::Duration;

use bytesize::ByteSize;

use super::Config;
use wm_job::LimitsRequest;
use wm_job::duration::millis;
use wm_job::measured::EffectiveLimits;

const MIB: u64 = 1024 * 1024;
/// Address space needed in addition to the heap: mappings of the binary, the stack, padding of the allocator.
const ADDRESS_SPACE_EXTRA_BYTES: u64 = 64 * MIB;
/// How long ending a job may take besides its teardown, before the fork server counts as lost.
const REPORT_GRACE: Duration = Duration::from_secs(2);
/// Longest time a job may take, in walls: one that gets a tenth of a CPU still passes. Beyond that a slot is
/// worth more to other jobs, and a job that seems to wait may be hiding that it sleeps.
const CEILING_WALLS: u32 = 10;
/// Shortest ceiling: a wall of a few milliseconds would end in one turn of another process.
const CEILING_MIN: Duration = Duration::from_secs(1);
/// Time to release the memory of a dead process: measured at 0.07 ms per MiB, rounded up.
const TEARDOWN_PER_MIB: Duration = Duration::from_micros(100);

/// Resource limits of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Limit on the time from fork to exit in which the job runs or sleeps; see [`Self::hard_ceiling`] for the rest.
    pub wall: Duration,
    /// Heap budget in bytes, including both bodies and the reply.
    pub heap_bytes: u64,
    /// Stack limit in bytes.
    pub stack_bytes: u64,
    /// Largest accepted attachment of a reply in bytes.
    pub reply_bytes: u64,
}

impl Limits {
    /// The limits from the configuration.
    pub fn from_config(config: &Config) -> Self {
        Self {
            wall: config.wall,
            heap_bytes: config.heap.as_u64(),
            stack_bytes: config.stack.as_u64(),
            reply_bytes: config.reply.as_u64(),
        }
    }

    /// Applies a producer's request, which can only lower the limits.
    #[must_use]
    pub fn lowered(self, requested: LimitsRequest) -> Self {
        let wall = requested.wall_ms.map_or(self.wall, Duration::from_millis);
        let heap = requested.heap_bytes.unwrap_or(self.heap_bytes);
        Self { wall: self.wall.min(wall), heap_bytes: self.heap_bytes.min(heap), ..self }
    }

    /// The highest limits an operator may grant.
    pub fn ceiling(config: &Config) -> Self {
        Self { wall: config.max_wall, heap_bytes: config.max_heap.as_u64(), ..Self::from_config(config) }
    }

    /// Applies an operator's grant: lower or higher, up to the ceiling.
    ///
    /// # Errors
    /// A sentence that names the limit above the ceiling. The value is not clamped: an operator who grants 2
    /// GiB and gets 1 GiB would notice only at the next dead letter.
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

    /// Hard ceiling on the wall clock, for a job that hardly gets a CPU: ten times the limit on what it uses, and at
    /// least a second.
    pub fn hard_ceiling(&self) -> Duration {
        self.wall.saturating_mul(CEILING_WALLS).max(CEILING_MIN)
    }

    /// CPU limit: one second more than the wall clock, rounded up to whole seconds as `RLIMIT_CPU` requires.
    /// It takes effect only if the fork server fails to enforce the wall clock.
    pub fn cpu(&self) -> Duration {
        let rounded = if self.wall.subsec_nanos() == 0 { 0 } else { 1 };
        Duration::from_secs(self.wall.as_secs().saturating_add(rounded + 1))
    }

    /// Address-space limit: 1.25 times the heap budget plus 64 MiB. It bounds memory
    /// that bypasses the counting allocator.
    pub fn address_space_limit_bytes(&self) -> u64 {
        self.heap_bytes.saturating_add(self.heap_bytes / 4).saturating_add(ADDRESS_SPACE_EXTRA_BYTES)
    }

    /// When the worker gives up on a silent fork server: the ceiling, plus two seconds, plus the
    /// teardown of a full job; and one wall more, as a fork server on such a machine waits for a CPU too.
    pub(crate) fn report_timeout(&self) -> Duration {
        self.hard_ceiling().saturating_add(self.wall).saturating_add(self.teardown_timeout())
    }

    /// Longest time that ending a job may take.
    pub(super) fn teardown_timeout(&self) -> Duration {
        let mebibytes = u32::try_from(self.address_space_limit_bytes() / MIB).unwrap_or(u32::MAX);
        REPORT_GRACE + TEARDOWN_PER_MIB.saturating_mul(mebibytes)
    }

    /// The limits in force, for the evidence in a report.
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
        assert_eq!(limits.cpu(), Duration::from_secs(11));
        assert_eq!(limits.hard_ceiling(), Duration::from_secs(100));
        assert_eq!(limits.address_space_limit_bytes(), 384 * MIB);
        assert_eq!(limits.report_timeout(), Duration::from_millis(112_038) + Duration::from_micros(400));
        let odd = Limits { wall: Duration::from_millis(1_001), ..limits };
        assert_eq!(odd.cpu(), Duration::from_secs(3), "rounded up, then one more");
        let huge = Limits { heap_bytes: u64::MAX, ..limits };
        assert_eq!(huge.address_space_limit_bytes(), u64::MAX);
    }
}
