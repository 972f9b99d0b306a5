//! `/operation`: what became of a bulk action, live while it runs, and how it is gone on with or taken back.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::time::timeout;

use super::refused;
use super::running::RunProgress;
use crate::queue::{AuditEntry, Operation, OperationId};
use crate::web::dash::gate::Visitor;
use crate::web::dash::page::{self, Section};
use crate::web::dash::{Dashboard, READ_TIME, chart};

/// Jobs that are listed, those that did not go well first.
const ROWS: usize = 200;

/// Which.
#[derive(Debug, Deserialize)]
pub(in crate::web::dash) struct OperationQuery {
    id: String,
}

/// Where its page is.
pub(in crate::web::dash) fn path(id: &OperationId) -> String {
    format!("/operation?{}", page::query(&[("id", id.as_str())]))
}

pub(in crate::web::dash) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Query(OperationQuery { id }): Query<OperationQuery>,
) -> Markup {
    let body = match OperationId::parse(&id) {
        Err(what) => refused(&what),
        Ok(id) => {
            let progress = dashboard.running.progress(&id);
            let read = timeout(READ_TIME, dashboard.queue.operation(&id));
            match tokio::join!(page::now_ms(&dashboard), read) {
                (_, Err(_)) => page::unread("what became of its jobs"),
                (_, Ok(Err(error))) => page::failed(&error),
                (_, Ok(Ok(None))) => {
                    html! { p.empty { "It is unknown, or forgotten: an operation is kept as long as its row of the audit." } }
                }
                (now_ms, Ok(Ok(Some(operation)))) => found(&operation, progress.as_ref(), now_ms, &visitor),
            }
        }
    };
    let body = html! {
        h1 { "Operation " span.id { (page::text(&id)) } }
        (body)
        p { "The same by command: " (page::command(&dashboard.queue.command(&page::with_typed("audit show", &[id])))) }
    };
    page::whole(&dashboard, &visitor, Some(Section::Audit), "Operation", body)
}

/// Stops one that runs here, which the audit records.
pub(in crate::web::dash) async fn stop(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Form(OperationQuery { id }): Form<OperationQuery>,
) -> Response {
    let id = match OperationId::parse(&id) {
        Ok(id) => id,
        Err(what) => return (axum::http::StatusCode::BAD_REQUEST, what).into_response(),
    };
    dashboard.running.stop(&id);
    let (what, operation) = ("stop".to_owned(), Some(id.clone()));
    let row = AuditEntry { what, by: visitor.name.clone(), operation, ..AuditEntry::default() };
    match dashboard.queue.audit(&row).await {
        Ok(()) => Redirect::to(&path(&id)).into_response(),
        Err(error) => {
            let body = html! {
                h1 { "It was stopped" }
                (page::failed(&error))
                p { "The audit has no row of this. " a href=(path(&id)) { "What became of it" } }
            };
            page::whole(&dashboard, &visitor, Some(Section::Audit), "Stopped", body).into_response()
        }
    }
}

fn found(operation: &Operation, progress: Option<&RunProgress>, now_ms: u64, visitor: &Visitor) -> Markup {
    let counts = operation.counts();
    let open = counts.get("replayed").copied().unwrap_or(0);
    let left = operation.left().len();
    let runs_here = progress.is_some_and(|progress| progress.ended.is_none());
    let every = (runs_here || open > 0).then_some("2");
    html! {
        section.panel { (page::audit_line(&operation.entry, now_ms)) }
        div #live data-every=[every] {
            @if let Some(progress) = progress { (state(progress, &operation.id, visitor)) }
            section.panel {
                h2 { "What became of its jobs" }
                @if operation.keeps_jobs() {
                    (outcomes(operation))
                    @if visitor.may_operate() && !runs_here { p { (next(operation, left)) } }
                    (jobs(operation))
                } @else {
                    p.empty { "What became of each job is forgotten; the row of the audit stays." }
                }
            }
        }
    }
}

fn state(progress: &RunProgress, id: &OperationId, visitor: &Visitor) -> Markup {
    html! {
        section.panel {
            @match &progress.ended {
                None => {
                    p { strong { "It runs" } ": " (progress.come_to) " of " (progress.total) " jobs were come to" }
                    @if visitor.may_operate() {
                        form method="post" action="/operation/stop" {
                            input type="hidden" name="id" value=(id);
                            button.danger type="submit" { "Stop it" }
                        }
                    }
                }
                Some(None) => p.good { "It is through." },
                Some(Some(why)) => p.warn { "It stopped: " (page::text(why)) },
            }
            @for note in &progress.notes { p { (page::text(note)) } }
        }
    }
}

/// How many came to what, as a bar and in words.
fn outcomes(operation: &Operation) -> Markup {
    let (counts, all) = (operation.counts(), operation.jobs.len());
    let shares: Vec<(&str, f64)> =
        counts.iter().map(|(outcome, count)| (*outcome, *count as f64 / all.max(1) as f64)).collect();
    html! {
        (chart::stacked(&shares, "Outcomes"))
        ul.legend {
            @for (at, (outcome, count)) in counts.iter().enumerate() {
                li { span class={ "swatch part" (at % chart::COLOURS) } {} (said(outcome)) " " strong { (page::count(*count as u64)) } }
            }
        }
    }
}

fn said(outcome: &str) -> String {
    match outcome {
        "selected" => "not come to".to_owned(),
        "replayed" => "still waits or runs".to_owned(),
        other => page::text(other),
    }
}

/// What can be done next.
fn next(operation: &Operation, left: usize) -> Markup {
    let query = page::query(&[("id", operation.id.as_str())]);
    let did = |what: &str| operation.entry.what.starts_with(what);
    html! {
        @if did("replay") && left > 0 { a.button href={ "/acts/resume?" (query) } { "Replay the rest (" (left) ")…" } " " }
        @if did("replay") { a.button href={ "/acts/undo?" (query) } { "Undo…" } }
        @if did("discard") { a.button href={ "/acts/restore-all?" (query) } { "Restore all…" } }
    }
}

fn jobs(operation: &Operation) -> Markup {
    let went_well =
        |outcome: &str| ["done", "discarded", "restored", "cancelled", "undone"].contains(&outcome);
    let mut jobs: Vec<(&str, &str)> =
        operation.jobs.iter().map(|(id, outcome)| (id.as_str(), outcome.as_str())).collect();
    jobs.sort_by_key(|(_, outcome)| went_well(outcome));
    html! {
        table {
            thead { tr { th { "Job" } th { "Outcome" } } }
            tbody {
                @for (id, outcome) in jobs.iter().take(ROWS) {
                    tr { th scope="row" { (page::job_link(id)) } td.bad[outcome.starts_with("dead")].good[went_well(outcome)] { (said(outcome)) } }
                }
            }
        }
        p.dim { (jobs.len().min(ROWS)) " of " (page::count(jobs.len() as u64)) " jobs" }
    }
}
