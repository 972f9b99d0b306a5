//! Who works, which hosts hold jobs up, and why jobs die: each as a short list of the worst, with the next command.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anstyle::Style;

use super::Look;
use super::layout::{Layout, Segment, plain};
use super::screen::more;
use crate::job::text::{host_filter, shell_word};
use crate::ops::job::groups::{trend, words_of};
use crate::ops::render::width::shortened;
use crate::ops::render::{self, BAD, WARN, sanitize};
use crate::queue::{Group, HostLoad, Presence, RunningJob, Status, WorkerStatus};

/// Lines of each list: all of them are one screen of 24 lines in ordinary trouble.
const WORKERS_SHOWN: usize = 4;
const JOBS_SHOWN: usize = 2;
const APPS_SHOWN: usize = 2;
const HOSTS_SHOWN: usize = 3;
const GROUPS_SHOWN: usize = 3;
/// Columns of a name, on a terminal of less than [`WIDE`] columns and on others.
const NAME: usize = 24;
const NAME_WIDE: usize = 48;
const WIDE: usize = 100;
/// How the name of a worker's share of new hosts begins, where a host's name would stand.
const NEW_HOSTS: &str = "~new:";

fn name(out: &Layout, text: &str) -> String {
    shortened(&sanitize(text, 200), if out.width() < WIDE { NAME } else { NAME_WIDE })
}

/// The workers, a line each: those that are silent or claim nothing first. Then the jobs that run longest.
pub(super) fn workers(out: &mut Layout, status: &Status, command: &dyn Fn(&str) -> String) {
    let mut workers: Vec<&WorkerStatus> = status.workers.iter().collect();
    workers.sort_by_key(|worker| (!worker.silent, worker.info.breakers.is_empty()));
    workers.iter().take(WORKERS_SHOWN).for_each(|seen| worker(out, seen));
    let left = workers.iter().skip(WORKERS_SHOWN);
    let (busy, slots) =
        left.fold((0, 0), |(busy, slots), seen| (busy + seen.info.busy, slots + seen.info.slots));
    let count = workers.len().saturating_sub(WORKERS_SHOWN);
    if count > 0 {
        let text = format!("and {count} more, {busy} of {slots} slots busy: {}", command("status -o json"));
        out.items("", &[plain(text)], "");
    }
    let running = workers.iter().filter(|seen| !seen.silent).flat_map(|seen| &seen.info.in_flight);
    apps(out, status);
    let mut running: Vec<&RunningJob> = running.collect();
    running.sort_by_key(|job| std::cmp::Reverse(job.in_flight_ms));
    running.iter().take(JOBS_SHOWN).for_each(|job| running_job(out, job));
    let left = running.len().saturating_sub(JOBS_SHOWN);
    if left > 0 {
        out.items_that_fit(
            "  ",
            &[plain(format!("and {left} more: {}", command("job ls state:in_flight")))],
            "",
        );
    }
}

/// What the workers know of the db app: one line, unless they differ.
fn apps(out: &mut Layout, status: &Status) {
    let alive = status.workers.iter().filter(|seen| !seen.silent && !seen.info.db_app.is_empty());
    let apps: BTreeSet<&str> = alive.map(|seen| seen.info.db_app.as_str()).collect();
    for app in apps.into_iter().take(APPS_SHOWN) {
        out.items("db app", &[plain(sanitize(app, 200))], "");
    }
}

fn worker(out: &mut Layout, seen: &WorkerStatus) {
    let info = &seen.info;
    let id = plain(name(out, info.id.as_str()));
    let heartbeat = render::format_duration(Duration::from_millis(seen.heartbeat_age_ms));
    if seen.silent {
        let silent = format!("SILENT, heartbeat {heartbeat} ago");
        return out.items("worker", &[&[id, (BAD, silent)], &taken_over(out, seen)[..]].concat(), "  ");
    }
    let mut items = vec![id, plain(format!("{} of {} slots busy", info.busy, info.slots))];
    let reasons = info.breaker_reasons.values().map(|why| (BAD, sanitize(why, 200)));
    let trouble: Vec<Segment> =
        slots_limit(info).into_iter().chain(breakers(&info.breakers)).chain(reasons).collect();
    let is_well = trouble.is_empty();
    items.extend(trouble);
    items.extend([
        plain(format!("{} fetching", seen.fetching)),
        plain(format!("{} analysing", seen.analysing)),
        plain(sanitize(&info.phase, 20)),
        plain(format!("heartbeat {heartbeat} ago")),
    ]);
    match is_well {
        true => out.items_that_fit("worker  ", &items, "  "),
        false => out.items("worker", &items, "  "),
    }
}

