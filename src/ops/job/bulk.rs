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
    render::note(format!("  selected  {}{all}", filter.typed()));
    render::note(format!("  by kind   {}", most_first(&frozen.kinds)));
    render::note(format!("  by host   {}", most_first(&frozen.hosts)));
    for sample in &frozen.sample {
        render::note(styled(DIM, format!("  sample    {sample}")));
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

/// How an act on each of a selection went, as JSON shows it.
#[derive(Debug, Default, Serialize)]
pub(super) struct SimpleResult {
    pub(super) schema_version: u32,
    pub(super) operation: Option<OperationId>,
    pub(super) selected: usize,
    pub(super) done: usize,
    pub(super) missing: usize,
    /// Ids given that are no such jobs.
    pub(super) unknown: Vec<JobId>,
}

impl SimpleResult {
    pub(super) fn of(frozen: &Frozen) -> Self {
        let (selected, unknown) = (frozen.jobs.len(), frozen.unknown.clone());
        Self { schema_version: SCHEMA_VERSION, selected, unknown, ..Self::default() }
    }

    pub(super) fn exit(&self) -> Exit {
        match self.done == self.selected && self.unknown.is_empty() {
            true => Exit::Ok,
            false if self.done == 0 => Exit::Failed,
            false => Exit::PartlyDone,
        }
    }
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
    if let Some(exit) = stop_before(bulk, &format!("cancel {}?", NAME.nouns(frozen.jobs.len()))) {
        return Ok(exit);
    }
    let (operation, mut result) = (OperationId::fresh(NAME.verb), SimpleResult::of(&frozen));
    let entry = audit_entry(NAME.verb, &filter.typed(), &bulk.reason, frozen.jobs.len());
    queue.begin_operation(&operation, &entry, "", &frozen.jobs).await?;
    let actor = Actor { by: &entry.by, operation: Some(&operation) };
    let mut steps = Steps::new(&frozen.jobs, bulk.rate);
    while let Some(step) = steps.next().await {
        for Selected { id, .. } in step {
            match queue.cancel(id, actor).await? {
                true => result.done += 1,
                false => result.missing += 1,
            }
        }
    }
    result.operation = Some(operation.clone());
    if json {
        render::json(&result);
    } else {
        let gone =
            if result.missing > 0 { format!(" ({} had ended)", result.missing) } else { String::new() };
        render::note(format!(
            "cancelled {} of {}{gone}: one that runs is stopped within a heartbeat, one that waits is skipped when its \
             turn comes. Undo: export them first, and enqueue them again. See them: {}",
            result.done,
            result.selected,
            queue.command(&format!("audit show {operation}"))
        ));
    }
    Ok(result.exit())
}

/// The exit of a bulk action that ends before it begins: a dry run, or an answer that is not yes.
pub(super) fn stop_before(bulk: &BulkOptions, question: &str) -> Option<Exit> {
    if bulk.dry_run {
        render::note("dry run: nothing changed");
        return Some(Exit::Ok);
    }
    render::confirm(question, bulk.yes).err()
}
