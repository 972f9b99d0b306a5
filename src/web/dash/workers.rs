//! `/workers`: who works, on what, and who fell silent.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use maud::{Markup, html};

use super::gate::Visitor;
use super::overview::{staleness, worker_line};
use super::page::{self, Section};
use super::{Dashboard, chart};
use crate::queue::{RunningJob, WorkerStatus};

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
) -> Markup {
    let seen = dashboard.live.now().await;
    let look = &seen.look;
    let body = html! {
        h1 { "Workers" }
        (staleness(look))
        @match look.status().filter(|_| look.is_whole()) {
            None => (page::unread("the workers")),
            Some(status) if status.workers.is_empty() => {
                p.empty { "No worker lives. Start one: " (page::command(&look.command("work"))) }
            }
            Some(status) => {
                @for worker in &status.workers { (one(worker, &visitor)) }
            }
        }
    };
    page::whole(&dashboard, &visitor, Some(Section::Workers), "Workers", body)
}

fn one(worker: &WorkerStatus, visitor: &Visitor) -> Markup {
    let info = &worker.info;
    let id = [("id", info.id.as_str())];
    html! {
        section.panel {
            h2 { (worker_line(worker)) }
            p.dim {
                "process " (info.pid) " at " (page::text(&info.host)) ", build " (page::text(&info.version))
                @if !info.db_app.is_empty() { ", " (page::text(&info.db_app)) }
                @if let Some(asked) = worker.asked { ", was asked to " (asked) }
            }
            @if visitor.may_operate() && !worker.silent {
                p {
                    a.button href={ "/switch/quiet-worker?" (page::query(&id)) } { "Quiet…" } " "
                    a.button href={ "/switch/stop-worker?" (page::query(&id)) } { "Stop…" }
                }
            }
            @if !info.in_flight.is_empty() {
                div.scroll tabindex="0" role="region" aria-label="In flight" { table {
                    thead { tr { th { "Job" } th { "Stage" } th { "Time of its limit" } th { "Heap of its limit" } } }
                    tbody { @for job in &info.in_flight { (running(job)) } }
                } }
            }
        }
    }
}

fn running(job: &RunningJob) -> Markup {
    html! {
        tr {
            th scope="row" { (page::job_link(job.id.as_str())) }
            td { (job.stage) ", claimed " (page::duration_ms(job.in_flight_ms)) " ago" }
            td {
                (page::duration_ms(job.stage_ms))
                @if let Some(limit) = job.limit_ms {
                    " of " (page::duration_ms(limit)) (chart::meter(job.stage_ms, limit, "time of its limit"))
                }
            }
            td {
                @if let Some(heap) = job.heap {
                    (page::bytes(heap.bytes)) " of " (page::bytes(heap.limit_bytes))
                    (chart::meter(heap.bytes, heap.limit_bytes, "heap of its limit"))
                }
            }
        }
    }
}
