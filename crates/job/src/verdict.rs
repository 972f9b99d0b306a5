//! The decision about a delivery. Settling carries it out, once.
//!
//! A verdict carries everything that settling needs; no second value could contradict it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::counts::DeliveryCounts;
use super::failure::{Failure, FailureKind, Stage};
use super::report::{BodyFacts, Report};
use super::skip::Skip;

/// What to do with a delivery.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Analysed: store the report and remove the job.
    Done(Box<Report>),
    /// Not worth analysing: record why and remove the job.
    Skip(Skip),
    /// Try again later; uses up an attempt.
    Retry {
        /// Minimum delay before the next attempt.
        after: Duration,
        /// The failure that caused the retry.
        failure: Failure,
    },
    /// Try again later; uses up no attempt, because the job is not to blame.
    Postpone {
        /// Minimum delay before the job can be claimed again.
        after: Duration,
        /// Why, which also determines how it is counted.
        because: PostponeReason,
    },
    /// Move the job to the dead letters, with its evidence.
    DeadLetter(Box<DeadLetterReason>),
}

/// Why a job is postponed, which also determines how that is counted.
#[derive(Debug, Clone, PartialEq)]
pub enum PostponeReason {
    /// An infrastructure failure: the postponement and its delay are counted; both are bounded, then the job
    /// is `stranded`.
    Infrastructure(Failure),
    /// An infrastructure failure while a breaker is open: not counted against the job.
    BreakerOpen(Failure),
    /// The child got no CPU: this machine is too small or too busy. Not counted against the job, which may do
    /// well on another one.
    Starved(Failure),
    /// The pair crashed a worker before: it waits until it can run alone. Nothing was tried, so not even the
    /// delivery is counted.
    Suspect,
    /// The host is at its limit of concurrent jobs. Nothing was tried, so not even the delivery is counted.
    HostFull {
        /// Name of the host to wait for.
        host: String,
    },
}

impl PostponeReason {
    /// The label for logs, events and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Infrastructure(_) | Self::BreakerOpen(_) | Self::Starved(_) => "postponed",
            Self::Suspect => "suspect",
            Self::HostFull { .. } => "host_full",
        }
    }
}

impl Verdict {
    /// The label for logs, events and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Skip(_) => "skipped",
            Self::Retry { .. } => "retried",
            Self::Postpone { because, .. } => because.as_str(),
            Self::DeadLetter(_) => "dead",
        }
    }
}

/// Why a job is dead, with everything needed to understand and reproduce it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetterReason {
    /// The label it is listed under.
    pub kind: FailureKind,
    /// The stage it failed in.
    pub stage: Stage,
    /// The failure that led to it; for `exhausted` the last one.
    pub failure: Failure,
    /// The job's counters when it died.
    pub counts: DeliveryCounts,
    /// Metadata of the bodies, as far as they were fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bodies: Vec<BodyFacts>,
    /// Id of the worker that ran it.
    pub worker: String,
    /// Version of that worker's build.
    pub build: String,
}

impl DeadLetterReason {
    /// The host that the failure concerns, else the host of the newer body.
    pub fn host(&self) -> Option<String> {
        let of_body = || Url::parse(&self.bodies.last()?.url).ok()?.host_str().map(str::to_owned);
        self.failure.host.clone().or_else(of_body)
    }
}
