//! `dead ls | show | replay | discard`: look at dead letters, put them back, throw them away.
//!
//! A bulk action (`bulk`) works on a selection that is frozen before it is shown: what dies while it runs is not touched.

mod bulk;

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use self::bulk::Verb;
use super::Exit;
use super::render::{self, BAD, BOLD, DIM, plain, styled};
use crate::job::counts::Counts;
use crate::job::failure::Kind;
use crate::job::page::Version;
use crate::job::verdict::DeathReason;
use crate::job::{JobId, LimitsRequest, VersionRef};
use crate::queue::{Content, DeadFilter, DeadLetter, Error, OperatorHandle};

/// Which letters.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// By id; empty means all that the rest lets through.
    pub ids: Vec<String>,
    /// By kind.
    pub kinds: Vec<String>,
    /// By host.
    pub hosts: Vec<String>,
    /// No older than this.
    pub since: Option<Duration>,
    /// At most this many, newest first.
    pub limit: usize,
}

/// How a bulk action goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Say, do not do.
    pub dry_run: bool,
    /// Letters a second.
    pub rate: f64,
    /// Do not ask.
    pub yes: bool,
}

/// What to do with them.
#[derive(Debug, Clone)]
pub enum Action {
    /// List.
    Ls(Selection),
    /// Everything about one.
    Show(String),
    /// Put back, under other limits than the configured ones where some are granted.
    Replay(Selection, Bulk, LimitsRequest),
    /// Throw away.
    Discard(Selection, Bulk),
}

/// Carries it out.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &OperatorHandle, action: Action, json: bool) -> Result<Exit, Error> {
    match action {
        Action::Ls(selection) => ls(queue, &selection, json).await,
        Action::Show(id) => show(queue, &id, json).await,
        Action::Replay(selection, bulk, granted) => {
            bulk::touch(queue, &selection, bulk, Verb::Replay(granted), json).await
        }
        Action::Discard(selection, bulk) => bulk::touch(queue, &selection, bulk, Verb::Discard, json).await,
    }
}

fn filter(selection: &Selection) -> Result<DeadFilter, String> {
    let kinds = selection.kinds.iter().map(|label| {
        Kind::parse(label).ok_or_else(|| {
            let near = Kind::ALL.iter().copied().min_by_key(|kind| strsim::levenshtein(kind.as_str(), label));
            format!(
                "{:?} is not a kind of failure{}",
                plain(label, 40),
                near.map_or(String::new(), |k| format!(": did you mean {k}?"))
            )
        })
    });
    let ids =
        selection.ids.iter().map(|id| JobId::parse(id).map_err(|e| format!("{:?}: {e}", plain(id, 140))));
    Ok(DeadFilter {
        kinds: kinds.collect::<Result<_, _>>()?,
        hosts: selection.hosts.clone(),
        since: selection.since.map(|time| OffsetDateTime::now_utc() - time),
        ids: ids.collect::<Result<_, _>>()?,
    })
}

async fn select(
    queue: &OperatorHandle,
    selection: &Selection,
) -> Result<Result<Vec<DeadLetter>, String>, Error> {
    match filter(selection) {
        Ok(filter) => Ok(Ok(queue.dead(&filter, selection.limit).await?)),
        Err(what) => Ok(Err(what)),
    }
}

async fn ls(queue: &OperatorHandle, selection: &Selection, json: bool) -> Result<Exit, Error> {
    let letters = match select(queue, selection).await? {
        Ok(letters) => letters,
        Err(what) => return Ok(usage(&what)),
    };
    if json {
        render::json(&letters.iter().map(as_json).collect::<Vec<_>>());
    } else if letters.is_empty() {
        render::note("no dead letters match");
    } else {
        render::line(list(&letters));
        render::note(format!("\n{}", by(&letters, kind)));
    }
    Ok(if letters.is_empty() { Exit::NothingMatched } else { Exit::Ok })
}

fn usage(what: &str) -> Exit {
    render::failure(what);
    Exit::Usage
}

fn list(letters: &[DeadLetter]) -> String {
    let now = OffsetDateTime::now_utc();
    let rows = letters.iter().map(|letter| {
        vec![letter.id.to_string(), age(letter, now), kind(letter), host(letter), detail(letter, 60)]
    });
    render::table(&["ID", "DIED", "KIND", "HOST", "DETAIL"], &[], rows)
}

fn age(letter: &DeadLetter, now: OffsetDateTime) -> String {
    let now_ms = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    format!("{} ago", render::ago(Duration::from_millis(now_ms.saturating_sub(letter.died_ms))))
}

fn kind(letter: &DeadLetter) -> String {
    letter.reason.as_ref().map_or_else(|| "?".to_owned(), |reason| reason.kind.to_string())
}

fn host(letter: &DeadLetter) -> String {
    letter.host().map_or_else(|| "-".to_owned(), |host| plain(&host, 60))
}

fn detail(letter: &DeadLetter, chars: usize) -> String {
    let newer = "written by a newer build, which can read it";
    plain(letter.reason.as_ref().map_or(newer, |reason| &reason.failure.detail), chars)
}

/// What a letter holds, as it would be sent again; of what is no job, its first characters.
fn payload(letter: &DeadLetter) -> String {
    match &letter.content {
        Content::Job(job) => String::from_utf8_lossy(&job.encode()).into_owned(),
        Content::Raw(raw) => String::from_utf8_lossy(&raw.head).into_owned(),
    }
}

