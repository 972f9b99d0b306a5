//! Log lines: text for people, JSON for programs, to standard error.
//!
//! It only formats; what is worth a line, and at which level, is its writer's choice.
//!
//! Invariant: one event is one line of at most [`MAX_LINE_BYTES`]; every text in it has gone through `scrub` and
//! `sanitize`, so no page can forge a line, colour a terminal or leak a password; a JSON line is always whole JSON.
//!
//! # Why
//! A formatter of our own and not `tracing_subscriber`'s: theirs leaves bidi characters and secrets in, and a line
//! has no bound, so one hostile address could make a collector split it into lines that are no JSON.

mod formatter;

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use self::formatter::{LineFormatter, SpanFields};
use super::sanitize;

/// Container runtimes split longer lines (Docker and the Kubernetes CRI both at 16 KiB).
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// What can be configured of the log lines.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// In which form.
    pub format: Format,
    /// What is logged, in the grammar of `RUST_LOG`; blank is `info`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Text where standard error is a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Why logs cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("the log filter {filter:?} is not one ({source}): write e.g. info or wm_analyzer=debug,warn")]
    Filter {
        /// What stood there.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody logs already.
    #[error("logging was started twice")]
    AlreadyInitialized(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging to standard error, once per process.
///
/// # Errors
/// A filter that is not one (a configuration error), or logging that was started before.
pub fn init(config: &Config) -> Result<(), Error> {
    let terminal = std::io::stderr().is_terminal();
    let line = match config.format {
        Format::Json => LineFormatter::Json,
        Format::Auto if !terminal => LineFormatter::Json,
        Format::Auto | Format::Text => LineFormatter::Text,
    };
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    subscriber(line, &config.filter, colour, std::io::stderr)?.try_init()?;
    Ok(())
}

/// All of it but the choice of where to write.
fn subscriber<W>(
    line: LineFormatter,
    filter: &str,
    colour: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, Error>
where
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = if filter.trim().is_empty() { "info" } else { filter.trim() };
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| Error::Filter { filter: sanitize(filter, 200), source })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_writer(writer)
        .fmt_fields(SpanFields)
        .event_format(line);
    Ok(subscriber.finish())
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
        let subscriber = subscriber(line, "info", false, move || writer.clone()).unwrap();
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
            json["message"].as_str().unwrap().starts_with("fetched http://***@a.test/\\u{202e}?***\\n2026"),
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
    fn a_filter_that_is_none_is_an_error_that_names_it() {
        let error = subscriber(LineFormatter::Text, "info,=x=", false, std::io::stderr)
            .map(drop)
            .expect_err("refused");
        assert!(error.to_string().contains("info,=x="), "{error}");
        assert!(subscriber(LineFormatter::Text, " ", false, std::io::stderr).is_ok());
    }

    #[test]
    fn logging_starts_once() {
        let config = Config { format: Format::Auto, filter: "off".to_owned() };
        init(&config).unwrap();
        assert!(matches!(init(&config), Err(Error::AlreadyInitialized(_))));
    }
}
