//! `status`: what is waiting, running and dead, on one screen, with the next command where one suggests
//! itself.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::Exit;
use super::render::{self, BAD, BOLD, GOOD, WARN, sanitize, styled};
use crate::queue::{Ceilings, DEAD_NEARLY_FULL, Error, HostWaiters, Queue, RunningJob, Status, WorkerStatus};

/// Jobs that are shown of one worker: with a few workers it is still one screen.
const MAX_JOBS_SHOWN: usize = 8;

/// Shows it. Ends with [`Exit::Failed`] when somebody should look: jobs wait and no worker lives.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &Queue, json: bool) -> Result<Exit, Error> {
    let status = queue.status().await?;
    let stalled = status.workers.is_empty() && status.backlog() + status.inbox > 0 && status.paused.is_none();
    if json {
        render::json(&status);
    } else {
        print_status(queue, &status);
        if stalled {
            let start = queue.command("work");
            render::note(styled(BAD, format!("jobs wait and no worker lives: start one with {start}")));
        }
    }
    Ok(if stalled { Exit::Failed } else { Exit::Ok })
}

fn print_status(queue: &Queue, status: &Status) {
    let state = match &status.paused {
        None => styled(GOOD, "running"),
        Some(paused) => {
            let by = sanitize(&paused.by, 60);
            styled(
                WARN,
                format!(
                    "paused {} ago by {by}: {}",
                    elapsed_since(paused.since_ms),
                    sanitize(&paused.reason, 100)
                ),
            )
        }
    };
    render::line(format!("{}  {state}", styled(BOLD, queue.name())));
    let oldest = status.oldest_ready().map_or_else(|| "-".to_owned(), render::format_duration);
    let row = [status.inbox, status.ready, status.scheduled, status.exclusive, status.in_flight, status.dead];
    let mut row: Vec<String> = row.iter().map(u64::to_string).collect();
    row.push(oldest);
    let header = ["INBOX", "READY", "SCHEDULED", "EXCLUSIVE", "IN FLIGHT", "DEAD", "OLDEST"];
    render::line(render::table(&header, &[0, 1, 2, 3, 4, 5, 6], [row]));
    if !status.today.is_empty() {
        render::line(format!("today   {}", format_counts(&status.today)));
    }
    print_ceilings(status);
    status.workers.iter().for_each(print_worker);
    let worst = status.dead_by_kind.iter().max_by_key(|(_, count)| **count);
    if let Some((kind, count)) = worst.filter(|(_, count)| **count > 0) {
        render::note(format!(
            "hint: {count} of {} dead are {kind}: {}",
            status.dead,
            queue.command(&format!("dead ls --kind {kind}"))
        ));
    }
    if status.dead_filled() >= DEAD_NEARLY_FULL || status.evicted_today() > 0 {
        render::note(styled(
            WARN,
            format!(
                "the dead letters are at {:.0} % of their cap, {} were forgotten today: replay or discard some",
                status.dead_filled() * 100.0,
                status.evicted_today()
            ),
        ));
    }
    let ceiling = status.backlog_max;
    if status.backlog() >= ceiling {
        render::note(styled(
            WARN,
            format!("the backlog is at its ceiling of {ceiling}: the inbox waits, enqueue refuses"),
        ));
    }
}

/// The ceilings over all workers, each where it is set or holds jobs up.
fn print_ceilings(status: &Status) {
    let Ceilings { in_flight_max, host_in_flight_max, hosts_full, longest_host_waiters } = &status.ceilings;
    if *in_flight_max > 0 {
        let is_full = status.in_flight >= u64::from(*in_flight_max);
        let waits = if is_full && status.ready > 0 { ", the ready ones wait for that" } else { "" };
        render::line(format!("ceiling {} of {in_flight_max} in flight{waits}", status.in_flight));
    }
    for HostWaiters { host, in_flight, waiting } in longest_host_waiters {
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

/// The worker on one line, and a line for each job that it runs, as far as they fit.
fn print_worker(seen: &WorkerStatus) {
    let info = &seen.info;
    render::line(format!(
        "worker  {}  {} of {} slots busy  {}{}  heartbeat {} ago",
        sanitize(info.id.as_str(), 100),
        info.busy,
        info.slots,
        sanitize(&info.phase, 20),
        breakers(&info.breakers),
        render::format_duration(Duration::from_millis(seen.heartbeat_age_ms)),
    ));
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

/// `  breaker api open`, or nothing where all are closed.
fn breakers(open: &BTreeMap<String, String>) -> String {
    let each = open
        .iter()
        .map(|(dependency, state)| format!("breaker {} {}", sanitize(dependency, 20), sanitize(state, 20)));
    let each: Vec<String> = each.collect();
    if each.is_empty() { String::new() } else { format!("  {}", styled(BAD, each.join(", "))) }
}

fn format_counts(today: &BTreeMap<String, u64>) -> String {
    today
        .iter()
        .map(|(name, count)| format!("{} {count}", sanitize(name, 40)))
        .collect::<Vec<_>>()
        .join(" · ")
}

fn elapsed_since(ms: u64) -> String {
    let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(ms);
    render::format_duration(Duration::from_millis(now.saturating_sub(ms)))
}