/// Where the first of its jobs is now, and how many of the others are where.
fn taken_over(out: &Layout, seen: &WorkerStatus) -> Vec<Segment> {
    let Some((id, place)) = seen.taken_over.first_key_value() else { return Vec::new() };
    let mut items = vec![plain(format!("{}  {}", name(out, id), sanitize(place, 120)))];
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    seen.taken_over.values().skip(1).for_each(|place| *places.entry(place).or_default() += 1);
    items.extend(places.iter().map(|(place, count)| plain(format!("{count} {}", sanitize(place, 120)))));
    items
}

/// `takes 1 of 2 at a time: busy machine (children wait for a CPU)`, where it takes fewer than it has slots.
fn slots_limit(info: &Presence) -> Option<Segment> {
    let why = sanitize(info.slots_limited_by.as_ref()?, 60);
    let (limit, slots) = (info.slots_limit, info.slots);
    Some((WARN, format!("takes {limit} of {slots} at a time: busy machine ({why})")))
}

/// `breaker api open`, where one is: the worker claims nothing, or one job at a time.
fn breakers(open: &BTreeMap<String, String>) -> Option<Segment> {
    let each = open
        .iter()
        .map(|(dependency, state)| format!("breaker {} {}", sanitize(dependency, 20), sanitize(state, 20)));
    let each: Vec<String> = each.collect();
    (!each.is_empty()).then(|| (BAD, each.join(", ")))
}

/// `  job-7  analyse for 2s of 10s (20 %), heap 96.0 MiB of 256.0 MiB (37 %)  claimed 14s ago  0c2f9d24..7c9904f4`,
/// as much of it as fits.
fn running_job(out: &mut Layout, job: &RunningJob) {
    let ago = |ms| render::format_duration(Duration::from_millis(ms));
    let limit = job.limit_ms.zip(job.percent());
    let limit =
        limit.map_or_else(String::new, |(limit, percent)| format!(" of {} ({percent} %)", ago(limit)));
    let heap = job.heap.map_or_else(String::new, |heap| {
        let [held, limit] = [heap.bytes, heap.limit_bytes].map(render::format_bytes);
        format!(", heap {held} of {limit} ({} %)", heap.percent())
    });
    let short = |uuid: uuid::Uuid| uuid.to_string()[..8].to_owned();
    let items = [
        name(out, job.id.as_str()),
        format!("{} for {}{limit}{heap}", job.stage, ago(job.stage_ms)),
        format!("claimed {} ago", ago(job.in_flight_ms)),
        format!("{}..{}", job.from.map_or_else(String::new, short), short(job.to)),
    ];
    out.items_that_fit("  ", &items.map(plain), "  ");
}

/// The hosts that hold up most jobs, and the shares of new hosts.
pub(super) fn hosts(out: &mut Layout, status: &Status, command: &dyn Fn(&str) -> String) {
    status.hosts.iter().take(HOSTS_SHOWN).for_each(|load| host(out, status, load, command));
    let left = status.hosts.len().saturating_sub(HOSTS_SHOWN);
    if left > 0 {
        let all = status.ceilings.hosts_full.max(status.resting.count());
        let left = left.max(usize::try_from(all).unwrap_or(0).saturating_sub(HOSTS_SHOWN));
        more(out, left, &command("status -o json"));
    }
    let mut waiters = status.ceilings.longest_host_waiters.iter();
    // One line: it is the same setting of every worker.
    if let Some(share) = waiters.find(|one| one.host.starts_with(NEW_HOSTS)) {
        let worker = name(out, &share.host[NEW_HOSTS.len()..]);
        let text =
            format!("new hosts at {worker} most  {} in flight, {} wait", share.in_flight, share.waiting);
        out.items("host", &[plain(text)], "");
    }
}

