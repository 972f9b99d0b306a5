//! `dead replay`: canaries, a paced run, outcome by group, and how it is gone on with.
//!
//! What is replayed and what became of it is recorded in an operation, letter by letter, in the same step as the replay
//! itself. So an interrupted one goes on where it was (`--resume`), and what still waits can be taken back (`--undo`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::bulk::{Frozen, Prepared, Steps, Work, freeze, stored};
use super::edit::{Edit, edited};
use super::plan::{ActionName, Plan, Refusal, Warning};
use super::replay_result::{ReplayResult, ReplayStop};
use super::run::{BulkResult, Finished, RunObserver};
use super::undo::replay_of;
use super::{Filter, ReplayPlan};
use crate::job::{JobId, LimitsRequest};
use crate::ops::render;
use crate::queue::{
    Actor, Error, JobOutcome, Operation, OperationId, OperatorHandle, ReplayOptions, Replayed, Selected,
    StoredJob,
};

const NAME: ActionName = ActionName {
    verb: "replay",
    noun: "dead letter",
    unknown_noun: "dead letter",
    nothing: "no dead letters match: nothing to do",
};
/// Between two looks at what became of what was replayed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How an operation replays, as it is stored with it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Options {
    canary: usize,
    /// Leave the others to another command.
    #[serde(default)]
    canary_only: bool,
    canary_wait: Duration,
    granted: LimitsRequest,
    edits: Vec<Edit>,
    rate: f64,
}

