//! `dead discard`: to the trash for a day, or for good once its copy is safe; `dead restore`.

use std::io;

use super::bulk::{
    self, ActionName, Frozen, SCHEMA_VERSION, SimpleResult, Steps, each, freeze, print_plan, stop_before,
    stored,
};
use super::copies::CopyOutput;
use super::{BulkOptions, Filter, audit_entry, usage_error};
use crate::job::JobId;
use crate::ops::Exit;
use crate::ops::audit::no_operation;
use crate::ops::render;
use crate::queue::{Actor, DiscardTo, Error, JobOutcome, Operation, OperationId, OperatorHandle, Selected};
use serde::Serialize;

/// Share of `maxmemory` above which a letter that is discarded is deleted: the trash would make no room.
const NO_TRASH_ABOVE: f64 = 0.75;

/// How letters are discarded.
#[derive(Debug, Clone, Copy)]
pub struct DiscardPlan {
    /// Delete them, instead of moving them to the trash.
    pub now: bool,
    /// Print a copy of each to stdout; deleting always does.
    pub copy: bool,
}

/// What became of the selection, as JSON shows it.
#[derive(Debug, Serialize)]
struct DiscardResult {
    operation: Option<OperationId>,
    /// `trash` or `nowhere`.
    to: &'static str,
    selected: usize,
    done: usize,
    missing: usize,
    /// Replayed by somebody else and dead anew since they were selected: left alone.
    died_anew: Vec<JobId>,
    unknown: Vec<JobId>,
}

impl DiscardResult {
    /// Those that were not come to.
    fn rest(&self) -> usize {
        self.selected - self.done - self.missing - self.died_anew.len()
    }
}

/// Why it ended before its last letter.
enum DiscardStop {
    /// Standard output did not take the copies: their letters and all after them are left alone.
    Copies(io::Error),
    /// Redis failed at this letter, which may be discarded or not; all after it are left alone.
    Redis(JobId, Error),
}

/// Shows the plan, asks, and discards.
pub(super) async fn discard(
    queue: &OperatorHandle,
    filter: &Filter,
    bulk: &BulkOptions,
    plan: DiscardPlan,
    json: bool,
) -> Result<Exit, Error> {
    const NAME: ActionName = ActionName { verb: "discard", past: "discarded", noun: "dead letter" };
    let frozen = match freeze(queue, filter, "dead letter", |_| Ok(())).await? {
        Ok(frozen) => frozen,
        Err(what) => return Ok(usage_error(&what)),
    };
    if frozen.jobs.is_empty() {
        render::note("no dead letters match: nothing to do");
        return Ok(Exit::NothingMatched);
    }
    let short_of_memory = queue.status().await?.server.is_some_and(|s| s.memory_filled() > NO_TRASH_ABOVE);
    let to = if plan.now || short_of_memory { DiscardTo::Nowhere } else { DiscardTo::Trash };
    let how = match to {
        DiscardTo::Trash => " to the trash, where they can be restored for 24 h",
        DiscardTo::Nowhere => " FOR GOOD, each once its copy is on stdout",
    };
    print_plan(queue, &frozen, filter, bulk, NAME, how);
    if short_of_memory && !plan.now {
        render::note("  Redis is filling up, and what is in the trash would make no room");
    }
    let mut result = DiscardResult {
        operation: None,
        to: if to == DiscardTo::Trash { "trash" } else { "nowhere" },
        selected: frozen.jobs.len(),
        done: 0,
        missing: 0,
        died_anew: Vec::new(),
        unknown: frozen.unknown.clone(),
    };
    if to == DiscardTo::Nowhere && !bulk.dry_run && !stdout_keeps_copies() {
        render::error(
            "stdout is a device or a socket, where no copy is safe: send it to a file or a pipe; nothing changed",
        );
        return Ok(Exit::Usage);
    }
    let question = format!("discard {}?", NAME.nouns(frozen.jobs.len()));
    if let Some(exit) = stop_before(&frozen, bulk, &question, json.then_some(&result)) {
        return Ok(exit);
    }
    let operation = OperationId::fresh(NAME.verb);
    let entry = audit_entry(NAME.verb, &filter.typed(), &bulk.reason, frozen.jobs.len());
    queue.begin_operation(&operation, &entry, "", &frozen.jobs).await?;
    result.operation = Some(operation.clone());
    let actor = Actor { by: &entry.by, operation: Some(&operation) };
    let copies = plan.copy || to == DiscardTo::Nowhere;
    let stopped = act(queue, &frozen, bulk.rate, (to, copies), actor, &mut result).await;
    print_result(queue, &result, copies, json && !copies);
    match stopped {
        Ok(()) => Ok(bulk::exit(result.done, result.selected, &result.unknown)),
        Err(stop) => explain(stop, &result),
    }
}

async fn act(
    queue: &OperatorHandle,
    frozen: &Frozen,
    rate: f64,
    (to, copy): (DiscardTo, bool),
    actor: Actor<'_>,
    result: &mut DiscardResult,
) -> Result<(), DiscardStop> {
    let mut copies = if copy { Some(CopyOutput::stdout().map_err(DiscardStop::Copies)?) } else { None };
    let mut steps = Steps::new(&frozen.jobs, rate);
    while let Some(step) = steps.next().await {
        let most = copies.as_ref().map_or(step.len(), CopyOutput::batch);
        for batch in step.chunks(most) {
            if let Some(copies) = &mut copies {
                let letters =
                    stored(queue, batch).await.map_err(|e| DiscardStop::Redis(batch[0].id.clone(), e))?;
                copies.write(&letters).await.map_err(DiscardStop::Copies)?;
            }
            let discards = queue.discard_selected(batch, to, actor).await;
            result.done += discards.discarded;
            result.missing += discards.missing.len();
            result.died_anew.extend(discards.died_anew);
            if let Some((id, error)) = discards.failed {
                return Err(DiscardStop::Redis(id, error));
            }
        }
    }
    Ok(())
}

