//! `dead replay`: frozen selection, plan, confirmation, canaries, a paced run, outcome by group, and the way back.
//!
//! What is replayed and what became of it is recorded in an operation, letter by letter, in the same step as the replay
//! itself. So an interrupted one goes on where it was (`--resume`), and what still waits can be taken back (`--undo`).

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::bulk::{ActionName, Frozen, SCHEMA_VERSION, Steps, freeze, print_plan, stop_before, stored};
use super::edit::{Edit, edited};
use super::replay_result::{ReplayResult, ReplayStop};
use super::undo::replay_of;
use super::{BulkOptions, Filter, ReplayPlan, audit_entry, usage_error};
use crate::job::{JobId, LimitsRequest};
use crate::ops::Exit;
use crate::ops::progress::Progress;
use crate::ops::render::{self, BAD, WARN, styled};
use crate::queue::{
    Actor, Error, JobOutcome, OperationId, OperatorHandle, ReplayOptions, Replayed, Selected, StoredJob,
};

const NAME: ActionName = ActionName { verb: "replay", past: "replayed", noun: "dead letter" };
/// Between two looks at what became of what was replayed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Between two lines of progress where there is no terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// How an operation replays, as it is stored with it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Options {
    canary: usize,
    canary_wait: Duration,
    granted: LimitsRequest,
    edits: Vec<Edit>,
    rate: f64,
}

/// One replay, under way.
struct Run<'a> {
    queue: &'a OperatorHandle,
    operation: OperationId,
    by: String,
    options: Options,
    result: ReplayResult,
}

/// Shows the plan, asks, and carries it out.
pub(super) async fn run(
    queue: &OperatorHandle,
    filter: &Filter,
    bulk: &BulkOptions,
    plan: &ReplayPlan,
    json: bool,
) -> Result<Exit, Error> {
    let ReplayPlan { canary, canary_wait, granted, edits, watch } = plan;
    let may_be_edited = |job: &StoredJob| match job.job() {
        Some(job) if !edits.is_empty() => edited(job, edits).map(drop),
        Some(_) | None => Ok(()),
    };
    let frozen = match freeze(queue, filter, NAME.noun, may_be_edited).await? {
        Ok(frozen) => frozen,
        Err(what) => return Ok(usage_error(&what)),
    };
    if frozen.jobs.is_empty() {
        render::note("no dead letters match: nothing to do");
        return Ok(Exit::NothingMatched);
    }
    let options = Options {
        canary: *canary,
        canary_wait: *canary_wait,
        granted: *granted,
        edits: edits.clone(),
        rate: bulk.rate,
    };
    print_plan(queue, &frozen, filter, bulk, NAME, &how(&options));
    print_warnings(queue, &frozen, &options).await?;
    let question = format!("replay {}?", NAME.nouns(frozen.jobs.len()));
    if let Some(exit) = stop_before(&frozen, bulk, &question, json.then(|| planned(&frozen, None)).as_ref()) {
        return Ok(exit);
    }
    let operation = OperationId::fresh(NAME.verb);
    let entry = audit_entry(NAME.verb, &filter.typed(), &bulk.reason, frozen.jobs.len());
    let stored_options = serde_json::to_string(&options).unwrap_or_default();
    queue.begin_operation(&operation, &entry, &stored_options, &frozen.jobs).await?;
    let run = Run::new(queue, operation, entry.by, options, &frozen);
    run.carry_out(&frozen, *watch, json).await
}

/// Goes on with the letters of a replay that were not come to.
pub(super) async fn resume(
    queue: &OperatorHandle,
    id: &OperationId,
    bulk: &BulkOptions,
    canary_wait: Duration,
    json: bool,
) -> Result<Exit, Error> {
    let Some(operation) = replay_of(queue, id).await? else { return Ok(Exit::NothingMatched) };
    let left = operation.left();
    if left.is_empty() {
        let all = NAME.nouns(operation.jobs.len());
        render::note(format!("{id} came to each of its {all}: nothing to do"));
        return Ok(Exit::NothingMatched);
    }
    let recorded = operation.jobs.len();
    if operation.entry.count.is_some_and(|count| count > recorded as u64) {
        render::note("it was interrupted while its letters were recorded: these are all that it recorded");
    }
    let Ok(mut options) = serde_json::from_str::<Options>(&operation.options) else {
        render::error(format!("{id} was begun by another build, whose options this one cannot read"));
        return Ok(Exit::Failed);
    };
    // Once more than the canaries were come to, these had lived; before that they were not judged: others are tried.
    if recorded - left.len() > options.canary {
        options.canary = 0;
    }
    options.rate = options.rate.min(bulk.rate);
    options.canary_wait = options.canary_wait.max(canary_wait);
    render::note(format!(
        "resume {id}: {} of {recorded} were not come to{}",
        NAME.nouns(left.len()),
        how(&options)
    ));
    let (question, frozen) =
        (format!("replay {}?", NAME.nouns(left.len())), Frozen::again(queue, left).await?);
    let plan = json.then(|| planned(&frozen, Some(id.clone())));
    if let Some(exit) = stop_before(&frozen, bulk, &question, plan.as_ref()) {
        return Ok(exit);
    }
    let run = Run::new(queue, id.clone(), render::operator(), options, &frozen);
    run.carry_out(&frozen, false, json).await
}

