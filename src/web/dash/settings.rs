//! `/settings`: what is enforced over all workers, and what differs from the configuration of this dashboard.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use maud::{Markup, html};
use tokio::time::timeout;

use super::gate::Visitor;
use super::page::{self, Section};
use super::{Dashboard, READ_TIME};
use crate::queue::SettingValue;

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
) -> Markup {
    let body = html! {
        h1 { "Settings of the queue" }
        p.dim { "They hold for all workers, and are kept in Redis. What a worker's own configuration says is only the first value." }
        @match timeout(READ_TIME, dashboard.queue.settings()).await {
            Err(_) => (page::unread("the settings")),
            Ok(Err(error)) => (page::failed(&error)),
            Ok(Ok(values)) => (table(&values, &visitor)),
        }
        p { "Change one: " (page::command(&dashboard.queue.command("queue set NAME=VALUE"))) }
    };
    page::whole(&dashboard, &visitor, Some(Section::Settings), "Settings", body)
}

fn table(values: &[SettingValue], visitor: &Visitor) -> Markup {
    html! {
        section.panel.scroll tabindex="0" role="region" aria-label="Settings" { table {
            thead { tr { th { "Setting" } th { "In force" } th { "Configured here" } th { "Differs" } @if visitor.may_operate() { th { "Act" } } } }
            tbody {
                @for SettingValue { setting, value, stored, configured } in values {
                    tr {
                        th scope="row" { code { (setting.as_str()) } }
                        td { (value) }
                        td { (configured.as_ref().unwrap_or(value)) }
                        td {
                            @match (configured, stored) {
                                (Some(_), _) => span.warn { "differs" },
                                (None, true) => span.dim { "the same" },
                                (None, false) => span.dim { "not stored yet: no worker has started" },
                            }
                        }
                        @if visitor.may_operate() {
                            @let typed = [("name", setting.as_str()), ("value", &value.to_string())];
                            td { a.button href={ "/switch/set?" (page::query(&typed)) } aria-label={ "Change " (setting.as_str()) } { "Change…" } }
                        }
                    }
                }
            }
        } }
    }
}
