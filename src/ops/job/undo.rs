//! `dead replay --undo`: what a replay put back, and what still waits, is dead again.

use serde::Serialize;

use super::bulk::{Frozen, Prepared, Work};
use super::plan::{ActionName, Plan, Refusal};
use crate::job::JobId;
use crate::ops::render::sanitize;
use crate::queue::{Error, JobOutcome, Operation, OperationId, OperatorHandle, Selected};

const NAME: ActionName =
    ActionName { verb: "undo", noun: "job", unknown_noun: "job", nothing: "nothing to undo" };
/// What a replay is called in the audit.
const REPLAY: &str = "replay";

/// What became of the letters, as JSON shows it.
#[derive(Debug, Serialize)]
pub struct UndoResult {
    /// The replay that is undone.
    pub operation: OperationId,
    /// Its jobs that had not ended.
    pub selected: usize,
    /// Those that are dead letters again.
    pub undone: usize,
    /// Those that a worker has: left alone.
    pub in_flight: usize,
    /// Those that have ended meanwhile.
    pub ended: usize,
    /// Why it ended before its last letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

impl UndoResult {
    pub(super) fn of(frozen: &Frozen, operation: &OperationId) -> Self {
        let (operation, selected) = (operation.clone(), frozen.jobs.len());
        Self { operation, selected, undone: 0, in_flight: 0, ended: 0, stopped: None }
    }
}

/// The operation, where it is a replay.
pub(super) async fn replay_of(
    queue: &OperatorHandle,
    id: &OperationId,
) -> Result<Result<Operation, Refusal>, Error> {
    Ok(match queue.operation(id).await? {
        Some(operation) if !operation.keeps_jobs() => Err(Refusal::CannotFollow(format!(
            "{id}: its jobs are not kept any more (the newest operations keep theirs)"
        ))),
        Some(operation) if operation.entry.what == REPLAY => Ok(operation),
        Some(operation) => Err(Refusal::CannotFollow(format!(
            "{id} is no replay but a {}",
            sanitize(&operation.entry.what, 40)
        ))),
        None => Err(Refusal::NoOperation(id.clone())),
    })
}

/// Plans to put what a replay put back, and what still waits, among the dead letters again.
pub(super) async fn prepare(
    queue: &OperatorHandle,
    id: &OperationId,
    rate: f64,
) -> Result<Result<Prepared, Refusal>, Error> {
    let operation = match replay_of(queue, id).await? {
        Ok(operation) => operation,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let open = |(id, outcome): (&String, &JobOutcome)| {
        JobId::parse(id).ok().filter(|_| outcome.as_str() == "replayed")
    };
    let jobs: Vec<Selected> =
        operation.jobs.iter().filter_map(open).map(|id| Selected { id, died_ms: 0 }).collect();
    if jobs.is_empty() {
        return Ok(Err(Refusal::nothing(format!("all that {id} replayed has ended: {}", NAME.nothing))));
    }
    let frozen = Frozen::again(queue, jobs).await?;
    let summary = format!("undo {id}: put {} that have not ended back among the dead", frozen.jobs.len());
    let how = (rate, String::new());
    let plan = Plan::of_operation(queue, &frozen, id, NAME, how, summary).await?;
    let plan = Plan { question: "undo it?".to_owned(), ..plan };
    Ok(Ok(Prepared::new(plan, frozen, Work::Undo(id.clone()))))
}
