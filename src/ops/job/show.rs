//! `job show`: one job, wherever it is: its state, its history and, if it died, its evidence.

use std::time::Duration;

use url::Url;

use super::copies::{as_json, shown_job};
use super::{detail, kind, unknown_sentence, usage_error};
use crate::job::counts::DeliveryCounts;
use crate::job::page::Version;
use crate::job::redact::{MARK, page_url, scrub};
use crate::job::verdict::DeadLetterReason;
use crate::job::{Job, JobId, VersionRef};
use crate::ops::Exit;
use crate::ops::render::{self, BAD, BOLD, DIM, GOOD, sanitize, styled};
use crate::ops::selection::ago;
use crate::queue::{Content, Ended, Error, JobState, LogEntry, OperatorHandle, StoredJob};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// One job, wherever it is.
#[derive(Debug)]
pub enum FoundJob {
    /// It waits, runs, or is a letter.
    Stored(Box<StoredJob>),
    /// It has ended; what is kept of it with its result.
    Ended(Box<Ended>),
}

/// Finds a job; `None` where it is unknown, or ended so long ago that its result is forgotten.
///
/// # Errors
/// Those of Redis.
pub async fn find(queue: &OperatorHandle, id: &JobId) -> Result<Option<FoundJob>, Error> {
    if let Some(job) = queue.stored_job(id).await? {
        return Ok(Some(FoundJob::Stored(Box::new(job))));
    }
    Ok(queue.ended(id).await?.map(|ended| FoundJob::Ended(Box::new(ended))))
}

/// Shows it; of one that has ended, what is kept of it with its result.
pub(super) async fn show(queue: &OperatorHandle, id: &str, noun: &str, json: bool) -> Result<Exit, Error> {
    let id = match JobId::parse(id) {
        Ok(id) => id,
        Err(what) => return Ok(usage_error(&what)),
    };
    match find(queue, &id).await? {
        Some(FoundJob::Stored(job)) if json => render::json(SCHEMA_VERSION, &as_json(&job)),
        Some(FoundJob::Stored(job)) => print_job(queue, &job, queue.server_time_ms().await?),
        Some(FoundJob::Ended(ended)) if json => render::json(SCHEMA_VERSION, &ended),
        Some(FoundJob::Ended(ended)) => print_ended(queue, &ended, queue.server_time_ms().await?),
        None => {
            render::error(unknown_sentence(&id, noun));
            render::note("it is unknown here, or ended so long ago that its result is forgotten");
            return Ok(Exit::NothingMatched);
        }
    }
    Ok(Exit::Ok)
}

fn print_ended(queue: &OperatorHandle, ended: &Ended, now_ms: u64) {
    let state = sanitize(&ended.state, 20);
    let style = if ended.state == "done" { GOOD } else { DIM };
    render::line(format!("{}  {}", styled(style, state), styled(BOLD, sanitize(&ended.id, 128))));
    if !ended.why.is_empty() {
        print_field("because", sanitize(&ended.why, 100));
    }
    print_field("pair", sanitize(&ended.pair, 100));
    if ended.at_ms > 0 {
        print_field("ended", ago(now_ms, ended.at_ms));
    }
    if ended.enqueued_ms > 0 {
        print_field("admitted", ago(now_ms, ended.enqueued_ms));
    }
    print_log(&ended.log, ended.log_cut, now_ms);
    if !ended.worker.is_empty() {
        let took = ended.at_ms.checked_sub(ended.claimed_ms).filter(|_| ended.claimed_ms > 0);
        let took = took.map_or(String::new(), |ms| format!(" in {}", duration(ms)));
        print_field("worker", format!("{}{took}", sanitize(&ended.worker, 100)));
    }
    let show = format!("results show {}", ended.id);
    render::note("");
    render::command("its result: ", &queue.command(&show));
}

