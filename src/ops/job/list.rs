//! `job ls`, `job export`: what is selected, never cut without saying so.

use std::collections::BTreeMap;

use super::copies::{CopyOutput, as_json};
use super::{Filter, detail, host, kind, most_first, unknown_sentence, usage_error};
use crate::ops::render::{self, Column, sanitize};
use crate::ops::selection::ago;
use crate::ops::{Exit, Output};
use crate::queue::{Error, JobState, OperatorHandle, StoredJob};

/// Version of the JSON of a listing.
const SCHEMA_VERSION: u32 = 1;
/// Longest detail in a table, in characters: no terminal is wider.
const DETAIL_CHARS: usize = 200;

/// Lists the first `limit` of what is selected, and counts all of it.
pub(super) async fn ls(
    queue: &OperatorHandle,
    filter: &Filter,
    limit: usize,
    output: Output,
) -> Result<Exit, Error> {
    let selection = match filter.read(queue).await? {
        Ok((selection, _)) => selection,
        Err(what) => return Ok(usage_error(&what)),
    };
    let (mut pages, mut total, mut shown) = (queue.job_pages(&selection), 0, Vec::new());
    let (mut kinds, mut states) = (BTreeMap::new(), BTreeMap::new());
    let mut unseen = selection.ids.clone();
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        for job in page {
            *kinds.entry(kind(&job)).or_default() += 1;
            *states.entry(job.state.to_string()).or_default() += 1;
            unseen.retain(|id| *id != job.id);
            total += 1;
            match output {
                Output::Ndjson if total <= limit => render::line(render::json_line(&as_json(&job))),
                Output::Text | Output::Json if total <= limit => shown.push(job),
                Output::Text | Output::Json | Output::Ndjson => {}
            }
        }
    }
    let what = if filter.states == [JobState::Dead] { "dead letter" } else { "job" };
    for id in unseen {
        if queue.stored_job(&id).await?.is_none() {
            render::error(unknown_sentence(&id, what));
        }
    }
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
