//! What was decided about a delivery. Settling carries it out, once.
//!
//! A verdict carries all that settling needs; there is no second value beside it that could contradict it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::counts::DeliveryCounts;
use super::failure::{Failure, FailureKind, Stage};
use super::report::{BodyFacts, Report};
use super::skip::Skip;

/// The decision.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Analysed: store the report, forget the job.
    Done(Box<Report>),
    /// Rightly not analysed: record why, forget the job.
    Skip(Skip),
    /// Try again; an attempt is spent.
    Retry {
        /// Not before this much later.
        after: Duration,
        /// Why.
        failure: Failure,
    },
    /// Try again later; no attempt is spent, because it is not the job that failed.
    Postpone {
        /// Not before this much later.
        after: Duration,
        /// Why, and thereby what it costs.
        because: PostponeReason,
    },
    /// Bury it with its evidence.
    DeadLetter(Box<DeadLetterReason>),
}

/// Why a job is put off, and thereby what that is counted as.
#[derive(Debug, Clone, PartialEq)]
pub enum PostponeReason {
    /// A failure of ours: counted, and the time that it costs with it; both are bounded, then the job is `stranded`.
    Infrastructure(Failure),
    /// The same while a breaker is open: that is counted against no job.
    BreakerOpen(Failure),
    /// What is compared crashed a worker before: it waits until it can run with nothing beside it. Nothing was tried: not
    /// even the delivery is counted.
    Suspect,
    /// The host has all the visitors that it may have from us. Nothing was tried here either.
    HostFull {
        /// The host.
        host: String,
    },
}

impl PostponeReason {
    /// The label, for logs, events and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Infrastructure(_) | Self::BreakerOpen(_) => "postponed",
            Self::Suspect => "suspect",
            Self::HostFull { .. } => "host_full",
        }
    }
}

impl Verdict {
    /// The label of the decision, for logs, events and metrics.
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

/// Why a job is buried, with everything needed to understand and reproduce it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetterReason {
    /// The label it is filed under.
    pub kind: FailureKind,
    /// Where it happened.
    pub stage: Stage,
    /// The failure that decided it; for `exhausted` the last of them.
    pub failure: Failure,
    /// The counts at the end.
    pub counts: DeliveryCounts,
    /// What was known of the bodies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bodies: Vec<BodyFacts>,
    /// The worker that had it.
    pub worker: String,
    /// That worker's build.
    pub build: String,
}

impl DeadLetterReason {
    /// The host that it died of, or else the one that its newer body came from.
    pub fn host(&self) -> Option<String> {
        let of_body = || Url::parse(&self.bodies.last()?.url).ok()?.host_str().map(str::to_owned);
        self.failure.host.clone().or_else(of_body)
    }
}
