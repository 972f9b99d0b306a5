//! `worker ls | quiet | stop`: the workers of the queue, wherever they run. A worker hears what it is asked through
//! Redis, with its next heartbeat; the worker in the same container gets a signal instead (`worker`).

use serde_json::json;

use super::render::{self, BAD, BOLD, Column, format_duration, sanitize, styled};
use super::{Exit, Output};
use crate::queue::{Error, OperatorHandle, WorkerId, WorkerRequest, WorkerStatus};

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;
/// Workers that a plan lists.
const SHOWN: usize = 10;

/// Which workers are asked.
#[derive(Debug, Clone)]
pub enum Which {
    /// Those with these ids, or whose ids alone begin with these words.
    Named(Vec<String>),
    /// All that there are when the command starts.
    All,
}

/// How it is gone about.
#[derive(Debug, Clone)]
pub struct AskOptions {
    /// Print the plan and change nothing.
    pub dry_run: bool,
    /// Skip the confirmation.
    pub yes: bool,
    /// Why, for the audit.
    pub reason: String,
}

/// Prints the workers, those that were heard last first.
///
/// # Errors
/// Those of the queue.
pub async fn ls(queue: &OperatorHandle, output: Output) -> Result<Exit, Error> {
    let (workers, total) = queue.fleet().await?;
    match output {
        Output::Json => render::json(SCHEMA_VERSION, &json!({ "total": total, "workers": workers })),
        Output::Ndjson => workers.iter().for_each(|worker| render::line(render::json_line(worker))),
        Output::Text => {
            let columns = [
                Column::Word("WORKER"),
                Column::Extra("HOST"),
                Column::Extra("PID"),
                Column::Extra("BUILD"),
                Column::Word("PHASE"),
                Column::Number("SLOTS"),
                Column::Number("JOBS"),
                Column::Word("HEARD"),
            ];
            render::line(render::table(&columns, workers.iter().map(row)));
            render::note(format!("\n{} of {total} workers", workers.len()));
        }
    }
    Ok(if workers.is_empty() { Exit::NothingMatched } else { Exit::Ok })
}

fn row(worker: &WorkerStatus) -> Vec<String> {
    let info = &worker.info;
    let slots = match info.slots_limit == info.slots {
        true => info.slots.to_string(),
        false => format!("{} of {}", info.slots_limit, info.slots),
    };
    let age = format_duration(std::time::Duration::from_millis(worker.heartbeat_age_ms));
    vec![
        sanitize(info.id.as_str(), 100),
        sanitize(&info.host, 60),
        info.pid.to_string(),
        sanitize(&info.version, 40),
        phase(worker),
        slots,
        (worker.fetching + worker.analysing).to_string(),
        if worker.silent { styled(BAD, format!("SILENT for {age}")) } else { format!("{age} ago") },
    ]
}

/// Its phase, and what it was asked but has not done yet.
pub fn phase(worker: &WorkerStatus) -> String {
    let phase = sanitize(&worker.info.phase, 20);
    let wanted = match worker.asked {
        Some(WorkerRequest::Quiet) if phase == "running" => ", asked to be quiet",
        Some(WorkerRequest::Stop) if phase != "draining" => ", asked to stop",
        Some(WorkerRequest::Quiet | WorkerRequest::Stop) | None => "",
    };
    format!("{phase}{wanted}")
}

