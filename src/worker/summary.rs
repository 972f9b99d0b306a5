//! A summary of one delivery, recorded before settling consumes the verdict.
//!
//! It holds data only; `observe` formats it.

use std::time::Duration;

use uuid::Uuid;

use crate::job::failure::{Failure, FailureKind};
use crate::job::report::Report;
use crate::job::skip::Skip;
use crate::job::verdict::{DeadLetterReason, PostponeReason, Verdict};
use crate::job::{Job, JobId, VersionRef};
use crate::pipeline::StageTimings;
use crate::queue::Delivery;
use crate::telemetry::metrics::DeliveryOutcome;

/// The job that a report is about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) job: JobId,
    pub(super) from: Option<Uuid>,
    pub(super) to: Option<Uuid>,
}

impl Subject {
    /// A job, by its versions where they are known: it may name a place in a page's history instead.
    pub(super) fn of(job: &Job, versions: Option<[Uuid; 2]>) -> Self {
        let from = versions.map(|[from, _]| from).or(job.from.given().map(VersionRef::uuid));
        Self { job: job.id.clone(), from, to: Some(job.to.uuid()) }
    }

    /// The pair in the form `<from>..<to>`.
    pub(super) fn pair(&self) -> String {
        let text = |uuid: Option<Uuid>| uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        format!("{}..{}", text(self.from), text(self.to))
    }
}

/// Summary of one settled delivery.
pub(super) struct SettledSummary {
    pub(super) subject: Subject,
    pub(super) waited: Duration,
    pub(super) timings: StageTimings,
    pub(super) fetched_bytes: u64,
    pub(super) ending: DeliveryOutcome,
    pub(super) detail: Detail,
}

/// The parts of the verdict that are reported.
pub(super) enum Detail {
    Done {
        approximate: bool,
        priority: f64,
        /// Whether the db app has the annotation; `None` where none is posted.
        posted: Option<bool>,
        /// Names of the diffs that could not be made, with commas between.
        missing: String,
        peak_heap_bytes: u64,
        child: Duration,
    },
    Skipped(Skip),
    Retried {
        after: Duration,
        failure: Failure,
    },
    Postponed {
        after: Duration,
        because: PostponeReason,
    },
    Dead(Box<DeadLetterReason>),
}

impl SettledSummary {
    /// Records what will be reported of a verdict before settling consumes it.
    pub(super) fn of(
        delivery: &Delivery,
        verdict: &Verdict,
        versions: Option<[Uuid; 2]>,
        timings: StageTimings,
        fetched_bytes: u64,
    ) -> Self {
        let detail = match verdict {
            Verdict::Done(report) => Detail::done(report),
            Verdict::Skip(skip) => Detail::Skipped(skip.clone()),
            Verdict::Retry { after, failure } => Detail::Retried { after: *after, failure: failure.clone() },
            Verdict::Postpone { after, because } => {
                Detail::Postponed { after: *after, because: because.clone() }
            }
            Verdict::DeadLetter(reason) => Detail::Dead(reason.clone()),
        };
        Self {
            subject: Subject::of(&delivery.job, versions),
            waited: delivery.age,
            timings,
            fetched_bytes,
            ending: DeliveryOutcome::from(verdict),
            detail,
        }
    }

    pub(super) fn job(&self) -> &JobId {
        &self.subject.job
    }
}

impl Detail {
    fn done(report: &Report) -> Self {
        let measured = report.measured.clone().unwrap_or_default();
        Self::Done {
            approximate: report.approximate,
            priority: report.annotation.priority,
            posted: report.posted,
            missing: report.missing_names(),
            peak_heap_bytes: measured.peak_heap_bytes,
            child: Duration::from_millis(measured.wall_ms),
        }
    }
}

/// The limit that was exceeded, as text, for the kinds of failure that exceed one.
pub(super) fn limit_hit(reason: &DeadLetterReason) -> Option<String> {
    let limits = reason.failure.measured.as_ref()?.limits?;
    let hit = [
        (FailureKind::WallExceeded, "wall", limits.wall_ms, "ms"),
        (FailureKind::CpuExceeded, "cpu", limits.cpu_ms, "ms"),
        (FailureKind::MemoryExceeded, "heap", limits.heap_bytes, "bytes"),
        (FailureKind::ReplyTooLarge, "reply", limits.reply_bytes, "bytes"),
    ];
    let (_, name, value, unit) = hit.into_iter().find(|(kind, ..)| *kind == reason.kind)?;
    Some(format!("{name} {value} {unit}"))
}
