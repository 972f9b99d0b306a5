//! What every bulk action does: freeze a selection, show the plan, ask, record, and act at a bounded rate.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::{BulkOptions, Filter, audit_entry, build, detail, host, kind, most_first, name_unknown};
use crate::job::JobId;
use crate::ops::Exit;
use crate::ops::render::{self, BOLD, DIM, styled};
use crate::queue::{
    Actor, Error, OPERATION_JOBS_MAX, OperationId, OperatorHandle, Selected, Selection, StoredJob,
};

/// Most jobs between two waits for the rate.
const STEP_MAX: usize = 100;
/// Jobs that a plan lists.
const SAMPLE: usize = 5;
/// Version of the JSON of a bulk action.
pub(super) const SCHEMA_VERSION: u32 = 1;

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
    matching: usize,
    kinds: BTreeMap<String, usize>,
    hosts: BTreeMap<String, usize>,
    /// How many each build buried.
    pub(super) builds: BTreeMap<String, usize>,
    sample: Vec<String>,
    /// Nothing was left out by the selection.
    takes_all: bool,
    /// Ids given that are no such jobs.
    pub(super) unknown: Vec<JobId>,
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

/// Freezes what `filter` selects; `check` may refuse all of it because of one job. The error is a sentence.
pub(super) async fn freeze(
    queue: &OperatorHandle,
    filter: &Filter,
    what: &str,
    check: impl Fn(&StoredJob) -> Result<(), String>,
) -> Result<Result<Frozen, String>, Error> {
    let selection = match filter.read(queue).await? {
        Ok(selection) => selection,
        Err(what) => return Ok(Err(what)),
    };
    let (unknown, takes_all) = (unknown_ids(queue, &selection).await?, selection.takes_all());
    let mut frozen = Frozen { unknown, takes_all, ..Frozen::default() };
    for id in &frozen.unknown {
        name_unknown(id, what);
    }
    let mut pages = queue.job_pages(&selection);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            return Ok(Ok(frozen));
        }
        for job in &page {
            if let Err(why) = check(job) {
                return Ok(Err(format!("{}: {why}; nothing changed", job.id)));
            }
            frozen.add(job);
        }
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

/// What a bulk action is called, in its plan and after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActionName {
    /// `replay`
    pub(super) verb: &'static str,
    /// `replayed`
    pub(super) past: &'static str,
    /// `dead letter`
    pub(super) noun: &'static str,
}

impl ActionName {
    pub(super) fn nouns(&self, count: usize) -> String {
        format!("{count} {}{}", self.noun, if count == 1 { "" } else { "s" })
    }
}

