//! Builds Sentry events: text, tags and fingerprint.
//!
//! It only builds values; nothing is sent here, and no process state is read: no hub, no scope, no
//! breadcrumbs.
//!
//! Invariant: every text of an [`AlertSample`] passed through `scrub` and `sanitize` when it was created, so
//! pending alerts are bounded in size and sent ones are safe; the fingerprint consists of labels only.

use std::collections::BTreeMap;

use ::sentry::Level;
use ::sentry::protocol::{Context, Event, TraceContext, Value};
use uuid::Uuid;

use super::OutageKind;
use crate::job::failure::{FailureKind, Stage};
use crate::job::redact::scrub;
use crate::telemetry::text::sanitize;

/// Sentry truncates tag values here, in bytes.
const MAX_TAG_BYTES: usize = 200;
/// Limit on an event's detail in bytes: the whole text stays under Sentry's 8,192 characters.
const MAX_DETAIL_BYTES: usize = 2048;
/// Limit on the other texts in bytes: a limit, a command, an id.
const MAX_FIELD_BYTES: usize = 512;

/// A dead-lettered job, as reported in an alert.
#[derive(Debug, Clone)]
pub struct DeadLetterAlert {
    /// Name of the queue.
    pub queue: String,
    /// Id of the job.
    pub job_id: String,
    /// The older version, if known.
    pub from: Option<Uuid>,
    /// The newer version, if known (an undecodable payload names none).
    pub to: Option<Uuid>,
    /// The sender's W3C `traceparent`, if the job has one; may be malformed.
    pub traceparent: Option<String>,
    /// The host that the failure concerns, if any.
    pub host: Option<String>,
    /// Kind of the failure that decided it.
    pub kind: FailureKind,
    /// The stage it failed in.
    pub stage: Stage,
    /// The failure's sentence; may be hostile.
    pub detail: String,
    /// The limit that was exceeded and its value, e.g. `wall 10s`, if any.
    pub limit: Option<String>,
    /// The exact command that shows the dead letter, e.g. `wm-analyzer dead show <id>`.
    pub command: String,
    /// True if it had been replayed from the dead letters before.
    pub replayed: bool,
}

/// State of one outage.
#[derive(Debug)]
pub(super) struct OutageReport {
    pub(super) what: OutageKind,
    /// Description of the latest failure, sanitized.
    pub(super) detail: String,
    /// Seconds since the outage began, until now or until it ended.
    pub(super) seconds: u64,
    /// True if the outage is over.
    pub(super) resolved: bool,
}

/// The latest example of a fingerprint; its texts are sanitized.
#[derive(Debug)]
pub(super) enum AlertSample {
    DeadLetter(Box<DeadLetterAlert>),
    Outage(OutageReport),
}

impl AlertSample {
    /// A sanitized copy of a caller's alert.
    pub(super) fn from_dead_letter(alert: &DeadLetterAlert) -> Self {
        let DeadLetterAlert { queue, job_id, traceparent, host, detail, limit, command, .. } = alert;
        Self::DeadLetter(Box::new(DeadLetterAlert {
            queue: sanitize(queue, MAX_TAG_BYTES),
            job_id: sanitize(job_id, MAX_FIELD_BYTES),
            traceparent: traceparent.as_ref().map(|text| sanitize(text, MAX_TAG_BYTES)),
            host: host.as_ref().map(|host| sanitize_and_scrub(host, MAX_TAG_BYTES)),
            detail: sanitize_and_scrub(detail, MAX_DETAIL_BYTES),
            limit: limit.as_ref().map(|limit| sanitize_and_scrub(limit, MAX_FIELD_BYTES)),
            // Not scrubbed: it is our own text, and the scrubber could mistake its id for a secret.
            command: sanitize(command, MAX_FIELD_BYTES),
            ..alert.clone()
        }))
    }
}

/// The event for `sample`, for `count` occurrences of which the first was `ago_seconds` ago.
pub(super) fn build(sample: &AlertSample, count: u64, ago_seconds: u64) -> Event<'static> {
    let mut event = match sample {
        AlertSample::DeadLetter(alert) => dead_letter(alert, count, ago_seconds),
        AlertSample::Outage(report) => outage(report, count, ago_seconds),
    };
    event.logger = Some("wm_analyzer".to_owned());
    event.extra.insert("count".to_owned(), count.into());
    event
}

