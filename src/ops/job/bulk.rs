//! What every bulk action does first: freeze a selection, plan, and record what it will act on. Nothing here prints.
//!
//! ```text
//! prepare (reads) -> Prepared { Plan } -> begin (records operation and audit) -> Run -> carry_out -> Finished
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::discard::{self, DiscardPlan, DiscardResult};
use super::plan::{ActionName, Plan, Refusal};
use super::replay::{self, ReplayWork};
use super::replay_result::ReplayResult;
use super::run::{BulkResult, Run, SimpleResult};
use super::undo::{self, UndoResult};
use super::{Filter, ReplayPlan, build, detail, host, kind};
use crate::job::JobId;
use crate::queue::{
    AuditEntry, DiscardTo, Error, JobState, OPERATION_JOBS_MAX, OperationId, OperatorHandle, Selected,
    Selection, StoredJob,
};

/// Most jobs between two waits for the rate.
const STEP_MAX: usize = 100;
/// Jobs that a plan lists.
const SAMPLE: usize = 5;

/// What is to be done with many jobs.
#[derive(Debug, Clone)]
pub enum BulkAction {
    /// Put dead letters back.
    Replay(Filter, ReplayPlan),
    /// Go on with a replay that stopped, and wait so long for its canaries.
    ResumeReplay(OperationId, Duration),
    /// Put what a replay put back, and what still waits, among the dead letters again.
    UndoReplay(OperationId),
    /// Move dead letters to the trash, or delete them.
    Discard(Filter, DiscardPlan),
    /// Take letters out of the trash.
    Restore(Filter),
    /// Take those out of the trash that an operation put there.
    RestoreAll(OperationId),
    /// Stop jobs that run or wait.
    Cancel(Filter),
}

/// What an action does with each job.
#[derive(Debug)]
pub(super) enum Work {
    Replay(ReplayWork),
    /// Undoes this operation.
    Undo(OperationId),
    Discard {
        to: DiscardTo,
        copy: bool,
    },
    Restore,
    Cancel,
}

const CANCEL: ActionName = ActionName {
    verb: "cancel",
    noun: "job",
    unknown_noun: "live job",
    nothing: "no jobs match: nothing to do",
};

/// A bulk action on a frozen selection, which has changed nothing yet.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    frozen: Frozen,
    work: Work,
}