/// Prints what will be touched.
pub(super) fn print_plan(
    queue: &OperatorHandle,
    frozen: &Frozen,
    filter: &Filter,
    bulk: &BulkOptions,
    name: ActionName,
    how: &str,
) {
    let (count, noun) = (frozen.jobs.len(), name.nouns(frozen.jobs.len()));
    let seconds = Duration::from_secs_f64(count as f64 / bulk.rate);
    render::note(format!(
        "{} {noun} of queue {}{how}, {}/s, about {}",
        styled(BOLD, name.verb),
        queue.name(),
        bulk.rate,
        render::format_duration(seconds),
    ));
    let all = if frozen.takes_all { format!(": ALL {}s", name.noun) } else { String::new() };
    render::planned("selected", format!("{}{all}", filter.typed()));
    render::planned("by kind", most_first(&frozen.kinds));
    render::planned("by host", most_first(&frozen.hosts));
    for sample in &frozen.sample {
        render::planned_line("sample", sample);
    }
    if count > frozen.sample.len() {
        render::note(styled(DIM, format!("  and {} more", count - frozen.sample.len())));
    }
    if frozen.matching > count {
        render::note(format!(
            "  one action takes {count} of the {} that match: repeat it for the others",
            frozen.matching
        ));
    }
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

/// Acts on each of the jobs in turn, at the rate. The error names the job at which Redis failed.
pub(super) async fn each(
    jobs: &[Selected],
    rate: f64,
    mut act: impl AsyncFnMut(&JobId) -> Result<(), Error>,
) -> Result<(), (JobId, Error)> {
    let mut steps = Steps::new(jobs, rate);
    while let Some(step) = steps.next().await {
        for Selected { id, .. } in step {
            act(id).await.map_err(|error| (id.clone(), error))?;
        }
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

/// What a dry run prints for a program: the plan, and the result with nothing done.
#[derive(Serialize)]
struct DryRun<'a, T> {
    dry_run: bool,
    matching: usize,
    kinds: &'a BTreeMap<String, usize>,
    hosts: &'a BTreeMap<String, usize>,
    #[serde(flatten)]
    result: &'a T,
}

/// How an act on each of a selection went, as JSON shows it.
#[derive(Debug, Default, Serialize)]
pub(super) struct SimpleResult {
    pub(super) operation: Option<OperationId>,
    pub(super) selected: usize,
    pub(super) done: usize,
    pub(super) missing: usize,
    /// Ids given that are no such jobs.
    pub(super) unknown: Vec<JobId>,
    /// Why it ended before its last job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<String>,
}

impl SimpleResult {
    pub(super) fn of(frozen: &Frozen) -> Self {
        let (selected, unknown) = (frozen.jobs.len(), frozen.unknown.clone());
        Self { selected, unknown, ..Self::default() }
    }

    /// Says what was done, also where Redis failed in the middle of it; `say` does for a person.
    pub(super) fn conclude(
        mut self,
        ended: Result<(), (JobId, Error)>,
        past: &str,
        json: bool,
        say: impl FnOnce(&Self),
    ) -> Result<Exit, Error> {
        let rest = self.selected - self.done - self.missing;
        self.stopped = ended.as_ref().err().map(|(id, _)| stopped_by_redis(id, past, rest));
        match json {
            true => render::json(SCHEMA_VERSION, &self),
            false => say(&self),
        }
        self.stopped.iter().for_each(render::error);
        match ended {
            Ok(()) => Ok(exit(self.done, self.selected, &self.unknown)),
            Err((_, error)) => Err(error),
        }
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

/// Cancels jobs that run or wait.
pub(super) async fn cancel(
    queue: &OperatorHandle,
    filter: &Filter,
    bulk: &BulkOptions,
    json: bool,
) -> Result<Exit, Error> {
    const NAME: ActionName = ActionName { verb: "cancel", past: "cancelled", noun: "job" };
    let frozen = match freeze(queue, filter, "live job", |_| Ok(())).await? {
        Ok(frozen) => frozen,
        Err(what) => return Ok(super::usage_error(&what)),
    };
    if frozen.jobs.is_empty() {
        render::note("no jobs match: nothing to do");
        return Ok(Exit::NothingMatched);
    }
    print_plan(queue, &frozen, filter, bulk, NAME, "");
    let mut result = SimpleResult::of(&frozen);
    let question = format!("cancel {}?", NAME.nouns(frozen.jobs.len()));
    if let Some(exit) = stop_before(&frozen, bulk, &question, json.then_some(&result)) {
        return Ok(exit);
    }
    let operation = OperationId::fresh(NAME.verb);
    let entry = audit_entry(NAME.verb, &filter.typed(), &bulk.reason, frozen.jobs.len());
    queue.begin_operation(&operation, &entry, "", &frozen.jobs).await?;
    let actor = Actor { by: &entry.by, operation: Some(&operation) };
    result.operation = Some(operation.clone());
    let ended = each(&frozen.jobs, bulk.rate, async |id| {
        match queue.cancel(id, actor).await? {
            true => result.done += 1,
            false => result.missing += 1,
        }
        Ok(())
    });
    let ended = ended.await;
    result.conclude(ended, NAME.past, json, |SimpleResult { selected, done, missing, .. }| {
        let gone = if *missing > 0 { format!(" ({missing} had ended)") } else { String::new() };
        render::note(format!(
            "cancelled {done} of {selected}{gone}: one that runs is stopped within a heartbeat, one that waits is skipped \
             when its turn comes. Undo: enqueue them again, from what job export wrote before"
        ));
        render::command("  see them:", &queue.command(&format!("audit show {operation}")));
    })
}

/// The exit of a bulk action that ends before it begins: a dry run, or an answer that is not yes.
///
/// A program gets the plan of a dry run with `result`, in which nothing is done.
pub(super) fn stop_before<T: Serialize>(
    frozen: &Frozen,
    bulk: &BulkOptions,
    question: &str,
    result: Option<&T>,
) -> Option<Exit> {
    if bulk.dry_run {
        if let Some(result) = result {
            let Frozen { matching, kinds, hosts, .. } = frozen;
            render::json(
                SCHEMA_VERSION,
                &DryRun { dry_run: true, matching: *matching, kinds, hosts, result },
            );
        }
        render::note("dry run: nothing changed");
        return Some(if frozen.unknown.is_empty() { Exit::Ok } else { Exit::Failed });
    }
    render::confirm(question, bulk.yes).err()
}