fn dead_letter(alert: &DeadLetterAlert, count: u64, ago_seconds: u64) -> Event<'static> {
    let (kind, stage) = (alert.kind.as_str(), alert.stage.as_str());
    let DeadLetterAlert { host, limit, detail, command, .. } = alert;
    let [from, to] = [alert.from, alert.to].map(|id| id.map_or("unknown".to_owned(), |id| id.to_string()));

    let at = host.as_ref().map(|host| format!(" at {host}")).unwrap_or_default();
    let mut text = format!("dead letter: {kind} in {stage}{at}\nfrom {from} to {to}\n{detail}\n");
    if let Some(limit) = limit {
        text.push_str(&format!("limit hit: {limit}\n"));
    }
    if count > 1 {
        text.push_str(&format!(
            "stands for {count} dead letters of the last {ago_seconds} s; this is the latest\n"
        ));
    }
    text.push_str(&format!("show it: {command}"));

    let mut event = event(Level::Error, &["dead-letter", kind, stage], text);
    let replayed = alert.replayed.to_string();
    tag(
        &mut event,
        [("queue", alert.queue.as_str()), ("kind", kind), ("stage", stage), ("replayed", &replayed)],
    );
    if let Some(host) = host {
        tag(&mut event, [("host", host.as_str())]);
    }
    let job = [
        ("id", Some(alert.job_id.clone())),
        ("from", Some(from)),
        ("to", Some(to)),
        ("limit", limit.clone()),
        ("show", Some(command.clone())),
    ];
    let job: BTreeMap<_, _> =
        job.into_iter().filter_map(|(k, v)| v.map(|v| (k.to_owned(), Value::from(v)))).collect();
    event.contexts.insert("job".to_owned(), Context::Other(job));
    if let Some(trace) = alert.traceparent.as_deref().and_then(trace_context) {
        event.contexts.insert("trace".to_owned(), trace.into());
    }
    event
}

/// The trace of a W3C `traceparent` (`00-<32 hex>-<16 hex>-<2 hex>`); `None` for anything else.
fn trace_context(traceparent: &str) -> Option<TraceContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    let well_formed = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    if !well_formed || parts.next().is_some() {
        return None;
    }
    Some(TraceContext {
        trace_id: trace.parse().ok()?,
        span_id: span.parse().ok()?,
        ..TraceContext::default()
    })
}

fn outage(report: &OutageReport, count: u64, ago_seconds: u64) -> Event<'static> {
    let what = report.what.as_str();
    let detail = &report.detail;
    let (level, head) = if report.resolved {
        (Level::Info, format!("resolved: {} again after {} s", report.what.recovered_text(), report.seconds))
    } else {
        (Level::Error, format!("outage: {} for {} s", report.what.failing_text(), report.seconds))
    };
    let mut text = format!("{head}\n{detail}");
    if count > 1 {
        text.push_str(&format!("\nstands for {count} failures of the last {ago_seconds} s"));
    }
    text.push_str("\nlook closer: wm-analyzer doctor");
    let mut event = event(level, &["outage", what], text);
    tag(&mut event, [("outage", what)]);
    event
}

pub(super) fn event(level: Level, fingerprint: &[&'static str], text: String) -> Event<'static> {
    let fingerprint: Vec<_> = fingerprint.iter().map(|part| (*part).into()).collect();
    Event { level, fingerprint: fingerprint.into(), message: Some(text), ..Event::default() }
}

fn tag<const N: usize>(event: &mut Event<'_>, tags: [(&str, &str); N]) {
    event.tags.extend(tags.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// A detail from outside: scrubbed, on one line, bounded.
pub(super) fn sanitize_detail(text: &str) -> String {
    sanitize_and_scrub(text, MAX_DETAIL_BYTES)
}

fn sanitize_and_scrub(text: &str, max: usize) -> String {
    sanitize(&scrub(text), max)
}
