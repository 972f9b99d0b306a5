//! The screen from top to bottom: how much, how fast, how full, who works, what holds it up, why jobs die, what is wrong.

use std::time::Duration;

use time::OffsetDateTime;

use super::layout::{Layout, Line, Segment, plain};
use super::{Look, Numbers, sections};
use crate::ops::render::{self, BAD, BOLD, Column, GOOD, WARN, sanitize};
use crate::queue::{Ceilings, NEARLY_FULL, Paused, Purpose, Status};

/// Cells of the bar.
const BAR_CELLS: u64 = 10;
/// Pauses shown.
const PAUSES_SHOWN: usize = 3;

/// The lines, each at most `width` columns wide.
pub(super) fn lines(look: &Look, width: usize) -> Vec<Line> {
    let mut out = Layout::new(width);
    let command = |words: &str| look.command(words);
    let Some(status) = look.numbers.status() else {
        unknown(&mut out, look);
        sections::groups(&mut out, look);
        return out.into_lines();
    };
    heading(&mut out, look, status);
    amounts(&mut out, status);
    if look.numbers.unknown().is_empty() {
        pace(&mut out, status);
    }
    memory(&mut out, status);
    ceilings(&mut out, status);
    match look.numbers {
        Numbers::Glance(_) => out.line(&[(WARN, "worker  unknown, and so are rates and hosts".to_owned())]),
        Numbers::Current(_) | Numbers::Previous(_) | Numbers::Unknown => {
            sections::workers(&mut out, status, &command);
            sections::hosts(&mut out, status, &command);
        }
    }
    sections::groups(&mut out, look);
    for hint in look.hints() {
        out.talk(hint.level.style(), &hint.to_string());
    }
    out.into_lines()
}

/// Nothing was read in time.
fn unknown(out: &mut Layout, look: &Look) {
    let why = look.late.as_deref().unwrap_or_default();
    out.line(&[(BOLD, look.queue.clone()), plain("  "), (BAD, "unknown".to_owned())]);
    out.items("redis", &[(BAD, why.to_owned()), plain(look.command("doctor"))], "  ");
}

fn heading(out: &mut Layout, look: &Look, status: &Status) {
    let state = match (status.pauses.is_empty(), is_unreadable(status, "paused")) {
        (false, _) => (WARN, "paused".to_owned()),
        (true, true) => (BAD, "paused, as long as its pauses cannot be read".to_owned()),
        (true, false) => (GOOD, "running".to_owned()),
    };
    let clock = clock(status.at_ms);
    out.line(&[(BOLD, look.queue.clone()), plain("  "), state, plain(format!("  {clock}"))]);
    match &look.late {
        Some(why) if !look.numbers.is_current() => {
            let old = render::format_duration(look.age());
            let stale = [(BAD, format!("as of {clock}, {old} old")), (BAD, why.clone())];
            out.items("stale", &stale, ": ");
        }
        Some(_) | None => {}
    }
    for pause in status.pauses.iter().take(PAUSES_SHOWN) {
        let Paused { name, by, reason, since_ms, until_ms: _ } = pause;
        let ends = crate::ops::queue::ends_in(pause, status.at_ms);
        let since = Duration::from_millis(status.at_ms.saturating_sub(*since_ms));
        let since = render::format_duration(since);
        let [name, by, reason] =
            [(name, 40), (by, 60), (reason, 100)].map(|(text, most)| sanitize(text, most));
        let text = format!("{since} ago as {name} by {by}{ends}: {reason}");
        let resume = look.command(&format!("queue resume {name}"));
        out.items_with_command("paused", &[(WARN, text)], &resume);
    }
    let all = look.command("status -o json");
    more(out, status.pauses.len().saturating_sub(PAUSES_SHOWN), &all);
}

/// `        and 3 more: wm-analyzer ...`, where there are more.
pub(super) fn more(out: &mut Layout, count: usize, command: &str) {
    if count > 0 {
        out.items("", &[plain(format!("and {count} more: {command}"))], "");
    }
}

