//! `dead replay --undo`: what a replay put back, and what still waits, is dead again.

use serde::Serialize;

use super::bulk::{self, Frozen, SCHEMA_VERSION, each, stop_before};
use super::{BulkOptions, audit_entry};
use crate::job::JobId;
use crate::ops::Exit;
use crate::ops::audit::no_operation;
use crate::ops::render::{self, sanitize};
use crate::queue::{
    AuditEntry, Error, JobOutcome, Operation, OperationId, OperatorHandle, ReplayUndone, Selected,
};

/// What a replay is called in the audit.
const REPLAY: &str = "replay";

/// What became of the letters, as JSON shows it.
#[derive(Debug, Serialize)]
struct UndoResult<'a> {
    operation: &'a OperationId,
    selected: usize,
    undone: usize,
    in_flight: usize,
    ended: usize,
    /// Why it ended before its last letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
}

/// The operation, where it is a replay; says so where it is not.
pub(super) async fn replay_of(queue: &OperatorHandle, id: &OperationId) -> Result<Option<Operation>, Error> {
    match queue.operation(id).await? {
        Some(operation) if !operation.keeps_jobs() => {
            render::error(format!(
                "{id}: its jobs are not kept any more (the newest operations keep theirs)"
            ));
            Ok(None)
        }
        Some(operation) if operation.entry.what == REPLAY => Ok(Some(operation)),
        Some(operation) => {
            render::error(format!("{id} is no replay but a {}", sanitize(&operation.entry.what, 40)));
            Ok(None)
        }
        None => {
            no_operation(queue, id);
            Ok(None)
        }
    }
}

/// Puts what a replay put back, and what still waits, among the dead letters again.
pub(super) async fn undo(
    queue: &OperatorHandle,
    id: &OperationId,
    bulk: &BulkOptions,
    json: bool,
) -> Result<Exit, Error> {
    let Some(operation) = replay_of(queue, id).await? else { return Ok(Exit::NothingMatched) };
    let open = |(id, outcome): (&String, &JobOutcome)| {
        JobId::parse(id).ok().filter(|_| outcome.as_str() == "replayed")
    };
    let jobs: Vec<Selected> =
        operation.jobs.iter().filter_map(open).map(|id| Selected { id, died_ms: 0 }).collect();
    if jobs.is_empty() {
        render::note(format!("all that {id} replayed has ended: nothing to undo"));
        return Ok(Exit::NothingMatched);
    }
    let frozen = Frozen::again(queue, jobs).await?;
    let selected = frozen.jobs.len();
    render::note(format!("undo {id}: put {selected} that have not ended back among the dead"));
    let mut result = UndoResult { operation: id, selected, undone: 0, in_flight: 0, ended: 0, stopped: None };
    if let Some(exit) = stop_before(&frozen, bulk, "undo it?", json.then_some(&result)) {
        return Ok(exit);
    }
    let by = render::operator();
    let entry = audit_entry("undo replay", id.as_str(), &bulk.reason, selected);
    queue.audit(&AuditEntry { operation: Some(id.clone()), ..entry }).await?;
    let ended = each(&frozen.jobs, bulk.rate, async |job| {
        match queue.undo_replay(job, id, &by).await? {
            ReplayUndone::Undone => result.undone += 1,
            ReplayUndone::InFlight => result.in_flight += 1,
            ReplayUndone::Missing => result.ended += 1,
        }
        Ok(())
    });
    let ended = ended.await;
    let rest = selected - result.undone - result.in_flight - result.ended;
    result.stopped = ended.as_ref().err().map(|(job, _)| bulk::stopped_by_redis(job, "undone", rest));
    if json {
        render::json(SCHEMA_VERSION, &result);
    } else {
        render::note(format!(
            "{} are dead letters again; {} are in flight, and {} have ended: these were left alone",
            result.undone, result.in_flight, result.ended
        ));
    }
    result.stopped.iter().for_each(render::error);
    match ended {
        Ok(()) => Ok(bulk::exit(result.undone, selected, &[])),
        Err((_, error)) => Err(error),
    }
}
