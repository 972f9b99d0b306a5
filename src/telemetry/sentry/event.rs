//! What an alert says: the words, the tags and the fingerprint of one Sentry event.
//!
//! It builds values; nothing is sent here, and nothing of the process is looked at: no hub, no scope, no breadcrumbs.
//!
//! Invariant: every text of a [`AlertSample`] has gone through `scrub` and `sanitize` when it was made, so that what waits is
//! bounded and what is sent is safe; the fingerprint is made of labels alone.

use std::collections::BTreeMap;

use ::sentry::Level;
use ::sentry::protocol::{Context, Event, Value};
use uuid::Uuid;

use super::OutageKind;
use crate::job::failure::{FailureKind, Stage};
use crate::telemetry::text::{sanitize, scrub};

/// Sentry cuts a tag's value here, in bytes.
const MAX_TAG_BYTES: usize = 200;
/// The longest sentence of an event in bytes: the whole text stays under Sentry's 8,192 characters.
const MAX_DETAIL_BYTES: usize = 2048;
/// The longest of the other texts in bytes: a limit, a command, an id.
const MAX_FIELD_BYTES: usize = 512;

/// A buried job, as an alert's reader needs it.
#[derive(Debug, Clone)]
pub struct DeadLetterAlert {
    /// The queue it was in.
    pub queue: String,
    /// Its id.
    pub job_id: String,
    /// The older version, where it is known.
    pub from: Option<Uuid>,
    /// The newer version, where it is known (an undecodable payload names none).
    pub to: Option<Uuid>,
    /// The host it was about, where one was.
    pub host: Option<String>,
    /// What went wrong.
    pub kind: FailureKind,
    /// Where on its way.
    pub stage: Stage,
    /// The failure's sentence; may be hostile.
    pub detail: String,
    /// The limit it hit with its value, e.g. `wall 10s`, where it hit one.
    pub limit: Option<String>,
    /// The exact command that shows it, e.g. `wm-analyzer dead show <id>`.
    pub command: String,
    /// True when it had been replayed from the dead letters before.
    pub replayed: bool,
}

/// How it stands with one of the things that all jobs need.
#[derive(Debug)]
pub(super) struct OutageReport {
    /// Which.
    pub(super) what: OutageKind,
    /// The latest failure's sentence, safe.
    pub(super) detail: String,
    /// Seconds since the outage began, until now or until it ended.
    pub(super) seconds: u64,
    /// True when it is over.
    pub(super) resolved: bool,
}

/// What is known of one fingerprint; its texts are safe.
#[derive(Debug)]
pub(super) enum AlertSample {
    DeadLetter(Box<DeadLetterAlert>),
    Outage(OutageReport),
}

impl AlertSample {
    /// A safe copy of what a caller told.
    pub(super) fn from_dead_letter(alert: &DeadLetterAlert) -> Self {
        let DeadLetterAlert { queue, job_id, from, to, host, kind, stage, detail, limit, command, replayed } =
            alert;
        Self::DeadLetter(Box::new(DeadLetterAlert {
            queue: sanitize(queue, MAX_TAG_BYTES),
            job_id: sanitize(job_id, MAX_FIELD_BYTES),
            from: *from,
            to: *to,
            host: host.as_ref().map(|host| sanitize_and_scrub(host, MAX_TAG_BYTES)),
            kind: *kind,
            stage: *stage,
            detail: sanitize_and_scrub(detail, MAX_DETAIL_BYTES),
            limit: limit.as_ref().map(|limit| sanitize_and_scrub(limit, MAX_FIELD_BYTES)),
            // Ours, and it holds an id that the scrubber could take for a secret.
            command: sanitize(command, MAX_FIELD_BYTES),
            replayed: *replayed,
        }))
    }
}

/// The event for `sample`, standing for `count` occurrences of which the first was `ago_seconds` ago.
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
    event
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

fn event(level: Level, fingerprint: &[&'static str], text: String) -> Event<'static> {
    let fingerprint: Vec<_> = fingerprint.iter().map(|part| (*part).into()).collect();
    Event { level, fingerprint: fingerprint.into(), message: Some(text), ..Event::default() }
}

fn tag<const N: usize>(event: &mut Event<'_>, tags: [(&str, &str); N]) {
    event.tags.extend(tags.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// A sentence from outside, without secrets, on one line, bounded.
pub(super) fn sanitize_detail(text: &str) -> String {
    sanitize_and_scrub(text, MAX_DETAIL_BYTES)
}

fn sanitize_and_scrub(text: &str, max: usize) -> String {
    sanitize(&scrub(text), max)
}
