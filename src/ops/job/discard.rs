//! `dead discard`: to the trash for a day, or for good once its copy is safe; `dead restore`.

use std::io;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::Filter;
use super::bulk::{Frozen, Prepared, Steps, Work, freeze, stored};
use super::copies::CopyOutput;
use super::plan::{ActionName, Plan, Refusal, Warning};
use super::run::{self, BulkResult, Finished, RunObserver};
use crate::job::JobId;
use crate::ops::Exit;
use crate::queue::{Actor, DiscardTo, Error, JobOutcome, Operation, OperationId, OperatorHandle, Selected};

const DISCARD: ActionName = ActionName {
    verb: "discard",
    noun: "dead letter",
    unknown_noun: "dead letter",
    nothing: "no dead letters match: nothing to do",
};
const RESTORE: ActionName = ActionName {
    verb: "restore",
    noun: "letter",
    unknown_noun: "letter in the trash",
    nothing: "nothing in the trash matches: nothing to do",
};
/// Share of `maxmemory` above which a letter that is discarded is deleted: the trash would make no room.
const NO_TRASH_ABOVE: f64 = 0.75;

/// How letters are discarded.
#[derive(Debug, Clone, Copy)]
pub struct DiscardPlan {
    /// Delete them, instead of moving them to the trash.
    pub now: bool,
    /// Copy each first; what is deleted always is.
    pub copy: bool,
}

/// What became of the selection, as JSON shows it.
#[derive(Debug, Serialize)]
pub struct DiscardResult {
    /// The operation.
    pub operation: Option<OperationId>,
    /// `trash` or `nowhere`.
    pub to: &'static str,
    /// Letters that were to be discarded.
    pub selected: usize,
    /// Those that were.
    pub done: usize,
    /// Those that were gone meanwhile.
    pub missing: usize,
    /// Replayed by somebody else and dead anew since they were selected: left alone.
    pub died_anew: Vec<JobId>,
    /// Ids given that are no dead letters.
    pub unknown: Vec<JobId>,
    /// Why it ended before its last letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

impl DiscardResult {
    pub(super) fn of(frozen: &Frozen, to: DiscardTo) -> Self {
        Self {
            operation: None,
            to: match to {
                DiscardTo::Trash => "trash",
                DiscardTo::Nowhere => "nowhere",
            },
            selected: frozen.jobs.len(),
            done: 0,
            missing: 0,
            died_anew: Vec::new(),
            unknown: frozen.unknown.clone(),
            stopped: None,
        }
    }

    /// Those that were not come to.
    pub fn rest(&self) -> usize {
        self.selected - self.done - self.missing - self.died_anew.len()
    }
}

/// Plans to discard letters.
pub(super) async fn prepare(
    queue: &OperatorHandle,
    filter: &Filter,
    plan: DiscardPlan,
    rate: f64,
) -> Result<Result<Prepared, Refusal>, Error> {
    let frozen = match freeze(queue, filter, DISCARD, |_| Ok(())).await? {
        Ok(frozen) => frozen,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let DiscardPlan { now, copy } = plan;
    let short_of_memory = queue.status().await?.server.is_some_and(|s| s.memory_filled() > NO_TRASH_ABOVE);
    let to = if now || short_of_memory { DiscardTo::Nowhere } else { DiscardTo::Trash };
    let how = match to {
        DiscardTo::Trash => " to the trash, where they can be restored for 24 h",
        DiscardTo::Nowhere => " FOR GOOD, each once its copy is on stdout",
    };
    let mut plan = Plan::of_selection(queue, &frozen, filter, DISCARD, rate, how.to_owned());
    plan.deletes = to == DiscardTo::Nowhere;
    if short_of_memory && !now {
        let said = "Redis is filling up, and what is in the trash would make no room".to_owned();
        plan.warnings.push(Warning::from(said));
    }
    let copy = copy || plan.deletes;
    Ok(Ok(Prepared::new(plan, frozen, Work::Discard { to, copy })))
}

/// Why it ended before its last letter.
enum DiscardStop {
    /// The copies were not taken: their letters and all after them are left alone.
    Copies(io::Error),
    /// Redis failed at this letter, which may be discarded or not; all after it are left alone.
    Redis(JobId, Error),
    /// Somebody stopped it.
    Interrupted,
}

/// Letters that are being discarded.
pub(super) struct DiscardRun<'a> {
    pub(super) queue: &'a OperatorHandle,
    pub(super) operation: OperationId,
    pub(super) by: String,
    pub(super) to: DiscardTo,
    /// Where their copies go, where any do.
    pub(super) copies: Option<CopyOutput>,
}

impl DiscardRun<'_> {
    pub(super) async fn carry_out(
        mut self,
        frozen: &Frozen,
        rate: f64,
        observer: &mut dyn RunObserver,
        stop: CancellationToken,
    ) -> Finished {
        let operation = Some(self.operation.clone());
        let mut result = DiscardResult { operation, ..DiscardResult::of(frozen, self.to) };
        let stopped = tokio::select! {
            biased;
            () = stop.cancelled() => Err(DiscardStop::Interrupted),
            ended = self.discard_all(frozen, rate, observer, &mut result) => ended,
        };
        let (exit, stopped, error) = match stopped {
            Ok(()) => (run::exit(result.done, result.selected, &result.unknown), None, None),
            Err(DiscardStop::Copies(error)) => {
                let said = format!(
                    "stdout did not take the next copy ({error}), so {} dead letters were left alone: discard \
                     them again with stdout in a file that has room",
                    result.rest()
                );
                (if result.done == 0 { Exit::Failed } else { Exit::PartlyDone }, Some(said), None)
            }
            Err(DiscardStop::Interrupted) => (Exit::Interrupted, Some(run::interrupted(result.rest())), None),
            Err(DiscardStop::Redis(id, error)) => {
                let said = run::stopped_by_redis(&id, "discarded", result.rest());
                (Exit::Failed, Some(said), Some(error))
            }
        };
        result.stopped = stopped;
        Finished { result: BulkResult::Discard(result), exit, error }
    }

