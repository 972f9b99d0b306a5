//! The two bulk actions on dead letters: the plan first, a yes, the deed at a bounded rate, and the way back.

use std::time::Duration;

use serde::Serialize;

use super::{BulkOptions, DeadSelection, backup_line, count_by, detail, host, kind, select, usage_error};
use crate::job::{JobId, LimitsRequest};
use crate::ops::Exit;
use crate::ops::render::{self, BOLD, DIM, styled};
use crate::queue::{DeadLetter, Error, OperatorHandle, Replayed};

/// Dead letters per call of a script.
const BATCH: usize = 100;
/// Dead letters that a plan lists.
const SAMPLE: usize = 5;

/// What a bulk action does with each dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BulkAction {
    /// With the limits that are granted.
    Replay(LimitsRequest),
    Discard,
}

impl BulkAction {
    fn name(self) -> &'static str {
        match self {
            Self::Replay(_) => "replay",
            Self::Discard => "discard",
        }
    }

    /// What is granted, in words.
    fn granted_limits(self) -> String {
        let Self::Replay(granted) = self else { return String::new() };
        let wall =
            granted.wall_ms.map(|ms| format!("wall {}", render::format_duration(Duration::from_millis(ms))));
        let heap = granted.heap_bytes.map(|heap| format!("heap {}", render::format_bytes(heap)));
        let limits: Vec<String> = wall.into_iter().chain(heap).collect();
        if limits.is_empty() { String::new() } else { format!(" under {}", limits.join(", ")) }
    }
}

/// The result of a bulk action, as JSON shows it.
#[derive(Debug, Default, Serialize)]
struct BulkResult {
    selected: usize,
    done: usize,
    duplicate: usize,
    missing: usize,
    undecodable: usize,
    full: usize,
}

/// Shows the plan, asks, and carries it out.
pub(super) async fn run(
    queue: &OperatorHandle,
    selection: &DeadSelection,
    bulk: BulkOptions,
    action: BulkAction,
    json: bool,
) -> Result<Exit, Error> {
    let letters = match select(queue, selection).await? {
        Ok(letters) => letters,
        Err(what) => return Ok(usage_error(&what)),
    };
    if letters.is_empty() {
        render::note("no dead letters match: nothing to do");
        return Ok(Exit::NothingMatched);
    }
    print_plan(queue, &letters, bulk, action);
    if bulk.dry_run {
        render::note("dry run: nothing changed");
        if json {
            render::json(&BulkResult { selected: letters.len(), ..BulkResult::default() });
        }
        return Ok(Exit::Ok);
    }
    let question = format!("{} {} dead letters?", action.name(), letters.len());
    if let Err(exit) = render::confirm(&question, bulk.yes) {
        return Ok(exit);
    }
    let result = run_batches(queue, &letters, bulk.rate, action).await?;
    print_summary(queue, &result, action, json);
    Ok(if result.done == result.selected { Exit::Ok } else { Exit::Failed })
}

fn print_plan(queue: &OperatorHandle, letters: &[DeadLetter], bulk: BulkOptions, action: BulkAction) {
    let seconds = letters.len() as f64 / bulk.rate;
    let noun = if letters.len() == 1 { "dead letter" } else { "dead letters" };
    render::note(format!(
        "{} {} {noun} of queue {}{}, {}/s, about {}",
        styled(BOLD, action.name()),
        letters.len(),
        queue.name(),
        action.granted_limits(),
        bulk.rate,
        render::format_duration(Duration::from_secs_f64(seconds)),
    ));
    render::note(format!("  by kind   {}", count_by(letters, kind)));
    render::note(format!("  by host   {}", count_by(letters, host)));
    for letter in letters.iter().take(SAMPLE) {
        render::note(styled(DIM, format!("  sample    {}  {}", letter.id, detail(letter, 80))));
    }
}

async fn run_batches(
    queue: &OperatorHandle,
    letters: &[DeadLetter],
    rate: f64,
    action: BulkAction,
) -> Result<BulkResult, Error> {
    let mut result = BulkResult { selected: letters.len(), ..BulkResult::default() };
    // At most ten commands a second, so that a rate is kept in small steps and not in one leap a second.
    let step = ((rate / 10.0).ceil() as usize).clamp(1, BATCH);
    let mut tick = tokio::time::interval(Duration::from_secs_f64(step as f64 / rate));
    for batch in letters.chunks(step) {
        tick.tick().await;
        let ids: Vec<JobId> = batch.iter().map(|letter| letter.id.clone()).collect();
        match action {
            BulkAction::Replay(granted) => {
                for (_, replayed) in queue.replay_granting(&ids, granted).await? {
                    match replayed {
                        Replayed::Replayed => result.done += 1,
                        Replayed::Duplicate { .. } => result.duplicate += 1,
                        Replayed::Missing => result.missing += 1,
                        Replayed::Undecodable => result.undecodable += 1,
                        Replayed::Full => result.full += 1,
                    }
                }
            }
            BulkAction::Discard => {
                let gone = queue.discard(&ids).await? as usize;
                result.done += gone;
                result.missing += ids.len() - gone;
                // What is thrown away goes to stdout, so that it can be kept, and put back.
                batch.iter().map(backup_line).for_each(render::line);
            }
        }
    }
    Ok(result)
}

fn print_summary(queue: &OperatorHandle, result: &BulkResult, action: BulkAction, json: bool) {
    if json && action != BulkAction::Discard {
        render::json(result);
        return;
    }
    let BulkResult { selected, done, duplicate, missing, undecodable, full } = result;
    let mut rest = Vec::new();
    for (count, what) in [
        (duplicate, "already live under another id"),
        (missing, "gone meanwhile"),
        (undecodable, "not a job at all"),
        (full, "kept out by a full backlog"),
    ] {
        if *count > 0 {
            rest.push(format!("{count} {what}"));
        }
    }
    let rest = if rest.is_empty() { String::new() } else { format!(" ({})", rest.join(", ")) };
    match action {
        BulkAction::Replay(_) => render::note(format!(
            "replayed {done} of {selected}{rest}. What dies again comes back here; to stop them: {}",
            queue.command("queue pause --reason ...")
        )),
        BulkAction::Discard => render::note(format!(
            "discarded {done} of {selected}{rest}. Their payloads are on stdout: keep them, and undo with {}",
            queue.command("enqueue FILE")
        )),
    }
}
