//! `audit ls | show`: who did what to the queue, and what became of it.

use serde_json::json;

use super::render::{self, BOLD, Column, DIM, sanitize, styled};
use super::selection::ago;
use super::{Exit, Output};
use crate::queue::{AuditEntry, Error, JobOutcome, OperationId, OperatorHandle};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// Jobs of an operation that are named in text; JSON has all.
const SHOWN: usize = 20;

/// A subcommand of `audit`.
#[derive(Debug, Clone)]
pub enum AuditAction {
    /// The newest rows, at most so many.
    Ls(usize),
    /// One bulk action, with what became of each job.
    Show(OperationId),
}

/// Runs the subcommand.
///
/// # Errors
/// Those of the queue.
pub async fn run(queue: &OperatorHandle, action: AuditAction, output: Output) -> Result<Exit, Error> {
    match action {
        AuditAction::Ls(limit) => ls(queue, limit, output).await,
        AuditAction::Show(id) => show(queue, &id, output.is_json()).await,
    }
}

async fn ls(queue: &OperatorHandle, limit: usize, output: Output) -> Result<Exit, Error> {
    let (rows, total) = queue.audit_rows(limit).await?;
    let exit = if rows.is_empty() { Exit::NothingMatched } else { Exit::Ok };
    match output {
        Output::Json => render::json(SCHEMA_VERSION, &json!({ "total": total, "rows": rows })),
        Output::Ndjson => rows.iter().for_each(|row| render::line(render::json_line(row))),
        Output::Text if rows.is_empty() => render::note("nothing was done to this queue yet"),
        Output::Text => {
            let now_ms = queue.server_time_ms().await?;
            let columns = [
                Column::Word("WHEN"),
                Column::Shortened("WHO"),
                Column::Word("WHAT"),
                Column::Number("JOBS"),
                Column::Cut("SELECTION"),
                Column::Cut("WHY"),
            ];
            render::line(render::table(&columns, rows.iter().map(|entry| row(entry, now_ms))));
            render::note(format!("\n{} of {total} rows, newest first", rows.len()));
        }
    }
    Ok(exit)
}

fn row(entry: &AuditEntry, now_ms: u64) -> Vec<String> {
    let AuditEntry { at_ms, what, by, selection, count, why, operation } = entry;
    let what = operation.as_ref().map_or_else(|| sanitize(what, 40), |id| sanitize(id.as_str(), 40));
    vec![
        ago(now_ms, *at_ms),
        sanitize(by, 100),
        what,
        count.map_or_else(|| "-".to_owned(), |count| count.to_string()),
        if selection.is_empty() { "-".to_owned() } else { sanitize(selection, 200) },
        if why.is_empty() { "-".to_owned() } else { sanitize(why, 200) },
    ]
}

/// That the queue does not know an operation, or no more what it did to which jobs.
pub(super) fn no_operation_sentence(id: &OperationId) -> String {
    format!("no operation {id}, or its jobs are not kept any more")
}

/// Says that the queue does not know an operation, or no more what it did to which jobs.
pub(super) fn print_no_operation(queue: &OperatorHandle, id: &OperationId) {
    render::error(no_operation_sentence(id));
    render::command("see:", &queue.command("audit ls"));
}

async fn show(queue: &OperatorHandle, id: &OperationId, json: bool) -> Result<Exit, Error> {
    let Some(operation) = queue.operation(id).await? else {
        print_no_operation(queue, id);
        return Ok(Exit::NothingMatched);
    };
    if json {
        let counts = operation.counts();
        render::json(SCHEMA_VERSION, &json!({ "operation": operation, "counts": counts }));
        return Ok(Exit::Ok);
    }
    let AuditEntry { at_ms, what, by, selection, count, why, operation: _ } = &operation.entry;
    let now_ms = queue.server_time_ms().await?;
    render::line(format!(
        "{}  {} by {}, {}",
        styled(BOLD, id),
        sanitize(what, 40),
        sanitize(by, 60),
        ago(now_ms, *at_ms)
    ));
    let (count, noun) = (count.unwrap_or(0), if *count == Some(1) { "job" } else { "jobs" });
    render::field("selected", &format!("{} ({count} {noun})", sanitize(selection, 300)));
    if !why.is_empty() {
        render::field("why", &sanitize(why, 300));
    }
    for (outcome, count) in operation.counts() {
        let outcome = match outcome {
            "selected" => "not come to",
            "replayed" => "replayed, not ended yet",
            ended => ended,
        };
        render::line(format!("{count:>8}  {}", sanitize(outcome, 80)));
    }
    for (job, outcome) in operation.jobs.iter().take(SHOWN) {
        render::line(styled(DIM, format!("  {}  {}", sanitize(job, 128), sanitize(outcome.as_str(), 80))));
    }
    if operation.jobs.len() > SHOWN {
        render::note(format!("{SHOWN} of {} jobs: -o json names all", operation.jobs.len()));
    }
    if operation.jobs.is_empty() {
        render::note("its jobs are not kept any more");
    }
    if operation.jobs.values().any(|outcome| matches!(outcome, JobOutcome::Selected(_))) && what == "replay" {
        let resume = format!("dead replay --resume {id}");
        render::command("go on with the rest: ", &queue.command(&resume));
    }
    Ok(Exit::Ok)
}
