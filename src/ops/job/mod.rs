//! `job ...` and `dead ...`: look at jobs in any state, and act on them in bulk. A dead letter is a job in a state.
//!
//! A bulk action works on a selection that is frozen before it is shown: what dies while it runs is not included, and
//! what was replayed and died anew in between is left alone. No letter is deleted before its copy is safe (`copies`).

mod bulk;
pub(crate) mod copies;
mod discard;
mod edit;
pub(crate) mod groups;
mod list;
mod replay;
mod replay_result;
pub(crate) mod show;
mod undo;

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) use self::bulk::stopped_by_redis;
pub use self::edit::Edit;
use super::render::{self, sanitize};
use super::{Exit, Output, selection};
use crate::job::{JobId, LimitsRequest};
use crate::queue::{AuditEntry, Error, JobState, OperationId, OperatorHandle, Selection, StoredJob, Window};

/// Which jobs a command is about, as it was typed.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Ids and words, see [`selection::GRAMMAR`].
    pub words: Vec<String>,
    /// The states that are meant where no word names any.
    pub states: Vec<JobState>,
    /// States that may be named; empty is any.
    pub allowed: Vec<JobState>,
}

impl Filter {
    /// Reads it; the error is a sentence for the person who typed it.
    async fn read(&self, queue: &OperatorHandle) -> Result<Result<Selection, String>, Error> {
        // Jobs bear the time of Redis, from which this machine's may differ.
        let now_ms = queue.server_time_ms().await?;
        let mut read = match selection::parse(&self.words, now_ms) {
            Ok(read) => read,
            Err(what) => return Ok(Err(what)),
        };
        if let Some(state) =
            read.states.iter().find(|s| !self.allowed.is_empty() && !self.allowed.contains(s))
        {
            let allowed: Vec<&str> = self.allowed.iter().map(|state| state.as_str()).collect();
            return Ok(Err(format!(
                "state:{state} is not for this command, which is for {}",
                allowed.join(", ")
            )));
        }
        if read.states.is_empty() {
            read.states.clone_from(&self.states);
        }
        Ok(Ok(read))
    }

    /// As it was typed, for a person: `everything` where nothing was.
    fn typed(&self) -> String {
        if self.words.is_empty() { "everything".to_owned() } else { sanitize(&self.words.join(" "), 300) }
    }
}

/// How a bulk action goes about it.
#[derive(Debug, Clone)]
pub struct BulkOptions {
    /// Print the plan and change nothing.
    pub dry_run: bool,
    /// Jobs a second.
    pub rate: f64,
    /// Skip the confirmation.
    pub yes: bool,
    /// Why, for the audit.
    pub reason: String,
}

/// How dead letters are replayed.
#[derive(Debug, Clone)]
pub struct ReplayPlan {
    /// Replay so many first, and the rest only when these did not die of the same again.
    pub canary: usize,
    /// Give up on canaries that have not ended after this long.
    pub canary_wait: Duration,
    /// Limits granted to the jobs.
    pub granted: LimitsRequest,
    /// Changes of their payloads.
    pub edits: Vec<Edit>,
    /// Wait until all have ended.
    pub watch: bool,
}