/// The result of a replay that has not begun.
fn planned(frozen: &Frozen, operation: Option<OperationId>) -> ReplayResult {
    let (selected, unknown) = (frozen.jobs.len(), frozen.unknown.clone());
    ReplayResult { operation, selected, unknown, ..ReplayResult::default() }
}

/// ` under wall 1m, heap 1.0 MiB, with 2 edits, 5 canaries first`.
fn how(options: &Options) -> String {
    let Options { canary, granted, edits, canary_wait: _, rate: _ } = options;
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
    match canary {
        0 => {}
        1 => how += ", 1 canary first",
        count => how += &format!(", {count} canaries first"),
    }
    how
}

/// What makes it likely that they die again, or wait.
async fn print_warnings(queue: &OperatorHandle, frozen: &Frozen, options: &Options) -> Result<(), Error> {
    let warn = |text: String| render::planned("note", styled(WARN, text));
    let status = queue.status().await?;
    let live: Vec<_> = status.workers.iter().filter(|worker| !worker.silent).collect();
    let buried: usize = live
        .iter()
        .map(|worker| worker.info.version.as_str())
        .collect::<std::collections::BTreeSet<_>>()
        .iter()
        .filter_map(|version| frozen.builds.get(*version))
        .sum();
    let changes_nothing = options.granted.is_empty() && options.edits.is_empty();
    if live.is_empty() {
        warn("no worker lives: they wait until one does".to_owned());
    } else if buried > 0 && changes_nothing {
        warn(format!("the build that buried {buried} of them still runs: what it cannot do dies again"));
    }
    if changes_nothing && frozen.all_of_kinds(&["wall_exceeded", "cpu_exceeded"]) {
        warn("all of them ran out of time: consider --set wall=60s".to_owned());
    }
    if changes_nothing && frozen.all_of_kinds(&["memory_exceeded"]) {
        warn("all of them ran out of memory: consider --set heap=512MiB".to_owned());
    }
    if !status.pauses.is_empty() {
        warn("the queue is paused: they wait".to_owned());
        render::command("            lift it:", &queue.command("queue resume"));
    }
    Ok(())
}

impl<'a> Run<'a> {
    fn new(
        queue: &'a OperatorHandle,
        operation: OperationId,
        by: String,
        options: Options,
        frozen: &Frozen,
    ) -> Self {
        let result = planned(frozen, Some(operation.clone()));
        Self { queue, operation, by, options, result }
    }

    async fn carry_out(mut self, frozen: &Frozen, watch: bool, json: bool) -> Result<Exit, Error> {
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        let mut stopped = tokio::select! {
            biased;
            _ = &mut interrupted => Err(ReplayStop::Interrupted),
            done = self.replay_all(frozen) => done,
        };
        if watch && stopped.is_ok() {
            let ids: Vec<JobId> = frozen.jobs.iter().map(|job| job.id.clone()).collect();
            tokio::select! {
                biased;
                _ = &mut interrupted => stopped = Err(ReplayStop::Interrupted),
                ended = self.until_ended(&ids, None) => {
                    stopped = ended.map(drop).map_err(ReplayStop::Watching);
                }
            }
        }
        // What was done is said even where Redis does not tell any more what became of it.
        let _ = self.learn_outcomes(frozen).await;
        let (exit, said, error) = self.result.conclusion(stopped);
        self.result.stopped.clone_from(&said);
        if json {
            render::json(SCHEMA_VERSION, &self.result);
        } else {
            self.result.print(self.queue);
        }
        if let Some(said) = said {
            render::note(styled(BAD, format!("stopped: {said}")));
        }
        if self.result.rest() + self.result.full > 0 {
            let resume = self.queue.command(&format!("dead replay --resume {}", self.operation));
            render::command("  go on with the rest:    ", &resume);
        }
        error.map_or(Ok(exit), Err)
    }

    /// Canaries first, then the rest.
    async fn replay_all(&mut self, frozen: &Frozen) -> Result<(), ReplayStop> {
        let (canaries, rest) = frozen.jobs.split_at(self.options.canary.min(frozen.jobs.len()));
        if !canaries.is_empty() {
            self.replay(canaries).await?;
            self.judge_canaries(canaries, frozen).await?;
        }
        self.replay(rest).await
    }

    async fn replay(&mut self, jobs: &[Selected]) -> Result<(), ReplayStop> {
        let mut steps = Steps::new(jobs, self.options.rate);
        let (mut come_to, total) = (0, jobs.len() as u64);
        let progress = Progress::new(total, "{bar:40} {pos}/{len} {msg}", PROGRESS_INTERVAL);
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
            come_to += step.len() as u64;
            progress.show(come_to, String::new(), |_| format!("replayed {come_to} of {total}"));
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

    /// Waits until the canaries have ended; stops where one died of what it had died of before.
    async fn judge_canaries(&self, canaries: &[Selected], frozen: &Frozen) -> Result<(), ReplayStop> {
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
                let counts = super::most_first(&counts);
                // One that could not be replayed, or is forgotten, tells nothing.
                let tells =
                    |outcome: &str| ["done", "skipped", "dead"].iter().any(|end| outcome.starts_with(end));
                if !outcomes.iter().any(|(_, outcome)| tells(outcome)) {
                    return Err(ReplayStop::CanariesUntested(counts));
                }
                render::note(format!("canaries  {counts}"));
                return Ok(());
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