fn print_job(queue: &OperatorHandle, job: &StoredJob, now_ms: u64) {
    if job.state == JobState::Dead {
        return print_letter(queue, job, now_ms);
    }
    let cancelled = if job.is_cancelled { "  cancelled" } else { "" };
    render::line(format!("{}{cancelled}  {}", styled(BOLD, job.state), styled(BOLD, &job.id)));
    if job.kind().is_some() {
        print_field(if job.state == JobState::Trash { "died of" } else { "failed of" }, kind(job));
    }
    let because = detail(job, 500);
    // Of a job in flight it is its worker, where it has not failed yet.
    if !because.is_empty() && (job.state != JobState::InFlight || job.failure().is_some()) {
        print_field("because", because);
    }
    print_field("since", ago(now_ms, job.since_ms()));
    if let Some(due_ms) = job.due_ms {
        let due = due_ms.saturating_sub(now_ms);
        print_field("due", if due == 0 { "now".to_owned() } else { format!("in {}", duration(due)) });
    }
    if let (JobState::InFlight, Some(worker)) = (job.state, &job.worker) {
        print_field("worker", sanitize(worker, 100));
    }
    print_field("counts", format!("deliveries {}, replays {}", job.deliveries, job.replays));
    if let Some(operation) = &job.operation {
        print_field("operation", format!("{} replayed it", sanitize(operation, 60)));
    }
    print_log(&job.log, job.log_cut, now_ms);
    print_field("payload", sanitize(&payload(job), 2000));
    match job.state {
        JobState::Trash => {
            render::note("");
            render::command("put it back: ", &queue.command(&format!("dead restore {}", job.id)));
        }
        JobState::Ready | JobState::Scheduled | JobState::Exclusive | JobState::InFlight => {
            render::note("");
            render::command("stop it: ", &queue.command(&format!("job cancel {}", job.id)));
        }
        JobState::Dead => {}
    }
}

/// A line for each delivery that did not end it, and for what people did with it.
fn print_log(log: &[LogEntry], cut: u64, now_ms: u64) {
    if cut > 0 {
        print_field("history", format!("{cut} older entries are not kept"));
    }
    for (at, entry) in log.iter().enumerate() {
        let LogEntry { at_ms, what, why, worker, took_ms, by, operation } = entry;
        let mut line = format!("{}  {}", ago(now_ms, *at_ms), sanitize(what, 40));
        for (before, text) in
            [("after", &took_ms.map_or(String::new(), duration)), ("at", worker), ("by", by)]
        {
            if !text.is_empty() {
                line += &format!(" {before} {}", sanitize(text, 100));
            }
        }
        if !operation.is_empty() {
            line += &format!(" ({})", sanitize(operation, 60));
        }
        if !why.is_empty() {
            line += &format!(": {}", sanitize(why, 200));
        }
        print_field(if at == 0 && cut == 0 { "history" } else { "" }, line);
    }
}

fn duration(ms: u64) -> String {
    render::format_duration(Duration::from_millis(ms))
}

/// What a job or a letter holds, without secrets; of what is no job, its first characters.
pub fn payload(letter: &StoredJob) -> String {
    match &letter.content {
        Content::Job(job) => shown_job(job).to_string(),
        Content::Raw(raw) => scrub(&String::from_utf8_lossy(&raw.head)),
    }
}

fn print_letter(queue: &OperatorHandle, letter: &StoredJob, now_ms: u64) {
    render::line(format!("{}  {}", styled(BAD, kind(letter)), styled(BOLD, &letter.id)));
    print_field("because", detail(letter, 500));
    print_field("died", ago(now_ms, letter.died_ms));
    if let Some(reason) = &letter.reason {
        print_reason(reason);
    }
    print_log(&letter.log, letter.log_cut, now_ms);
    match &letter.content {
        Content::Job(_) => print_field("payload", sanitize(&payload(letter), 2000)),
        Content::Raw(raw) => {
            print_field("payload", format!("{} bytes, {}, beginning with", raw.length, raw.hash));
            print_field("", sanitize(&payload(letter), 500));
        }
    }
    if let Some(command) = reproduce_command(queue, letter) {
        render::note("");
        render::command("reproduce it here: ", &command);
    }
    render::command("put it back:       ", &queue.command(&format!("dead replay {}", letter.id)));
}

