//! `results ls | show | free`: how jobs ended, and making room where Redis is the only place that has the reports.

use super::Exit;
use super::render::{self, Column, sanitize};
use super::report;
use crate::job::JobId;
use crate::queue::{AuditEntry, Ended, Error, OperatorHandle};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// What to do with results.
pub enum ResultsAction {
    /// List the oldest.
    Ls {
        /// At most this many.
        limit: usize,
    },
    /// Show how one job ended, with its report.
    Show {
        /// Id of the job.
        id: JobId,
    },
    /// Delete the oldest.
    Free {
        /// At most this many.
        most: u64,
        /// Only those stored longer ago than this.
        older_than: Option<std::time::Duration>,
        /// Do not ask.
        yes: bool,
        /// Change nothing.
        dry_run: bool,
    },
}

/// Runs the subcommand.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &OperatorHandle, action: ResultsAction, json: bool) -> Result<Exit, Error> {
    match action {
        ResultsAction::Ls { limit } => list(queue, limit, json).await,
        ResultsAction::Show { id } => show(queue, &id, json).await,
        ResultsAction::Free { most, older_than, yes, dry_run } => {
            free(queue, most, older_than, yes, dry_run, json).await
        }
    }
}

async fn list(queue: &OperatorHandle, limit: usize, json: bool) -> Result<Exit, Error> {
    let (results, count) = queue.results(limit).await?;
    if json {
        render::json(SCHEMA_VERSION, &serde_json::json!({ "count": count, "results": results }));
        return Ok(Exit::Ok);
    }
    let rows = results.iter().map(|Ended { id, pair, state, why, at_ms, .. }| {
        let outcome = if why.is_empty() {
            sanitize(state, 20)
        } else {
            format!("{}: {}", sanitize(state, 20), sanitize(why, 40))
        };
        vec![render::elapsed_since(*at_ms), outcome, sanitize(id, 128), sanitize(pair, 160)]
    });
    let columns = [Column::Number("AGE"), Column::Cut("ENDED"), Column::Word("ID"), Column::Extra("PAIR")];
    render::line(render::table(&columns, rows));
    render::note(format!("{} of {count} results, oldest first", results.len()));
    Ok(Exit::Ok)
}

async fn show(queue: &OperatorHandle, id: &JobId, json: bool) -> Result<Exit, Error> {
    let Some(ended) = queue.ended(id).await? else {
        render::error(format!(
            "no result of {id}: it has not ended, is unknown, or its result was forgotten"
        ));
        return Ok(Exit::NothingMatched);
    };
    let report = match ended.pair.split_once("..").map(|(from, to)| (from.parse(), to.parse())) {
        Some((Ok(from), Ok(to))) => report::read(queue, (from, to)).await?,
        Some(_) | None => None,
    };
    if json {
        render::json(SCHEMA_VERSION, &serde_json::json!({ "ended": ended, "report": report }));
    } else {
        let [id, state, why] =
            [(&ended.id, 128), (&ended.state, 20), (&ended.why, 40)].map(|(text, most)| sanitize(text, most));
        render::line(format!("{id}  {state}  {why}").trim_end());
        match report {
            Some(report) => report::print_stored(&report),
            None => render::note("its pair's report is forgotten, or belongs to another job"),
        }
    }
    Ok(Exit::Ok)
}

async fn free(
    queue: &OperatorHandle,
    most: u64,
    older_than: Option<std::time::Duration>,
    yes: bool,
    dry_run: bool,
    json: bool,
) -> Result<Exit, Error> {
    let status = queue.status().await?;
    let memory = &status.memory;
    let [used, cap] = [memory.reports_bytes, memory.reports_cap_bytes].map(render::format_bytes);
    let which = older_than.map_or_else(
        || format!("the oldest {}", most.min(memory.results_count)),
        |age| format!("at most {most} that are older than {}", humantime::format_duration(age)),
    );
    render::note(format!(
        "{} results take up {used} of {cap}: deletes {which}; an annotation that the db app has stays there, \
         a report that nobody fetched is gone for good",
        memory.results_count
    ));
    if dry_run {
        if json {
            let older_than_ms = older_than.map(crate::job::duration::millis);
            let plan = serde_json::json!({
                "dry_run": true, "at_most": most, "older_than_ms": older_than_ms, "stored": memory.results_count,
                "results": 0, "bytes": 0,
            });
            render::json(SCHEMA_VERSION, &plan);
        }
        render::note("dry run: nothing changed");
        return Ok(Exit::Ok);
    }
    if let Err(exit) = render::confirm("free results?", yes) {
        return Ok(exit);
    }
    let before = match older_than {
        Some(age) => Some(queue.server_time_ms().await?.saturating_sub(crate::job::duration::millis(age))),
        None => None,
    };
    let freed = queue.free_results(most, before).await?;
    if freed.results > 0 {
        let (what, by, count) = ("free results".to_owned(), render::operator(), Some(freed.results));
        queue.audit(&AuditEntry { what, by, selection: which, count, ..AuditEntry::default() }).await?;
    }
    if json {
        render::json(SCHEMA_VERSION, &freed);
    } else if freed.results == 0 {
        render::note("there is no such result: nothing changed");
    } else {
        let more = if freed.more { "; there are more of them" } else { "" };
        render::note(format!(
            "freed {} results, {}{more}. Undo: enqueue their pairs with `again`",
            freed.results,
            render::format_bytes(freed.bytes)
        ));
    }
    Ok(if freed.results == 0 { Exit::NothingMatched } else { Exit::Ok })
}