/// Freezes what `action` is about and plans it, at so many jobs a second. Changes nothing.
///
/// # Errors
/// Those of Redis.
pub async fn prepare(
    queue: &OperatorHandle,
    action: &BulkAction,
    rate: f64,
) -> Result<Result<Prepared, Refusal>, Error> {
    match action {
        BulkAction::Replay(filter, plan) => replay::prepare(queue, filter, plan, rate).await,
        BulkAction::ResumeReplay(id, wait) => replay::prepare_rest(queue, id, *wait, rate).await,
        BulkAction::UndoReplay(id) => undo::prepare(queue, id, rate).await,
        BulkAction::Discard(filter, plan) => discard::prepare(queue, filter, *plan, rate).await,
        BulkAction::Restore(filter) => discard::prepare_restore(queue, filter, rate).await,
        BulkAction::RestoreAll(id) => discard::prepare_restore_all(queue, id, rate).await,
        BulkAction::Cancel(filter) => {
            let frozen = match freeze(queue, filter, CANCEL, |_| Ok(())).await? {
                Ok(frozen) => frozen,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let plan = Plan::of_selection(queue, &frozen, filter, CANCEL, rate, String::new());
            Ok(Ok(Prepared::new(plan, frozen, Work::Cancel)))
        }
    }
}

impl Prepared {
    pub(super) fn new(plan: Plan, frozen: Frozen, work: Work) -> Self {
        Self { plan, frozen, work }
    }

    /// What it will touch.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// It copies each letter first, to where [`Run::copying_to`] says.
    pub(super) fn copies(&self) -> bool {
        match self.work {
            Work::Discard { copy, .. } => copy,
            Work::Replay(_) | Work::Undo(_) | Work::Restore | Work::Cancel => false,
        }
    }

    /// Its result while nothing is done.
    pub(super) fn nothing_done(&self) -> BulkResult {
        let Self { frozen, work, .. } = self;
        match work {
            Work::Replay(ReplayWork { resumes, .. }) => {
                BulkResult::Replay(ReplayResult::of(frozen, resumes.clone()))
            }
            Work::Undo(id) => BulkResult::Undo(UndoResult::of(frozen, id)),
            Work::Discard { to, .. } => BulkResult::Discard(DiscardResult::of(frozen, *to)),
            Work::Restore => BulkResult::Restore(SimpleResult::of(frozen)),
            Work::Cancel => BulkResult::Cancel(SimpleResult::of(frozen)),
        }
    }

    /// Records what it will act on, who began it and why; it has acted on nothing yet.
    ///
    /// # Errors
    /// Those of Redis, and that too many operations are not through.
    pub async fn begin(self, queue: &OperatorHandle, by: &str, reason: &str) -> Result<Run, Error> {
        let Self { plan, frozen, work } = self;
        let entry = |what: &str, operation: Option<OperationId>| AuditEntry {
            what: what.to_owned(),
            by: by.to_owned(),
            selection: plan.selection.clone(),
            count: Some(plan.count as u64),
            why: reason.to_owned(),
            operation,
            at_ms: 0,
        };
        let options = match &work {
            Work::Replay(replay) => replay.options.stored(),
            Work::Undo(_) | Work::Discard { .. } | Work::Restore | Work::Cancel => String::new(),
        };
        let operation = match &work {
            Work::Undo(id) => {
                queue.audit(&entry("undo replay", Some(id.clone()))).await?;
                id.clone()
            }
            Work::Replay(ReplayWork { resumes: Some(id), .. }) => {
                queue.audit(&entry("resume replay", Some(id.clone()))).await?;
                id.clone()
            }
            Work::Replay(ReplayWork { resumes: None, .. })
            | Work::Discard { .. }
            | Work::Restore
            | Work::Cancel => {
                let operation = OperationId::fresh(plan.verb);
                queue.begin_operation(&operation, &entry(plan.verb, None), &options, &frozen.jobs).await?;
                operation
            }
        };
        Ok(Run::new(operation, by.to_owned(), plan.rate, frozen, work))
    }
}

/// A selection that changes no more: what the action is on, and what its plan says about it.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    /// The jobs.
    pub(super) jobs: Vec<Selected>,
    /// The group of each of them, as a place in `groups`.
    group_of: HashMap<JobId, usize>,
    /// `<kind> <host>`.
    groups: Vec<String>,
    /// Jobs that match, of which `jobs` may be the first.
    pub(super) matching: usize,
    pub(super) kinds: BTreeMap<String, usize>,
    pub(super) hosts: BTreeMap<String, usize>,
    /// How many each build buried.
    pub(super) builds: BTreeMap<String, usize>,
    pub(super) sample: Vec<String>,
    /// Nothing was left out by the selection.
    pub(super) takes_all: bool,
    /// Ids given that are no such jobs.
    pub(super) unknown: Vec<JobId>,
    /// What they would have to be.
    pub(super) unknown_noun: &'static str,
    /// The time by the clock of Redis from which the words of the selection counted back.
    pub(super) at_ms: u64,
}

impl Frozen {
    fn add(&mut self, job: &StoredJob) {
        self.matching += 1;
        if self.jobs.len() == OPERATION_JOBS_MAX {
            return;
        }
        let name = format!("{} {}", kind(job), host(job));
        let group = self.groups.iter().position(|group| *group == name).unwrap_or_else(|| {
            self.groups.push(name);
            self.groups.len() - 1
        });
        self.group_of.insert(job.id.clone(), group);
        *self.kinds.entry(kind(job)).or_default() += 1;
        *self.hosts.entry(host(job)).or_default() += 1;
        *self.builds.entry(build(job)).or_default() += 1;
        if self.sample.len() < SAMPLE {
            self.sample.push(format!("{}  {}", job.id, detail(job, 80)));
        }
        self.jobs.push(Selected::of(job));
    }

    /// Jobs that were selected before, with the groups that they are in now.
    pub(super) async fn again(queue: &OperatorHandle, jobs: Vec<Selected>) -> Result<Self, Error> {
        let mut frozen = Self::default();
        for step in jobs.chunks(STEP_MAX) {
            for job in stored(queue, step).await? {
                frozen.add(&job);
            }
        }
        frozen.jobs = jobs;
        Ok(frozen)
    }