fn print_result(queue: &OperatorHandle, result: &DiscardResult, copies: bool, json: bool) {
    if json {
        render::json(SCHEMA_VERSION, result);
        return;
    }
    let DiscardResult { selected, done, missing, died_anew, .. } = result;
    let rest = [
        (*missing, "gone meanwhile"),
        (died_anew.len(), "left alone, because they died anew meanwhile"),
        (result.rest(), "not come to"),
    ];
    let rest: Vec<String> =
        rest.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let rest = if rest.is_empty() { String::new() } else { format!(" ({})", rest.join(", ")) };
    render::note(format!("discarded {done} of {selected}{rest}"));
    match (&result.operation, result.to) {
        (Some(_) | None, _) if *done == 0 => {}
        (Some(operation), "trash") => {
            let restore = format!("dead restore --operation {operation}");
            render::command("  Undo within 24 h:", &queue.command(&restore));
        }
        (Some(_) | None, _) => {
            render::note("  their payloads are on stdout: keep them");
            render::command("  Undo:", &queue.command("enqueue FILE"));
        }
    }
    if copies && result.to == "trash" {
        render::note("  copies of their payloads are on stdout");
    }
    for id in died_anew {
        render::note(format!("  died anew  {id}"));
    }
}

fn stdout_keeps_copies() -> bool {
    // An output that cannot be examined is reported when the first copy is written.
    CopyOutput::stdout().map_or(true, |output| output.keeps_copies())
}

/// Says why it ended early, what it left and what to do.
fn explain(stop: DiscardStop, result: &DiscardResult) -> Result<Exit, Error> {
    match stop {
        DiscardStop::Copies(error) => {
            render::error(format!(
                "stdout did not take the next copy ({error}), so {} dead letters were left alone: discard \
                 them again with stdout in a file that has room",
                result.rest()
            ));
            Ok(if result.done == 0 { Exit::Failed } else { Exit::PartlyDone })
        }
        DiscardStop::Redis(id, error) => {
            render::error(bulk::stopped_by_redis(&id, "discarded", result.rest()));
            Err(error)
        }
    }
}

/// Takes letters out of the trash.
pub(super) async fn restore(
    queue: &OperatorHandle,
    filter: &Filter,
    bulk: &BulkOptions,
    json: bool,
) -> Result<Exit, Error> {
    let frozen = match freeze(queue, filter, "letter in the trash", |_| Ok(())).await? {
        Ok(frozen) => frozen,
        Err(what) => return Ok(usage_error(&what)),
    };
    if frozen.jobs.is_empty() {
        render::note("nothing in the trash matches: nothing to do");
        return Ok(Exit::NothingMatched);
    }
    print_plan(queue, &frozen, filter, bulk, RESTORE, "");
    restore_jobs(queue, &frozen, &filter.typed(), bulk, json).await
}

const RESTORE: ActionName = ActionName { verb: "restore", past: "restored", noun: "letter" };

/// Takes those letters out of the trash that an operation put there.
pub(super) async fn restore_all(
    queue: &OperatorHandle,
    id: &OperationId,
    bulk: &BulkOptions,
    json: bool,
) -> Result<Exit, Error> {
    let Some(operation) = queue.operation(id).await?.filter(Operation::keeps_jobs) else {
        no_operation(queue, id);
        return Ok(Exit::NothingMatched);
    };
    let discarded = |(id, outcome): (&String, &JobOutcome)| {
        let id = JobId::parse(id).ok().filter(|_| outcome.as_str() == "discarded")?;
        Some(Selected { id, died_ms: 0 })
    };
    let jobs: Vec<Selected> = operation.jobs.iter().filter_map(discarded).collect();
    if jobs.is_empty() {
        render::note(format!("{id} put nothing into the trash: nothing to do"));
        return Ok(Exit::NothingMatched);
    }
    render::note(format!("restore {} that {id} discarded", RESTORE.nouns(jobs.len())));
    restore_jobs(queue, &Frozen::again(queue, jobs).await?, id.as_str(), bulk, json).await
}

async fn restore_jobs(
    queue: &OperatorHandle,
    frozen: &Frozen,
    typed: &str,
    bulk: &BulkOptions,
    json: bool,
) -> Result<Exit, Error> {
    let (jobs, mut result) = (&frozen.jobs, SimpleResult::of(frozen));
    let question = format!("restore {}?", RESTORE.nouns(jobs.len()));
    if let Some(exit) = stop_before(frozen, bulk, &question, json.then_some(&result)) {
        return Ok(exit);
    }
    let operation = OperationId::fresh(RESTORE.verb);
    let entry = audit_entry(RESTORE.verb, typed, &bulk.reason, jobs.len());
    queue.begin_operation(&operation, &entry, "", jobs).await?;
    let actor = Actor { by: &entry.by, operation: Some(&operation) };
    result.operation = Some(operation.clone());
    let ended = each(jobs, bulk.rate, async |id| {
        match queue.restore(id, actor).await? {
            true => result.done += 1,
            false => result.missing += 1,
        }
        Ok(())
    });
    let ended = ended.await;
    result.conclude(ended, RESTORE.past, json, |SimpleResult { selected, done, missing, .. }| {
        let gone = match missing {
            0 => String::new(),
            missing => format!(" ({missing} were not in the trash any more)"),
        };
        render::note(format!("restored {done} of {selected}{gone}. Undo: discard them again"));
    })
}
