//! `status`: what is waiting, running and dead, on one screen, with the next command where one suggests
//! itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Exit;
use super::render::{self, BAD, BOLD, GOOD, WARN, sanitize, styled};
use crate::queue::{
    Ceilings, Error, HostWaiters, NEARLY_FULL, Paused, Presence, Purpose, Queue, RunningJob, Status,
    UnreadableKey, WorkerStatus,
};

/// Jobs that are shown of one worker: with a few workers it is still one screen.
const MAX_JOBS_SHOWN: usize = 8;

/// How the name of a worker's share of new hosts begins, where a host's name would stand.
const NEW_HOSTS: &str = "~new:";

/// Shows it. Ends with [`Exit::Failed`] when somebody should look: jobs wait and nothing works on them, or Redis is not
/// well.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &Queue, json: bool) -> Result<Exit, Error> {
    let status = queue.status().await?;
    let stalled = status.stalled();
    let problems = status.problems();
    if json {
        let mut value = serde_json::to_value(&status).unwrap_or_default();
        value["stalled"] = stalled.clone().into();
        value["problems"] = problems.clone().into();
        render::json(&value);
    } else {
        print_status(queue, &status);
        problems
            .iter()
            .for_each(|what| render::note(styled(BAD, format!("redis   {}", sanitize(what, 300)))));
        if let Some(stalled) = &stalled {
            let next = match status.workers.is_empty() {
                true => format!("start one with {}", queue.command("work")),
                false => format!("see {}", queue.command("doctor")),
            };
            render::note(styled(BAD, format!("STALLED {stalled}: {next}")));
        }
    }
    let sound = stalled.is_none() && problems.is_empty() && status.unreadable.is_empty();
    Ok(if sound { Exit::Ok } else { Exit::Failed })
}

fn print_status(queue: &Queue, status: &Status) {
    let unreadable =
        |name: &str| status.unreadable.iter().any(|part| part.key.ends_with(&format!(":{name}")));
    let state = match (status.pauses.is_empty(), unreadable("paused")) {
        (false, _) => styled(WARN, "paused"),
        (true, true) => styled(BAD, "paused, as long as its pauses cannot be read"),
        (true, false) => styled(GOOD, "running"),
    };
    render::line(format!("{}  {state}", styled(BOLD, queue.name())));
    for pause @ Paused { name, by, reason, since_ms, until_ms: _ } in &status.pauses {
        let (since, ends) = (render::elapsed_since(*since_ms), super::queue::ends_in(pause, status.at_ms));
        let [name, by, reason] =
            [(name, 40), (by, 60), (reason, 100)].map(|(text, most)| sanitize(text, most));
        render::line(styled(WARN, format!("paused  {since} ago as {name} by {by}{ends}: {reason}")));
    }
    let oldest = status.oldest_waiting().map_or_else(|| "-".to_owned(), render::format_duration);
    let row = [
        ("inbox", status.inbox),
        ("ready", status.ready),
        ("scheduled", status.scheduled),
        ("exclusive", status.exclusive),
        ("lease", status.in_flight),
        ("dead", status.dead),
    ];
    let shown =
        |(name, count): (&str, u64)| if unreadable(name) { "?".to_owned() } else { count.to_string() };
    let mut row: Vec<String> = row.into_iter().map(shown).collect();
    row.push(oldest);
    let header = ["INBOX", "READY", "SCHEDULED", "EXCLUSIVE", "IN FLIGHT", "DEAD", "OLDEST"];
    render::line(render::table(&header, &[0, 1, 2, 3, 4, 5, 6], [row]));
    for (name, counts) in [("1h", &status.last_hour), ("24h", &status.last_day)] {
        if !counts.is_empty() {
            render::line(format!("{name:<7} {}", format_counts(counts)));
        }
    }
    if status.in_flight > 0 {
        let Status { fetching, analysing, .. } = status;
        render::line(format!("flight  {fetching} fetching · {analysing} analysing, by the last heartbeats"));
    }
    print_memory(status);
    print_ceilings(status);
    print_resting(status);
    status.workers.iter().for_each(print_worker);
    for UnreadableKey { key, error } in &status.unreadable {
        render::note(styled(BAD, format!("cannot read {}: {}", sanitize(key, 100), sanitize(error, 200))));
    }
    print_hints(queue, status);
}

