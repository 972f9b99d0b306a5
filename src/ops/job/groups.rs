//! `dead groups`: why jobs die, where, and what became of those that were replayed; from counters, never by a scan.

use serde_json::json;

use crate::job::text::host_filter;
use crate::ops::Exit;
use crate::ops::render::{self, Column, sanitize};
use crate::ops::selection::ago;
use crate::queue::{Error, Group, OperatorHandle, ReplayOutcomes, Window};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// Most groups in the table; JSON has all.
const SHOWN: usize = 20;

/// Prints the groups, those with most letters first.
pub(super) async fn run(queue: &OperatorHandle, window: Window, json: bool) -> Result<Exit, Error> {
    let (groups, letters) = queue.groups().await?;
    let now_ms = queue.server_time_ms().await?;
    if json {
        render::json(SCHEMA_VERSION, &json!({ "at_ms": now_ms, "dead": letters, "groups": groups }));
        return Ok(if groups.is_empty() { Exit::NothingMatched } else { Exit::Ok });
    }
    if groups.is_empty() {
        render::note("no job died in the last week");
        return Ok(Exit::NothingMatched);
    }
    let rows = groups.iter().take(SHOWN).map(|group| row(group, window, now_ms));
    let columns = [
        Column::Word("KIND"),
        Column::Shortened("HOST"),
        Column::Number("DEAD"),
        Column::Number(window.as_str()),
        Column::Word("TREND"),
        Column::Extra("FIRST"),
        Column::Word("LAST"),
        Column::Extra("REPLAYED"),
        Column::Detail("LAST DIED OF"),
    ];
    render::line(render::table(&columns, rows));
    let (dead, total): (u64, u64) =
        (groups.iter().map(|group| group.dead).sum(), groups.iter().map(|group| group.total).sum());
    let shown = groups.len().min(SHOWN);
    render::note(format!(
        "\n{shown} of {} groups: {dead} of {letters} dead letters, {total} deaths",
        groups.len()
    ));
    if letters > dead {
        render::note(format!("{} were buried by an earlier build, which counted no groups", letters - dead));
    }
    if let Some(worst) = groups.first().filter(|group| group.dead > 0) {
        let words = words_of(worst);
        render::command("look: ", &queue.command(&format!("dead ls {words} --limit 5")));
        render::command("try:  ", &queue.command(&format!("dead replay {words} --canary 5")));
    }
    Ok(Exit::Ok)
}

/// The words that select its letters.
pub fn words_of(group: &Group) -> String {
    let kind = group.kind.map_or(String::new(), |kind| format!("kind:{kind}"));
    match group.host.as_str() {
        "-" | "*" => kind,
        host => match host_filter(&sanitize(host, 300)) {
            Some(filter) => format!("{kind} {filter}"),
            None => kind,
        },
    }
}

fn row(group: &Group, window: Window, now_ms: u64) -> Vec<String> {
    vec![
        group.kind.map_or_else(|| "?".to_owned(), |kind| kind.to_string()),
        sanitize(&group.host, 100),
        group.dead.to_string(),
        group.deaths.get(window.as_str()).copied().unwrap_or(0).to_string(),
        trend(&group.trend),
        ago(now_ms, group.first_ms),
        ago(now_ms, group.last_ms),
        replayed(group.replays),
        sanitize(&group.sentence, 200),
    ]
}

/// A bar for each ten minutes of the last hour, as high as its share of the highest.
pub fn trend(points: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = points.iter().copied().max().unwrap_or(0).max(1);
    let bar = |point: &u64| match point {
        0 => BARS[0],
        point => BARS[usize::try_from(point * 7 / most).unwrap_or(7).clamp(1, 7)],
    };
    points.iter().map(bar).collect()
}

/// `5 -> 3 done, 2 died`.
pub fn replayed(outcomes: ReplayOutcomes) -> String {
    let ReplayOutcomes { replayed, done, skipped, died } = outcomes;
    if replayed == 0 {
        return "-".to_owned();
    }
    let each = [(done, "done"), (skipped, "skipped"), (died, "died"), (outcomes.open(), "open")];
    let each: Vec<String> =
        each.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    format!("{replayed} -> {}", each.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_to_be_pasted_is_one_command_whatever_the_host_is_called() {
        let group = |host: &str| Group {
            kind: crate::job::failure::FailureKind::parse("dns"),
            host: host.to_owned(),
            dead: 1,
            total: 1,
            deaths: std::collections::BTreeMap::new(),
            trend: [0; 6],
            first_ms: 0,
            last_ms: 0,
            last_id: String::new(),
            sentence: String::new(),
            build: String::new(),
            replays: ReplayOutcomes::default(),
        };
        assert_eq!(words_of(&group("a.test")), "kind:dns host:a.test");
        assert_eq!(words_of(&group("$(reboot).test")), "kind:dns 'host:$(reboot).test'");
        assert_eq!(words_of(&group("a.test,b.test")), "kind:dns");
        assert_eq!(words_of(&group("*")), "kind:dns");
    }

    #[test]
    fn a_trend_is_drawn_against_its_highest_point_and_one_is_more_than_none() {
        assert_eq!(trend(&[0, 1, 100, 50, 0, 100]), "▁▂█▄▁█");
        assert_eq!(trend(&[0; 6]), "▁▁▁▁▁▁");
    }

    #[test]
    fn what_became_of_replayed_letters_is_said_with_those_that_are_still_open() {
        let outcomes = ReplayOutcomes { replayed: 570, done: 0, skipped: 1, died: 560 };
        assert_eq!(replayed(outcomes), "570 -> 1 skipped, 560 died, 9 open");
        assert_eq!(replayed(ReplayOutcomes::default()), "-");
    }
}
