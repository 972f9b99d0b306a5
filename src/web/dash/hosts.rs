//! `/hosts`: those that hold jobs up, and those that rest.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use maud::{Markup, html};

use super::Dashboard;
use super::gate::Visitor;
use super::overview::{host_load, staleness};
use super::page::{self, Section};

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
) -> Markup {
    let seen = dashboard.live.now().await;
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
    };
    page::whole(&dashboard, &visitor, Some(Section::Hosts), "Hosts", body)
}
