//! Facts that are counted and have no word of their own elsewhere: how a delivery ended, how full the queue is.

use std::time::Duration;

use crate::job::verdict::{PostponeReason, Verdict};

/// How a delivery left this worker: a verdict, or none because somebody else has the job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum DeliveryOutcome {
    /// Settled as this verdict says.
    Done,
    /// Settled as skipped.
    Skipped,
    /// Settled for another attempt.
    Retried,
    /// Settled for later, no attempt spent.
    Postponed,
    /// Settled for later, because it must run alone.
    Suspect,
    /// Settled for later, because its host has all the visitors it may have.
    HostFull,
    /// Settled as a dead letter.
    Dead,
    /// Handed back un-counted at the end of this process.
    Released,
    /// Its lease was lost: nothing was written.
    Superseded,
}

impl DeliveryOutcome {
    /// Every ending.
    pub(super) const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The label; that of [`Verdict::as_str`] where there is a verdict.
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
                because: PostponeReason::Infrastructure(_) | PostponeReason::BreakerOpen(_),
                ..
            } => Self::Postponed,
            Verdict::Postpone { because: PostponeReason::Suspect, .. } => Self::Suspect,
            Verdict::Postpone { because: PostponeReason::HostFull { .. }, .. } => Self::HostFull,
            Verdict::DeadLetter(_) => Self::Dead,
        }
    }
}

/// How full the queue is: the same for every worker of it, so rules take `max by(queue)`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QueueDepths {
    /// Jobs that could be claimed now.
    pub ready: u64,
    /// Jobs in flight.
    pub in_flight: u64,
    /// Jobs that wait for their time.
    pub scheduled: u64,
    /// Dead letters.
    pub dead: u64,
    /// Payloads not yet looked at.
    pub inbox: u64,
    /// How long the oldest ready job has waited; zero when none is ready.
    pub oldest_ready_age: Duration,
    /// Hosts that have all the visitors they may have, and jobs waiting for them.
    pub hosts_full: u64,
    /// Jobs in flight as a share of their ceiling; zero where there is none.
    pub in_flight_filled: f64,
    /// Waiting jobs as a share of the backlog's ceiling.
    pub backlog_filled: f64,
    /// Dead letters as a share of the nearer of their caps.
    pub dead_filled: f64,
}
