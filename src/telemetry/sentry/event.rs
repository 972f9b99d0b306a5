//! Builds Sentry events: text, tags and fingerprint.
//!
//! It only builds values; nothing is sent here, and no process state is read: no hub, no scope, no breadcrumbs.
//!
//! Invariant: every text from outside passes through `scrub` and `sanitize` here; commands are our own text and are
//! only sanitized, as the scrubber could mistake an id for a secret.

use std::collections::BTreeMap;

use ::sentry::Level;
use ::sentry::protocol::{Context, Event, TraceContext, Value};
use uuid::Uuid;

use crate::job::redact::scrub;
use crate::telemetry::text::sanitize;

/// Sentry truncates tag values here, in bytes.
const MAX_TAG_BYTES: usize = 200;
/// Limit on one line of text in bytes.
const MAX_LINE_BYTES: usize = 2048;
/// Limit on a command or a value of the context, in bytes.
const MAX_FIELD_BYTES: usize = 512;
/// Limit on the whole text: Sentry cuts at 8,192 characters, and the commands stand last.
const MAX_TEXT_BYTES: usize = 8000;

/// How urgent an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something went wrong.
    Error,
    /// Much went wrong at once.
    Fatal,
    /// It is over, and was more than was known.
    Warning,
    /// It is over.
    Info,
}

impl Severity {
    fn level(self) -> Level {
        match self {
            Self::Error => Level::Error,
            Self::Fatal => Level::Fatal,
            Self::Warning => Level::Warning,
            Self::Info => Level::Info,
        }
    }
}

/// One event, in words; its texts may be hostile.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Id of the event: one that is sent twice is one event in Sentry.
    pub id: Uuid,
    /// How urgent it is.
    pub severity: Severity,
    /// What makes it the same issue as another event; labels only.
    pub fingerprint: Vec<String>,
    /// Its text, one entry for each line; the first is the title.
    pub lines: Vec<String>,
    /// What to type, by what it does.
    pub commands: Vec<(&'static str, String)>,
    /// Tags, of few values each, but for `job`: the one that is shown as an example, to be found by its id.
    pub tags: Vec<(&'static str, String)>,
    /// Facts about the job that is shown as an example.
    pub job: Vec<(&'static str, String)>,
    /// The example's W3C `traceparent`; may be malformed.
    pub traceparent: Option<String>,
    /// How many occurrences it stands for.
    pub count: u64,
}

impl Alert {
    /// The same without what comes from jobs and pages: its title, counts, commands and tags.
    #[must_use]
    pub fn reduced(mut self) -> Self {
        self.lines.truncate(1);
        self.lines.push("without its evidence, with which it was refused".to_owned());
        Self { job: Vec::new(), traceparent: None, ..self }
    }
}

/// The event for `alert`.
pub(super) fn build(alert: &Alert) -> Event<'static> {
    let commands = alert.commands.iter();
    let commands = commands.map(|(does, line)| format!("\n{does}: {}", sanitize(line, MAX_FIELD_BYTES)));
    let commands: String = commands.collect();
    let lines: Vec<_> = alert.lines.iter().map(|line| sanitize_detail(line)).collect();
    let text = sanitize_lines(&lines.join("\n"), MAX_TEXT_BYTES.saturating_sub(commands.len())) + &commands;
    let fingerprint: Vec<_> = alert.fingerprint.iter().map(|part| part.clone().into()).collect();
    let tags = alert.tags.iter().map(|(name, value)| ((*name).to_owned(), scrubbed(value, MAX_TAG_BYTES)));
    let mut event = Event {
        event_id: alert.id,
        level: alert.severity.level(),
        fingerprint: fingerprint.into(),
        message: Some(text),
        logger: Some("wm_analyzer".to_owned()),
        tags: tags.collect(),
        ..Event::default()
    };
    event.extra.insert("count".to_owned(), alert.count.into());
    if !alert.job.is_empty() {
        let facts = alert.job.iter();
        let facts =
            facts.map(|(name, value)| ((*name).to_owned(), Value::from(scrubbed(value, MAX_FIELD_BYTES))));
        event.contexts.insert("job".to_owned(), Context::Other(facts.collect::<BTreeMap<_, _>>()));
    }
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

/// A line from outside: scrubbed, on one line, bounded.
pub(super) fn sanitize_detail(text: &str) -> String {
    scrubbed(text, MAX_LINE_BYTES)
}

fn scrubbed(text: &str, max: usize) -> String {
    sanitize(&scrub(text), max)
}

/// As many whole lines as fit into `max` bytes.
fn sanitize_lines(text: &str, max: usize) -> String {
    let mut left = max;
    let fit = text.split('\n').take_while(|line| match left.checked_sub(line.len() + 1) {
        Some(less) => {
            left = less;
            true
        }
        None => false,
    });
    fit.collect::<Vec<_>>().join("\n")
}