fn print_field(name: &str, value: String) {
    render::field(name, &value);
}

fn print_reason(reason: &DeadLetterReason) {
    print_field("stage", reason.stage.to_string());
    print_field("worker", format!("{} ({})", sanitize(&reason.worker, 100), sanitize(&reason.build, 60)));
    let DeliveryCounts {
        deliveries,
        failures,
        ambiguous_exits,
        crashes,
        fetch_crashes,
        postponements,
        postponed_ms,
        releases,
        replays,
    } = reason.counts;
    let put_off = humantime::format_duration(Duration::from_millis(postponed_ms));
    print_field(
        "counts",
        format!(
            "deliveries {deliveries}, failures {failures}, ambiguous exits {ambiguous_exits}, crashes {crashes}, \
             while fetching {fetch_crashes}, postponements {postponements} ({put_off}), releases {releases}, replays {replays}"
        ),
    );
    for body in &reason.bodies {
        let size = render::format_bytes(body.wire_bytes);
        print_field(body.side.as_str(), format!("{} ({size} on the wire)", sanitize(&body.url, 300)));
        if let Some(hash) = &body.wire_sha256 {
            print_field("", format!("sha256 {}", sanitize(hash, 64)));
        }
    }
    if let Some(measured) = reason.failure.measured.as_ref() {
        print_field("measured", render::format_measured(measured));
        if let Some(words) = &measured.stderr {
            print_field("stderr", sanitize(words, 2500));
        }
    }
}

/// The one command that reproduces it locally, under the same limits. It names the addresses, or the job where these
/// are not known or hold secrets.
///
/// It fetches anew: a site that was down may be better by now.
pub fn reproduce_command(queue: &OperatorHandle, letter: &StoredJob) -> Option<String> {
    let Content::Job(job) = &letter.content else { return None };
    let measured = letter.reason.as_ref().and_then(|reason| reason.failure.measured.as_ref());
    let limits = measured.and_then(|measured| measured.limits).map_or(String::new(), |limits| {
        format!(" --limits wall={}ms,heap={}", limits.wall_ms, limits.heap_bytes)
    });
    Some(match named_pair(letter, job) {
        Some(pair) => format!("wm-analyzer diff {pair}{limits} -v"),
        None => queue.command(&format!("job diff {}{limits} -v", letter.id)),
    })
}

/// Both addresses as arguments of `diff`, with the hashes that are known.
fn named_pair(letter: &StoredJob, job: &Job) -> Option<String> {
    let whole = |url: &Url| Some(shell_quoted(url.as_str())).filter(|_| page_url(url) == url.as_str());
    let (Some(VersionRef::Inline(from)), VersionRef::Inline(to)) = (job.from.given(), &job.to) else {
        let [from, to] = letter.reason.as_ref()?.bodies.as_slice() else { return None };
        let whole = |url: &str| Some(shell_quoted(url)).filter(|_| !url.contains(MARK));
        return Some(format!("{} {}", whole(&from.url)?, whole(&to.url)?));
    };
    let hash = |flag, version: &Version| {
        version.body_hash.as_ref().map(|hash| format!(" {flag} {}", shell_quoted(hash)))
    };
    let hashes = [hash("--from-hash", from), hash("--to-hash", to)].into_iter().flatten().collect::<String>();
    Some(format!("{} {}{hashes}", whole(&from.body_url)?, whole(&to.body_url)?))
}

/// A word that a shell takes as it stands: hostile URLs hold quotes and semicolons.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", sanitize(text, 2000).replace('\'', r"'\''"))
}
