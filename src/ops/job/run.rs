//! A bulk action under way: on each job of its frozen selection, at its rate, until it is through or stopped.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::bulk::{Frozen, Steps, Work};
use super::copies::CopyOutput;
use super::discard::{DiscardResult, DiscardRun};
use super::replay::ReplayRun;
use super::replay_result::ReplayResult;
use super::undo::UndoResult;
use crate::job::JobId;
use crate::ops::Exit;
use crate::queue::{Actor, Error, OperationId, OperatorHandle, ReplayUndone, Selected};

/// Hears how far a bulk action has come.
pub trait RunObserver: Send {
    /// `count` of `total` jobs were come to; a replay with canaries counts these first, and then the rest.
    fn came_to(&mut self, count: usize, total: usize);
    /// Something that is known before the end.
    fn note(&mut self, said: String);
}

/// A bulk action that is recorded and has acted on nothing yet.
#[derive(Debug)]
pub struct Run {
    operation: OperationId,
    by: String,
    rate: f64,
    frozen: Frozen,
    work: Work,
    copies: Option<CopyOutput>,
}

/// What a bulk action did.
#[derive(Debug)]
pub struct Finished {
    /// What became of the jobs, with why it ended before the last one, if it did.
    pub result: BulkResult,
    /// The exit of a command that did this.
    pub exit: Exit,
    /// The failure of Redis, where that stopped it.
    pub error: Option<Error>,
}

/// What became of the jobs, as JSON shows it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum BulkResult {
    /// Of a replay.
    Replay(ReplayResult),
    /// Of the undoing of one.
    Undo(UndoResult),
    /// Of what was discarded.
    Discard(DiscardResult),
    /// Of what was taken out of the trash.
    Restore(SimpleResult),
    /// Of what was cancelled.
    Cancel(SimpleResult),
}

impl BulkResult {
    /// The operation that was recorded; `None` before it was.
    pub fn operation(&self) -> Option<&OperationId> {
        match self {
            Self::Replay(result) => result.operation.as_ref(),
            Self::Undo(result) => Some(&result.operation),
            Self::Discard(result) => result.operation.as_ref(),
            Self::Restore(result) | Self::Cancel(result) => result.operation.as_ref(),
        }
    }

    /// Why it ended before its last job, in a sentence.
    pub fn stopped(&self) -> Option<&str> {
        match self {
            Self::Replay(result) => result.stopped.as_deref(),
            Self::Undo(result) => result.stopped.as_deref(),
            Self::Discard(result) => result.stopped.as_deref(),
            Self::Restore(result) | Self::Cancel(result) => result.stopped.as_deref(),
        }
    }
}

/// How an act on each of a selection went, as JSON shows it.
#[derive(Debug, Default, Serialize)]
pub struct SimpleResult {
    /// The operation.
    pub operation: Option<OperationId>,
    /// Jobs that were to be acted on.
    pub selected: usize,
    /// Those that were.
    pub done: usize,
    /// Those that were not there any more.
    pub missing: usize,
    /// Ids given that are no such jobs.
    pub unknown: Vec<JobId>,
    /// Why it ended before its last job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

impl SimpleResult {
    pub(super) fn of(frozen: &Frozen) -> Self {
        let (selected, unknown) = (frozen.jobs.len(), frozen.unknown.clone());
        Self { selected, unknown, ..Self::default() }
    }
}

/// Why an act on each job ended before the last one.
enum EachStop {
    /// Somebody stopped it.
    Interrupted,
    /// Redis failed at this job, which may have been acted on.
    Redis(JobId, Error),
}

/// An act that needs to know nothing of a job but its id.
enum Act {
    Undo(OperationId),
    Restore,
    Cancel,
}

/// How often an act on a job ended in which way.
#[derive(Default)]
struct ActCounts {
    done: usize,
    in_flight: usize,
    missing: usize,
}

impl Act {
    async fn on(
        &self,
        id: &JobId,
        queue: &OperatorHandle,
        actor: Actor<'_>,
        counts: &mut ActCounts,
    ) -> Result<(), Error> {
        let undone = match self {
            Self::Undo(operation) => queue.undo_replay(id, operation, actor.by).await?,
            Self::Restore if queue.restore(id, actor).await? => ReplayUndone::Undone,
            Self::Cancel if queue.cancel(id, actor).await? => ReplayUndone::Undone,
            Self::Restore | Self::Cancel => ReplayUndone::Missing,
        };
        match undone {
            ReplayUndone::Undone => counts.done += 1,
            ReplayUndone::InFlight => counts.in_flight += 1,
            ReplayUndone::Missing => counts.missing += 1,
        }
        Ok(())
    }

    /// What is said of the job at which Redis failed: it was to be so.
    fn past(&self) -> &'static str {
        match self {
            Self::Undo(_) => "undone",
            Self::Restore => "restored",
            Self::Cancel => "cancelled",
        }
    }
}

