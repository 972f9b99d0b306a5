//! The only place that prints: data to stdout, talk to stderr, colour where a terminal wants it.
//!
//! Whatever came from outside is shown through [`sanitize`] first, and JSON is escaped as far: a hostile URL can neither
//! move the cursor nor pretend to be one of our lines.

mod escape;
pub(super) mod width;

use std::cmp::Reverse;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use anstream::{eprintln, print, println};
use anstyle::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use time::OffsetDateTime;

pub use self::width::Column;
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

/// A fact by its name, on as many lines as it takes.
pub(crate) fn field(name: &str, value: &str) {
    const NAME: usize = 10;
    sentence(&format!("{} {value}", styled(DIM, format!("{name:<NAME$}"))), NAME + 1);
}

/// A sentence of data, broken where the terminal's lines end, with `indent` blanks before what follows.
pub(crate) fn sentence(text: &str, indent: usize) {
    width::wrapped(text, sentence_width(), indent).iter().for_each(line);
}

/// Where no terminal is known, a sentence stays on one line, as logs and pipes want it.
fn sentence_width() -> usize {
    width::known_width().unwrap_or(usize::MAX)
}

/// A sentence of talk, broken where the terminal's lines end.
pub fn note(text: impl std::fmt::Display) {
    for line in text.to_string().split('\n') {
        let indent = line.len() - line.trim_start().len() + 2;
        width::wrapped(line, sentence_width(), indent).iter().for_each(|line| eprintln!("{line}"));
    }
}

/// Columns of the name of a part of a plan.
const PLANNED: usize = 9;

/// A part of a plan by its name, broken where the terminal's lines end.
pub(crate) fn planned(name: &str, text: impl std::fmt::Display) {
    let text = format!("  {name:<PLANNED$} {text}");
    width::wrapped(&text, sentence_width(), PLANNED + 3).iter().for_each(|line| eprintln!("{line}"));
}

/// The same on one line, cut at its end.
pub(crate) fn planned_line(name: &str, text: &str) {
    let line = width::cut(&format!("  {name:<PLANNED$} {text}"), sentence_width());
    eprintln!("{}", styled(DIM, line.trim_end()));
}

/// A command to copy, behind what it is for. It is never cut or broken: where both do not fit a line it has its own.
pub fn command(label: &str, command: &str) {
    let line = format!("{label} {command}");
    match width::columns(&line) <= sentence_width() {
        true => eprintln!("{line}"),
        false => eprintln!("{}\n  {command}", label.trim_end()),
    }
}

/// What went wrong, in talk.
pub fn error(text: impl std::fmt::Display) {
    note(format!("{}: {text}", styled(BAD, "error")));
}

/// An object for programs, with the version of its form.
#[derive(Serialize)]
struct Document<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// One object for programs, a struct or a map; what could steer the terminal of a person is escaped.
pub fn json(schema_version: u32, value: &impl Serialize) {
    stored_json(&Document { schema_version, value });
}

/// The same in one line, without its end.
pub(crate) fn json_document_line(schema_version: u32, value: &impl Serialize) -> String {
    json_line(&Document { schema_version, value })
}

/// A document as it is stored, which bears its version where it has one.
pub(crate) fn stored_json(value: &impl Serialize) {
    match escape::pretty(value) {
        Ok(text) => println!("{text}"),
        Err(e) => error(format!("the result cannot be written as JSON: {e}")),
    }
}

/// One of many objects for programs as a line without its end, escaped like [`json`].
pub(crate) fn json_line(value: &impl Serialize) -> String {
    // Fails only for maps with keys that are not strings, which no caller has.
    escape::compact(value).unwrap_or_default()
}

/// A table without lines, no wider than the terminal.
pub fn table(columns: &[Column<'_>], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    table_within(width::terminal_width(), columns, rows)
}

fn table_within(most: usize, columns: &[Column<'_>], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let heading = columns.iter().map(|column| column.heading().to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let widest = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| width::columns(cell)).max();
    let widths: Vec<usize> = (0..columns.len()).map(|at| widest(at).unwrap_or(0)).collect();
    let widths = width::fitted(columns, &widths, most);
    let shown = |row: &Vec<String>| -> Vec<String> {
        let cells = columns.iter().zip(&widths).zip(row);
        cells.filter_map(|((column, width), cell)| Some(column.fitted(cell, (*width)?))).collect()
    };
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut rows = rows.iter().map(shown);
    table.set_header(rows.next().unwrap_or_default());
    rows.for_each(|row| {
        table.add_row(row);
    });
    let left = columns.iter().zip(&widths).filter(|(_, width)| width.is_some());
    for (at, (column, _)) in left.enumerate() {
        if let (Column::Number(_), Some(column)) = (column, table.column_mut(at)) {
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

/// True where a test compares whole outputs: what differs between two runs and two machines is then one value, so that
/// tables are as wide in each.
fn is_snapshot() -> bool {
    cfg!(feature = "test-hooks") && std::env::var_os("WM_TEST_SNAPSHOT").is_some()
}

/// Sorts sizes, the largest first.
pub(crate) fn largest_first(bytes: u64) -> Reverse<u64> {
    Reverse(if is_snapshot() { 0 } else { bytes })
}

/// A duration as people say it: `412ms`, `4m 12s`, `3h 5m`, `2d 1h`.
pub(crate) fn format_duration(time: Duration) -> String {
    if is_snapshot() {
        return "4m 12s".to_owned();
    }
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
    if is_snapshot() {
        return "1.2 MiB".to_owned();
    }
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
    if is_snapshot() {
        return "op@bastion".to_owned();
    }
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
        let columns = [Column::Word("KIND"), Column::Number("N")];
        let text = table_within(80, &columns, [["timeout", "21"].map(str::to_owned).to_vec()]);
        assert_eq!(text, " KIND      N\n timeout  21");
    }

    #[test]
    fn a_table_is_as_wide_as_it_may_be_and_no_wider() {
        let columns =
            [Column::Shortened("ID"), Column::Extra("BUILD"), Column::Number("N"), Column::Cut("DETAIL")];
        let row = ["import-2026-11-01-4711", "wm-analyzer@0.1", "7", "404 Not Found, 漢字"];
        let table = |width| table_within(width, &columns, [row.map(str::to_owned).to_vec()]);
        assert_eq!(
            table(66),
            " ID                      BUILD            N  DETAIL\n import-2026-11-01-4711  wm-analyzer@0.1  7  \
             404 Not Found, 漢字"
        );
        assert_eq!(
            table(44),
            " ID                   N  DETAIL\n import-20…1-01-4711  7  404 Not Found, 漢字"
        );
        for width in 20..80 {
            let widest = table(width).lines().map(width::columns).max();
            assert!(widest <= Some(width), "{width}: {widest:?}");
        }
    }
}