/// A subcommand of `job` or `dead`.
#[derive(Debug, Clone)]
pub enum JobAction {
    /// List them.
    Ls(Filter, usize),
    /// Print one with its history, and its evidence if it died; and what it was taken for.
    Show(String, &'static str),
    /// Print dead letters by kind and host.
    Groups(Window),
    /// Put dead letters back.
    Replay(Filter, BulkOptions, ReplayPlan),
    /// Go on with a replay that was interrupted.
    ResumeReplay(OperationId, BulkOptions, Duration),
    /// Put what a replay put back, and what still waits, among the dead letters again.
    UndoReplay(OperationId, BulkOptions),
    /// Move dead letters to the trash, or delete them.
    Discard(Filter, BulkOptions, discard::DiscardPlan),
    /// Take letters out of the trash.
    Restore(Filter, BulkOptions),
    /// Take those out of the trash that an operation put there.
    RestoreAll(OperationId, BulkOptions),
    /// Stop jobs that run or wait.
    Cancel(Filter, BulkOptions),
    /// Print payloads, as `enqueue` takes them.
    Export(Filter),
}

pub use self::discard::DiscardPlan;

/// Runs the subcommand.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &OperatorHandle, action: JobAction, output: Output) -> Result<Exit, Error> {
    let json = output.is_json();
    match action {
        JobAction::Ls(filter, limit) => list::ls(queue, &filter, limit, output).await,
        JobAction::Show(id, noun) => show::show(queue, &id, noun, json).await,
        JobAction::Groups(window) => groups::run(queue, window, json).await,
        JobAction::Replay(filter, bulk, plan) => replay::run(queue, &filter, &bulk, &plan, json).await,
        JobAction::ResumeReplay(id, bulk, wait) => replay::resume(queue, &id, &bulk, wait, json).await,
        JobAction::UndoReplay(id, bulk) => undo::undo(queue, &id, &bulk, json).await,
        JobAction::Discard(filter, bulk, plan) => discard::discard(queue, &filter, &bulk, plan, json).await,
        JobAction::Restore(filter, bulk) => discard::restore(queue, &filter, &bulk, json).await,
        JobAction::RestoreAll(id, bulk) => discard::restore_all(queue, &id, &bulk, json).await,
        JobAction::Cancel(filter, bulk) => bulk::cancel(queue, &filter, &bulk, json).await,
        JobAction::Export(filter) => list::export(queue, &filter).await,
    }
}

fn usage_error(what: &str) -> Exit {
    render::error(what);
    Exit::Usage
}

fn name_unknown(id: &JobId, what: &str) {
    let near = id.as_str().split_once(':').and_then(|(name, _)| selection::near_word(name));
    let near = near.map_or(String::new(), |word| format!(" (did you mean {word}:?)"));
    render::error(format!("no {what}: {id}{near}"));
}

pub(crate) fn kind(job: &StoredJob) -> String {
    let unreadable = if job.state == JobState::Dead { "?" } else { "-" };
    job.kind().map_or_else(|| unreadable.to_owned(), |kind| kind.to_string())
}

pub(crate) fn host(job: &StoredJob) -> String {
    job.host().map_or_else(|| "-".to_owned(), |host| sanitize(&host, 60))
}

fn build(job: &StoredJob) -> String {
    job.build().map_or_else(|| "-".to_owned(), |build| sanitize(build, 60))
}

/// What it died of, what it failed of last, or what it waits for.
pub(crate) fn detail(job: &StoredJob, chars: usize) -> String {
    match (job.failure(), job.state, &job.waits_for_host) {
        (Some(failure), _, None) => sanitize(&failure.detail, chars),
        (_, _, Some(host)) => format!("waits for {}", sanitize(host, 60)),
        (None, JobState::Dead | JobState::Trash, _) => {
            "written by a newer build, which can read it".to_owned()
        }
        (None, JobState::InFlight, _) => {
            format!("at {}", sanitize(job.worker.as_deref().unwrap_or("?"), 60))
        }
        (None, JobState::Ready | JobState::Scheduled | JobState::Exclusive, _) => String::new(),
    }
}

/// `timeout 19 · memory_exceeded 2`, most first; at most five, and how many more there are.
pub(crate) fn most_first(counts: &BTreeMap<String, usize>) -> String {
    const SHOWN: usize = 5;
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let name = |key: &str| if key == "-" { "none".to_owned() } else { key.to_owned() };
    let mut shown: Vec<String> =
        counts.iter().take(SHOWN).map(|(key, count)| format!("{} {count}", name(key))).collect();
    if counts.len() > SHOWN {
        shown.push(format!("and {} more", counts.len() - SHOWN));
    }
    shown.join(" · ")
}

/// The row of the audit for an act on `count` jobs.
fn audit_entry(what: &str, filter: &str, reason: &str, count: usize) -> AuditEntry {
    AuditEntry {
        what: what.to_owned(),
        by: render::operator(),
        selection: filter.to_owned(),
        count: Some(count as u64),
        why: reason.to_owned(),
        ..AuditEntry::default()
    }
}
