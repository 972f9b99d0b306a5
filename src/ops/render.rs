//! The only place that prints: data to stdout, talk to stderr, colour where a terminal wants it.
//!
//! Whatever came from outside is shown through [`sanitize`] first, and JSON is escaped as far: a hostile URL can neither
//! move the cursor nor pretend to be one of our lines.

mod escape;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use anstream::{eprintln, print, println};
use anstyle::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use time::OffsetDateTime;

use super::Exit;
use crate::job::measured::ChildUsage;
pub use crate::telemetry::sanitize;

/// Good news.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Bad news.
pub const BAD: Style = AnsiColor::Red.on_default();
/// Look here.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
/// Aside.
pub(crate) const DIM: Style = Style::new().dimmed();
/// Headings.
pub(crate) const BOLD: Style = Style::new().bold();

/// Text in a style.
pub(crate) fn styled(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// One line of data.
pub fn line(text: impl std::fmt::Display) {
    println!("{text}");
}

/// One line of talk.
pub fn note(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// What went wrong, in talk.
pub fn error(text: impl std::fmt::Display) {
    eprintln!("{}: {text}", styled(BAD, "error"));
}

/// One object for programs; what could steer the terminal of a person is escaped.
pub fn json(value: &impl Serialize) {
    match escape::pretty(value) {
        Ok(text) => println!("{text}"),
        Err(e) => error(format!("the result cannot be written as JSON: {e}")),
    }
}

/// One object for programs as a line without its end, escaped like [`json`].
pub(crate) fn json_line(value: &impl Serialize) -> String {
    // Fails only for maps with keys that are not strings, which no caller has.
    escape::compact(value).unwrap_or_default()
}

/// A table without lines; columns named in `right` are aligned to the right.
pub fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Asks for a yes before a bulk action, unless `--yes` was given.
///
/// # Errors
/// The exit code to end with, once it was said that nothing changed: the answer was no, or stdin is not a
/// terminal.
pub fn confirm(question: &str, yes: bool) -> Result<(), Exit> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        error("there is no terminal to ask on: say --yes, or look with --dry-run; nothing changed");
        return Err(Exit::ConfirmationNeeded);
    }
    eprintln!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    note("nothing changed");
    Err(Exit::Ok)
}

/// A duration as people say it: `412ms`, `4m 12s`, `3h 5m`, `2d 1h`.
pub(crate) fn format_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{}ms", time.as_millis()),
        1..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Time since a moment in milliseconds since 1970, as people say it.
pub(crate) fn elapsed_since(ms: u64) -> String {
    let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(ms);
    format_duration(Duration::from_millis(now.saturating_sub(ms)))
}

/// Bytes as people say them.
pub(crate) fn format_bytes(count: u64) -> String {
    bytesize::ByteSize::b(count).to_string()
}

/// What a child cost, against what it might have cost.
pub(crate) fn format_measured(measured: &ChildUsage) -> String {
    let limits = measured.limits.unwrap_or_default();
    let phase = measured.phase.as_ref().map(|phase| format!("last in {}", sanitize(phase, 40)));
    let end = match (measured.exit, measured.signal) {
        (_, Some(signal)) => Some(format!("signal {signal}")),
        (Some(0) | None, None) => None,
        (Some(code), None) => Some(format!("exit {code}")),
    };
    let mut parts = vec![
        format!("wall {} of {} ms", measured.wall_ms, limits.wall_ms),
        format!("cpu {} of {} ms", measured.cpu_ms, limits.cpu_ms),
        format!("heap {} of {}", format_bytes(measured.peak_heap_bytes), format_bytes(limits.heap_bytes)),
        format!(
            "resident {} within an address space limit of {}",
            format_bytes(measured.max_rss_bytes),
            format_bytes(limits.address_space_limit_bytes)
        ),
    ];
    parts.extend(end.into_iter().chain(phase));
    parts.push(format!("isolation {}", measured.isolation.join("+")));
    parts.join(", ")
}

/// Who does this, for the record: who became root, or the user as the operating system names them, and the machine.
pub fn operator() -> String {
    let user = std::env::var("SUDO_USER").ok().filter(|user| !user.is_empty());
    let user = user.or_else(|| whoami::username().ok());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    sanitize(&format!("{user}@{host}"), 100)
}

/// Text without a line end, for what is built piece by piece.
pub fn text(text: impl std::fmt::Display) {
    print!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_aloud() {
        let formatted: Vec<String> = [412, 42_000, 252_000, 11_100_000, 176_400_000]
            .map(|ms| format_duration(Duration::from_millis(ms)))
            .into();
        assert_eq!(formatted, ["412ms", "42s", "4m 12s", "3h 5m", "2d 1h"]);
    }

    #[test]
    fn a_table_has_no_lines_and_no_trailing_blanks() {
        let text = table(&["KIND", "N"], &[1], [vec!["timeout".to_owned(), "21".to_owned()]]);
        assert_eq!(text, " KIND      N\n timeout  21");
    }
}
