//! What an alert event says: facts of the queue in, words out.
//!
//! Pure. Invariant: every event says how many, since when, an example, and what to type next.

use std::time::Duration;

use crate::job::text::host_filter;
use crate::queue::{
    AlertState, AlertSubject, LetterCounts, LetterGroup, Queue, SharedAlert, SharedOutage, Storm,
};
use crate::telemetry::sentry::{Alert, OutageKind, Severity};
use crate::worker::summary::limit_hit;

/// Hosts that an event names.
const HOSTS_NAMED: usize = 5;
/// Kinds that a storm names: there are fewer than 40, and the rest is in the list.
const KINDS_NAMED: usize = 10;

/// The event for what was claimed.
pub(super) fn of(alert: &SharedAlert, queue: &Queue) -> Alert {
    let empty = Alert {
        id: alert.event,
        severity: Severity::Error,
        fingerprint: Vec::new(),
        lines: Vec::new(),
        commands: Vec::new(),
        tags: vec![("queue", queue.name().to_owned())],
        job: Vec::new(),
        traceparent: None,
        count: 0,
    };
    match &alert.subject {
        AlertSubject::Letters(group) => letters(group, queue, empty),
        AlertSubject::Storm(storm) => self::storm(storm, queue, empty),
        AlertSubject::Outage(outage) => self::outage(outage, queue, empty),
    }
}

/// What is sent in place of an event that is refused in every form: fixed text only.
pub(super) fn bare(alert: &Alert, queue: &Queue) -> Alert {
    Alert {
        id: alert.id,
        severity: alert.severity,
        fingerprint: vec!["alert-refused".to_owned()],
        lines: vec![format!("an alert that stands for {} could not be sent: it is refused", alert.count)],
        commands: vec![
            ("see what is dead", queue.command("dead groups")),
            ("look closer", queue.command("doctor")),
        ],
        tags: vec![("queue", queue.name().to_owned())],
        job: Vec::new(),
        traceparent: None,
        count: alert.count,
    }
}

fn letters(group: &LetterGroup, queue: &Queue, mut alert: Alert) -> Alert {
    let LetterGroup { kind, stage, counts, reason, pair, traceparent } = group;
    let at = match &counts.hosts[..] {
        [] => String::new(),
        [(host, _)] if counts.elsewhere == 0 => format!(" at {host}"),
        hosts => format!(" at {} hosts", hosts.len()),
    };
    let title = match counts.count {
        1 => format!("dead letter: {kind} in {stage}{at}"),
        count => format!("{count} dead letters: {kind} in {stage}{at}"),
    };
    let unknown = |id: &str| if id.is_empty() { "unknown".to_owned() } else { id.to_owned() };
    let (from, to) = pair.split_once("..").unwrap_or_default();
    let (from, to) = (unknown(from), unknown(to));
    alert.lines = vec![title, format!("from {from} to {to}")];
    let limit = reason.as_ref().and_then(limit_hit);
    alert.lines.extend(reason.as_ref().map(|reason| reason.failure.detail.clone()));
    alert.lines.extend(limit.as_ref().map(|limit| format!("limit hit: {limit}")));
    if counts.count > 1 {
        alert.lines.extend(spread(counts));
        alert.lines.push(format!(
            "stands for {} dead letters of the last {} s; {} is the first, {} the last",
            counts.count,
            counts.since.as_secs(),
            counts.first,
            counts.last
        ));
    }
    let filter = filter_of(group);
    let show = queue.command(&format!("dead show {}", counts.first));
    alert.commands = vec![
        ("show it", show.clone()),
        ("list them", queue.command(&format!("dead ls {filter}"))),
        ("replay them", queue.command(&format!("dead replay {filter}"))),
    ];
    alert.fingerprint = vec!["dead-letter".to_owned(), kind.clone(), stage.clone()];
    alert.tags.extend([("kind", kind.clone()), ("stage", stage.clone())]);
    let replayed = reason.as_ref().is_some_and(|reason| reason.counts.replays > 0);
    alert.tags.push(("replayed", replayed.to_string()));
    alert.tags.push(("job", counts.first.clone()));
    alert.tags.extend(counts.hosts.first().map(|(host, _)| ("host", host.clone())));
    alert.job = vec![("id", counts.first.clone()), ("from", from), ("to", to), ("show", show)];
    alert.job.extend(limit.map(|limit| ("limit", limit)));
    alert.traceparent = Some(traceparent.clone());
    alert.count = counts.count;
    alert
}

