//! Formats one event as one line, as text or JSON.
//!
//! Invariant: every text of an event or a span passes through `scrub` and `sanitize` as it is recorded,
//! before it is formatted.

use std::fmt::{self, Write};

use anstyle::{AnsiColor, Style};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::MAX_LINE_BYTES;
use crate::job::redact::scrub;
use crate::job::text::floor_char_boundary;
use crate::telemetry::text::sanitize;

/// Limit on one message or field: enough for a sentence with two long addresses.
const MAX_TEXT_BYTES: usize = 4 * 1024;
/// Reserved for the end of a line.
const MAX_TAIL_BYTES: usize = 64;

/// Formatter for the two log formats.
#[derive(Debug, Clone, Copy)]
pub(super) enum LineFormatter {
    Text,
    Json,
}

impl<S, N> FormatEvent<S, N> for LineFormatter
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans: Vec<String> = ctx.event_scope().map_or_else(Vec::new, |scope| {
            let shown = scope.from_root().map(|span| {
                let extensions = span.extensions();
                let of_span = extensions.get::<FormattedFields<N>>().map_or("", |f| f.fields.as_str());
                format!("{}{{{of_span}}}", span.name())
            });
            shown.collect()
        });
        let line = match self {
            Self::Text => text_line(event, &spans, &fields, out.has_ansi_escapes())?,
            Self::Json => json_line(event, &spans, &fields)?,
        };
        writeln!(out, "{line}")
    }
}

/// `<time> <LEVEL> <span>: <message> name=value …`, cut at the limit.
fn text_line(
    event: &Event<'_>,
    spans: &[String],
    fields: &Fields,
    colour: bool,
) -> Result<String, fmt::Error> {
    let mut line = now()?;
    let style = if colour { style_of(*event.metadata().level()) } else { Style::new() };
    write!(line, " {style}{:>5}{style:#}", event.metadata().level())?;
    for span in spans {
        write!(line, " {span}:")?;
    }
    write!(line, " {}", fields.message)?;
    for (name, value) in &fields.others {
        line.push(' ');
        pair(&mut line, name, value)?;
    }
    if line.len() > MAX_LINE_BYTES {
        line.truncate(floor_char_boundary(&line, MAX_LINE_BYTES - MAX_TAIL_BYTES));
        line.push_str("… (cut)");
    }
    Ok(line)
}

/// One JSON object; fields that do not fit are omitted and `"cut":true` is set.
fn json_line(event: &Event<'_>, spans: &[String], fields: &Fields) -> Result<String, fmt::Error> {
    let mut line = String::from("{");
    let metadata = event.metadata();
    let mut cut = false;
    let mut add = |name: &str, value: serde_json::Value| {
        let member = format!("{}:{value}", serde_json::Value::from(name));
        if line.len() + member.len() > MAX_LINE_BYTES - MAX_TAIL_BYTES {
            cut = true;
            return;
        }
        if line.len() > 1 {
            line.push(',');
        }
        line.push_str(&member);
    };
    add("time", now()?.into());
    add("level", metadata.level().as_str().into());
    add("target", metadata.target().into());
    add("message", fields.message.as_str().into());
    for (name, value) in &fields.others {
        add(name, value.clone());
    }
    if !spans.is_empty() {
        add("spans", spans.into());
    }
    if cut {
        line.push_str(",\"cut\":true");
    }
    line.push('}');
    Ok(line)
}

/// The current time, as RFC 3339 in UTC.
fn now() -> Result<String, fmt::Error> {
    let mut time = String::with_capacity(64);
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    Ok(time)
}

fn style_of(level: Level) -> Style {
    let colour = match level {
        Level::ERROR => AnsiColor::Red,
        Level::WARN => AnsiColor::Yellow,
        Level::INFO => AnsiColor::Green,
        Level::DEBUG => AnsiColor::Blue,
        Level::TRACE => AnsiColor::Magenta,
    };
    colour.on_default()
}

/// `name=value`, quoted if the end of the value would be ambiguous.
fn pair(out: &mut String, name: &str, value: &serde_json::Value) -> fmt::Result {
    match value {
        serde_json::Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => {
            write!(out, "{name}={text}")
        }
        other => write!(out, "{name}={other}"),
    }
}

/// Fields of an event or a span, sanitized as they are recorded.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, text: &str) {
        let text = sanitize(&scrub(text), MAX_TEXT_BYTES);
        match field.name() {
            "message" => self.message = text,
            name => self.others.push((name, text.into())),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), value.into()));
    }
}

/// Formats a span's fields once, when the span is created.
#[derive(Debug)]
pub(super) struct SpanFields;

impl<'w> FormatFields<'w> for SpanFields {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'w>, fields: R) -> fmt::Result {
        let mut recorded = Fields::default();
        fields.record(&mut recorded);
        let mut text = String::new();
        for (i, (name, value)) in recorded.others.iter().enumerate() {
            if i > 0 {
                text.push(' ');
            }
            pair(&mut text, name, value)?;
        }
        out.write_str(&text)
    }
}