/// `14:02:11 UTC`.
fn clock(ms: u64) -> String {
    let at = i64::try_from(ms / 1000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{:02}:{:02}:{:02} UTC", at.hour(), at.minute(), at.second())
}

fn is_unreadable(status: &Status, name: &str) -> bool {
    status.unreadable.iter().any(|part| part.key.ends_with(&format!(":{name}")))
}

/// How much there is of each state; of dead letters, how many jobs died in the last hour too.
fn amounts(out: &mut Layout, status: &Status) {
    let oldest = status.oldest_waiting().map_or_else(|| "-".to_owned(), render::format_duration);
    let row = [
        ("inbox", status.inbox),
        ("ready", status.ready),
        ("waiting_hosts", status.waiting_for_hosts),
        ("scheduled", status.scheduled.saturating_sub(status.waiting_for_hosts)),
        ("exclusive", status.exclusive),
        ("lease", status.in_flight),
        ("dead", status.dead),
    ];
    let shown = |(name, count): (&str, u64)| {
        if is_unreadable(status, name) { "?".to_owned() } else { count.to_string() }
    };
    let mut row: Vec<String> = row.into_iter().map(shown).collect();
    if status.rates.died_last_hour > 0 {
        row[6].push_str(&format!(" (+{})", status.rates.died_last_hour));
    }
    row.push(oldest);
    let header = ["INBOX", "READY", "HOSTS", "SCHEDULED", "EXCLUSIVE", "IN FLIGHT", "DEAD", "OLDEST"];
    let table = render::table(&header.map(Column::Number), [row]);
    table.lines().for_each(|line| out.line(&[plain(line)]));
}

/// How fast it goes, and what was counted.
fn pace(out: &mut Layout, status: &Status) {
    let rates = status.rates;
    let left = status.inbox + status.backlog() + status.in_flight;
    let end = rates.all_ended_in_ms.map(|ms| render::format_duration(Duration::from_millis(ms)));
    let items = [
        Some(plain(format!("{:.1}/s ended", rates.ended_per_second))),
        Some(plain(format!("{:.1}/s admitted", rates.admitted_per_second))),
        end.filter(|_| left > 0).map(|end| plain(format!("{left} left, done in {end}"))),
        (left > 0 && rates.all_ended_in_ms.is_none()).then(|| (WARN, format!("{left} left, none ends"))),
    ];
    let items: Vec<Segment> = items.into_iter().flatten().collect();
    out.items("pace", &items, " · ");
    for (name, counts) in [("1h", &status.last_hour), ("24h", &status.last_day)] {
        // The kinds and reasons behind a colon are in JSON, and in the groups of dead letters.
        let totals = counts.iter().filter(|(name, _)| !name.contains(':'));
        let items: Vec<Segment> =
            totals.map(|(name, count)| plain(format!("{} {count}", sanitize(name, 40)))).collect();
        if !items.is_empty() {
            out.items_that_fit(&format!("{name:<8}"), &items, " · ");
        }
    }
    if status.in_flight > 0 {
        let Status { fetching, analysing, .. } = status;
        let text = format!("{fetching} fetching · {analysing} analysing, by the last heartbeats");
        out.items("flight", &[plain(text)], "");
    }
}

/// How full Redis is, in how long it is full, and of what.
fn memory(out: &mut Layout, status: &Status) {
    let memory = &status.memory;
    let (of, redis) = match &status.server {
        Some(server) if server.maxmemory_bytes > 0 => {
            let filled = server.memory_filled();
            let full_in = memory.full_in_ms.map(|ms| render::format_duration(Duration::from_millis(ms)));
            let full_in = full_in.map_or_else(String::new, |left| format!(", full in {left}"));
            let max = render::format_bytes(server.maxmemory_bytes);
            let text = format!("{} {:.0} % of {max}{full_in}", bar(filled), filled * 100.0);
            let style = if filled >= NEARLY_FULL { WARN } else { anstyle::Style::new() };
            (server.maxmemory_bytes, (style, text))
        }
        Some(server) => {
            let used = render::format_bytes(server.used_bytes);
            (server.used_bytes, plain(format!("{used} used, no maxmemory")))
        }
        None => (0, plain("?")),
    };
    let mut purposes: Vec<(Purpose, u64)> =
        Purpose::ALL.iter().map(|purpose| (*purpose, memory.of(*purpose))).collect();
    purposes.sort_by_key(|(_, bytes)| render::largest_first(*bytes));
    let each = purposes.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(purpose, bytes)| {
        let share = (bytes * 100).checked_div(of).filter(|percent| *percent > 0);
        let share = share.map_or_else(String::new, |percent| format!(" ({percent} %)"));
        plain(format!("{} {}{share}", purpose.as_str(), render::format_bytes(bytes)))
    });
    let items: Vec<Segment> = std::iter::once(redis).chain(each).collect();
    out.items("memory", &items, " · ");
}

fn bar(filled: f64) -> String {
    let full = ((filled * BAR_CELLS as f64).round() as u64).min(BAR_CELLS);
    (0..BAR_CELLS).map(|cell| if cell < full { '█' } else { '░' }).collect()
}

/// The ceiling over all workers, where it is set.
fn ceilings(out: &mut Layout, status: &Status) {
    let Ceilings { in_flight_max, .. } = status.ceilings;
    if in_flight_max > 0 {
        let is_full = status.in_flight >= u64::from(in_flight_max);
        let waits = if is_full && status.ready > 0 { ", the ready ones wait for that" } else { "" };
        let text = format!("{} of {in_flight_max} claimed jobs in flight{waits}", status.in_flight);
        out.items("ceiling", &[plain(text)], "");
    }
}
