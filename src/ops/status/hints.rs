//! What somebody should do something about, each with the next command.

use std::fmt;

use anstyle::Style;

use super::Look;
use crate::ops::render::{BAD, WARN, sanitize};
use crate::ops::selection::ago;
use crate::queue::{AlertsRejected, NEARLY_FULL, Status, UnreadableKey};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum HintLevel {
    /// It will become worse.
    Warn,
    /// Something does not work.
    Bad,
}

/// A sentence about what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    /// How bad it is.
    pub(crate) level: HintLevel,
    /// What is wrong.
    pub(crate) text: String,
    /// The command that shows more, or mends it.
    pub(crate) command: Option<String>,
}

impl HintLevel {
    pub(super) fn style(self) -> Style {
        match self {
            Self::Warn => WARN,
            Self::Bad => BAD,
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.command.as_ref().map_or(Ok(()), |command| write!(f, ": {command}"))
    }
}

impl Look {
    /// What is wrong, as far as it is known.
    pub(crate) fn hints(&self) -> Vec<Hint> {
        let Some(status) = self.status() else { return Vec::new() };
        let mut hints = Vec::new();
        let mut add = |level, text: String, command: Option<&str>| {
            hints.push(Hint { level, text, command: command.map(|words| self.command(words)) });
        };
        for UnreadableKey { key, error } in &status.unreadable {
            add(
                HintLevel::Bad,
                format!("cannot read {}: {}", sanitize(key, 100), sanitize(error, 200)),
                None,
            );
        }
        if self.groups.is_none() && self.numbers.is_current() {
            let what = "the groups of dead letters are unknown: they were not read in time";
            add(HintLevel::Bad, what.to_owned(), None);
        }
        if let Some(AlertsRejected { since_ms, status: code }) = status.alerts_rejected {
            let since = ago(status.at_ms, since_ms);
            let what = format!("Sentry rejects all alerts (HTTP {code}, first {since})");
            add(HintLevel::Bad, what, Some("sentry test"));
        }
        caps(status, &mut add);
        for what in status.problems() {
            add(HintLevel::Bad, format!("redis   {}", sanitize(&what, 300)), None);
        }
        if let Some(stalled) = self.stalled() {
            let (next, words) = match status.workers.is_empty() {
                true => ("start one with", "work"),
                false => ("see", "doctor"),
            };
            add(HintLevel::Bad, format!("STALLED {stalled}: {next} {}", self.command(words)), None);
        }
        hints
    }
}

/// What is nearly full.
fn caps(status: &Status, add: &mut impl FnMut(HintLevel, String, Option<&str>)) {
    if status.dead_filled() >= NEARLY_FULL || status.evicted_last_day() > 0 {
        let percent = status.dead_filled() * 100.0;
        let evicted = status.evicted_last_day();
        let what =
            format!("dead letters at {percent:.0} % of their cap, {evicted} were evicted in the last 24 h");
        add(HintLevel::Warn, what, Some("dead groups"));
    }
    if status.backlog() >= status.backlog_max && status.backlog_max > 0 {
        let ceiling = status.backlog_max;
        let what = "payloads stay in the inbox, enqueue refuses";
        add(HintLevel::Warn, format!("the backlog is at its ceiling of {ceiling}: {what}"), None);
    }
    let memory = &status.memory;
    if !memory.reports_evict && memory.reports_filled() >= NEARLY_FULL {
        let percent = memory.reports_filled() * 100.0;
        let stopped = if memory.reports_filled() >= 1.0 { ", nothing is claimed" } else { "" };
        let what = format!("results are at {percent:.0} % of their cap{stopped}");
        add(HintLevel::Warn, what, Some("results free"));
    }
}
