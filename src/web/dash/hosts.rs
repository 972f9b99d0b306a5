//! `/hosts`: those that hold jobs up, and those that rest.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use maud::{Markup, html};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::gate::Visitor;
use super::overview::{host_load, staleness};
use super::page::{self, Section};
use super::{Dashboard, READ_TIME};
use crate::queue::{self, RestingHost};

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
) -> Markup {
    let (seen, held) = tokio::join!(dashboard.live.now(), timeout(READ_TIME, dashboard.queue.held_hosts()));
    let look = &seen.look;
    let body = html! {
        h1 { "Hosts" }
        (staleness(look))
        @match look.status().filter(|_| look.is_whole()) {
            None => (page::unread("the hosts")),
            Some(status) => {
                section.panel {
                    h2 { "Hosts that hold us up" }
                    @if status.hosts.is_empty() {
                        p.empty { "No host is slow, down or resting. A host that fails rests by itself, and its jobs wait for it." }
                    } @else {
                        p.dim { "The " (status.hosts.len()) " that hold up most jobs; "
                            (page::count(status.resting.count())) " rest, " (page::count(status.waiting_for_hosts)) " jobs wait for hosts." }
                        ul.list { @for load in &status.hosts { li { (host_load(load, status, &visitor)) } } }
                    }
                    @if visitor.may_operate() { p { a.button href="/switch/rest-host" { "Rest another host…" } } }
                }
            }
        }
        (quarantine(&held, &visitor))
    };
    page::whole(&dashboard, &visitor, Some(Section::Hosts), "Hosts", body)
}

/// The hosts that are held, also those that hold up few jobs.
fn quarantine(held: &Result<Result<Vec<RestingHost>, queue::Error>, Elapsed>, visitor: &Visitor) -> Markup {
    html! {
        section.panel {
            h2 { "Held hosts" }
            p.dim { "Their pages killed ten children within ten minutes. One job at a time tries again; who lifts it does not wait for that." }
            @match held {
                Err(_) => (page::unread("the held hosts")),
                Ok(Err(error)) => (page::failed(error)),
                Ok(Ok(hosts)) if hosts.is_empty() => p.empty { "No host is held." },
                Ok(Ok(hosts)) => ul.list { @for host in hosts { li {
                    (page::text(&host.to_string()))
                    @if visitor.may_operate() {
                        " " a.button href={ "/switch/lift-quarantine?" (page::query(&[("host", &host.host)])) } { "Lift…" }
                    }
                } } },
            }
        }
    }
}