/// One line of JSON that keeps what a letter holds: the payload of a job, and of what is no job all that is left of it.
fn kept(letter: &DeadLetter) -> String {
    match &letter.content {
        Content::Job(_) => payload(letter),
        Content::Raw(_) => serde_json::json!({ "raw": as_json(letter)["raw"] }).to_string(),
    }
}

fn as_json(letter: &DeadLetter) -> serde_json::Value {
    let (job, raw) = match &letter.content {
        Content::Job(job) => (serde_json::from_slice(&job.encode()).ok(), None),
        Content::Raw(raw) => {
            let head = String::from_utf8_lossy(&raw.head);
            (
                None::<serde_json::Value>,
                Some(serde_json::json!({ "head": head, "length": raw.length, "hash": raw.hash })),
            )
        }
    };
    serde_json::json!({
        "id": letter.id, "died_ms": letter.died_ms, "replays": letter.replays,
        "host": letter.host(), "reason": letter.reason, "job": job, "raw": raw,
    })
}

/// `timeout 19 · memory_exceeded 2`, most first.
fn by(letters: &[DeadLetter], key: fn(&DeadLetter) -> String) -> String {
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
        Err(what) => return Ok(usage(&what)),
    };
    let Some(letter) = queue.dead_letter(&id).await? else {
        render::failure(format!("no dead letter {id}"));
        return Ok(Exit::NothingMatched);
    };
    if json {
        render::json(&as_json(&letter));
    } else {
        tell(queue, &letter);
    }
    Ok(Exit::Ok)
}

fn tell(queue: &OperatorHandle, letter: &DeadLetter) {
    render::line(format!("{}  {}", styled(BAD, kind(letter)), styled(BOLD, &letter.id)));
    field("because", detail(letter, 500));
    field("died", age(letter, OffsetDateTime::now_utc()));
    if let Some(reason) = &letter.reason {
        tell_reason(reason);
    }
    match &letter.content {
        Content::Job(_) => field("payload", plain(&payload(letter), 2000)),
        Content::Raw(raw) => {
            field("payload", format!("{} bytes, {}, beginning with", raw.length, raw.hash));
            field("", plain(&payload(letter), 500));
        }
    }
    if let Some(command) = reproduction(letter) {
        render::note(format!("\nreproduce it here:  {command}"));
    }
    render::note(format!("put it back:        {}", queue.command(&format!("dead replay {}", letter.id))));
}

fn field(name: &str, value: String) {
    render::line(format!("{} {value}", styled(DIM, format!("{name:<10}"))));
}

fn tell_reason(reason: &DeathReason) {
    field("stage", reason.stage.to_string());
    field("worker", format!("{} ({})", plain(&reason.worker, 100), plain(&reason.build, 60)));
    let Counts { deliveries, failures, doubts, crashes, postponements, postponed_ms, releases, replays } =
        reason.counts;
    let put_off = humantime::format_duration(Duration::from_millis(postponed_ms));
    field(
        "counts",
        format!(
            "deliveries {deliveries}, failures {failures}, doubts {doubts}, crashes {crashes}, \
             postponements {postponements} ({put_off}), releases {releases}, replays {replays}"
        ),
    );
    for body in &reason.bodies {
        let size = render::bytes(body.wire_bytes);
        field(body.side.as_str(), format!("{} ({size} on the wire)", plain(&body.url, 300)));
        if let Some(hash) = &body.wire_sha256 {
            field("", format!("sha256 {}", plain(hash, 64)));
        }
    }
    if let Some(measured) = reason.failure.measured.as_ref() {
        field("measured", render::measured(measured));
        if let Some(words) = &measured.stderr {
            field("stderr", plain(words, 2500));
        }
    }
}

/// The one command that reproduces it locally, under the same limits.
///
/// It fetches anew: a site that was down may be better by now.
fn reproduction(letter: &DeadLetter) -> Option<String> {
    let Content::Job(job) = &letter.content else { return None };
    let (Some(VersionRef::Whole(from)), VersionRef::Whole(to)) = (job.from.given(), &job.to) else {
        let [from, to] = letter.reason.as_ref()?.bodies.as_slice() else { return None };
        return Some(command(letter, &from.url, &to.url));
    };
    let hash =
        |flag, version: &Version| version.body_hash.as_ref().map(|hash| format!(" {flag} {}", quoted(hash)));
    let hashes = [hash("--from-hash", from), hash("--to-hash", to)].into_iter().flatten().collect::<String>();
    Some(command(letter, from.body_url.as_str(), to.body_url.as_str()) + &hashes)
}

fn command(letter: &DeadLetter, from: &str, to: &str) -> String {
    let measured = letter.reason.as_ref().and_then(|reason| reason.failure.measured.as_ref());
    let limits = measured.map_or(String::new(), |measured| {
        format!(" --limits wall={}ms,heap={}", measured.limits.wall_ms, measured.limits.heap_bytes)
    });
    format!("wm-analyzer diff {} {}{limits} -v", quoted(from), quoted(to))
}

/// A word that a shell takes as it stands: hostile URLs hold quotes and semicolons.
fn quoted(text: &str) -> String {
    format!("'{}'", plain(text, 2000).replace('\'', r"'\''"))
}