impl Run {
    pub(super) fn new(operation: OperationId, by: String, rate: f64, frozen: Frozen, work: Work) -> Self {
        Self { operation, by, rate, frozen, work, copies: None }
    }

    /// The name by which it is shown, undone and gone on with.
    pub fn operation(&self) -> &OperationId {
        &self.operation
    }

    /// Writes copies of the letters that it discards there, each before its letter is discarded.
    pub fn copying_to(self, copies: CopyOutput) -> Self {
        Self { copies: Some(copies), ..self }
    }

    /// Acts on each job, until it is through or `stop` is cancelled; what is in the middle then may be done or not.
    pub async fn carry_out(
        self,
        queue: &OperatorHandle,
        observer: &mut dyn RunObserver,
        stop: CancellationToken,
    ) -> Finished {
        let Self { operation, by, rate, frozen, work, copies } = self;
        let act = match work {
            Work::Replay(work) => {
                let run = ReplayRun::new(queue, operation, by, work, &frozen);
                return run.carry_out(&frozen, observer, stop).await;
            }
            Work::Discard { to, copy } => {
                let run = DiscardRun { queue, operation, by, to, copies: copies.filter(|_| copy) };
                return run.carry_out(&frozen, rate, observer, stop).await;
            }
            Work::Undo(id) => Act::Undo(id),
            Work::Restore => Act::Restore,
            Work::Cancel => Act::Cancel,
        };
        let actor = Actor { by: &by, operation: Some(&operation) };
        let mut counts = ActCounts::default();
        let stopped = tokio::select! {
            biased;
            () = stop.cancelled() => Err(EachStop::Interrupted),
            ended = each(&act, &frozen.jobs, rate, (queue, actor), observer, &mut counts) => ended,
        };
        let ActCounts { done, in_flight, missing } = counts;
        let rest = frozen.jobs.len() - done - in_flight - missing;
        let (exit, stopped, error) = match stopped {
            Ok(()) => (exit(done, frozen.jobs.len(), &frozen.unknown), None, None),
            Err(EachStop::Interrupted) => (Exit::Interrupted, Some(interrupted(rest)), None),
            Err(EachStop::Redis(id, error)) => {
                (Exit::Failed, Some(stopped_by_redis(&id, act.past(), rest)), Some(error))
            }
        };
        let simple = || SimpleResult {
            operation: Some(operation.clone()),
            done,
            missing,
            stopped: stopped.clone(),
            ..SimpleResult::of(&frozen)
        };
        let result = match &act {
            Act::Undo(id) => BulkResult::Undo(UndoResult {
                undone: done,
                in_flight,
                ended: missing,
                stopped: stopped.clone(),
                ..UndoResult::of(&frozen, id)
            }),
            Act::Restore => BulkResult::Restore(simple()),
            Act::Cancel => BulkResult::Cancel(simple()),
        };
        Finished { result, exit, error }
    }
}

/// Acts on each of the jobs in turn, at the rate.
async fn each(
    act: &Act,
    jobs: &[Selected],
    rate: f64,
    (queue, actor): (&OperatorHandle, Actor<'_>),
    observer: &mut dyn RunObserver,
    counts: &mut ActCounts,
) -> Result<(), EachStop> {
    let (mut steps, mut come_to) = (Steps::new(jobs, rate), 0);
    while let Some(step) = steps.next().await {
        for Selected { id, .. } in step {
            let acted = act.on(id, queue, actor, counts).await;
            acted.map_err(|error| EachStop::Redis(id.clone(), error))?;
        }
        come_to += step.len();
        observer.came_to(come_to, jobs.len());
    }
    Ok(())
}

/// The exit of every bulk action that came to its end.
pub(super) fn exit(done: usize, selected: usize, unknown: &[JobId]) -> Exit {
    match done == selected && unknown.is_empty() {
        true => Exit::Ok,
        false if done == 0 => Exit::Failed,
        false => Exit::PartlyDone,
    }
}

/// `rest` were not come to, `id` among them.
pub(in crate::ops) fn stopped_by_redis(id: &JobId, past: &str, rest: usize) -> String {
    format!(
        "Redis failed while {id} was to be {past}, which may have happened; {} after it were left alone: repeat it \
         when Redis answers again",
        rest.saturating_sub(1)
    )
}

pub(super) fn interrupted(rest: usize) -> String {
    format!("interrupted: {rest} were not come to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_can_be_carried_out_by_a_task_of_its_own() {
        fn is_send(_: &impl Send) {}
        let _ = |run: Run, queue: OperatorHandle, mut observer: Box<dyn RunObserver>| {
            is_send(&async move { run.carry_out(&queue, &mut *observer, CancellationToken::new()).await });
        };
        let _ = |prepared: crate::ops::job::Prepared, queue: OperatorHandle| {
            is_send(&async move { prepared.begin(&queue, "op", "").await.is_ok() });
        };
        let _ = |action: crate::ops::job::BulkAction, queue: OperatorHandle| {
            is_send(&async move { crate::ops::job::prepare(&queue, &action, 1.0).await.is_ok() });
        };
    }
}
