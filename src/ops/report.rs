//! `report show`: what changed between two versions, from the report in Redis or the whole result in the results store.

use std::io::{IsTerminal as _, Read as _};

use flate2::read::GzDecoder;
use uuid::Uuid;

use super::Exit;
use super::changes::{self, ChangesView};
use super::render::width::known_width;
use super::render::{self, BOLD, WARN, sanitize, styled};
use crate::job::report::Report;
use crate::queue::{Error, OperatorHandle};
use crate::results::{ResultKey, ResultStore};

/// Most bytes of a whole result that are printed: what the largest pages can have, and no bomb.
const WHOLE_MAX_BYTES: u64 = 1 << 30;

/// Which report, and how it is printed.
pub struct ReportOptions {
    /// The older and the newer version.
    pub pair: (Uuid, Uuid),
    /// Show all that the report has.
    pub all: bool,
    /// Print the whole result instead, from the results store.
    pub whole: bool,
    /// Print the report as JSON.
    pub json: bool,
}

/// What is stored of a pair: a [`Report`], or the JSON of a skip, a death or a summary. `None` where it was not analysed,
/// or that is forgotten.
///
/// # Errors
/// Those of the queue.
pub async fn read(
    queue: &OperatorHandle,
    (from, to): (Uuid, Uuid),
) -> Result<Option<serde_json::Value>, Error> {
    let stored = queue.report(from, to).await?;
    Ok(stored.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Prints the report of a pair.
///
/// # Errors
/// Those of the queue.
pub async fn show(
    queue: &OperatorHandle,
    store: Option<&ResultStore>,
    options: &ReportOptions,
) -> Result<Exit, Error> {
    let (from, to) = options.pair;
    let Some(value) = read(queue, (from, to)).await? else {
        render::error(format!("no report of {from}..{to}: it was not analysed, or its report is forgotten"));
        return Ok(Exit::NothingMatched);
    };
    if options.json {
        render::stored_json(&value);
        return Ok(Exit::Ok);
    }
    let Ok(report) = serde_json::from_value::<Report>(value.clone()) else {
        print_other(&value);
        return Ok(Exit::Ok);
    };
    if options.whole {
        return Ok(whole(store, &report).await);
    }
    print(&report, options.all);
    if let Some(result) = &report.result {
        render::note(format!(
            "every step, {} compressed: {}",
            render::format_bytes(result.bytes),
            sanitize(&result.url, 500)
        ));
    }
    Ok(Exit::Ok)
}

/// Prints what is stored of a pair, as `report show` does.
pub(super) fn print_stored(value: &serde_json::Value) {
    match serde_json::from_value::<Report>(value.clone()) {
        Ok(report) => print(&report, false),
        Err(_) => print_other(value),
    }
}

/// Prints a skip, a death, a summary from when Redis was full: small, and without changes.
fn print_other(value: &serde_json::Value) {
    let state = value.get("state").and_then(serde_json::Value::as_str).unwrap_or_default();
    render::line(styled(BOLD, sanitize(state, 20)));
    render::stored_json(value);
}

/// Why there is no whole result to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoWhole {
    /// It was too large to be stored.
    #[error("the whole result was larger than results.max_bytes, so it was not stored")]
    TooLarge,
    /// There was nowhere to store it.
    #[error("the whole result was not stored: no results store was configured then")]
    NotStored,
    /// It is somewhere that this configuration does not name.
    #[error("results.store is not set here; the whole result is {0}")]
    NoStore(String),
    /// Another one was stored since.
    #[error("what the results store has is not what the report names: the pair was analysed again")]
    Replaced,
    /// It is not there any more.
    #[error("the results store has no {0}")]
    Absent(String),
    /// The store fails.
    #[error("{0}")]
    Failed(String),
}

/// The whole result that the report names, compressed; it is what the report was written with.
pub(crate) async fn whole_gzip(store: Option<&ResultStore>, report: &Report) -> Result<Vec<u8>, NoWhole> {
    let Some(result) = &report.result else {
        let too_large = report.omitted.iter().any(|part| part == "result");
        return Err(if too_large { NoWhole::TooLarge } else { NoWhole::NotStored });
    };
    let address = || sanitize(&result.url, 500);
    let store = store.ok_or_else(|| NoWhole::NoStore(address()))?;
    let key = ResultKey { from: report.from, to: report.to, analysis_version: report.analysis_version };
    match store.get(&key, result.bytes).await {
        Ok(Some(gzip)) if result.is_of(&gzip) => Ok(gzip),
        Ok(Some(_)) => Err(NoWhole::Replaced),
        Ok(None) => Err(NoWhole::Absent(address())),
        Err(failure) => Err(NoWhole::Failed(sanitize(&failure.detail, 500))),
    }
}

/// Prints the whole result that the report names.
async fn whole(store: Option<&ResultStore>, report: &Report) -> Exit {
    if refuse_terminal() {
        return Exit::Usage;
    }
    let why = match whole_gzip(store, report).await {
        Ok(gzip) => return print_whole(&gzip),
        Err(why) => why,
    };
    render::error(&why);
    match why {
        NoWhole::TooLarge | NoWhole::NotStored | NoWhole::Absent(_) => Exit::NothingMatched,
        NoWhole::NoStore(_) => Exit::Config,
        NoWhole::Replaced | NoWhole::Failed(_) => Exit::Failed,
    }
}

/// Prints what changed.
pub(super) fn print(report: &Report, all: bool) {
    let about = if report.approximate { "  (approximate)" } else { "" };
    render::line(styled(BOLD, format!("analysed  priority {:.4}{about}", report.annotation.priority)));
    for line in body_lines(report) {
        render::line(line);
    }
    let width = known_width();
    for line in changes::lines(report, ChangesView { width, all }) {
        render::line(line);
    }
}

/// What is unusual about how the bodies were read, and their kinds where these differ.
fn body_lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if let [from, to] = &report.bodies[..]
        && let (Some(old), Some(new)) = (&from.sniffed, &to.sniffed)
        && old != new
    {
        let kinds = format!("from is {}, to is {}", sanitize(old, 100), sanitize(new, 100));
        lines.push(format!("{}  {kinds}", styled(WARN, "kinds")));
    }
    for body in &report.bodies {
        for note in &body.notes {
            lines.push(format!("{}   {} {}", styled(WARN, "note"), body.side, note.sentence()));
        }
    }
    lines
}

/// Refuses to write a whole result to a terminal: it holds what pages contain, unescaped.
pub(super) fn refuse_terminal() -> bool {
    let refused = std::io::stdout().is_terminal();
    if refused {
        render::error("--whole writes what pages contain as it is: send it to a file or a pipe");
    }
    refused
}

/// Writes a whole result, which a child has compressed.
pub(super) fn print_whole(gzip: &[u8]) -> Exit {
    if gzip.is_empty() {
        render::error("the whole result is larger than sandbox.reply");
        return Exit::Failed;
    }
    let mut json = GzDecoder::new(gzip).take(WHOLE_MAX_BYTES);
    match std::io::copy(&mut json, &mut std::io::stdout().lock()) {
        Ok(_) => Exit::Ok,
        Err(e) => {
            render::error(format!("the whole result cannot be written: {e}"));
            Exit::Failed
        }
    }
}
