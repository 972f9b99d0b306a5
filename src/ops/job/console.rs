//! Bulk actions as a command shows them: the plan, the question, progress, and what was done.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::bulk::{BulkAction, Prepared, prepare};
use super::copies::CopyOutput;
use super::discard::DiscardResult;
use super::plan::{Plan, Refusal, Warning, unknown_sentence};
use super::replay_result::ReplayResult;
use super::run::{BulkResult, Finished, RunObserver, SimpleResult};
use super::undo::UndoResult;
use super::{BulkOptions, most_first};
use crate::ops::Exit;
use crate::ops::audit::print_no_operation;
use crate::ops::progress::Progress;
use crate::ops::render::{self, BAD, BOLD, DIM, WARN, sanitize, styled};
use crate::queue::{Error, OperationId, OperatorHandle};

/// Version of the JSON of a bulk action.
const SCHEMA_VERSION: u32 = 1;
/// Between two lines of progress where there is no terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the plan, asks, and carries it out.
pub(super) async fn run(
    queue: &OperatorHandle,
    action: &BulkAction,
    bulk: &BulkOptions,
    json: bool,
) -> Result<Exit, Error> {
    let prepared = match prepare(queue, action, bulk.rate).await? {
        Ok(prepared) => prepared,
        Err(refusal) => return Ok(refuse(queue, &refusal)),
    };
    let plan = prepared.plan();
    print_plan(plan);
    let wants_copies = prepared.copies();
    let copies = match wants_copies && !bulk.dry_run {
        true => match CopyOutput::stdout() {
            Ok(copies) if plan.deletes && !copies.keeps_copies() => {
                render::error(
                    "stdout is a device or a socket, where no copy is safe: send it to a file or a pipe; nothing \
                     changed",
                );
                return Ok(Exit::Usage);
            }
            Ok(copies) => Some(copies),
            Err(e) => {
                render::error(format!("stdout cannot be examined ({e}); nothing changed"));
                return Ok(Exit::Failed);
            }
        },
        false => None,
    };
    if let Some(exit) = stop_before(&prepared, bulk, json) {
        return Ok(exit);
    }
    let run = prepared.begin(queue, &render::operator(), &bulk.reason).await?;
    let run = match copies {
        Some(copies) => run.copying_to(copies),
        None => run,
    };
    let is_replay = matches!(action, BulkAction::Replay(..) | BulkAction::ResumeReplay(..));
    // A replay that is interrupted is gone on with, so it says how. Any other is over with its process.
    let stop = if is_replay { cancelled_by_interrupt() } else { CancellationToken::new() };
    let mut bar = Bar { is_drawn: is_replay, progress: None };
    let finished = run.carry_out(queue, &mut bar, stop).await;
    drop(bar);
    conclude(queue, finished, wants_copies, json)
}

fn cancelled_by_interrupt() -> CancellationToken {
    let (stop, interrupted) = (CancellationToken::new(), tokio::signal::ctrl_c());
    let cancels = stop.clone();
    tokio::spawn(async move {
        if interrupted.await.is_ok() {
            cancels.cancel();
        }
    });
    stop
}

/// Says why nothing is prepared.
fn refuse(queue: &OperatorHandle, refusal: &Refusal) -> Exit {
    match refusal {
        Refusal::NothingMatched { said, unknown, unknown_noun } => {
            unknown.iter().for_each(|id| render::error(unknown_sentence(id, unknown_noun)));
            render::note(said);
        }
        Refusal::NoOperation(id) => print_no_operation(queue, id),
        Refusal::Usage(_) | Refusal::CannotFollow(_) | Refusal::OtherBuild(_) => render::error(refusal),
    }
    refusal.exit()
}