/// What the queue takes up, by purpose, and how full Redis is.
fn print_memory(status: &Status) {
    let memory = &status.memory;
    let each = Purpose::ALL.iter().filter(|purpose| memory.of(**purpose) > 0);
    let each =
        each.map(|purpose| format!("{} {}", purpose.as_str(), render::format_bytes(memory.of(*purpose))));
    let purposes = each.collect::<Vec<_>>().join(" · ");
    let redis = match &status.server {
        Some(server) if server.maxmemory_bytes > 0 => {
            let left = memory.full_in_ms.map(Duration::from_millis);
            let left =
                left.map_or_else(String::new, |left| format!(", full in {}", render::format_duration(left)));
            format!(
                "{:.0} % of {}{left}",
                server.memory_filled() * 100.0,
                render::format_bytes(server.maxmemory_bytes)
            )
        }
        Some(server) => format!("{} used, no maxmemory", render::format_bytes(server.used_bytes)),
        None => "?".to_owned(),
    };
    render::line(format!("memory  {redis}; {purposes}"));
}

fn print_hints(queue: &Queue, status: &Status) {
    let worst = status.dead_by_kind.iter().max_by_key(|(_, count)| **count);
    if let Some((kind, count)) = worst.filter(|(_, count)| **count > 0) {
        render::note(format!(
            "hint: {count} of {} dead are {kind}: {}",
            status.dead,
            queue.command(&format!("dead ls kind:{kind}"))
        ));
    }
    if status.dead_filled() >= NEARLY_FULL || status.evicted_last_day() > 0 {
        render::note(styled(
            WARN,
            format!(
                "the dead letters are at {:.0} % of their cap, {} were evicted in the last 24 h: replay or discard some",
                status.dead_filled() * 100.0,
                status.evicted_last_day()
            ),
        ));
    }
    if status.backlog() >= status.backlog_max {
        let ceiling = status.backlog_max;
        render::note(styled(
            WARN,
            format!(
                "the backlog is at its ceiling of {ceiling}: payloads stay in the inbox, enqueue refuses"
            ),
        ));
    }
    let memory = &status.memory;
    if !memory.reports_evict && memory.reports_filled() >= NEARLY_FULL {
        let percent = memory.reports_filled() * 100.0;
        let stopped = if memory.reports_filled() >= 1.0 { ", nothing is claimed" } else { "" };
        render::note(styled(
            WARN,
            format!("results are at {percent:.0} % of their cap{stopped}: {}", queue.command("results free")),
        ));
    }
}

/// The ceilings over all workers, each where it is set or holds jobs up.
fn print_ceilings(status: &Status) {
    let Ceilings { in_flight_max, host_in_flight_max, hosts_full, longest_host_waiters } = &status.ceilings;
    if *in_flight_max > 0 {
        let is_full = status.in_flight >= u64::from(*in_flight_max);
        let waits = if is_full && status.ready > 0 { ", the ready ones wait for that" } else { "" };
        render::line(format!(
            "ceiling {} of {in_flight_max} claimed jobs in flight{waits}",
            status.in_flight
        ));
    }
    for HostWaiters { host, in_flight, waiting } in longest_host_waiters {
        if let Some(worker) = host.strip_prefix(NEW_HOSTS) {
            let worker = sanitize(worker, 120);
            render::line(format!("new hosts at {worker} most  {in_flight} in flight, {waiting} wait"));
            continue;
        }
        let host = sanitize(host, 100);
        render::line(format!(
            "host    {host}  {in_flight} of {host_in_flight_max} in flight, {waiting} wait"
        ));
    }
    let more = hosts_full.saturating_sub(longest_host_waiters.len() as u64);
    if more > 0 {
        render::line(format!("  and {more} more hosts that jobs wait for"));
    }
}

