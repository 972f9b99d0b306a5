//! The two bulk actions on dead letters: the plan first, a yes, the deed at a bounded rate, and the way back.

use std::io;
use std::time::Duration;

use serde::Serialize;

use super::copies::CopyOutput;
use super::{BulkOptions, DeadSelection, Selected, count_by, detail, host, kind, select, usage_error};
use crate::job::{JobId, LimitsRequest};
use crate::ops::Exit;
use crate::ops::render::{self, BOLD, DIM, styled};
use crate::queue::{DeadLetter, Error, OperatorHandle, Replayed};

/// Most dead letters between two waits for the rate.
const STEP_MAX: usize = 100;
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

    fn past(self) -> &'static str {
        match self {
            Self::Replay(_) => "replayed",
            Self::Discard => "discarded",
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
    /// Replayed by somebody else and dead anew since they were listed: left alone.
    died_anew: Vec<JobId>,
    /// Ids given that are no dead letters.
    unknown: Vec<JobId>,
}

impl BulkResult {
    fn of(selected: &Selected) -> Self {
        Self { selected: selected.letters.len(), unknown: selected.unknown.clone(), ..Self::default() }
    }

    /// Those that were not come to.
    fn rest(&self) -> usize {
        let Self { selected, done, duplicate, missing, undecodable, full, died_anew, unknown: _ } = self;
        selected - done - duplicate - missing - undecodable - full - died_anew.len()
    }

    fn exit(&self) -> Exit {
        if self.done == self.selected && self.unknown.is_empty() { Exit::Ok } else { Exit::Failed }
    }
}

/// Why an action ended before its last dead letter.
enum Stop {
    /// Standard output did not take the copies: their letters and all after them are left alone.
    Copies(io::Error),
    /// Redis failed at this letter, which may be done or not; all after it are left alone.
    Redis(JobId, Error),
}

/// Shows the plan, asks, and carries it out.
pub(super) async fn run(
    queue: &OperatorHandle,
    selection: &DeadSelection,
    bulk: BulkOptions,
    action: BulkAction,
    json: bool,
) -> Result<Exit, Error> {
    let selected = match select(queue, selection).await? {
        Ok(selected) => selected,
        Err(what) => return Ok(usage_error(&what)),
    };
    selected.name_unknown();
    let letters = &selected.letters;
    if letters.is_empty() {
        render::note("no dead letters match: nothing to do");
        return Ok(Exit::NothingMatched);
    }
    print_plan(queue, letters, bulk, action);
    let mut result = BulkResult::of(&selected);
    if bulk.dry_run {
        render::note("dry run: nothing changed");
        if json {
            render::json(&result);
        }
        return Ok(if result.unknown.is_empty() { Exit::Ok } else { Exit::Failed });
    }
    let question = format!("{} {} dead letters?", action.name(), letters.len());
    if let Err(exit) = render::confirm(&question, bulk.yes) {
        return Ok(exit);
    }
    let stopped = match action {
        BulkAction::Replay(granted) => replay(queue, letters, bulk.rate, granted, &mut result).await,
        BulkAction::Discard => discard(queue, letters, bulk.rate, &mut result).await,
    };
    print_summary(queue, &result, action, json);
    match stopped {
        Ok(()) => Ok(result.exit()),
        Err(stop) => explain(stop, &result, action),
    }
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

/// The dead letters in steps: at most ten waits a second, so a rate is kept in small steps, not in one
/// leap a second.
struct Steps<'a> {
    letters: std::slice::Chunks<'a, DeadLetter>,
    tick: tokio::time::Interval,
}

impl<'a> Steps<'a> {
    fn new(letters: &'a [DeadLetter], rate: f64) -> Self {
        let step = ((rate / 10.0).ceil() as usize).clamp(1, STEP_MAX);
        let tick = tokio::time::interval(Duration::from_secs_f64(step as f64 / rate));
        Self { letters: letters.chunks(step), tick }
    }