/// Prints what will be touched.
fn print_plan(plan: &Plan) {
    plan.unknown.iter().for_each(|id| render::error(unknown_sentence(id, plan.unknown_noun)));
    if plan.follows.is_some() {
        plan.warnings.iter().for_each(|warning| render::note(&warning.said));
        render::note(&plan.summary);
        return;
    }
    let rest = plan.summary.strip_prefix(plan.verb).unwrap_or_default();
    render::note(format!("{}{rest}", styled(BOLD, plan.verb)));
    let all = if plan.takes_all { format!(": ALL {}s", plan.noun) } else { String::new() };
    render::planned("selected", format!("{}{all}", plan.selection));
    render::planned("by kind", most_first(&plan.kinds));
    render::planned("by host", most_first(&plan.hosts));
    for sample in &plan.sample {
        render::planned_line("sample", sample);
    }
    if plan.count > plan.sample.len() {
        render::note(styled(DIM, format!("  and {} more", plan.count - plan.sample.len())));
    }
    if plan.matching > plan.count {
        render::note(format!(
            "  one action takes {} of the {} that match: repeat it for the others",
            plan.count, plan.matching
        ));
    }
    for Warning { said, command } in &plan.warnings {
        render::planned("note", styled(WARN, said));
        if let Some((label, command)) = command {
            render::command(&format!("            {label}"), command);
        }
    }
}

/// What a dry run prints for a program: the plan, and the result with nothing done.
#[derive(Serialize)]
struct DryRun<'a> {
    dry_run: bool,
    matching: usize,
    kinds: &'a BTreeMap<String, usize>,
    hosts: &'a BTreeMap<String, usize>,
    #[serde(flatten)]
    result: &'a BulkResult,
}

/// The exit of a bulk action that ends before it begins: a dry run, or an answer that is not yes.
fn stop_before(prepared: &Prepared, bulk: &BulkOptions, json: bool) -> Option<Exit> {
    let plan = prepared.plan();
    if bulk.dry_run {
        if json {
            let Plan { matching, kinds, hosts, .. } = plan;
            let result = &prepared.nothing_done();
            render::json(
                SCHEMA_VERSION,
                &DryRun { dry_run: true, matching: *matching, kinds, hosts, result },
            );
        }
        render::note("dry run: nothing changed");
        return Some(if plan.unknown.is_empty() { Exit::Ok } else { Exit::Failed });
    }
    render::confirm(&plan.question, bulk.yes).err()
}

/// Draws the progress of a replay; the others are over within what a person waits, or say it by their copies.
struct Bar {
    is_drawn: bool,
    progress: Option<Progress>,
}

impl RunObserver for Bar {
    fn came_to(&mut self, count: usize, total: usize) {
        if !self.is_drawn {
            return;
        }
        let progress = self.progress.get_or_insert_with(|| {
            Progress::new(total as u64, "{bar:40} {pos}/{len} {msg}", PROGRESS_INTERVAL)
        });
        progress.show(count as u64, String::new(), |_| format!("replayed {count} of {total}"));
        if count == total {
            self.progress = None;
        }
    }

    fn note(&mut self, said: String) {
        render::note(said);
    }
}

/// Says what was done, also where Redis failed in the middle of it.
fn conclude(queue: &OperatorHandle, finished: Finished, copies: bool, json: bool) -> Result<Exit, Error> {
    let Finished { result, exit, error } = finished;
    match &result {
        // The copies are what is printed.
        BulkResult::Discard(result) if copies => print_discard(queue, result, copies),
        _ if json => render::json(SCHEMA_VERSION, &result),
        BulkResult::Replay(result) => print_replay(queue, result),
        BulkResult::Undo(result) => print_undo(result),
        BulkResult::Discard(result) => print_discard(queue, result, copies),
        BulkResult::Restore(result) => print_restore(result),
        BulkResult::Cancel(result) => print_cancel(queue, result),
    }
    let stopped = result.stopped();
    match &result {
        BulkResult::Replay(result) => {
            if let Some(said) = stopped {
                render::note(styled(BAD, format!("stopped: {said}")));
            }
            if let (Some(operation), 1..) = (&result.operation, result.rest() + result.full) {
                let resume = queue.command(&format!("dead replay --resume {operation}"));
                render::command("  go on with the rest:    ", &resume);
            }
        }
        BulkResult::Undo(_) | BulkResult::Discard(_) | BulkResult::Restore(_) | BulkResult::Cancel(_) => {
            stopped.iter().for_each(render::error);
        }
    }
    error.map_or(Ok(exit), Err)
}