    /// `<kind> <host>` that a job was selected with.
    pub(super) fn group(&self, id: &JobId) -> &str {
        self.group_of.get(id).and_then(|group| self.groups.get(*group)).map_or("-", String::as_str)
    }

    /// True when all of them are of these kinds.
    pub(super) fn all_of_kinds(&self, kinds: &[&str]) -> bool {
        self.kinds.keys().all(|kind| kinds.contains(&kind.as_str()))
    }
}

/// Freezes what `filter` selects, which is refused where that is nothing; `check` may refuse all of it because of one
/// job.
pub(super) async fn freeze(
    queue: &OperatorHandle,
    filter: &Filter,
    name: ActionName,
    check: impl Fn(&StoredJob) -> Result<(), String>,
) -> Result<Result<Frozen, Refusal>, Error> {
    let (selection, at_ms) = match filter.read(queue).await? {
        Ok(read) => read,
        Err(what) => return Ok(Err(Refusal::Usage(what))),
    };
    let (unknown, takes_all) = (unknown_ids(queue, &selection).await?, selection.takes_all());
    let mut frozen =
        Frozen { unknown, unknown_noun: name.unknown_noun, takes_all, at_ms, ..Frozen::default() };
    let mut pages = queue.job_pages(&selection);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            break;
        }
        for job in page.iter().filter(|job| filter.at_ms.is_none_or(|at_ms| came_ms(job) <= at_ms)) {
            if let Err(why) = check(job) {
                return Ok(Err(Refusal::Usage(format!("{}: {why}; nothing changed", job.id))));
            }
            frozen.add(job);
        }
    }
    if frozen.jobs.is_empty() {
        let (said, unknown) = (name.nothing.to_owned(), frozen.unknown);
        return Ok(Err(Refusal::NothingMatched { said, unknown, unknown_noun: name.unknown_noun }));
    }
    Ok(Ok(frozen))
}

/// When it became selectable: a letter at its death, another job at its admission, even if it was claimed since.
fn came_ms(job: &StoredJob) -> u64 {
    match job.state {
        JobState::Dead | JobState::Trash => job.died_ms,
        JobState::Ready | JobState::Scheduled | JobState::Exclusive | JobState::InFlight => job.enqueued_ms,
    }
}

/// The ids that were named and are not in these states, whatever else was asked for.
async fn unknown_ids(queue: &OperatorHandle, selection: &Selection) -> Result<Vec<JobId>, Error> {
    if selection.ids.is_empty() {
        return Ok(Vec::new());
    }
    let by_id = Selection { states: selection.states.clone(), ..Selection::of_ids(&selection.ids) };
    let found: HashSet<JobId> = queue.jobs(&by_id, usize::MAX).await?.into_iter().map(|job| job.id).collect();
    let mut named = HashSet::new();
    Ok(selection.ids.iter().filter(|id| named.insert(*id) && !found.contains(id)).cloned().collect())
}

/// The jobs in steps: at most ten waits a second, so a rate is kept in small steps, not in one leap a second.
pub(super) struct Steps<'a> {
    jobs: std::slice::Chunks<'a, Selected>,
    tick: tokio::time::Interval,
}

impl<'a> Steps<'a> {
    pub(super) fn new(jobs: &'a [Selected], rate: f64) -> Self {
        let step = ((rate / 10.0).ceil() as usize).clamp(1, STEP_MAX);
        let tick = tokio::time::interval(Duration::from_secs_f64(step as f64 / rate));
        Self { jobs: jobs.chunks(step), tick }
    }

    /// The next ones, when their time has come; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<&'a [Selected]> {
        let step = self.jobs.next()?;
        self.tick.tick().await;
        Some(step)
    }
}

/// The jobs of a step as they are stored now.
pub(super) async fn stored(queue: &OperatorHandle, step: &[Selected]) -> Result<Vec<StoredJob>, Error> {
    let ids: Vec<JobId> = step.iter().map(|selected| selected.id.clone()).collect();
    queue.jobs(&Selection::of_ids(&ids), ids.len()).await
}
