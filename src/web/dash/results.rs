//! `/results`: how jobs ended lately: analysed, rightly skipped, or dead.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::time::timeout;

use super::gate::Visitor;
use super::page::{self, Section};
use super::{Dashboard, READ_TIME};
use crate::queue::Ended;

/// Newest results that are looked at.
const LOOK: usize = 2_000;
/// Rows of the page.
const ROWS: usize = 200;

/// Which of them.
#[derive(Debug, Deserialize)]
pub(super) struct ResultsQuery {
    /// `done`, `skipped` or `dead`; empty for all.
    #[serde(default)]
    state: String,
    /// Reason of a skip, or kind of failure; empty for all.
    #[serde(default)]
    why: String,
}

/// The page of those that ended so.
pub(super) fn path(state: &str, why: &str) -> String {
    format!("/results?{}", page::query(&[("state", state), ("why", why)]))
}

pub(super) async fn show(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(visitor): Extension<Visitor>,
    Query(query): Query<ResultsQuery>,
) -> Markup {
    let (now_ms, read) =
        tokio::join!(page::now_ms(&dashboard), timeout(READ_TIME, dashboard.queue.newest_results(LOOK)));
    let body = html! {
        h1 { "How jobs ended" }
        form.fields method="get" action="/results" {
            label { "State" select name="state" {
                @for state in ["", "done", "skipped", "dead"] {
                    option value=(state) selected[query.state == state] { @if state.is_empty() { "all" } @else { (state) } }
                }
            } }
            label { "Reason" input name="why" value=(page::text(&query.why)) maxlength="60" placeholder="content"; }
            button type="submit" { "Show" }
        }
        @match read {
            Err(_) => (page::unread("the results")),
            Ok(Err(error)) => (page::failed(&error)),
            Ok(Ok((results, of))) => (found(&results, of, &query, now_ms)),
        }
        p { "The oldest, by command: " (page::command(&dashboard.queue.command("results ls"))) }
    };
    page::whole(&dashboard, &visitor, Some(Section::Results), "Results", body)
}

fn found(results: &[Ended], of: u64, query: &ResultsQuery, now_ms: u64) -> Markup {
    let takes = |ended: &&Ended| {
        (query.state.is_empty() || ended.state == query.state)
            && (query.why.is_empty() || ended.why == query.why)
    };
    let matching: Vec<&Ended> = results.iter().filter(takes).collect();
    html! {
        p.dim {
            (matching.len().min(ROWS)) " of the " (page::count(matching.len() as u64)) " that match, among the newest "
            (page::count(results.len() as u64)) " of " (page::count(of)) " results."
        }
        @if matching.is_empty() {
            p.empty { "No job ended so lately. Results are kept for some days, or as long as there is room." }
        } @else {
            section.panel.scroll tabindex="0" role="region" aria-label="Results" { table {
                thead { tr { th { "Job" } th { "Ended" } th { "How" } th { "Pair" } } }
                tbody {
                    @for ended in matching.iter().take(ROWS) {
                        tr {
                            th scope="row" { (page::job_link(&ended.id)) }
                            td { (page::ago(now_ms, ended.at_ms)) }
                            td.good[ended.state == "done"].bad[ended.state == "dead"] {
                                (page::text(&ended.state)) @if !ended.why.is_empty() { ": " (page::text(&ended.why)) }
                            }
                            td {
                                @match (ended.state.as_str(), ended.pair.split_once("..")) {
                                    ("done", Some((from, to))) => {
                                        a href={ "/change?" (page::query(&[("from", from), ("to", to)])) } { "what changed" }
                                    }
                                    _ => span.id { (page::text(&ended.pair)) },
                                }
                            }
                        }
                    }
                }
            } }
        }
    }
}
