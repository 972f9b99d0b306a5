//! `dead ls | show | replay | discard`: look at dead letters, put them back, throw them away.
//!
//! A bulk action (`bulk`) works on a selection that is frozen before it is shown: what dies while it runs is
//! not included, and what was replayed and died anew in between is left alone. No letter is discarded before
//! its copy is safe (`copies`).

mod bulk;
mod copies;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use time::OffsetDateTime;
use url::Url;

use self::bulk::BulkAction;
use self::copies::{as_json, shown_job};
use super::Exit;
use super::render::{self, BAD, BOLD, DIM, sanitize, styled};
use crate::job::counts::DeliveryCounts;
use crate::job::failure::FailureKind;
use crate::job::page::Version;
use crate::job::redact::{MARK, page_url, scrub};
use crate::job::verdict::DeadLetterReason;
use crate::job::{Job, JobId, LimitsRequest, VersionRef};
use crate::queue::{Content, DeadFilter, DeadLetter, Error, OperatorHandle};

/// Which dead letters a command acts on.
#[derive(Debug, Clone, Default)]
pub struct DeadSelection {
    /// By id; empty means all that the rest lets through.
    pub ids: Vec<String>,
    /// Kinds of failure, e.g. `gone`; empty selects all.
    pub kinds: Vec<String>,
    /// Host names; empty selects all.
    pub hosts: Vec<String>,
    /// Greatest time since burial.
    pub since: Option<Duration>,
    /// At most this many, newest first.
    pub limit: usize,
}

/// How a bulk action goes about it.
#[derive(Debug, Clone, Copy)]
pub struct BulkOptions {
    /// Print the plan and change nothing.
    pub dry_run: bool,
    /// Dead letters a second.
    pub rate: f64,
    /// Skip the confirmation.
    pub yes: bool,
}

/// A subcommand of `dead`.
#[derive(Debug, Clone)]
pub enum DeadAction {
    /// List them, newest first.
    Ls(DeadSelection),
    /// Print one with its evidence.
    Show(String),
    /// Put back, under other limits than the configured ones where some are granted.
    Replay(DeadSelection, BulkOptions, LimitsRequest),
    /// Print their payloads, then delete them.
    Discard(DeadSelection, BulkOptions),
}

/// Runs the subcommand.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &OperatorHandle, action: DeadAction, json: bool) -> Result<Exit, Error> {
    match action {
        DeadAction::Ls(selection) => ls(queue, &selection, json).await,
        DeadAction::Show(id) => show(queue, &id, json).await,
        DeadAction::Replay(selection, bulk, granted) => {
            bulk::run(queue, &selection, bulk, BulkAction::Replay(granted), json).await
        }
        DeadAction::Discard(selection, bulk) => {
            bulk::run(queue, &selection, bulk, BulkAction::Discard, json).await
        }
    }
}

fn filter(selection: &DeadSelection) -> Result<DeadFilter, String> {
    let kinds = selection.kinds.iter().map(|label| {
        FailureKind::parse(label).ok_or_else(|| {
            let near =
                FailureKind::ALL.iter().copied().min_by_key(|kind| strsim::levenshtein(kind.as_str(), label));
            format!(
                "{:?} is not a kind of failure{}",
                sanitize(label, 40),
                near.map_or(String::new(), |k| format!(": did you mean {k}?"))
            )
        })
    });
    let ids =
        selection.ids.iter().map(|id| JobId::parse(id).map_err(|e| format!("{:?}: {e}", sanitize(id, 140))));
    Ok(DeadFilter {
        kinds: kinds.collect::<Result<_, _>>()?,
        hosts: selection.hosts.clone(),
        since: None,
        ids: ids.collect::<Result<_, _>>()?,
    })
}

/// What a command acts on.
struct Selected {
    /// The letters that match.
    letters: Vec<DeadLetter>,
    /// The ids given that are no dead letters.
    unknown: Vec<JobId>,
}

impl Selected {
    /// Says which of the ids given are unknown.
    fn name_unknown(&self) {
        self.unknown.iter().for_each(name_unknown);
    }
}

fn name_unknown(id: &JobId) {
    render::error(format!("no dead letter: {id}"));
}

async fn select(
    queue: &OperatorHandle,
    selection: &DeadSelection,
) -> Result<Result<Selected, String>, Error> {
    let mut filter = match filter(selection) {
        Ok(filter) => filter,
        Err(what) => return Ok(Err(what)),
    };
    if let Some(time) = selection.since {
        // Letters bear the time of Redis, from which this machine's may differ.
        filter.since = Some(earlier(queue.server_time_ms().await?, time));
    }
    if filter.ids.is_empty() {
        let letters = queue.dead(&filter, selection.limit).await?;
        return Ok(Ok(Selected { letters, unknown: Vec::new() }));
    }
    let mut given = HashSet::new();
    filter.ids.retain(|id| given.insert(id.clone()));
    let by_id = DeadFilter { ids: filter.ids.clone(), ..DeadFilter::default() };
    let mut letters = queue.dead(&by_id, usize::MAX).await?;
    let found: HashSet<&JobId> = letters.iter().map(|letter| &letter.id).collect();
    let unknown = filter.ids.iter().filter(|id| !found.contains(id)).cloned().collect();
    letters.retain(|letter| filter.takes(letter));
    letters.truncate(selection.limit);
    Ok(Ok(Selected { letters, unknown }))
}

