//! `job ls`, `job export`: what is selected, never cut without saying so.

use std::collections::BTreeMap;

use super::copies::{CopyOutput, as_json};
use super::{Filter, detail, host, kind, most_first, unknown_sentence, usage_error};
use crate::job::JobId;
use crate::ops::render::{self, Column, sanitize};
use crate::ops::selection::ago;
use crate::ops::{Exit, Output};
use crate::queue::{Error, JobState, OperatorHandle, StoredJob};

/// Version of the JSON of a listing.
const SCHEMA_VERSION: u32 = 1;
/// Longest detail in a table, in characters: no terminal is wider.
const DETAIL_CHARS: usize = 200;

/// What a selection takes, counted.
#[derive(Debug, Default)]
pub struct JobListing {
    /// How many jobs.
    pub total: usize,
    /// By state.
    pub states: BTreeMap<String, usize>,
    /// By kind of failure; `-` for none.
    pub kinds: BTreeMap<String, usize>,
    /// Ids that were named and are in no state at all.
    pub unknown: Vec<JobId>,
    /// All of them are counted: false before [`read`](Self::read) has come to its end.
    pub is_whole: bool,
}

impl JobListing {
    /// Counts what `filter` takes and gives the first `limit` to `show`. Where this is dropped before its end, after a
    /// time, what was counted by then stays here. The error is a sentence for the person who typed it.
    ///
    /// # Errors
    /// Those of Redis.
    pub async fn read(
        &mut self,
        queue: &OperatorHandle,
        filter: &Filter,
        limit: usize,
        mut show: impl FnMut(StoredJob),
    ) -> Result<Result<(), String>, Error> {
        let selection = match filter.read(queue).await? {
            Ok((selection, _)) => selection,
            Err(what) => return Ok(Err(what)),
        };
        let mut pages = queue.job_pages(&selection);
        let mut unseen = selection.ids.clone();
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                break;
            }
            for job in page {
                *self.kinds.entry(kind(&job)).or_default() += 1;
                *self.states.entry(job.state.to_string()).or_default() += 1;
                unseen.retain(|id| *id != job.id);
                self.total += 1;
                if self.total <= limit {
                    show(job);
                }
            }
        }
        for id in unseen {
            if queue.stored_job(&id).await?.is_none() {
                self.unknown.push(id);
            }
        }
        self.is_whole = true;
        Ok(Ok(()))
    }
}

/// Lists the first `limit` of what is selected, and counts all of it.
pub(super) async fn ls(
    queue: &OperatorHandle,
    filter: &Filter,
    limit: usize,
    output: Output,
) -> Result<Exit, Error> {
    let (mut listing, mut shown) = (JobListing::default(), Vec::new());
    let show = |job: StoredJob| match output {
        Output::Ndjson => render::line(render::json_line(&as_json(&job))),
        Output::Text | Output::Json => shown.push(job),
    };
    if let Err(what) = listing.read(queue, filter, limit, show).await? {
        return Ok(usage_error(&what));
    }
    let JobListing { total, states, kinds, unknown, is_whole: _ } = listing;
    let what = if filter.states == [JobState::Dead] { "dead letter" } else { "job" };
    unknown.iter().for_each(|id| render::error(unknown_sentence(id, what)));
    match output {
        Output::Json => render::json(
            SCHEMA_VERSION,
            &serde_json::json!({
                "total": total, "shown": shown.len(), "states": states, "kinds": kinds,
                "jobs": shown.iter().map(as_json).collect::<Vec<_>>(),
            }),
        ),
        Output::Text if total == 0 => render::note(format!("no {what}s match")),
        Output::Text => {
            render::line(table(&shown, queue.server_time_ms().await?));
            let by = if states.len() > 1 { most_first(&states) } else { most_first(&kinds) };
            render::note(format!("\n{} of {total} {what}s: {by}", total.min(limit)));
        }
        Output::Ndjson if total > limit => render::note(format!("{limit} of {total} {what}s: raise --limit")),
        Output::Ndjson => {}
    }
    Ok(if total == 0 { Exit::NothingMatched } else { Exit::Ok })
}

/// Letters by their kind; jobs in several states by their state, too.
fn table(jobs: &[StoredJob], now_ms: u64) -> String {
    let all_dead = jobs.iter().all(|job| job.state == JobState::Dead);
    let rows = jobs.iter().map(|job| {
        let id = job.id.to_string();
        let mut row = vec![id, ago(now_ms, job.since_ms()), kind(job), host(job), detail(job, DETAIL_CHARS)];
        if !all_dead {
            row.insert(1, job.state.to_string());
        }
        row
    });
    let (state, since) = (Column::Word("STATE"), if all_dead { "DIED" } else { "SINCE" });
    let mut columns = vec![
        Column::Word("ID"),
        Column::Word(since),
        Column::Word("KIND"),
        Column::Shortened("HOST"),
        Column::Detail("DETAIL"),
    ];
    if !all_dead {
        columns.insert(1, state);
    }
    render::table(&columns, rows)
}

/// Prints the payloads of what is selected, as `enqueue` takes them.
pub(super) async fn export(queue: &OperatorHandle, filter: &Filter) -> Result<Exit, Error> {
    let selection = match filter.read(queue).await? {
        Ok((selection, _)) => selection,
        Err(what) => return Ok(usage_error(&what)),
    };
    let mut copies = match CopyOutput::stdout() {
        Ok(copies) => copies,
        Err(e) => return Ok(refused(&e)),
    };
    let (mut pages, mut count) = (queue.job_pages(&selection), 0);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        if let Err(e) = copies.write_all(&page) {
            return Ok(refused(&e));
        }
        count += page.len();
    }
    if let Err(e) = copies.sync() {
        return Ok(refused(&e));
    }
    let (word, typed) = (if count == 1 { "job" } else { "jobs" }, filter.typed());
    render::note(format!("exported {count} {word} ({typed}); nothing changed"));
    render::command("put them back:", &queue.command("enqueue FILE"));
    Ok(if count == 0 { Exit::NothingMatched } else { Exit::Ok })
}

fn refused(error: &std::io::Error) -> Exit {
    render::error(format!(
        "stdout did not take what was to be exported: {}",
        sanitize(&error.to_string(), 200)
    ));
    Exit::Failed
}