    /// The next ones, when their time has come.
    async fn next(&mut self) -> Option<&'a [DeadLetter]> {
        let step = self.letters.next()?;
        self.tick.tick().await;
        Some(step)
    }
}

async fn replay(
    queue: &OperatorHandle,
    letters: &[DeadLetter],
    rate: f64,
    granted: LimitsRequest,
    result: &mut BulkResult,
) -> Result<(), Stop> {
    let mut steps = Steps::new(letters, rate);
    while let Some(step) = steps.next().await {
        for letter in step {
            let replayed = queue.replay_letter(letter, granted).await;
            match replayed.map_err(|error| Stop::Redis(letter.id.clone(), error))? {
                Replayed::Replayed => result.done += 1,
                Replayed::Duplicate { .. } => result.duplicate += 1,
                Replayed::Missing => result.missing += 1,
                Replayed::DiedAnew => result.died_anew.push(letter.id.clone()),
                Replayed::Undecodable => result.undecodable += 1,
                Replayed::Full => result.full += 1,
            }
        }
    }
    Ok(())
}

/// What is thrown away goes to stdout first, so that it is kept, and can be put back.
async fn discard(
    queue: &OperatorHandle,
    letters: &[DeadLetter],
    rate: f64,
    result: &mut BulkResult,
) -> Result<(), Stop> {
    let mut copies = CopyOutput::stdout().map_err(Stop::Copies)?;
    let mut steps = Steps::new(letters, rate);
    while let Some(step) = steps.next().await {
        for batch in step.chunks(copies.batch()) {
            copies.write(batch).await.map_err(Stop::Copies)?;
            let discards = queue.discard_letters(batch).await;
            result.done += discards.discarded;
            result.missing += discards.missing.len();
            result.died_anew.extend(discards.died_anew);
            if let Some((id, error)) = discards.failed {
                return Err(Stop::Redis(id, error));
            }
        }
    }
    Ok(())
}

/// Says why an action ended early, what it left and what to do.
fn explain(stop: Stop, result: &BulkResult, action: BulkAction) -> Result<Exit, Error> {
    let name = action.name();
    match stop {
        Stop::Copies(error) => {
            render::error(format!(
                "stdout did not take the next copy ({error}), so {} dead letters were left alone: {name} \
                 them again with stdout in a file that has room",
                result.rest()
            ));
            Ok(Exit::Failed)
        }
        Stop::Redis(id, error) => {
            render::error(format!(
                "Redis failed while {id} was to be {}, which may have happened; {} dead letters after it \
                 were left alone: {name} them when Redis answers again",
                action.past(),
                result.rest().saturating_sub(1)
            ));
            Err(error)
        }
    }
}

fn print_summary(queue: &OperatorHandle, result: &BulkResult, action: BulkAction, json: bool) {
    if json && action != BulkAction::Discard {
        render::json(result);
        return;
    }
    let BulkResult { selected, done, duplicate, missing, undecodable, full, died_anew, unknown: _ } = result;
    let mut rest = Vec::new();
    for (count, what) in [
        (duplicate, "already live under another id"),
        (missing, "gone meanwhile"),
        (undecodable, "not a job at all"),
        (full, "kept out by a full backlog"),
        (&died_anew.len(), "left alone, because they died anew meanwhile"),
        (&result.rest(), "not come to"),
    ] {
        if *count > 0 {
            rest.push(format!("{count} {what}"));
        }
    }
    let rest = if rest.is_empty() { String::new() } else { format!(" ({})", rest.join(", ")) };
    let how_on = match action {
        BulkAction::Replay(_) => format!(
            ". What dies again comes back here; to stop them: {}",
            queue.command("queue pause --reason ...")
        ),
        BulkAction::Discard if *done > 0 => format!(
            ". Their payloads are on stdout: keep them, and undo with {}",
            queue.command("enqueue FILE")
        ),
        BulkAction::Discard => String::new(),
    };
    render::note(format!("{} {done} of {selected}{rest}{how_on}", action.past()));
    for id in died_anew {
        render::note(format!("  died anew  {id}"));
    }
}