/// So long before `now_ms`.
fn earlier(now_ms: u64, time: Duration) -> OffsetDateTime {
    let ms = now_ms.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

async fn ls(queue: &OperatorHandle, selection: &DeadSelection, json: bool) -> Result<Exit, Error> {
    let selected = match select(queue, selection).await? {
        Ok(selected) => selected,
        Err(what) => return Ok(usage_error(&what)),
    };
    selected.name_unknown();
    let letters = selected.letters;
    if json {
        render::json(&letters.iter().map(as_json).collect::<Vec<_>>());
    } else if letters.is_empty() {
        render::note("no dead letters match");
    } else {
        render::line(letters_table(&letters, queue.server_time_ms().await?));
        render::note(format!("\n{}", count_by(&letters, kind)));
    }
    Ok(if letters.is_empty() { Exit::NothingMatched } else { Exit::Ok })
}

fn usage_error(what: &str) -> Exit {
    render::error(what);
    Exit::Usage
}

fn letters_table(letters: &[DeadLetter], now_ms: u64) -> String {
    let rows = letters.iter().map(|letter| {
        vec![letter.id.to_string(), age(letter, now_ms), kind(letter), host(letter), detail(letter, 60)]
    });
    render::table(&["ID", "DIED", "KIND", "HOST", "DETAIL"], &[], rows)
}

fn age(letter: &DeadLetter, now_ms: u64) -> String {
    format!("{} ago", render::format_duration(Duration::from_millis(now_ms.saturating_sub(letter.died_ms))))
}

fn kind(letter: &DeadLetter) -> String {
    letter.reason.as_ref().map_or_else(|| "?".to_owned(), |reason| reason.kind.to_string())
}

fn host(letter: &DeadLetter) -> String {
    letter.host().map_or_else(|| "-".to_owned(), |host| sanitize(&host, 60))
}

fn detail(letter: &DeadLetter, chars: usize) -> String {
    let newer = "written by a newer build, which can read it";
    sanitize(letter.reason.as_ref().map_or(newer, |reason| &reason.failure.detail), chars)
}

/// What a letter holds, without secrets; of what is no job, its first characters.
fn payload(letter: &DeadLetter) -> String {
    match &letter.content {
        Content::Job(job) => shown_job(job).to_string(),
        Content::Raw(raw) => scrub(&String::from_utf8_lossy(&raw.head)),
    }
}

/// `timeout 19 · memory_exceeded 2`, most first.
fn count_by(letters: &[DeadLetter], key: fn(&DeadLetter) -> String) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for letter in letters {
        *counts.entry(key(letter)).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.iter().map(|(key, count)| format!("{key} {count}")).collect::<Vec<_>>().join(" · ")
}

async fn show(queue: &OperatorHandle, id: &str, json: bool) -> Result<Exit, Error> {
    let id = match JobId::parse(id) {
        Ok(id) => id,
        Err(what) => return Ok(usage_error(&what)),
    };
    let Some(letter) = queue.dead_letter(&id).await? else {
        name_unknown(&id);
        return Ok(Exit::NothingMatched);
    };
    if json {
        render::json(&as_json(&letter));
    } else {
        print_letter(queue, &letter, queue.server_time_ms().await?);
    }
    Ok(Exit::Ok)
}

fn print_letter(queue: &OperatorHandle, letter: &DeadLetter, now_ms: u64) {
    render::line(format!("{}  {}", styled(BAD, kind(letter)), styled(BOLD, &letter.id)));
    print_field("because", detail(letter, 500));
    print_field("died", age(letter, now_ms));
    if let Some(reason) = &letter.reason {
        print_reason(reason);
    }
    match &letter.content {
        Content::Job(_) => print_field("payload", sanitize(&payload(letter), 2000)),
        Content::Raw(raw) => {
            print_field("payload", format!("{} bytes, {}, beginning with", raw.length, raw.hash));
            print_field("", sanitize(&payload(letter), 500));
        }
    }
    if let Some(command) = reproduce_command(queue, letter) {
        render::note(format!("\nreproduce it here:  {command}"));
    }
    render::note(format!("put it back:        {}", queue.command(&format!("dead replay {}", letter.id))));
}

fn print_field(name: &str, value: String) {
    render::line(format!("{} {value}", styled(DIM, format!("{name:<10}"))));
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
fn reproduce_command(queue: &OperatorHandle, letter: &DeadLetter) -> Option<String> {
    let Content::Job(job) = &letter.content else { return None };
    let measured = letter.reason.as_ref().and_then(|reason| reason.failure.measured.as_ref());
    let limits = measured.and_then(|measured| measured.limits).map_or(String::new(), |limits| {
        format!(" --limits wall={}ms,heap={}", limits.wall_ms, limits.heap_bytes)
    });
    Some(match named_pair(letter, job) {
        Some(pair) => format!("wm-analyzer diff {pair}{limits} -v"),
        None => queue.command(&format!("diff --job {}{limits} -v", letter.id)),
    })
}

/// Both addresses as arguments of `diff`, with the hashes that are known.
fn named_pair(letter: &DeadLetter, job: &Job) -> Option<String> {
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