/// Asks workers to claim nothing more, or to stop, after a plan and a confirmation.
///
/// # Errors
/// Those of the queue.
pub async fn ask(
    queue: &OperatorHandle,
    request: WorkerRequest,
    which: &Which,
    options: &AskOptions,
    json: bool,
) -> Result<Exit, Error> {
    let (workers, _) = queue.fleet().await?;
    let selected = match select(&workers, which) {
        Ok(selected) => selected,
        Err((exit, why)) => {
            render::error(format!("{why}; nothing changed"));
            render::command("see:", &queue.command("worker ls"));
            return Ok(exit);
        }
    };
    print_plan(queue, request, which, &selected);
    if options.dry_run {
        if json {
            let ids: Vec<&WorkerId> = selected.iter().map(|worker| &worker.info.id).collect();
            let plan =
                json!({ "dry_run": true, "request": request, "selected": ids, "asked": [], "gone": [] });
            render::json(SCHEMA_VERSION, &plan);
        }
        render::note("dry run: nothing changed");
        return Ok(Exit::Ok);
    }
    let question = format!("{request} {}?", count(selected.len(), "worker"));
    if let Err(exit) = render::confirm(&question, options.yes) {
        return Ok(exit);
    }
    let asked = ask_each(queue, request, &selected, &render::operator(), &options.reason).await?;
    let AskedWorkers { asked, gone } = &asked;
    if json {
        render::json(SCHEMA_VERSION, &json!({ "request": request, "asked": asked, "gone": gone }));
    } else {
        for id in gone {
            render::note(format!("{id} is gone already"));
        }
        let effect = match request {
            WorkerRequest::Quiet => {
                "claims nothing more within a heartbeat, and stays. Undo: start it anew, a quiet worker stays quiet"
            }
            WorkerRequest::Stop => {
                "finishes by its drain deadline, hands back the rest and exits. Undo: start it anew"
            }
        };
        render::note(format!("asked {} of {}: each {effect}", asked.len(), selected.len()));
        render::command("see:", &queue.command("worker ls"));
    }
    Ok(match (asked.is_empty(), gone.is_empty()) {
        (false, true) => Exit::Ok,
        (false, false) => Exit::PartlyDone,
        (true, _) => Exit::NothingMatched,
    })
}

/// Who was asked, and who was gone already.
#[derive(Debug, Default)]
pub struct AskedWorkers {
    /// These hear it with their next heartbeat.
    pub asked: Vec<WorkerId>,
    /// These are not known any more.
    pub gone: Vec<WorkerId>,
}

/// Asks each of these workers.
///
/// # Errors
/// Those of Redis; earlier ones may be asked.
pub async fn ask_each(
    queue: &OperatorHandle,
    request: WorkerRequest,
    workers: &[&WorkerStatus],
    by: &str,
    reason: &str,
) -> Result<AskedWorkers, Error> {
    let mut answers = AskedWorkers::default();
    for WorkerStatus { info, .. } in workers {
        match queue.ask_worker(&info.id, request, by, reason).await? {
            true => answers.asked.push(info.id.clone()),
            false => answers.gone.push(info.id.clone()),
        }
    }
    Ok(answers)
}

/// The workers meant; otherwise an exit code and why.
///
/// # Errors
/// The exit of a command and a sentence: a word names none, or several.
pub fn select<'a>(
    workers: &'a [WorkerStatus],
    which: &Which,
) -> Result<Vec<&'a WorkerStatus>, (Exit, String)> {
    let words = match which {
        Which::All if workers.is_empty() => {
            return Err((Exit::NothingMatched, "there is no worker".to_owned()));
        }
        Which::All => return Ok(workers.iter().collect()),
        Which::Named(words) => words,
    };
    let mut selected: Vec<&WorkerStatus> = Vec::new();
    for word in words {
        let exact = workers.iter().find(|worker| worker.info.id.as_str() == word);
        let found: Vec<_> = match exact {
            Some(exact) => vec![exact],
            None => workers.iter().filter(|worker| worker.info.id.as_str().starts_with(word)).collect(),
        };
        let word = sanitize(word, 100);
        match found.as_slice() {
            [] => return Err((Exit::NothingMatched, format!("no worker {word}"))),
            [one] if selected.iter().any(|known| known.info.id == one.info.id) => {}
            [one] => selected.push(one),
            several => {
                return Err((Exit::Usage, format!("{} workers begin with {word}", several.len())));
            }
        }
    }
    Ok(selected)
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn print_plan(queue: &OperatorHandle, request: WorkerRequest, which: &Which, selected: &[&WorkerStatus]) {
    let all = match which {
        Which::All => ": ALL of them, so nobody claims until one is started",
        Which::Named(_) => "",
    };
    let (verb, workers) = (styled(BOLD, request), count(selected.len(), "worker"));
    render::note(format!("{verb} {workers} of queue {}{all}", queue.name()));
    for worker in selected.iter().take(SHOWN) {
        let jobs = count((worker.fetching + worker.analysing) as usize, "job");
        let silent = if worker.silent { ", silent: it hears it only if it comes back" } else { "" };
        render::note(format!("  {}  {}, {jobs}{silent}", worker.info.id, phase(worker)));
    }
    if selected.len() > SHOWN {
        render::note(format!("  and {} more", selected.len() - SHOWN));
    }
}