fn print_cancel(
    queue: &OperatorHandle,
    SimpleResult { operation, selected, done, missing, .. }: &SimpleResult,
) {
    let gone = if *missing > 0 { format!(" ({missing} had ended)") } else { String::new() };
    render::note(format!(
        "cancelled {done} of {selected}{gone}: one that runs is stopped within a heartbeat, one that waits is skipped \
         when its turn comes. Undo: enqueue them again, from what job export wrote before"
    ));
    if let Some(operation) = operation {
        render::command("  see them:", &queue.command(&format!("audit show {operation}")));
    }
}

fn print_restore(SimpleResult { selected, done, missing, .. }: &SimpleResult) {
    let gone = match missing {
        0 => String::new(),
        missing => format!(" ({missing} were not in the trash any more)"),
    };
    render::note(format!("restored {done} of {selected}{gone}. Undo: discard them again"));
}

fn print_undo(UndoResult { undone, in_flight, ended, .. }: &UndoResult) {
    render::note(format!(
        "{undone} are dead letters again; {in_flight} are in flight, and {ended} have ended: these were left alone"
    ));
}

fn print_discard(queue: &OperatorHandle, result: &DiscardResult, copies: bool) {
    let DiscardResult { selected, done, missing, died_anew, .. } = result;
    let rest = counted(&[
        (*missing, "gone meanwhile"),
        (died_anew.len(), "left alone, because they died anew meanwhile"),
        (result.rest(), "not come to"),
    ]);
    render::note(format!("discarded {done} of {selected}{rest}"));
    match (&result.operation, result.to) {
        (Some(_) | None, _) if *done == 0 => {}
        (Some(operation), "trash") => {
            let restore = format!("dead restore --operation {operation}");
            render::command("  Undo within 24 h:", &queue.command(&restore));
        }
        (Some(_) | None, _) => {
            render::note("  their payloads are on stdout: keep them");
            render::command("  Undo:", &queue.command("enqueue FILE"));
        }
    }
    if copies && result.to == "trash" {
        render::note("  copies of their payloads are on stdout");
    }
    for id in died_anew {
        render::note(format!("  died anew  {id}"));
    }
}

/// ` (2 gone meanwhile, 1 not come to)`; nothing where all are 0.
fn counted(counts: &[(usize, &str)]) -> String {
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) }
}

/// What became of the letters, and the commands that follow.
fn print_replay(queue: &OperatorHandle, result: &ReplayResult) {
    let ReplayResult { selected, done, duplicate, missing, undecodable, full, died_anew, operation, .. } =
        result;
    let operation = operation.as_ref().map_or("", OperationId::as_str);
    let rest = counted(&[
        (*duplicate, "already live under another id"),
        (*missing, "gone meanwhile"),
        (*undecodable, "not a job at all"),
        (*full, "kept out by a full backlog"),
        (died_anew.len(), "left alone, because they died anew meanwhile"),
        (result.rest(), "not come to"),
    ]);
    render::note(format!("replayed {done} of {selected}{rest} as {operation}"));
    for (group, outcomes) in &result.outcomes {
        let open = outcomes.get("replayed").copied().unwrap_or(0);
        let mut ended = outcomes.clone();
        ended.remove("replayed");
        if open > 0 {
            ended.insert("not ended yet".to_owned(), open);
        }
        render::note(format!("  {}  {}", sanitize(group, 120), most_first(&ended)));
    }
    for id in died_anew {
        render::note(format!("  died anew  {id}"));
    }
    if *done > 0 {
        let command = |words: &str| queue.command(&format!("{words} {operation}"));
        render::command("  what became of them:    ", &command("audit show"));
        render::command("  undo what still waits:  ", &command("dead replay --undo"));
        render::command("  claim nothing more:     ", &queue.command("queue pause --reason ..."));
    }
}