/// The hosts that rest, those with the most waiters first.
fn print_resting(status: &Status) {
    for resting in &status.resting.most_waited_for {
        let by = resting.by_hand.as_ref().map_or_else(String::new, |rest| {
            format!(", paused by {}: {}", sanitize(&rest.by, 60), sanitize(&rest.reason, 100))
        });
        render::line(styled(WARN, format!("host    {}{by}", sanitize(&resting.to_string(), 300))));
    }
    let more = status.resting.count().saturating_sub(status.resting.most_waited_for.len() as u64);
    if more > 0 {
        render::line(format!("  and {more} more hosts that rest"));
    }
}

/// The worker on one line, and a line for each job that it runs, as far as they fit.
fn print_worker(seen: &WorkerStatus) {
    let info = &seen.info;
    let phase = match seen.silent {
        true => styled(BAD, "SILENT"),
        false => sanitize(&info.phase, 20),
    };
    render::line(format!(
        "worker  {}  {} of {} slots busy{}  {} fetching  {} analysing  {phase}{}  heartbeat {} ago",
        sanitize(info.id.as_str(), 100),
        info.busy,
        info.slots,
        slots_limit(info),
        seen.fetching,
        seen.analysing,
        breakers(&info.breakers),
        render::format_duration(Duration::from_millis(seen.heartbeat_age_ms)),
    ));
    if seen.silent {
        for (id, place) in seen.taken_over.iter().take(MAX_JOBS_SHOWN) {
            render::line(format!("  {}  {}", sanitize(id, 128), sanitize(place, 120)));
        }
        let more = seen.taken_over.len().saturating_sub(MAX_JOBS_SHOWN);
        if more > 0 {
            render::line(format!("  and {more} more"));
        }
        return;
    }
    info.in_flight.iter().take(MAX_JOBS_SHOWN).for_each(|job| render::line(job_line(job)));
    if info.in_flight.len() > MAX_JOBS_SHOWN {
        render::line(format!("  and {} more", info.in_flight.len() - MAX_JOBS_SHOWN));
    }
}

/// `  job-7  analyse for 2s of 10s (20 %), heap 96.0 MiB of 256.0 MiB (37 %), claimed 14s ago`, with the pair
/// behind it.
fn job_line(job: &RunningJob) -> String {
    let ago = |ms| render::format_duration(Duration::from_millis(ms));
    let limit = job.limit_ms.zip(job.percent());
    let limit =
        limit.map_or_else(String::new, |(limit, percent)| format!(" of {} ({percent} %)", ago(limit)));
    let heap = job.heap.map_or_else(String::new, |heap| {
        let [held, limit] = [heap.bytes, heap.limit_bytes].map(render::format_bytes);
        format!(", heap {held} of {limit} ({} %)", heap.percent())
    });
    format!(
        "  {}  {} for {}{limit}{heap}, claimed {} ago  {}..{}",
        sanitize(job.id.as_str(), 128),
        job.stage,
        ago(job.stage_ms),
        ago(job.in_flight_ms),
        job.from.map_or_else(String::new, |from| from.to_string()),
        job.to,
    )
}

/// `, takes 1 of 2 at a time: busy machine (children wait for a CPU)`, or nothing where it takes as many as it has
/// slots.
fn slots_limit(info: &Presence) -> String {
    match &info.slots_limited_by {
        Some(why) => {
            let (limit, slots, why) = (info.slots_limit, info.slots, sanitize(why, 60));
            styled(WARN, format!(", takes {limit} of {slots} at a time: busy machine ({why})"))
        }
        None => String::new(),
    }
}

/// `  breaker api open`, or nothing where all are closed.
fn breakers(open: &BTreeMap<String, String>) -> String {
    let each = open
        .iter()
        .map(|(dependency, state)| format!("breaker {} {}", sanitize(dependency, 20), sanitize(state, 20)));
    let each: Vec<String> = each.collect();
    if each.is_empty() { String::new() } else { format!("  {}", styled(BAD, each.join(", "))) }
}

fn format_counts(counts: &BTreeMap<String, u64>) -> String {
    counts
        .iter()
        .map(|(name, count)| format!("{} {count}", sanitize(name, 40)))
        .collect::<Vec<_>>()
        .join(" · ")
}
