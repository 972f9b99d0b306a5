//! The two bulk actions on dead letters: the plan first, a yes, the deed at a bounded rate, and the way back.

use std::time::Duration;

use serde::Serialize;

use super::{Bulk, Selection, by, detail, host, kept, kind, select, usage};
use crate::job::{JobId, LimitsRequest};
use crate::ops::Exit;
use crate::ops::render::{self, BOLD, DIM, styled};
use crate::queue::{DeadLetter, Error, OperatorHandle, Replayed};

/// Letters touched in one command.
const BATCH: usize = 100;
/// Letters shown of a plan.
const SAMPLE: usize = 5;

/// The two bulk actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// With the limits that are granted.
    Replay(LimitsRequest),
    Discard,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Replay(_) => "replay",
            Self::Discard => "discard",
        }
    }

    /// What is granted, in words.
    fn grant(self) -> String {
        let Self::Replay(granted) = self else { return String::new() };
        let wall = granted.wall_ms.map(|ms| format!("wall {}", render::ago(Duration::from_millis(ms))));
        let heap = granted.heap_bytes.map(|heap| format!("heap {}", render::bytes(heap)));
        let limits: Vec<String> = wall.into_iter().chain(heap).collect();
        if limits.is_empty() { String::new() } else { format!(" under {}", limits.join(", ")) }
    }
}

/// What a bulk action did.
#[derive(Debug, Default, Serialize)]
struct Touched {
    selected: usize,
    done: usize,
    duplicate: usize,
    missing: usize,
    undecodable: usize,
    full: usize,
}

/// Shows the plan, asks, and carries it out.
pub(super) async fn touch(
    queue: &OperatorHandle,
    selection: &Selection,
    bulk: Bulk,
    verb: Verb,
    json: bool,
) -> Result<Exit, Error> {
    let letters = match select(queue, selection).await? {
        Ok(letters) => letters,
        Err(what) => return Ok(usage(&what)),
    };
    if letters.is_empty() {
        render::note("no dead letters match: nothing to do");
        return Ok(Exit::NothingMatched);
    }
    plan(queue, &letters, bulk, verb);
    if bulk.dry_run {
        render::note("dry run: nothing changed");
        if json {
            render::json(&Touched { selected: letters.len(), ..Touched::default() });
        }
        return Ok(Exit::Ok);
    }
    if !bulk.yes {
        match render::confirm(&format!("{} {} dead letters?", verb.word(), letters.len())) {
            Some(true) => {}
            Some(false) => {
                render::note("nothing changed");
                return Ok(Exit::Ok);
            }
            None => {
                render::failure(
                    "there is no terminal to ask on: say --yes, or look with --dry-run; nothing changed",
                );
                return Ok(Exit::ConfirmationNeeded);
            }
        }
    }
    let touched = carry_out(queue, &letters, bulk.rate, verb).await?;
    conclude(queue, &touched, verb, json);
    Ok(if touched.done == touched.selected { Exit::Ok } else { Exit::Failed })
}

fn plan(queue: &OperatorHandle, letters: &[DeadLetter], bulk: Bulk, verb: Verb) {
    let seconds = letters.len() as f64 / bulk.rate;
    let noun = if letters.len() == 1 { "dead letter" } else { "dead letters" };
    render::note(format!(
        "{} {} {noun} of queue {}{}, {}/s, about {}",
        styled(BOLD, verb.word()),
        letters.len(),
        queue.name(),
        verb.grant(),
        bulk.rate,
        render::ago(Duration::from_secs_f64(seconds)),
    ));
    render::note(format!("  by kind   {}", by(letters, kind)));
    render::note(format!("  by host   {}", by(letters, host)));
    for letter in letters.iter().take(SAMPLE) {
        render::note(styled(DIM, format!("  sample    {}  {}", letter.id, detail(letter, 80))));
    }
}

async fn carry_out(
    queue: &OperatorHandle,
    letters: &[DeadLetter],
    rate: f64,
    verb: Verb,
) -> Result<Touched, Error> {
    let mut touched = Touched { selected: letters.len(), ..Touched::default() };
    // At most ten commands a second, so that a rate is kept in small steps and not in one leap a second.
    let step = ((rate / 10.0).ceil() as usize).clamp(1, BATCH);
    let mut tick = tokio::time::interval(Duration::from_secs_f64(step as f64 / rate));
    for batch in letters.chunks(step) {
        tick.tick().await;
        let ids: Vec<JobId> = batch.iter().map(|letter| letter.id.clone()).collect();
        match verb {
            Verb::Replay(granted) => {
                for (_, replayed) in queue.replay_granting(&ids, granted).await? {
                    match replayed {
                        Replayed::Replayed => touched.done += 1,
                        Replayed::Duplicate { .. } => touched.duplicate += 1,
                        Replayed::Missing => touched.missing += 1,
                        Replayed::Undecodable => touched.undecodable += 1,
                        Replayed::Full => touched.full += 1,
                    }
                }
            }
            Verb::Discard => {
                let gone = queue.discard(&ids).await? as usize;
                touched.done += gone;
                touched.missing += ids.len() - gone;
                // What is thrown away goes to stdout, so that it can be kept, and put back.
                batch.iter().map(kept).for_each(render::line);
            }
        }
    }
    Ok(touched)
}

fn conclude(queue: &OperatorHandle, touched: &Touched, verb: Verb, json: bool) {
    if json && verb != Verb::Discard {
        render::json(touched);
        return;
    }
    let Touched { selected, done, duplicate, missing, undecodable, full } = touched;
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
    match verb {
        Verb::Replay(_) => render::note(format!(
            "replayed {done} of {selected}{rest}. What dies again comes back here; to stop them: {}",
            queue.command("queue pause --reason ...")
        )),
        Verb::Discard => render::note(format!(
            "discarded {done} of {selected}{rest}. Their payloads are on stdout: keep them, and undo with {}",
            queue.command("enqueue FILE")
        )),
    }
}
