//! Logging to standard error: text for people, JSON for programs.
//!
//! It only formats; callers decide what is logged, and at which level.
//!
//! Invariant: one event is one line of at most `MAX_LINE_BYTES`; every text in it has passed through
//! `scrub` and `sanitize`, so no page can forge a line, colour a terminal or leak a password; a JSON line is
//! always valid JSON.
//!
//! # Why
//! A custom formatter instead of `tracing_subscriber`'s: that one keeps bidi characters and secrets, and its
//! lines are unbounded, so one hostile address could make a collector split a line into pieces that are not
//! JSON.

mod filter;
mod formatter;

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::util::SubscriberInitExt;

pub use self::filter::LogFilter;
use self::formatter::{LineFormatter, SpanFields};

/// Container runtimes split longer lines (Docker and the Kubernetes CRI both at 16 KiB).
pub(crate) const MAX_LINE_BYTES: usize = 16 * 1024;

/// Configuration of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Format of the log lines.
    pub format: Format,
    /// Which events are logged, in the syntax of `RUST_LOG`; blank means `info`.
    pub filter: LogFilter,
}

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Text if standard error is a terminal, JSON otherwise.
    Auto,
    /// One human-readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A global subscriber is already set.
    #[error("logging was started twice")]
    AlreadyInitialized(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging to standard error, once per process.
///
/// # Errors
/// If logging was started before.
pub fn init(config: &Config) -> Result<(), Error> {
    let terminal = std::io::stderr().is_terminal();
    let line = match config.format {
        Format::Json => LineFormatter::Json,
        Format::Auto if !terminal => LineFormatter::Json,
        Format::Auto | Format::Text => LineFormatter::Text,
    };
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    subscriber(line, &config.filter, colour, std::io::stderr).try_init()?;
    Ok(())
}

/// Builds the subscriber for any writer.
fn subscriber<W>(
    line: LineFormatter,
    filter: &LogFilter,
    colour: bool,
    writer: W,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter.to_env_filter())
        .with_ansi(colour)
        .with_writer(writer)
        .fmt_fields(SpanFields)
        .event_format(line)
        .finish()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct LogBuffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for LogBuffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(line: LineFormatter, emit: impl FnOnce()) -> String {
        let buffer = LogBuffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(line, &"info".parse().unwrap(), false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, emit);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn hostile() {
        let url = "http://u:hunter2@a.test/\u{202e}?q=hunter2\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J";
        let _job = tracing::info_span!("job", id = "j-1", url).entered();
        tracing::info!(url, n = 3_u64, ok = true, ratio = 0.5, "fetched {url}");
        tracing::debug!("not asked for");
    }

    #[test]
    fn a_hostile_address_stays_one_line_of_text_without_power_or_secrets() {
        let text = logged(LineFormatter::Text, hostile);
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']) && !text.contains("hunter2"), "{text:?}");
        assert!(text.contains("  INFO job{id=j-1 url="), "{text:?}");
        assert!(text.trim_end().ends_with("n=3 ok=true ratio=0.5"), "{text:?}");
    }

    #[test]
    fn a_json_line_is_one_object_with_typed_fields() {
        let text = logged(LineFormatter::Json, hostile);
        assert!(text.ends_with("}\n") && text.matches('\n').count() == 1, "{text:?}");
        assert!(!text.contains("hunter2") && !text.contains('\u{202e}'), "{text:?}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["level"], &json["n"], &json["ok"]), (&"INFO".into(), &3.into(), &true.into()));
        assert!(
            json["message"].as_str().unwrap().starts_with("fetched http://***@a.test/\\u{202e}?q=***\\n2026"),
            "{json}"
        );
        assert!(json["spans"][0].as_str().unwrap().starts_with("job{id=j-1"), "{json}");
        assert!(json["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_line_has_a_bound_and_json_stays_whole_within_it() {
        let flood = "\"".repeat(100_000);
        let tell = || tracing::info!(a = flood, b = flood, c = flood, d = flood, e = 1, "{flood}");
        for line in [LineFormatter::Text, LineFormatter::Json] {
            let text = logged(line, tell);
            assert!(text.len() <= MAX_LINE_BYTES + 1, "{line:?}: {}", text.len());
            assert!(text.contains("cut"), "{line:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&logged(LineFormatter::Json, tell)).unwrap();
        assert_eq!((&json["cut"], &json["e"]), (&true.into(), &1.into()));
    }

    #[test]
    fn logging_starts_once() {
        let config = Config { format: Format::Auto, filter: "off".parse().unwrap() };
        init(&config).unwrap();
        assert!(matches!(init(&config), Err(Error::AlreadyInitialized(_))));
    }
}
