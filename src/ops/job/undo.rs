//! `dead replay --undo`: what a replay put back, and what still waits, is dead again.

use super::bulk::{SCHEMA_VERSION, Steps, stop_before};
use super::{BulkOptions, audit_entry};
use crate::job::JobId;
use crate::ops::Exit;
use crate::ops::render::{self, sanitize};
use crate::queue::{
    AuditEntry, Error, JobOutcome, Operation, OperationId, OperatorHandle, ReplayUndone, Selected,
};

/// What a replay is called in the audit.
const REPLAY: &str = "replay";

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
            render::error(not_kept(queue, id));
            Ok(None)
        }
    }
}

/// What is said of an operation that the queue does not know.
pub(super) fn not_kept(queue: &OperatorHandle, id: &OperationId) -> String {
    format!("no operation {id}, or its jobs are not kept any more: {} lists them", queue.command("audit ls"))
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
    render::note(format!("undo {id}: put {} that have not ended back among the dead", jobs.len()));
    if let Some(exit) = stop_before(bulk, "undo it?") {
        return Ok(exit);
    }
    let by = render::operator();
    let entry = audit_entry("undo replay", id.as_str(), &bulk.reason, jobs.len());
    queue.audit(&AuditEntry { operation: Some(id.clone()), ..entry }).await?;
    let (mut undone, mut in_flight, mut ended) = (0, 0, 0);
    let mut steps = Steps::new(&jobs, bulk.rate);
    while let Some(step) = steps.next().await {
        for Selected { id: job, .. } in step {
            match queue.undo_replay(job, id, &by).await? {
                ReplayUndone::Undone => undone += 1,
                ReplayUndone::InFlight => in_flight += 1,
                ReplayUndone::Missing => ended += 1,
            }
        }
    }
    if json {
        render::json(&serde_json::json!({
            "schema_version": SCHEMA_VERSION, "operation": id, "undone": undone, "in_flight": in_flight, "ended": ended,
        }));
    } else {
        render::note(format!(
            "{undone} are dead letters again; {in_flight} are in flight, and {ended} have ended: these were left alone"
        ));
    }
    Ok(if undone > 0 { Exit::Ok } else { Exit::Failed })
}