    async fn discard_all(
        &mut self,
        frozen: &Frozen,
        rate: f64,
        observer: &mut dyn RunObserver,
        result: &mut DiscardResult,
    ) -> Result<(), DiscardStop> {
        let Self { queue, operation, by, to, copies } = self;
        if *to == DiscardTo::Nowhere && copies.is_none() {
            return Err(DiscardStop::Copies(io::Error::other("there is nowhere to copy them to")));
        }
        let actor = Actor { by: by.as_str(), operation: Some(operation) };
        let (mut steps, mut come_to) = (Steps::new(&frozen.jobs, rate), 0);
        while let Some(step) = steps.next().await {
            let most = copies.as_ref().map_or(step.len(), CopyOutput::batch);
            for batch in step.chunks(most) {
                if let Some(copies) = copies {
                    let letters = stored(queue, batch).await;
                    let letters = letters.map_err(|e| DiscardStop::Redis(batch[0].id.clone(), e))?;
                    copies.write(&letters).await.map_err(DiscardStop::Copies)?;
                }
                let discards = queue.discard_selected(batch, *to, actor).await;
                result.done += discards.discarded;
                result.missing += discards.missing.len();
                result.died_anew.extend(discards.died_anew);
                if let Some((id, error)) = discards.failed {
                    return Err(DiscardStop::Redis(id, error));
                }
            }
            come_to += step.len();
            observer.came_to(come_to, frozen.jobs.len());
        }
        Ok(())
    }
}

/// Plans to take letters out of the trash.
pub(super) async fn prepare_restore(
    queue: &OperatorHandle,
    filter: &Filter,
    rate: f64,
) -> Result<Result<Prepared, Refusal>, Error> {
    let frozen = match freeze(queue, filter, RESTORE, |_| Ok(())).await? {
        Ok(frozen) => frozen,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let plan = Plan::of_selection(queue, &frozen, filter, RESTORE, rate, String::new());
    Ok(Ok(Prepared::new(plan, frozen, Work::Restore)))
}

/// Plans to take those letters out of the trash that an operation put there.
pub(super) async fn prepare_restore_all(
    queue: &OperatorHandle,
    id: &OperationId,
    rate: f64,
) -> Result<Result<Prepared, Refusal>, Error> {
    let Some(operation) = queue.operation(id).await?.filter(Operation::keeps_jobs) else {
        return Ok(Err(Refusal::NoOperation(id.clone())));
    };
    let discarded = |(id, outcome): (&String, &JobOutcome)| {
        let id = JobId::parse(id).ok().filter(|_| outcome.as_str() == "discarded")?;
        Some(Selected { id, died_ms: 0 })
    };
    let jobs: Vec<Selected> = operation.jobs.iter().filter_map(discarded).collect();
    if jobs.is_empty() {
        return Ok(Err(Refusal::nothing(format!("{id} put nothing into the trash: nothing to do"))));
    }
    let summary = format!("restore {} that {id} discarded", RESTORE.nouns(jobs.len()));
    let frozen = Frozen::again(queue, jobs).await?;
    let plan = Plan::of_operation(queue, &frozen, id, RESTORE, (rate, String::new()), summary).await?;
    Ok(Ok(Prepared::new(plan, frozen, Work::Restore)))
}
