//! `job ...` and `dead ...`: look at jobs in any state, and act on them in bulk. A dead letter is a job in a state.
//!
//! A bulk action works on a selection that is frozen before it is shown: what dies while it runs is not included, and
//! what was replayed and died anew in between is left alone. No letter is deleted before its copy is safe (`copies`).
//! What is done prints nothing; `console` shows it on a terminal.

mod bulk;
mod console;
pub(crate) mod copies;
mod discard;
mod edit;
pub mod groups;
mod list;
mod plan;
mod replay;
mod replay_result;
mod run;
pub(crate) mod show;
mod undo;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::bulk::{BulkAction, Prepared, prepare};
pub use self::copies::CopyOutput;
pub use self::discard::{DiscardPlan, DiscardResult};
pub use self::edit::Edit;
pub use self::list::JobListing;
pub use self::plan::{Plan, Refusal, Warning, unknown_sentence};
pub use self::replay_result::ReplayResult;
pub(super) use self::run::stopped_by_redis;
pub use self::run::{BulkResult, Finished, Run, RunObserver, SimpleResult};
pub use self::show::{FoundJob, find, payload, reproduce_command};
pub use self::undo::UndoResult;
use super::render::{self, sanitize};
use super::selection::{self, LIVE};
use super::{Exit, Output};
use crate::job::LimitsRequest;
use crate::queue::{Error, JobState, OperatorHandle, Selection, StoredJob, Window};

/// Which jobs a command is about, as it was typed.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Ids and words, see [`selection::GRAMMAR`].
    pub words: Vec<String>,
    /// The states that are meant where no word names any.
    pub states: Vec<JobState>,
    /// States that may be named; empty is any.
    pub allowed: Vec<JobState>,
    /// The moment by the clock of Redis from which the words count back, and after which a job came too late for a bulk
    /// action; `None` is now. See [`Plan::at_ms`].
    pub at_ms: Option<u64>,
}

impl Filter {
    /// Dead letters.
    pub fn dead(words: Vec<String>) -> Self {
        Self { words, states: vec![JobState::Dead], allowed: vec![JobState::Dead], at_ms: None }
    }

    /// Letters in the trash.
    pub fn trash(words: Vec<String>) -> Self {
        Self { words, states: vec![JobState::Trash], allowed: vec![JobState::Trash], at_ms: None }
    }

    /// Jobs that have not ended.
    pub fn live(words: Vec<String>) -> Self {
        Self { words, states: LIVE.to_vec(), allowed: LIVE.to_vec(), at_ms: None }
    }

    /// Jobs in any state; those in the trash only where they are named.
    pub fn any(words: Vec<String>) -> Self {
        let states = [&LIVE[..], &[JobState::Dead]].concat();
        Self { words, states, allowed: Vec::new(), at_ms: None }
    }

    /// Reads it, with the moment from which its words count back; the error is a sentence for the person who typed it.
    async fn read(&self, queue: &OperatorHandle) -> Result<Result<(Selection, u64), String>, Error> {
        // Jobs bear the time of Redis, from which this machine's may differ.
        let now_ms = match self.at_ms {
            Some(at_ms) => at_ms,
            None => queue.server_time_ms().await?,
        };
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
        Ok(Ok((read, now_ms)))
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
    /// Stop after the canaries, however they end; another command replays the rest.
    pub canary_only: bool,
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
    /// Act on many.
    Bulk(BulkAction, BulkOptions),
    /// Print payloads, as `enqueue` takes them.
    Export(Filter),
}

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
        JobAction::Bulk(action, bulk) => console::run(queue, &action, &bulk, json).await,
        JobAction::Export(filter) => list::export(queue, &filter).await,
    }
}

fn usage_error(what: &str) -> Exit {
    render::error(what);
    Exit::Usage
}

/// Its kind of failure; `?` of a letter that this build cannot read, `-` where it did not fail.
pub fn kind(job: &StoredJob) -> String {
    let unreadable = if job.state == JobState::Dead { "?" } else { "-" };
    job.kind().map_or_else(|| unreadable.to_owned(), |kind| kind.to_string())
}

/// Its host; `-` where it has none.
pub fn host(job: &StoredJob) -> String {
    job.host().map_or_else(|| "-".to_owned(), |host| sanitize(&host, 60))
}

fn build(job: &StoredJob) -> String {
    job.build().map_or_else(|| "-".to_owned(), |build| sanitize(build, 60))
}

/// What it died of, what it failed of last, or what it waits for.
pub fn detail(job: &StoredJob, chars: usize) -> String {
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
pub fn most_first(counts: &BTreeMap<String, usize>) -> String {
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