/// `host    web.down.gov  4 of 64 in flight, 302 wait, oldest 3m 2s, rests 4 min more, after 5 failures in a row
/// (timeout)`, with what to do about it.
fn host(out: &mut Layout, status: &Status, load: &HostLoad, command: &dyn Fn(&str) -> String) {
    let HostLoad { host, in_flight, waiting, oldest_fetch_ms, resting } = load;
    let host = sanitize(host, 253);
    let most = match status.ceilings.host_in_flight_max {
        0 => String::new(),
        most => format!(" of {most}"),
    };
    let oldest = oldest_fetch_ms.map(|ms| render::format_duration(Duration::from_millis(ms)));
    let by_hand = resting.as_ref().and_then(|one| one.by_hand.as_ref());
    let facts = [
        Some(format!("{in_flight}{most} in flight")),
        Some(format!("{waiting} wait")),
        oldest.map(|oldest| format!("oldest {oldest}")),
        resting.as_ref().map(|one| sanitize(&one.state(), 60)),
        resting.as_ref().and_then(|one| Some(sanitize(&one.cause()?, 100))),
        by_hand.map(|rest| format!("paused by {}: {}", sanitize(&rest.by, 60), sanitize(&rest.reason, 100))),
    ];
    let style = if resting.is_some() || load.hangs() { WARN } else { Style::new() };
    let mut facts = facts.into_iter().flatten();
    let first = format!("{}  {}", name(out, &host), facts.next().unwrap_or_default());
    let items: Vec<Segment> = std::iter::once(first).chain(facts).map(|text| (style, text)).collect();
    let by_hand = by_hand.is_some();
    let word = shell_word(&host);
    // Where a filter cannot name it, an id is better than another host.
    let filter = host_filter(&host).unwrap_or_else(|| "ID...".to_owned());
    let next = match (resting, load.hangs()) {
        (Some(_), _) if by_hand => format!("queue resume {word}"),
        (Some(_), _) => format!("job cancel {filter}"),
        (None, true) => format!("queue pause {word} --for 15m"),
        (None, false) => format!("job ls state:live {filter}"),
    };
    out.all_items_with_command("host", &items, ", ", &command(&next));
}

/// The groups with most dead letters.
pub(super) fn groups(out: &mut Layout, look: &Look) {
    let Some(groups) = &look.groups else { return };
    let command = |words: &str| look.command(words);
    let with_letters = groups.iter().filter(|group| group.dead > 0);
    with_letters.clone().take(GROUPS_SHOWN).for_each(|group| dead(out, group, &command));
    let left = with_letters.count().saturating_sub(GROUPS_SHOWN);
    more(out, left, &command("dead groups"));
    let Some(status) = look.numbers.status() else { return };
    let counted: u64 = groups.iter().map(|group| group.dead).sum();
    let kinds = status.dead_by_kind.iter().max_by_key(|(_, count)| **count);
    if let Some((kind, count)) = kinds.filter(|_| counted == 0) {
        let text = format!("{count} of {} are {kind}", status.dead);
        out.items_with_command("dead", &[plain(text)], &command(&format!("dead ls kind:{kind}")));
    }
}

fn dead(out: &mut Layout, group: &Group, command: &dyn Fn(&str) -> String) {
    let kind = group.kind.map_or_else(|| "?".to_owned(), |kind| kind.to_string());
    let at = match group.host.as_str() {
        "-" => String::new(),
        "*" => " at other hosts".to_owned(),
        host => format!(" at {}", name(out, host)),
    };
    let last_hour = group.deaths.get("1h").copied().unwrap_or(0);
    let items = [
        format!("{kind}{at}"),
        format!("{} (+{last_hour} in 1h)", group.dead),
        trend(&group.trend),
        sanitize(&group.sentence, 60),
    ];
    out.items_with_command("dead", &items.map(plain), &command(&format!("dead ls {}", words_of(group))));
}