/// Selects the letters of a group, as `dead ls` and `dead replay` take it.
fn filter_of(group: &LetterGroup) -> String {
    let since = since(group.counts.since);
    match &group.counts.hosts[..] {
        [(host, _)] if group.counts.elsewhere == 0 => {
            let host = host_filter(host).map_or(String::new(), |filter| format!(" {filter}"));
            format!("kind:{}{host} since:{since}", group.kind)
        }
        _ => format!("kind:{} since:{since}", group.kind),
    }
}

/// A time that includes the first letter although the event is read later, in the words of a filter.
fn since(first: Duration) -> String {
    match first.as_secs() {
        seconds if seconds < 1800 => format!("{}m", seconds / 60 + 30),
        seconds => format!("{}h", seconds / 3600 + 2),
    }
}

/// Where the letters are, most first.
fn spread(counts: &LetterCounts) -> Option<String> {
    let named: Vec<_> =
        counts.hosts.iter().take(HOSTS_NAMED).map(|(host, count)| format!("{host} {count}")).collect();
    let rest = &counts.hosts[named.len()..];
    let letters: u64 = rest.iter().map(|(_, count)| count).sum::<u64>() + counts.elsewhere;
    let at_least = if counts.elsewhere > 0 { "more than " } else { "" };
    match (named.is_empty(), rest.len()) {
        (true, _) => None,
        (false, 0) => Some(format!("hosts: {}", named.join(", "))),
        (false, more) => {
            Some(format!("hosts: {} and {at_least}{more} more with {letters}", named.join(", ")))
        }
    }
}

fn storm(storm: &Storm, queue: &Queue, mut alert: Alert) -> Alert {
    let Storm { state, since: lasted, counts, kinds } = storm;
    let (count, seconds) = (counts.count, lasted.as_secs());
    let title = match state {
        AlertState::Begins => {
            format!("dead letter storm: {count} dead letters in {} s", counts.since.as_secs() + 1)
        }
        AlertState::Lasts => format!("dead letter storm goes on for {seconds} s: {count} more dead letters"),
        AlertState::Over => format!("dead letter storm over after {seconds} s: {count} more dead letters"),
    };
    alert.severity = match state {
        AlertState::Begins | AlertState::Lasts => Severity::Fatal,
        AlertState::Over if count > 0 => Severity::Warning,
        AlertState::Over => Severity::Info,
    };
    alert.lines = vec![title];
    let kind = |(group, count): &(String, u64)| format!("{count} × {}", group.replace(':', " in "));
    alert.lines.extend(kinds.iter().take(KINDS_NAMED).map(kind));
    if let Some(more @ 1..) = kinds.len().checked_sub(KINDS_NAMED) {
        alert.lines.push(format!("and {more} more kinds"));
    }
    alert.lines.extend(spread(counts));
    if count > 0 {
        alert.lines.push(format!("{} is the first, {} the last", counts.first, counts.last));
    }
    if *state != AlertState::Over {
        alert.lines.push("until it is over its letters have no event of their own".to_owned());
    }
    let since = since((*lasted).max(counts.since));
    alert.commands = vec![
        ("see why", queue.command("dead groups")),
        ("list them", queue.command(&format!("dead ls since:{since}"))),
        ("replay them", queue.command(&format!("dead replay since:{since}"))),
        ("stop it", queue.command("queue pause --reason ...")),
    ];
    alert.fingerprint = vec!["dead-letter-storm".to_owned()];
    alert.count = count;
    alert
}

fn outage(outage: &SharedOutage, queue: &Queue, mut alert: Alert) -> Alert {
    let SharedOutage { what, state, since, detail } = outage;
    let known = OutageKind::of(what);
    let failing = known.map_or(what.as_str(), |kind| kind.failing_text());
    let recovered = known.map_or(what.as_str(), |kind| kind.recovered_text());
    let seconds = since.as_secs();
    let title = match state {
        AlertState::Begins if known == Some(OutageKind::QueueLost) => format!("queue lost: {failing}"),
        AlertState::Begins => format!("outage: {failing} for {seconds} s"),
        AlertState::Lasts => format!("outage goes on: {failing} for {seconds} s"),
        AlertState::Over => format!("resolved: {recovered} again after {seconds} s"),
    };
    alert.severity = match state {
        AlertState::Begins | AlertState::Lasts => Severity::Error,
        AlertState::Over => Severity::Info,
    };
    alert.lines = vec![title, detail.clone()];
    alert.commands = vec![("look closer", queue.command("doctor"))];
    alert.fingerprint = vec!["outage".to_owned(), what.clone()];
    alert.tags.push(("outage", what.clone()));
    alert.count = u64::from(*state == AlertState::Begins);
    alert
}
