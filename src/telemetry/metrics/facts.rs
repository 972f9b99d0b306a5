//! Facts that only metrics use: how a delivery ended, how full the queue is.

use std::time::Duration;

use crate::job::verdict::{PostponeReason, Verdict};

/// How a delivery left this worker: by a verdict, or without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum DeliveryOutcome {
    /// Settled with a report.
    Done,
    /// Settled as a skip.
    Skipped,
    /// Settled for another attempt.
    Retried,
    /// Settled for later; no attempt used up.
    Postponed,
    /// Settled for later, because it must run alone.
    Suspect,
    /// Settled for later, because its host is at its limit of concurrent jobs.
    HostFull,
    /// Settled as a dead letter.
    Dead,
    /// Released at shutdown; does not count.
    Released,
    /// The lease was lost: nothing was written.
    Superseded,
}

impl DeliveryOutcome {
    pub(super) const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The label; that of [`Verdict::as_str`] if there is a verdict.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl From<&Verdict> for DeliveryOutcome {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Done(_) => Self::Done,
            Verdict::Skip(_) => Self::Skipped,
            Verdict::Retry { .. } => Self::Retried,
            Verdict::Postpone {
                because:
                    PostponeReason::Infrastructure(_)
                    | PostponeReason::BreakerOpen(_)
                    | PostponeReason::Starved(_),
                ..
            } => Self::Postponed,
            Verdict::Postpone { because: PostponeReason::Suspect, .. } => Self::Suspect,
            Verdict::Postpone { because: PostponeReason::HostFull { .. }, .. } => Self::HostFull,
            Verdict::DeadLetter(_) => Self::Dead,
        }
    }
}

/// Fill levels of the queue: identical for all of its workers, so rules use `max by(queue)`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QueueDepths {
    /// Jobs that can be claimed now.
    pub ready: u64,
    /// Jobs claimed and not yet settled.
    pub in_flight: u64,
    /// Jobs waiting for their time.
    pub scheduled: u64,
    /// Dead letters currently kept.
    pub dead: u64,
    /// Payloads not yet admitted.
    pub inbox: u64,
    /// How long the oldest waiting job has waited; zero if none waits.
    pub oldest_ready_age: Duration,
    /// Hosts at their limit, with jobs waiting for them.
    pub hosts_full: u64,
    /// Hosts that rest, after failures or by an operator.
    pub hosts_resting: u64,
    /// Jobs in flight as a fraction of their limit; zero without a limit.
    pub in_flight_filled: f64,
    /// Waiting jobs as a fraction of the backlog's limit.
    pub backlog_filled: f64,
    /// Dead letters as a fraction of the limit that is closest.
    pub dead_filled: f64,
    /// Results kept.
    pub results: u64,
    /// True where claims wait while results are at their cap; otherwise the oldest are evicted.
    pub results_wait: bool,
    /// Results as a fraction of their cap.
    pub results_filled: f64,
    /// Memory of Redis as a fraction of `maxmemory`; zero without one.
    pub redis_filled: f64,
    /// Time until Redis is full, if it goes on as in the last minute.
    pub full_in: Option<Duration>,
}