impl Options {
    /// As the operation keeps them.
    pub(super) fn stored(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What a replay does with each letter.
#[derive(Debug)]
pub(super) struct ReplayWork {
    pub(super) options: Options,
    /// The operation that it goes on with.
    pub(super) resumes: Option<OperationId>,
    /// It waits until all have ended.
    watch: bool,
}

/// Plans to put dead letters back.
pub(super) async fn prepare(
    queue: &OperatorHandle,
    filter: &Filter,
    plan: &ReplayPlan,
    rate: f64,
) -> Result<Result<Prepared, Refusal>, Error> {
    let ReplayPlan { canary, canary_only, canary_wait, granted, edits, watch } = plan;
    if *canary_only && *canary == 0 {
        let said = "--canary-only needs --canary N: how many are tried".to_owned();
        return Ok(Err(Refusal::Usage(said)));
    }
    let may_be_edited = |job: &StoredJob| match job.job() {
        Some(job) if !edits.is_empty() => edited(job, edits).map(drop),
        Some(_) | None => Ok(()),
    };
    let frozen = match freeze(queue, filter, NAME, may_be_edited).await? {
        Ok(frozen) => frozen,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let options = Options {
        canary: *canary,
        canary_only: *canary_only,
        canary_wait: *canary_wait,
        granted: *granted,
        edits: edits.clone(),
        rate,
    };
    let mut plan = Plan::of_selection(queue, &frozen, filter, NAME, rate, how(&options));
    plan.warnings = warnings(queue, &frozen, &options).await?;
    let work = ReplayWork { options, resumes: None, watch: *watch };
    Ok(Ok(Prepared::new(plan, frozen, Work::Replay(work))))
}

/// Plans to go on with the letters of a replay that were not come to.
pub(super) async fn prepare_rest(
    queue: &OperatorHandle,
    id: &OperationId,
    canary_wait: Duration,
    rate: f64,
) -> Result<Result<Prepared, Refusal>, Error> {
    let operation = match replay_of(queue, id).await? {
        Ok(operation) => operation,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let left = operation.left();
    if left.is_empty() {
        let all = NAME.nouns(operation.jobs.len());
        return Ok(Err(Refusal::nothing(format!("{id} came to each of its {all}: nothing to do"))));
    }
    let Ok(mut options) = serde_json::from_str::<Options>(&operation.options) else {
        return Ok(Err(Refusal::OtherBuild(id.clone())));
    };
    if canaries_lived(&operation, left.len(), options.canary) {
        options.canary = 0;
    }
    options.canary_only = false;
    options.rate = options.rate.min(rate);
    options.canary_wait = options.canary_wait.max(canary_wait);
    let recorded = operation.jobs.len();
    let how = how(&options);
    let summary = format!("resume {id}: {} of {recorded} were not come to{how}", NAME.nouns(left.len()));
    let frozen = Frozen::again(queue, left).await?;
    let mut plan = Plan::of_operation(queue, &frozen, id, NAME, (options.rate, how), summary).await?;
    if operation.entry.count.is_some_and(|count| count > recorded as u64) {
        let said = "it was interrupted while its letters were recorded: these are all that it recorded";
        plan.warnings.push(Warning::from(said.to_owned()));
    }
    let work = ReplayWork { options, resumes: Some(id.clone()), watch: false };
    Ok(Ok(Prepared::new(plan, frozen, Work::Replay(work))))
}

/// Once more than the canaries were come to, these had lived. Before that they were not judged, or were the only ones
/// to be tried: the rest follows where all of them have ended alive by now, and others are tried where not.
fn canaries_lived(operation: &Operation, left: usize, canary: usize) -> bool {
    let come_to = operation.jobs.len() - left;
    let mut outcomes = operation.jobs.values().filter(|outcome| match outcome {
        JobOutcome::Selected(_) => false,
        JobOutcome::Ended(_) => true,
    });
    let lived =
        |outcome: &JobOutcome| ["done", "skipped"].iter().any(|end| outcome.as_str().starts_with(end));
    come_to > canary || (come_to == canary && outcomes.all(lived))
}

/// ` under wall 1m, heap 1.0 MiB, with 2 edits, 5 canaries first`.
fn how(options: &Options) -> String {
    let Options { canary, canary_only, granted, edits, canary_wait: _, rate: _ } = options;
    let wall =
        granted.wall_ms.map(|ms| format!("wall {}", humantime::format_duration(Duration::from_millis(ms))));
    let heap = granted.heap_bytes.map(|heap| format!("heap {}", render::format_bytes(heap)));
    let limits: Vec<String> = wall.into_iter().chain(heap).collect();
    let mut how = if limits.is_empty() { String::new() } else { format!(" under {}", limits.join(", ")) };
    match edits.len() {
        0 => {}
        1 => how += ", with 1 edit",
        count => how += &format!(", with {count} edits"),
    }
    let place = if *canary_only { "only" } else { "first" };
    match canary {
        0 => {}
        1 => how += &format!(", 1 canary {place}"),
        count => how += &format!(", {count} canaries {place}"),
    }
    how
}

/// What makes it likely that they die again, or wait.
async fn warnings(queue: &OperatorHandle, frozen: &Frozen, options: &Options) -> Result<Vec<Warning>, Error> {
    let mut warnings = Vec::new();
    let mut warn = |said: &str| warnings.push(Warning::from(said.to_owned()));
    let status = queue.status().await?;
    let live: Vec<_> = status.workers.iter().filter(|worker| !worker.silent).collect();
    let versions: BTreeSet<&str> = live.iter().map(|worker| worker.info.version.as_str()).collect();
    let buried: usize = versions.iter().filter_map(|version| frozen.builds.get(*version)).sum();
    let changes_nothing = options.granted.is_empty() && options.edits.is_empty();
    if live.is_empty() {
        warn("no worker lives: they wait until one does");
    } else if buried > 0 && changes_nothing {
        warn(&format!("the build that buried {buried} of them still runs: what it cannot do dies again"));
    }
    if changes_nothing && frozen.all_of_kinds(&["wall_exceeded", "cpu_exceeded"]) {
        warn("all of them ran out of time: consider --set wall=60s");
    }
    if changes_nothing && frozen.all_of_kinds(&["memory_exceeded"]) {
        warn("all of them ran out of memory: consider --set heap=512MiB");
    }
    if !status.pauses.is_empty() {
        let said = "the queue is paused: they wait".to_owned();
        let command = Some(("lift it:", queue.command("queue resume")));
        warnings.push(Warning { said, command });
    }
    Ok(warnings)
}

/// One replay, under way.
pub(super) struct ReplayRun<'a> {
    queue: &'a OperatorHandle,
    operation: OperationId,
    by: String,
    options: Options,
    watch: bool,
    result: ReplayResult,
}

impl<'a> ReplayRun<'a> {
    pub(super) fn new(
        queue: &'a OperatorHandle,
        operation: OperationId,
        by: String,
        ReplayWork { options, watch, resumes: _ }: ReplayWork,
        frozen: &Frozen,
    ) -> Self {
        let result = ReplayResult::of(frozen, Some(operation.clone()));
        Self { queue, operation, by, options, watch, result }
    }

    pub(super) async fn carry_out(
        mut self,
        frozen: &Frozen,
        observer: &mut dyn RunObserver,
        stop: CancellationToken,
    ) -> Finished {
        let mut stopped = tokio::select! {
            biased;
            () = stop.cancelled() => Err(ReplayStop::Interrupted),
            done = self.replay_all(frozen, observer) => done,
        };
        if self.watch && stopped.is_ok() {
            let ids: Vec<JobId> = frozen.jobs.iter().map(|job| job.id.clone()).collect();
            tokio::select! {
                biased;
                () = stop.cancelled() => stopped = Err(ReplayStop::Interrupted),
                ended = self.until_ended(&ids, None) => {
                    stopped = ended.map(drop).map_err(ReplayStop::Watching);
                }
            }
        }
        // What was done is said even where Redis does not tell any more what became of it.
        let _ = self.learn_outcomes(frozen).await;
        let (exit, said, error) = self.result.conclusion(stopped);
        self.result.stopped = said;
        Finished { result: BulkResult::Replay(self.result), exit, error }
    }

    /// Canaries first, then the rest, unless that is left to another command.
    async fn replay_all(
        &mut self,
        frozen: &Frozen,
        observer: &mut dyn RunObserver,
    ) -> Result<(), ReplayStop> {
        let (canaries, rest) = frozen.jobs.split_at(self.options.canary.min(frozen.jobs.len()));
        if !canaries.is_empty() {
            self.replay(canaries, observer).await?;
            self.result.canaries = self.judge_canaries(canaries, frozen).await?;
            observer.note(format!("canaries  {}", super::most_first(&self.result.canaries)));
        }
        if self.options.canary_only && !rest.is_empty() {
            return Err(ReplayStop::CanariesOnly(canaries.len()));
        }
        self.replay(rest, observer).await
    }

    async fn replay(&mut self, jobs: &[Selected], observer: &mut dyn RunObserver) -> Result<(), ReplayStop> {
        let mut steps = Steps::new(jobs, self.options.rate);
        let mut come_to = 0;
        observer.came_to(come_to, jobs.len());
        while let Some(step) = steps.next().await {
            let failed = |error| ReplayStop::Redis(step[0].id.clone(), error);
            let letters = stored(self.queue, step).await.map_err(failed)?;
            for selected in step {
                let letter = letters.iter().find(|letter| letter.id == selected.id);
                let replayed = self.replay_one(selected, letter).await;
                match replayed.map_err(|error| ReplayStop::Redis(selected.id.clone(), error))? {
                    Replayed::Replayed => self.result.done += 1,
                    Replayed::Duplicate { .. } => self.result.duplicate += 1,
                    Replayed::Missing => self.result.missing += 1,
                    Replayed::DiedAnew => self.result.died_anew.push(selected.id.clone()),
                    Replayed::Undecodable => self.result.undecodable += 1,
                    Replayed::Full => self.result.full += 1,
                }
            }
            come_to += step.len();
            observer.came_to(come_to, jobs.len());
        }
        Ok(())
    }

    async fn replay_one(&self, selected: &Selected, letter: Option<&StoredJob>) -> Result<Replayed, Error> {
        let job = letter.and_then(StoredJob::job).filter(|_| !self.options.edits.is_empty());
        // A payload that is another by now, and cannot be edited, is another death: the script leaves it alone.
        let edited = job.and_then(|job| edited(job, &self.options.edits).ok());
        let options = ReplayOptions { granted: self.options.granted, edited: edited.as_ref() };
        let actor = Actor { by: &self.by, operation: Some(&self.operation) };
        self.queue.replay_selected(selected, letter, options, actor).await
    }

    /// What became of the canaries once they have ended; stops where one died of what it had died of before.
    async fn judge_canaries(
        &self,
        canaries: &[Selected],
        frozen: &Frozen,
    ) -> Result<BTreeMap<String, usize>, ReplayStop> {
        let wait = self.options.canary_wait;
        let ids: Vec<JobId> = canaries.iter().map(|canary| canary.id.clone()).collect();
        let redis = |error| ReplayStop::Redis(ids[0].clone(), error);
        let before = |id: &JobId| format!("dead:{}", frozen.group(id).split(' ').next().unwrap_or_default());
        let died_again = |outcomes: &[(JobId, String)]| {
            outcomes.iter().find(|(id, outcome)| *outcome == before(id)).cloned()
        };
        let deadline = Instant::now() + wait;
        loop {
            let outcomes = self.until_ended(&ids, Some(LOOK_INTERVAL)).await.map_err(redis)?;
            if let Some((id, outcome)) = died_again(&outcomes) {
                return Err(ReplayStop::CanaryDied(id, outcome));
            }
            let open = outcomes.iter().filter(|(_, outcome)| outcome == "replayed").count();
            if open == 0 {
                let mut counts = BTreeMap::new();
                outcomes.iter().for_each(|(_, outcome)| *counts.entry(outcome.clone()).or_default() += 1);
                // One that could not be replayed, or is forgotten, tells nothing.
                let tells =
                    |outcome: &str| ["done", "skipped", "dead"].iter().any(|end| outcome.starts_with(end));
                if !outcomes.iter().any(|(_, outcome)| tells(outcome)) {
                    return Err(ReplayStop::CanariesUntested(super::most_first(&counts)));
                }
                return Ok(counts);
            }
            if Instant::now() > deadline {
                return Err(ReplayStop::CanaryOpen(open, wait));
            }
        }
    }

    /// What became of these jobs, once all have ended or after `most`.
    async fn until_ended(
        &self,
        ids: &[JobId],
        most: Option<Duration>,
    ) -> Result<Vec<(JobId, String)>, Error> {
        let start = Instant::now();
        loop {
            let outcomes = self.queue.outcomes(&self.operation, ids).await?;
            let outcomes: Vec<(JobId, String)> = ids
                .iter()
                .zip(outcomes)
                .map(|(id, outcome)| (id.clone(), outcome.map_or(String::new(), |o| o.as_str().to_owned())))
                .collect();
            let open = outcomes.iter().any(|(_, outcome)| outcome == "replayed");
            if !open || most.is_some_and(|most| start.elapsed() > most) {
                return Ok(outcomes);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn learn_outcomes(&mut self, frozen: &Frozen) -> Result<(), Error> {
        let ids: Vec<JobId> = frozen.jobs.iter().map(|job| job.id.clone()).collect();
        let outcomes = self.queue.outcomes(&self.operation, &ids).await?;
        for (id, outcome) in ids.iter().zip(outcomes) {
            if let Some(JobOutcome::Ended(what)) = outcome {
                let group = self.result.outcomes.entry(frozen.group(id).to_owned()).or_default();
                *group.entry(what).or_default() += 1;
            }
        }
        Ok(())
    }
}
